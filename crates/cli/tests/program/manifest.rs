//! Photos listed in a CSV file: labels and numbers on every road.

use regraft_testing::pattern;
use serde_json::Value;

use crate::common::Place;

/// Side of the drawn photos in pixels.
const SIDE: usize = 40;

/// Writes a noisy grey photo with so many of its lines red, green and blue, one below the other.
fn draw(place: &Place, name: &str, lines: [usize; 3]) {
    let noise = pattern::values(name, 3 * SIDE * SIDE);
    let mut file = format!("P6 {SIDE} {SIDE} 255\n").into_bytes();
    for (p, noise) in noise.chunks_exact(3).enumerate() {
        let row = p / SIDE;
        let [red, green, blue] = lines;
        let colour = match row {
            _ if row < red => [220.0, 50.0, 50.0],
            _ if row < red + green => [50.0, 210.0, 60.0],
            _ if row < red + green + blue => [60.0, 60.0, 230.0],
            _ => [120.0; 3],
        };
        file.extend(colour.iter().zip(noise).map(|(colour, noise)| (colour + 25.0 * noise) as u8));
    }
    place.write(name, file);
}

/// 48 photos with any of two colours, and `labels.csv`, which divides them.
fn with_labels() -> Place {
    let place = Place::empty();
    let mut manifest = "path,labels,split\n".to_owned();
    for i in 0..48 {
        let (red, green) = (i % 2 == 1, i / 2 % 2 == 1);
        let name = format!("{i:02}.ppm");
        draw(&place, &format!("photos/{name}"), [if red { 10 } else { 0 }, if green { 12 } else { 0 }, 0]);
        let labels: Vec<&str> = [(red, "red"), (green, "green")].iter().filter(|it| it.0).map(|it| it.1).collect();
        manifest += &format!("{name},{},{}\n", labels.join("|"), if i < 32 { "train" } else { "val" });
    }
    place.write("photos/labels.csv", manifest);
    place
}

/// 60 photos with more or less blue, and `values.csv`: how much, in a unit of its own.
fn with_values() -> Place {
    let place = Place::empty();
    let mut manifest = "path,value\n".to_owned();
    for i in 0..60 {
        let blue = i * 7 % 40;
        let name = format!("{i:02}.ppm");
        draw(&place, &format!("photos/{name}"), [0, 0, blue]);
        manifest += &format!("{name},{}\n", 1000.0 + 5.0 * blue as f64);
    }
    place.write("photos/values.csv", manifest);
    place
}

/// Trains on a manifest by a road, and requires that the saved model has the score that was reported. Returns it.
#[track_caller]
fn score(place: &Place, manifest: &str, flags: &str, metric: &str) -> f64 {
    let line =
        format!("train photos/{manifest} --weights random --imgsz 32 --output-dir run --exist-ok --json {flags}");
    let result = place.run(&line).done().json();
    let score = result[format!("best_val_{metric}")].as_f64().unwrap_or_else(|| panic!("{flags}: {result}"));
    let measured = place.run(&format!("eval run/best.safetensors photos/{manifest} --json")).done().json();
    if metric == "map" {
        assert_eq!(measured["map"].as_f64(), Some(score), "{flags}: {measured}");
    }
    let header = place.text("run/results.csv").lines().next().unwrap().to_owned();
    assert!(header.contains(&format!(",val_{metric},")), "{header}");
    score
}

#[test]
fn labels_are_learned_on_every_road() {
    let place = with_labels();
    for flags in [
        "--backbone squeezenet1_1 --mode probe",
        "--backbone squeezenet1_1 --mode probe --class-weights balanced",
        "--backbone resnet18 --mode frozen --epochs 8 --batch-size 8 --lr 0.01 --class-weights balanced",
        "--backbone resnet18 --mode frozen --epochs 8 --batch-size 8 --lr 0.01 --mixup-alpha 0.2 --label-smoothing 0.1",
        "--backbone resnet18 --mode finetune --epochs 6 --batch-size 8 --lr 0.01 --head mlp:16",
        "--backbone resnet18 --time 1h --epochs 2",
    ] {
        let map = score(&place, "labels.csv", flags, "map");
        // Half of the photos have each label, so guessing gives about 0.5.
        assert!(map > 0.85, "{flags}: {map}");
    }
}

#[test]
fn a_model_of_labels_says_all_that_a_photo_has() {
    let place = with_labels();
    place
        .run("train photos/labels.csv --weights random --backbone squeezenet1_1 --imgsz 32 --mode probe --output-dir run")
        .done()
        .says(&["2 labels, 32 photos to train on, 16 to validate on", "mean average precision", "MANIFEST.csv"]);
    assert_eq!(place.text("run/labels.txt"), "green\nred\n");
    let predict = |flags: &str| {
        let line =
            format!("predict run/best.safetensors photos/32.ppm photos/33.ppm photos/34.ppm photos/35.ppm {flags}");
        place.run(&line).done()
    };
    let answers = predict("--json").json_lines();
    let has: Vec<Vec<&str>> = answers
        .iter()
        .map(|answer| answer["labels"].as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect())
        .collect();
    assert!(has[0].is_empty() && has[1] == ["red"] && has[2] == ["green"] && has[3].len() == 2, "{has:?}");
    assert_eq!(answers[0]["top"].as_array().unwrap().len(), 2);
    let table = predict("--csv").stdout;
    assert!(table.starts_with("path,labels,error\nphotos/32.ppm,,\nphotos/33.ppm,red,\n"), "{table}");
    let text = predict("--tta hflip").stdout;
    assert!(text.contains("photos/32.ppm: none (the nearest: ") && text.contains("photos/33.ppm: red "), "{text}");
    let evaluated = place.run("eval run/best.safetensors photos/labels.csv").done().stdout;
    assert!(evaluated.contains("mAP") && evaluated.contains("95% interval"), "{evaluated}");
    let about = place.run("info run/best.safetensors").done().stdout;
    assert!(about.contains("labels: green, red") && about.contains("mean average precision: "), "{about}");
}

