//! `regraft distill`: what a student learns, what is left behind, and going on.

use std::collections::BTreeMap;
use std::fs;

use regraft::{Pretrained, Source};

use crate::common::Place;

/// A student of the model in `run/`, in a few seconds.
const DISTILL: &str =
    "distill --teacher run/best.safetensors --images photos --imgsz 32 --batch-size 8 --views 2 --lr 0.01";

#[test]
fn a_model_is_shrunk_to_one_that_answers_as_it_does() {
    let place = Place::with_model();
    let ended = place.run(&format!("{DISTILL} --epochs 30 --output-dir small --half --json")).done();
    let ended = ended.says(&["23 photos to learn from, 1 held out", "writing to small"]);
    let result = ended.json();
    assert_eq!((result["model"].as_str(), result["seen"].as_u64()), (Some("small/best.safetensors"), Some(23 * 30)));
    let eval = |model: &str| place.run(&format!("eval {model} photos --json")).done().json()["top1"].as_f64().unwrap();
    // Two classes, 8 photos: chance is 0.5.
    assert!(eval("run/best.safetensors") >= 0.875 && eval("small/best.safetensors") >= 0.875);
    let about = place.run("info small/best.safetensors --json").done().json();
    assert_eq!((&about["provenance"]["backbone"], &about["classes"][0]), (&"rootstock".into(), &"discs".into()));
    // It says what it was taught by, and nothing of its teacher's about itself.
    let made = &about["provenance"];
    assert_eq!((&made["distilled"]["teacher"], &made["distilled"]["r2"]), (&"squeezenet1_1".into(), &result["val_r2"]));
    assert_eq!((&made["epoch"], &made["val_n"]), (&30.into(), &1.into()));
    assert!(made.get("mode").is_none() && made.get("val_score").is_none(), "{made}");
    let about = place.run("info small/best.safetensors").done().stdout;
    for part in [
        "weights random",
        "seed 0, epoch 30",
        "taught by: squeezenet1_1",
        "R² of the teacher's outputs",
        "1 photos kept aside",
    ] {
        assert!(about.contains(part), "{part:?} is not in {about}");
    }
    assert!(!about.contains(", mode ") && !about.contains("validation photos"), "{about}");
    // The weights alone, in half precision, are a backbone, and say for what pictures; so does the model.
    let weights = place.read("small/student.safetensors");
    assert!(weights.len() < 5 << 20, "{}", weights.len());
    for file in ["small/student.safetensors", "small/best.safetensors"] {
        let train =
            format!("train photos --backbone rootstock --weights {file} --mode probe --output-dir next --exist-ok");
        let trained = place.run(&format!("{train} --json")).done();
        let trained = trained.says(&[&format!("photos are prepared as {file} says: resize 36, crop 32")]).json();
        assert!(trained["best_val_acc"].as_f64().unwrap() >= 0.875, "{trained}");
        let crop = || place.run("info next/best.safetensors --json").done().json()["preprocessing"]["crop"].clone();
        assert_eq!(crop(), 32);
        place.run(&format!("{train} --imgsz 64")).done();
        assert_eq!(crop(), 64, "flags win");
    }
    // A run of another kind in its place leaves nothing of it.
    let train = "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir small";
    place.run(train).fails(&["small", "already holds a run", "--exist-ok"]);
    place.run(&format!("{train} --exist-ok")).done();
    place.run("resume small").fails(&["is complete", "small/best.safetensors"]);
    let mut left: Vec<_> = fs::read_dir(place.path("small")).unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["best.safetensors", "config.toml", "labels.txt", "results.csv"]);
}

