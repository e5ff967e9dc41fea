//! New heads, cuts, and the flags that say what learns how fast, for how long.

use serde_json::Value;

use crate::common::Place;

/// Trains into `run/`; the model must be measured by `eval` as training measured it, and answer `predict` and `info`.
#[track_caller]
fn train(place: &Place, flags: &str) -> Value {
    let line = format!("train photos --weights random --imgsz 32 --output-dir run --exist-ok --json {flags}");
    let result = place.run(&line).done().json();
    let evaluated = place.run("eval run/best.safetensors photos --json").done().json();
    assert_eq!(evaluated["top1"], result["best_val_acc"], "{flags}");
    let named = place.run("predict run/best.safetensors photos/val --json").done().json_lines();
    assert_eq!(named.len(), 8, "{flags}");
    result
}

/// Names of the layers of `run/`, with their operations.
fn layers(place: &Place) -> Vec<String> {
    let about = place.run("info run/best.safetensors --json").done().json();
    let layers = about["layers"].as_array().unwrap().iter();
    layers.map(|it| format!("{} {}", it["name"].as_str().unwrap(), it["op"].as_str().unwrap())).collect()
}

fn epochs(place: &Place) -> usize {
    place.text("run/results.csv").lines().count() - 1
}

#[test]
fn every_head_trains_and_its_model_serves() {
    let place = Place::with_photos();
    for (flags, last) in [
        ("--mode frozen --head mlp:16", &["flatten Flatten", "fc.0 Linear", "fc.1 ReLU", "fc.2 Linear"][..]),
        ("--mode frozen --head linear --head-dropout 0.2", &["fc.0 Dropout", "fc.1 Linear"]),
        (
            "--mode finetune --bn frozen --freeze-until layer3 --head conv:16,conv:8x1,fc:8 --cut layer3",
            &[
                "layer3.1.relu ReLU",
                "fc.0 Conv2d",
                "fc.1 BatchNorm2d",
                "fc.2 ReLU",
                "fc.3 Conv2d",
                "fc.4 BatchNorm2d",
                "fc.5 ReLU",
                "fc.6 AdaptiveAvgPool2d",
                "fc.7 Flatten",
                "fc.8 Linear",
                "fc.9 ReLU",
                "fc.10 Linear",
            ],
        ),
        ("--mode frozen --head cosine", &["flatten Flatten", "fc CosineLinear"]),
        (
            "--mode probe --cut layer2",
            &["layer2.1.relu ReLU", "avgpool AdaptiveAvgPool2d", "flatten Flatten", "fc Linear"],
        ),
        ("--mode finetune --init-head probe --cut layer4", &["flatten Flatten", "fc Linear"]),
    ] {
        train(&place, &format!("--backbone resnet18 --epochs 2 --batch-size 8 --lr 0.01 {flags}"));
        let layers = layers(&place);
        assert_eq!(layers[layers.len() - last.len()..], *last, "{flags}");
    }
}

#[test]
fn new_batch_norms_learn_their_statistics_beside_frozen_ones() {
    let place = Place::with_photos();
    train(
        &place,
        "--backbone resnet18 --mode finetune --bn frozen --epochs 1 --batch-size 8 --head conv:8 --cut layer2",
    );
    let file = place.read("run/best.safetensors");
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    let moved = |name: &str| {
        let at = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        data[at(0)..at(1)].iter().any(|&byte| byte != 0)
    };
    assert!(moved("fc.1.running_mean") && !moved("bn1.running_mean"));
}

#[test]
fn linear_probing_comes_before_fine_tuning_if_asked() {
    let place = Place::with_photos();
    let line = "train photos --weights random --imgsz 32 --backbone squeezenet1_1 --mode finetune --lr 1e-9 --epochs 1 --output-dir run";
    // At this rate nothing but the start decides; the probe tells the colours apart.
    let ended = place.run(&format!("{line} --init-head probe --json")).done().says(&["C = ", "cross-validation"]);
    assert!(ended.json()["best_val_acc"].as_f64().unwrap() >= 0.875, "{}", ended.stdout);
    let ended = place.run(&format!("{line} --init-head probe -C 0.5 --exist-ok")).done();
    assert!(!ended.stderr.contains("cross-validation") && !ended.stderr.contains("no effect"), "{}", ended.stderr);
}

#[test]
fn each_flag_of_a_step_has_an_effect_of_its_own() {
    let place = Place::with_photos();
    let mut results: Vec<(&str, String)> = Vec::new();
    for flags in [
        "",
        "--backbone-lr 0.0001",
        "--lr-layer-decay 0.5",
        "--unfreeze-every 1",
        "--clip-grad-norm 0.01",
        "--accumulate 2",
        "--ema 0.9",
        "--head-dropout 0.5",
        "--init-head probe",
    ] {
        train(&place, &format!("--backbone resnet18 --mode finetune --epochs 2 {flags}"));
        let text = place.text("run/results.csv");
        let rows = text.lines().map(|row| row.rsplit_once(',').unwrap().0).collect::<Vec<_>>().join("\n");
        for (others, other) in &results {
            assert!(rows != *other, "{flags:?} gives the same results as {others:?}");
        }
        results.push((flags, rows));
    }
}

