//! `regraft distill`: what a student learns, what is left behind, and going on.

use std::fs;

use crate::common::Place;

/// A student of the model in `run/`, in a few seconds.
const DISTILL: &str =
    "distill --teacher run/best.safetensors --images photos --imgsz 32 --batch-size 8 --views 2 --lr 0.01";

#[test]
fn a_model_is_shrunk_to_one_that_answers_as_it_does() {
    let place = Place::with_model();
    let ended = place.run(&format!("{DISTILL} --epochs 30 --output-dir small --half --json")).done();
    let ended = ended.says(&["23 photos to learn from, 1 kept apart", "writing to small"]);
    let result = ended.json();
    assert_eq!((result["model"].as_str(), result["seen"].as_u64()), (Some("small/best.safetensors"), Some(23 * 30)));
    let eval = |model: &str| place.run(&format!("eval {model} photos --json")).done().json()["top1"].as_f64().unwrap();
    // Two classes, 8 photos: chance is 0.5.
    assert!(eval("run/best.safetensors") >= 0.875 && eval("small/best.safetensors") >= 0.875);
    let about = place.run("info small/best.safetensors --json").done().json();
    assert_eq!((&about["provenance"]["backbone"], &about["classes"][0]), (&"rootstock".into(), &"discs".into()));
    // The weights alone, in half precision, are a backbone.
    let weights = place.read("small/student.safetensors");
    assert!(weights.len() < 5 << 20, "{}", weights.len());
    let train = "train photos --backbone rootstock --weights small/student.safetensors --imgsz 32 --mode probe";
    let trained = place.run(&format!("{train} --output-dir next --json")).done().json();
    assert!(trained["best_val_acc"].as_f64().unwrap() >= 0.875, "{trained}");
}

#[test]
fn a_student_starts_from_the_weights_of_a_wider_network() {
    let place = Place::with_photos();
    for (backbone, run) in [("mobilenet_v2", "wide"), ("resnet18", "other")] {
        let train = format!("train photos --mode probe --backbone {backbone} --weights random --imgsz 64");
        place.run(&format!("{train} --output-dir {run}")).done();
    }
    let distill =
        "distill --teacher wide/best.safetensors --images photos --imgsz 64 --batch-size 8 --views 1 --epochs 1";
    place.run(&format!("{distill} --weights wide/best.safetensors --licence MIT --output-dir small")).done();
    let weights = place.read("small/student.safetensors");
    let about = place.run("info small/best.safetensors --json").done().json();
    assert_eq!(about["provenance"]["backbone"], "rootstock");
    let train = "train photos --backbone rootstock --weights small/student.safetensors --imgsz 64 --mode probe";
    place.run(&format!("{train} --output-dir next --json")).done();
    let says = |text: &[u8]| weights.windows(text.len()).any(|part| part == text);
    assert!(says(b"weights_sha256") && says(br#""licence":"MIT""#), "where it started and what may be done with it");
    let wrong = place.run(&format!("{distill} --weights other/best.safetensors --output-dir none"));
    wrong.fails(&["other/best.safetensors", "rootstock", "features.0.0", "no tensor"]);
}

#[test]
fn several_teachers_are_learned_from_at_once_and_a_stopped_run_goes_on_to_the_same_bits() {
    let place = Place::with_photos();
    for (backbone, run) in [("squeezenet1_1", "a"), ("resnet18", "b")] {
        let line =
            format!("train photos --mode probe --backbone {backbone} --weights random --imgsz 32 --output-dir {run}");
        place.run(&line).done();
    }
    let distill = "distill --teacher a/best.safetensors --teacher b/best.safetensors --images photos --imgsz 32 \
        --batch-size 4 --views 2 --epochs 8 --threads 1 --output-dir";
    place.run(&format!("{distill} whole")).done();
    let mut running = place.start(&format!("{distill} parts"));
    running.wait_until(&place.path("parts/results.csv"), |bytes| bytes.iter().filter(|&&b| b == b'\n').count() > 2);
    running.signal("INT");
    running.end().exits(130).says(&["nothing is lost", "regraft resume parts"]);
    place.run("resume parts --threads 2").done();
    let weights = |run: &str| place.read(&format!("{run}/student.safetensors"));
    assert!(weights("whole") == weights("parts"));
    // Of two teachers' classes a model would have to choose.
    assert!(!place.path("whole/best.safetensors").exists());
    place.run("resume parts").fails(&["parts", "is complete", "student.safetensors"]);
    fs::remove_file(place.path("photos/train/discs/00.ppm")).unwrap();
    let mut running = place.start(&format!("{distill} third"));
    running.wait_until(&place.path("third/last.ckpt"), |_| true);
    running.signal("INT");
    running.end().exits(130);
    fs::remove_file(place.path("photos/train/discs/01.ppm")).unwrap();
    place.run("resume third").fails(&["third", "photos have changed"]);
}

#[test]
fn what_is_wrong_is_named() {
    let place = Place::with_model();
    for (flags, words) in [
        ("--epochs 0", &["--epochs"][..]),
        ("--views 0", &["--views"]),
        ("--min-scale 1", &["--min-scale"]),
        ("--student resnet81", &["resnet81"]),
        ("--teacher nobody", &["there is no backbone nobody"]),
    ] {
        place.run(&format!("{DISTILL} --output-dir out {flags}")).refuses(words);
    }
    let with = |teacher: &str, images: &str| {
        place.run(&format!("distill --teacher {teacher} --images {images} --imgsz 32 --output-dir out"))
    };
    with("absent.safetensors", "photos").fails(&["absent.safetensors"]);
    with("squeezenet1_1=random", "photos").fails(&["nothing to teach"]);
    with("run/best.safetensors", "run/best.safetensors").fails(&["too few photos"]);
    assert!(!place.path("out").exists());
}
