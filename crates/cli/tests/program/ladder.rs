//! `regraft train` without `--mode`: a probe, then fine-tuning, and the better of the two.

use serde_json::Value;

use crate::common::{Class, Place};
use crate::resume::wait_for_epochs;

/// Fine-tuning of a few seconds, with time for all of it.
const TRAIN: &str = "train photos --backbone resnet18 --weights random --imgsz 32 --time 1h --threads 1";

#[test]
fn without_time_it_is_a_probe() {
    let place = Place::with_photos();
    let line = "train photos --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir run --json --time 0";
    let ended = place.run(line).done().says(&["no fine-tuning", "--time"]);
    let ladder = &ended.json()["ladder"];
    assert_eq!((&ladder["kept"], ladder["rungs"].as_array().unwrap().len()), (&"probe".into(), 1));
    assert!(ladder["skipped"].as_str().unwrap().contains("no fine-tuning"));
    assert!(place.read("run/best.safetensors") == place.read("run/probe/best.safetensors"));
    assert!(!place.path("run/finetune").join("best.safetensors").exists());
    place.run("resume run").fails(&["run", "is complete"]);

    // As if it had been stopped between the rungs: it would go on, but not with other photos.
    let mut stopped: Value = serde_json::from_str(&place.text("run/ladder.json")).unwrap();
    stopped["skipped"] = Value::Null;
    place.write("run/ladder.json", stopped.to_string());
    place.draw(Class::Discs, "photos/train", 30..31);
    place.run("resume run").fails(&["the photos have changed", "start a new run"]);
}

#[test]
fn chance_does_not_replace_the_probe() {
    let place = Place::with_photos();
    let ended = place.run(&format!("{TRAIN} --epochs 2 --output-dir run --json")).done();
    let ended = ended.says(&["2 epochs are planned", "the probe is kept"]);
    let result = ended.json();
    let ladder = &result["ladder"];
    assert_eq!((&ladder["kept"], &ladder["rungs"][1]["epochs"]), (&"probe".into(), &2.into()));
    assert!(ladder["comparison"]["p_value"].as_f64().unwrap() >= 0.05, "{ladder}");
    assert_eq!(result["best_val_acc"], ladder["rungs"][0]["val_score"]);
    for file in ["best.safetensors", "results.csv"] {
        assert!(place.read(&format!("run/{file}")) == place.read(&format!("run/probe/{file}")), "{file}");
    }
    place.run("predict run/best.safetensors photos/val").done();
}

#[test]
fn a_network_that_is_better_beyond_chance_replaces_the_probe() {
    let place = Place::with_photos();
    // One class is larger, and the probe may not learn anything but that.
    place.draw(Class::Squares, "photos/train", 12..20);
    [Class::Discs, Class::Squares].into_iter().for_each(|class| place.draw(class, "photos/val", 20..30));
    let ended = place.run(&format!("{TRAIN} -C 1e-9 --epochs 8 --lr 0.003 --bn frozen --output-dir run --json")).done();
    let result = ended.says(&["more than chance"]).json();
    let ladder = &result["ladder"];
    assert_eq!(ladder["kept"], "finetune", "{ladder}");
    assert!(ladder["comparison"]["p_value"].as_f64().unwrap() < 0.05, "{ladder}");
    assert_eq!(ladder["rungs"][0]["val_score"], 0.5, "{ladder}");
    assert!(result["best_val_acc"].as_f64().unwrap() > 0.8, "{result}");
    assert!(place.read("run/best.safetensors") == place.read("run/finetune/best.safetensors"));
    let measured = place.run("eval run/best.safetensors photos --json").done().json();
    assert_eq!(measured["top1"], result["best_val_acc"]);
}

#[test]
fn a_ladder_that_was_stopped_goes_on_to_the_same_bits() {
    let place = Place::with_photos();
    let flags = "--epochs 6 --imgsz 64";
    let train = TRAIN.replace("--imgsz 32", flags);
    let whole = place.run(&format!("{train} --output-dir whole --json")).done().json();
    let mut running = place.start(&format!("{train} --output-dir parts"));
    wait_for_epochs(&mut running, &place.path("parts/finetune"), 2);
    running.signal("INT");
    running.end().exits(130).says(&["the best model so far: parts/best.safetensors", "regraft resume parts\n"]);
    assert!(place.read("parts/best.safetensors") == place.read("parts/probe/best.safetensors"));
    let parts = place.run("resume parts --json").done().json();
    for rung in ["probe", "finetune"] {
        let model = |run: &str| place.read(&format!("{run}/{rung}/best.safetensors"));
        assert!(model("parts") == model("whole"), "{rung}");
    }
    assert_eq!(parts["ladder"]["comparison"], whole["ladder"]["comparison"]);
    assert_eq!(parts["best_val_acc"], whole["best_val_acc"]);
    place.run("resume parts").fails(&["parts", "is complete", "best.safetensors"]);
}
