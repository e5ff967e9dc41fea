//! `regraft train` without `--mode`: a probe, then fine-tuning, and the better of the two.

use serde_json::Value;

use crate::common::{Class, Place};
use crate::resume::wait_for_epochs;

/// Fine-tuning of a few seconds, with time for all of it.
const TRAIN: &str = "train photos --backbone resnet18 --weights random --imgsz 32 --time 1h --threads 1";

#[test]
fn auto_mode_without_time_is_a_probe() {
    let place = Place::with_photos();
    let line = "train photos --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir run --json --time 0";
    let ended = place.run(line).done().says(&["No fine-tuning", "--time"]);
    let auto = &ended.json()["auto"];
    assert_eq!((&auto["kept"], auto["stages"].as_array().unwrap().len()), (&"probe".into(), 1));
    assert!(auto["skipped"].as_str().unwrap().contains("No fine-tuning"));
    assert!(place.read("run/best.safetensors") == place.read("run/probe/best.safetensors"));
    assert!(!place.path("run/finetune").join("best.safetensors").exists());
    place.run("resume run").fails(&["run", "is complete"]);

    // As if it had been stopped between the stages: it would go on, but not with other photos.
    let mut stopped: Value = serde_json::from_str(&place.text("run/auto.json")).unwrap();
    stopped["skipped"] = Value::Null;
    place.write("run/auto.json", stopped.to_string());
    place.draw(Class::Discs, "photos/train", 30..31);
    place.run("resume run").fails(&["the photos have changed", "start a new run"]);
}

#[test]
fn auto_mode_keeps_the_probe_against_chance() {
    let place = Place::with_photos();
    let ended = place.run(&format!("{TRAIN} --epochs 2 --output-dir run --json")).done();
    let ended = ended.says(&["2 epochs are planned", "the probe is kept"]);
    let result = ended.json();
    let auto = &result["auto"];
    assert_eq!((&auto["kept"], &auto["stages"][1]["epochs"]), (&"probe".into(), &2.into()));
    assert!(auto["comparison"]["p_value"].as_f64().unwrap() >= 0.05, "{auto}");
    assert_eq!(result["best_val_acc"], auto["stages"][0]["val_score"]);
    for file in ["best.safetensors", "results.csv"] {
        assert!(place.read(&format!("run/{file}")) == place.read(&format!("run/probe/{file}")), "{file}");
    }
    place.run("predict run/best.safetensors photos/val").done();
}

#[test]
fn auto_mode_keeps_a_network_that_is_better_beyond_chance() {
    let place = Place::with_photos();
    // One class is larger, and the probe may not learn anything but that.
    place.draw(Class::Squares, "photos/train", 12..20);
    [Class::Discs, Class::Squares].into_iter().for_each(|class| place.draw(class, "photos/val", 20..30));
    let ended = place.run(&format!("{TRAIN} -C 1e-9 --epochs 8 --lr 0.003 --bn frozen --output-dir run --json")).done();
    let result = ended.says(&["more than chance"]).json();
    let auto = &result["auto"];
    assert_eq!(auto["kept"], "finetune", "{auto}");
    assert!(auto["comparison"]["p_value"].as_f64().unwrap() < 0.05, "{auto}");
    assert_eq!(auto["stages"][0]["val_score"], 0.5, "{auto}");
    assert!(result["best_val_acc"].as_f64().unwrap() > 0.8, "{result}");
    assert!(place.read("run/best.safetensors") == place.read("run/finetune/best.safetensors"));
    let measured = place.run("eval run/best.safetensors photos --json").done().json();
    assert_eq!(measured["top1"], result["best_val_acc"]);
}

#[test]
fn auto_mode_resumes_to_the_same_bits() {
    let place = Place::with_photos();
    let flags = "--epochs 6 --imgsz 64";
    let train = TRAIN.replace("--imgsz 32", flags);
    let whole = place.run(&format!("{train} --output-dir whole --json")).done().json();
    let mut running = place.start(&format!("{train} --output-dir parts"));
    wait_for_epochs(&mut running, &place.path("parts/finetune"), 2);
    running.signal("INT");
    running.end().exits(130).says(&["Best model so far: parts/best.safetensors", "regraft resume parts\n"]);
    assert!(place.read("parts/best.safetensors") == place.read("parts/probe/best.safetensors"));
    let parts = place.run("resume parts --json").done().json();
    for stage in ["probe", "finetune"] {
        let model = |run: &str| place.read(&format!("{run}/{stage}/best.safetensors"));
        assert!(model("parts") == model("whole"), "{stage}");
    }
    assert_eq!(parts["auto"]["comparison"], whole["auto"]["comparison"]);
    assert_eq!(parts["best_val_acc"], whole["best_val_acc"]);
    place.run("resume parts").fails(&["parts", "is complete", "best.safetensors"]);
}