#[test]
fn a_file_that_says_nothing_sensible_of_photos_is_used_with_a_warning() {
    let place = Place::with_photos();
    for (name, said) in [
        ("word", "\"small\""),
        ("side", r#"{"resize":36,"crop":0,"mean":[0,0,0],"std":[1,1,1],"exif_orientation":true}"#),
    ] {
        let state = Pretrained::load(&"squeezenet1_1".into(), &Source::Random, 32, 0).unwrap().state;
        let metadata = BTreeMap::from([("preprocessing".to_owned(), said.to_owned())]);
        regraft_weights::write_safetensors(&place.path(name), &state, &metadata).unwrap();
        let train =
            format!("train photos --backbone squeezenet1_1 --weights ./{name} --mode probe --output-dir {name}-run");
        let warning = format!("warning: ./{name}: its metadata entry \"preprocessing\" does not say");
        place.run(&train).done().says(&[&warning, "settings"]);
    }
}

#[test]
fn what_a_student_starts_from_is_named_as_for_train() {
    let place = Place::with_model();
    let distill = format!("{DISTILL} --epochs 1");
    let start = |weights: &str, run: &str| {
        place.run(&format!("{distill} --weights {weights} --output-dir {run}")).done();
        place.run(&format!("info {run}/best.safetensors --json")).done().json()["provenance"].clone()
    };
    assert!(start("random", "fresh").get("weights_sha256").is_none());
    let inside = start("embedded", "inside")["weights_sha256"].clone();
    assert_eq!(start("default", "usual")["weights_sha256"], inside);
    assert!(inside.is_string());
    place
        .run(&format!("{distill} --weights nothing --output-dir none"))
        .refuses(&["--weights is nothing", "of rootstock"]);
    // Those of a teacher's network, of which the student is a narrower form.
    place.run("train photos --mode probe --backbone mobilenet_v2 --weights random --imgsz 32 --output-dir wide").done();
    let wider = "distill --teacher mobilenet_v2=wide/best.safetensors --images photos --imgsz 32 --output-dir none";
    let ended = place.run(&format!("{wider} --weights imagenet1k_v1"));
    ended.fails(&["mobilenet_v2-b0353104.pth", "--offline"]);
    assert!(!place.path("none").exists());
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
    assert!(about["provenance"]["weights_sha256"].is_string(), "where the model started, too");
    let train = "train photos --backbone rootstock --weights small/student.safetensors --mode probe";
    place.run(&format!("{train} --output-dir next --json")).done().says(&["resize 73, crop 64"]);
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
    running.end().exits(130).says(&["everything is saved", "regraft resume parts"]);
    place
        .run("resume parts --threads 2")
        .done()
        .says(&["regraft train PHOTOS --backbone rootstock --weights parts/student.safetensors"]);
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
    let distill = "distill --teacher run/best.safetensors --images photos --imgsz 32 --output-dir out";
    for (flags, words) in [
        ("--epochs 0", &["--epochs", "at least 1"][..]),
        ("--views 0", &["--views", "at least 1"]),
        ("--min-scale 1", &["--min-scale", "between 0 and 1"]),
        ("--student resnet81", &["resnet81"]),
        ("--teacher nobody", &["there is no backbone nobody"]),
    ] {
        place.run(&format!("{distill} {flags}")).refuses(words);
    }
    let with = |teacher: &str, images: &str| {
        place.run(&format!("distill --teacher {teacher} --images {images} --imgsz 32 --output-dir out"))
    };
    with("absent.safetensors", "photos").fails(&["absent.safetensors"]);
    with("squeezenet1_1=random", "photos").fails(&["nothing to teach"]);
    with("run/best.safetensors", "run/best.safetensors").fails(&["too few photos"]);
    assert!(!place.path("out").exists());
    let much = "--views 1000000000 --epochs 1000000000";
    place.run(&format!("{distill} {much}")).fails(&["out has", "free some space"]);
    let itself = "distill --teacher run/best.safetensors --images photos --imgsz 32 --output-dir run --exist-ok";
    place.run(itself).fails(&["run/best.safetensors", "would be replaced", "--output-dir"]);
    assert!(place.path("run/best.safetensors").exists());
    // It has begun, so it is not replaced unasked.
    place.run(distill).fails(&["already holds a run", "--exist-ok"]);
}

#[test]
fn of_few_photos_one_at_least_is_learned_from() {
    let place = Place::with_model();
    let few: Vec<String> = (0..5).map(|i| format!("photos/train/discs/0{i}.ppm")).collect();
    for n in [2, 5] {
        let distill = format!("distill --teacher run/best.safetensors --images {}", few[..n].join(" "));
        let flags = format!("--imgsz 64 --epochs 1 --views 1 --val-fraction 0.9 --output-dir of-{n}");
        let said = format!("1 photos to learn from, {} held out", n - 1);
        place.run(&format!("{distill} {flags}")).done().says(&[&said]);
    }
}
