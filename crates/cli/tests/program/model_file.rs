//! Files that are no model, or no longer one; `regraft info` and `regraft bench`.

use serde_json::Value;

use crate::common::Place;

/// Both commands that read a model refuse it.
#[track_caller]
fn refused(place: &Place, model: &str, words: &[&str]) {
    place.run(&format!("eval {model} photos")).fails(words);
    place.run(&format!("predict {model} photos")).fails(words);
}

#[test]
fn a_file_that_is_no_model_is_refused_with_advice() {
    let place = Place::with_photos();
    refused(&place, "nowhere.safetensors", &["nowhere.safetensors"]);
    refused(&place, "photos", &["photos", "is a folder", "best.safetensors"]);
    place.write("text.safetensors", "this is no model");
    refused(&place, "text.safetensors", &["text.safetensors"]);
    place.write("empty.safetensors", "");
    refused(&place, "empty.safetensors", &["empty.safetensors"]);
    // A header that claims more than any file holds.
    place.write("huge.safetensors", [0xff; 64]);
    refused(&place, "huge.safetensors", &["huge.safetensors"]);

    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    place.write("plain.safetensors", [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat());
    refused(&place, "plain.safetensors", &["plain.safetensors", "not a Regraft model", "--weights"]);
}

#[test]
fn a_damaged_model_is_refused() {
    let place = Place::with_model();
    let model = place.read("run/best.safetensors");
    for length in [0, 7, 100, model.len() / 2, model.len() - 1] {
        place.write("cut.safetensors", &model[..length]);
        refused(&place, "cut.safetensors", &["cut.safetensors"]);
    }

    // The lowest bit of the first, a middle and the last weight.
    let data = 8 + u64::from_le_bytes(model[..8].try_into().unwrap()) as usize;
    let weights = (model.len() - data) / 4;
    for weight in [0, weights / 2, weights - 1] {
        let mut flipped = model.clone();
        flipped[data + 4 * weight] ^= 1;
        place.write("flipped.safetensors", flipped);
        refused(&place, "flipped.safetensors", &["flipped.safetensors", "changed or damaged"]);
    }

    let header = String::from_utf8(model[8..data].to_vec()).unwrap();
    for (from, to, word) in [
        (r#""regraft":"1""#, r#""regraft":"9""#, "format 9"),
        (r#"\"discs\""#, r#"\"disks\""#, "changed or damaged"),
        (r#""graph":"{"#, r#""graph":"["#, "changed or damaged"),
    ] {
        assert!(header.contains(from), "{from} is not in the header");
        let mut changed = model.clone();
        changed[8..data].copy_from_slice(header.replace(from, to).as_bytes());
        place.write("changed.safetensors", changed);
        refused(&place, "changed.safetensors", &["changed.safetensors", word]);
    }
}

#[test]
fn a_model_and_a_backbone_can_be_looked_at() {
    let place = Place::with_model();
    let about = place.run("info run/best.safetensors --json").done().json();
    assert_eq!(about["classes"], serde_json::json!(["discs", "squares"]));
    assert_eq!(about["provenance"]["backbone"], "squeezenet1_1");
    assert_eq!(about["provenance"]["val_n"], 8);
    let text = place.run("info run/best.safetensors").done().stdout;
    for part in ["features.0", "classes: discs, squares", "weights random", "mode probe", "8 validation photos"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    let about = place.run("info --backbone resnet18 --freeze-until layer4 --json").done().json();
    let layers = about["layers"].as_array().unwrap();
    let trainable = |name: &str| layers.iter().find(|layer| layer["name"] == name).unwrap()["trainable"].clone();
    assert_eq!([trainable("layer3.1.conv2"), trainable("layer4.0.conv1"), trainable("fc")], [false, true, true]);
    let parameters: u64 = layers.iter().map(|layer| layer["parameters"].as_u64().unwrap()).sum();
    // torchvision's number for resnet18 with 1000 classes.
    assert_eq!(parameters, 11_689_512);
}

#[test]
fn a_benchmark_has_the_fields_scripts_rely_on() {
    let place = Place::empty();
    for what in ["forward", "train"] {
        let line = format!("bench --backbone squeezenet1_1 --batch 1 --what {what} --runs 2 --threads 1 --json");
        let found = place.run(&line).done().json();
        let positive = |value: &Value| value.as_f64().is_some_and(|x| x > 0.0);
        assert!(positive(&found["img_per_s"]), "{found}");
        assert!(found["runs"].as_array().is_some_and(|runs| runs.len() == 2 && runs.iter().all(positive)), "{found}");
        assert!(found["level"].is_string() && found["threads"] == 1 && found["what"] == what, "{found}");
        assert!(found["peak_rss_bytes"].is_null() || positive(&found["peak_rss_bytes"]), "{found}");
    }
}