#[test]
fn patience_ends_a_run_that_gets_no_better() {
    let place = Place::with_photos();
    // Nothing learns at this rate, so no epoch is better than the first.
    let line = "train photos --weights random --imgsz 32 --backbone squeezenet1_1 --mode frozen --lr 1e-12 --epochs 9 --output-dir run";
    let ended = place.run(&format!("{line} --patience 2 --no-augment")).done();
    ended.says(&["Stopped after epoch 3 of 9", "none of the 2 after epoch 1"]);
    assert_eq!(epochs(&place), 3);
    place.run("resume run").fails(&["is complete: 3 of 9 epochs", "--patience"]);
}

#[test]
fn a_backbone_that_joins_in_late_does_not_move_before() {
    let place = Place::with_photos();
    let backbone = |epochs: usize| {
        train(&place, &format!("--backbone resnet18 --mode finetune --unfreeze-every 2 --epochs {epochs}"));
        place.read("run/last.ckpt")
    };
    let names = |file: Vec<u8>| {
        let (length, rest) = file.split_first_chunk::<8>().unwrap();
        String::from_utf8(rest[..u64::from_le_bytes(*length) as usize].to_vec()).unwrap()
    };
    let (early, late) = (names(backbone(1)), names(backbone(3)));
    assert!(early.contains("state/fc.weight") && !early.contains("state/layer4"), "{early}");
    assert!(late.contains("state/layer4.0.conv1.weight") && !late.contains("state/layer3"), "{late}");
}

#[test]
fn heads_and_rates_that_do_not_go_are_explained() {
    let place = Place::with_photos();
    for (flags, words) in [
        ("--head mpl:3", &["--head", "mpl:3", "mlp:512"][..]),
        ("--head conv:0", &["no width"]),
        ("--head conv:8x4 --mode frozen", &["filter size"]),
        ("--mode probe --head mlp:16", &["--head is mlp:16", "--mode frozen"]),
        ("--head cosine", &["--head is cosine", "--mode frozen"]),
        ("--head ovr", &["--head is ovr", "--mode probe"]),
        ("--patience 3", &["--patience", "--mode auto"]),
        ("--mode finetune --cut layer3.9", &["layer3.9", "layer3.0, layer3.1"]),
        ("--mode finetune --cut fc", &["fc", "own head"]),
        ("--mode frozen --head conv:8 --cut flatten", &["needs a feature map", "--cut"]),
        ("--mode finetune --cut layer3 --freeze-until layer4", &["layer4", "layer3"]),
        ("--mode finetune --head mlp:8 --freeze-until fc.2", &["--freeze-until is fc.2", "new head"]),
        ("--mode frozen --head-dropout 1", &["--head-dropout"]),
        ("--mode frozen --head mlp:8 --init-head probe", &["--init-head is probe", "--head linear"]),
        ("--mode frozen --backbone-lr 0.1", &["--backbone-lr", "--mode finetune"]),
        ("--mode frozen --lr-layer-decay 0.5", &["--lr-layer-decay", "--mode finetune"]),
        ("--mode finetune --lr-layer-decay 1.5", &["--lr-layer-decay"]),
        ("--mode frozen --unfreeze-every 1", &["--unfreeze-every", "--mode finetune"]),
        ("--mode finetune --unfreeze-every 0", &["--unfreeze-every"]),
        ("--mode finetune --clip-grad-norm 0", &["--clip-grad-norm"]),
        ("--mode finetune --accumulate 0", &["--accumulate"]),
        ("--mode finetune --ema 1", &["--ema"]),
        ("--mode finetune --patience 0", &["--patience"]),
    ] {
        place
            .run(&format!("train photos --weights random --backbone resnet18 --imgsz 64 --output-dir run {flags}"))
            .refuses(words);
    }
    assert!(!place.path("run").exists());
}

#[test]
fn learning_rates_are_tried_without_a_trace_but_the_curve() {
    let place = Place::with_photos();
    let line = "train photos --weights random --imgsz 32 --backbone resnet18 --mode frozen --output-dir run";
    let found = place.run(&format!("{line} --find-lr --json")).done().json();
    let lr = found["lr"].as_f64().unwrap();
    assert!(lr > 1e-6 && lr < 1.0, "{found}");
    let curve = place.text("run/lr_find.csv");
    assert_eq!(curve.lines().count() as u64, 1 + found["steps"].as_u64().unwrap(), "{curve}");
    assert!(place.text("run/lr_find.svg").contains("</svg>"));
    assert!(!place.path("run/best.safetensors").exists() && !place.path("run/last.ckpt").exists());
    // The same again, in words; then the run itself goes into the same folder.
    let ended = place.run(&format!("{line} --find-lr --threads 1")).done();
    assert!(ended.stdout.contains(&format!("Suggested rate: --lr {lr:.1e}")), "{}", ended.stdout);
    assert_eq!(place.text("run/lr_find.csv"), curve);
    place.run(&format!("{line} --epochs 1 --lr {lr}")).done();
    place
        .run("train photos --weights random --imgsz 32 --backbone resnet18 --find-lr")
        .refuses(&["--find-lr", "--mode frozen"]);
    // Before weights are asked for.
    place.run("train photos --backbone resnet50 --offline --find-lr").refuses(&["--find-lr", "--mode frozen"]);
}