#[test]
fn numbers_are_learned_on_every_road() {
    let place = with_values();
    for flags in [
        "--backbone squeezenet1_1 --mode probe",
        "--backbone resnet18 --mode frozen --epochs 10 --batch-size 8 --lr 0.01 --no-augment",
        "--backbone resnet18 --mode finetune --bn frozen --epochs 8 --batch-size 8 --lr 0.003 --no-augment",
        "--backbone resnet18 --time 1h --epochs 2 --no-augment",
    ] {
        let r2 = score(&place, "values.csv", flags, "r2");
        // Guessing gives 0.
        assert!(r2 > 0.6, "{flags}: {r2}");
    }
}

#[test]
fn a_model_of_numbers_answers_in_their_unit() {
    let place = with_values();
    let line =
        "train photos/values.csv --weights random --backbone squeezenet1_1 --imgsz 32 --mode probe --output-dir run";
    place
        .run(line)
        .done()
        .says(&["a number for each photo, 48 photos to train on, 12 to validate on", "no column \"split\""]);
    let answers = place.run("predict run/best.safetensors photos/00.ppm photos/17.ppm --json").done().json_lines();
    let value = |answer: &Value| answer["value"].as_f64().unwrap();
    // 0 and 39 of 40 lines are blue.
    let (none, all) = (value(&answers[0]), value(&answers[1]));
    assert!((none - 1000.0).abs() < 30.0 && (all - 1195.0).abs() < 30.0, "{none}, {all}");
    let table = place.run("predict run/best.safetensors photos/00.ppm --csv").done().stdout;
    assert!(table.starts_with("path,value,error\nphotos/00.ppm,"), "{table}");
    let measured = place.run("eval run/best.safetensors photos/values.csv --json --tta hflip").done().json();
    let mae = measured["mae"].as_f64().unwrap();
    assert!(mae < 30.0 && measured["n"] == 60, "{measured}");
    let about = place.run("info run/best.safetensors --json").done().json();
    assert_eq!((about["head"].as_str(), about["unit"]["mean"].is_number()), (Some("value"), true), "{about}");
}

#[test]
fn a_manifest_of_classes_trains_as_folders_do() {
    let place = Place::with_photos();
    let mut manifest = "path,label,split\n".to_owned();
    for (part, photos) in [("train", 0..8), ("val", 8..12)] {
        for i in photos {
            for class in ["discs", "squares"] {
                manifest += &format!("{part}/{class}/{i:02}.ppm,{class},{part}\n");
            }
        }
    }
    place.write("photos/list.csv", manifest);
    let train = |data: &str, run: &str| {
        let line = "--mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir";
        place.run(&format!("train {data} {line} {run}")).done();
        place.read(&format!("{run}/best.safetensors"))
    };
    assert!(train("photos/list.csv", "listed") == train("photos", "folders"));
    let eval = |data: &str| place.run(&format!("eval listed/best.safetensors {data} --json")).done().stdout;
    assert_eq!(eval("photos/list.csv"), eval("photos"));
}

#[test]
fn backbones_are_compared_on_labels_and_numbers() {
    for (place, manifest, metric, least) in
        [(with_labels(), "labels.csv", "map", 0.85), (with_values(), "values.csv", "r2", 0.6)]
    {
        let line =
            format!("compare photos/{manifest} --backbone squeezenet1_1=random --backbone resnet18=random --json");
        let result = place.run(&line).done().json();
        let entries = result["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{result}");
        assert!(entries[0][metric].as_f64().unwrap() > least, "{result}");
        assert!(entries[1]["p_value"].as_f64().unwrap() <= 1.0, "{result}");
    }
}

#[test]
fn what_does_not_go_together_is_explained() {
    let place = with_labels();
    place.write("photos/values.csv", "path,value\n00.ppm,1\n01.ppm,2\n02.ppm,3\n");
    place.write("photos/all.csv", "path,labels,split\n00.ppm,a,train\n01.ppm,a|b,train\n02.ppm,b,val\n");
    place.write("photos/wrong.csv", "path,value\n00.ppm,1\n01.ppm,much\n");
    let train = "--weights random --backbone squeezenet1_1 --imgsz 32 --mode probe --output-dir out";
    for (line, words) in [
        (format!("train photos/wrong.csv {train}"), &["wrong.csv, line 3", "`much` is no number"][..]),
        (format!("train photos/all.csv {train}"), &["all of the training photos have the label \"a\""]),
        (format!("train photos/absent.csv {train}"), &["absent.csv", "does not exist"]),
    ] {
        place.run(&line).fails(words);
    }
    place.run(&format!("train photos/values.csv {train} --head mean")).refuses(&["--head is mean", "number"]);
    place.run(&format!("train photos/labels.csv {train} --head mean")).refuses(&["--head is mean", "labels"]);
    place.run(&format!("train photos/labels.csv {train}")).done();
    place.run("eval out/best.safetensors photos/values.csv").fails(&["values.csv", "a number for each photo"]);
    place.run("eval out/best.safetensors photos").fails(&["photos", "any number of labels"]);
}
