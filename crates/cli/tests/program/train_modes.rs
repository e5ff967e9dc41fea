//! `regraft train` by every road: what it writes, what it prints, and that it learns.

use serde_json::Value;

use crate::common::{Class, Place};

/// The columns of `results.csv`.
const COLUMNS: &str = "epoch,train_loss,train_acc,val_loss,val_acc,lr,seconds";

/// The learning rates in a run's `results.csv`, after checking that its numbers make sense.
#[track_caller]
fn rates(place: &Place, run: &str, epochs: usize) -> Vec<f64> {
    let text = place.text(&format!("{run}/results.csv"));
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(COLUMNS));
    let rows: Vec<Vec<f64>> = lines.map(|line| line.split(',').map(|x| x.parse().unwrap()).collect()).collect();
    assert_eq!(rows.len(), epochs, "{text}");
    for (i, row) in rows.iter().enumerate() {
        let [epoch, train_loss, train_acc, val_loss, val_acc, _, seconds] = row[..] else { panic!("{text}") };
        assert_eq!(epoch, (i + 1) as f64, "{text}");
        assert!((0.0..=1.0).contains(&train_acc) && (0.0..=1.0).contains(&val_acc), "{text}");
        assert!(train_loss > 0.0 && val_loss > 0.0 && seconds > 0.0, "{text}");
    }
    rows.iter().map(|row| row[5]).collect()
}

/// Trains with `flags` into `run/` and checks what every road promises. Returns the last line's object.
#[track_caller]
fn train(place: &Place, flags: &str) -> Value {
    let ended = place.run(&format!("train photos --imgsz 32 --output-dir run --json {flags}")).done();
    let result = ended.json();
    for file in ["best.safetensors", "results.csv", "config.toml", "labels.txt"] {
        assert!(place.path("run").join(file).is_file(), "{flags}: no {file}");
    }
    assert_eq!(place.text("run/labels.txt"), "discs\nsquares\n");
    assert_eq!(result["model"], "run/best.safetensors");
    assert!(result["seconds"].as_f64().unwrap() > 0.0, "{result}");
    let best = result["best_val_acc"].as_f64().unwrap();
    let csv = place.text("run/results.csv");
    let accuracies = csv.lines().skip(1).map(|line| line.split(',').nth(4).unwrap().parse::<f64>().unwrap());
    assert_eq!(best, accuracies.fold(0.0, f64::max), "{csv}");
    // The accuracy that training reports is the one that the saved model has.
    let evaluated = place.run("eval run/best.safetensors photos --json").done().json();
    assert_eq!(evaluated["top1"].as_f64(), Some(best), "{flags}");
    result
}

#[test]
fn a_probe_of_random_features_tells_colours_apart_with_either_head() {
    let place = Place::with_photos();
    for head in ["softmax", "ovr"] {
        let result =
            train(&place, &format!("--mode probe --backbone squeezenet1_1 --weights random --head {head} --exist-ok"));
        // 8 photos of two classes: the colour alone shines through random filters.
        assert!(result["best_val_acc"].as_f64().unwrap() >= 0.875, "{head}: {result}");
        assert_eq!(rates(&place, "run", 1), [0.0]);
        assert!(place.text("run/config.toml").contains(&format!("head = \"{head}\"")));
    }
}

#[test]
fn a_probe_takes_a_given_c_and_class_weights() {
    let place = Place::with_photos();
    let ended = place
        .run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir cv")
        .done();
    ended.says(&["C = ", "cross-validation"]);
    let ended = place
        .run(
            "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir given -C 0.25",
        )
        .done();
    assert!(!ended.stderr.contains("cross-validation"), "{}", ended.stderr);
    let weighted = "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir weighted -C 0.25 --class-weights 9,1";
    place.run(weighted).done();
    let loss = |run: &str| place.text(&format!("{run}/results.csv")).lines().nth(1).unwrap().to_owned();
    assert_ne!(loss("given"), loss("weighted"));
}

#[test]
fn a_frozen_network_gets_a_new_head_and_nothing_else_changes() {
    let place = Place::with_photos();
    train(&place, "--backbone resnet18 --weights random --mode frozen --epochs 3 --lr 0.01");
    assert_eq!(rates(&place, "run", 3), [0.01; 3]);
    // The same seed draws the same random backbone, so another training leaves the same tensors below the head.
    let first = tensors(&place.read("run/best.safetensors"));
    train(&place, "--backbone resnet18 --weights random --mode frozen --epochs 1 --lr 0.1 --exist-ok");
    let second = tensors(&place.read("run/best.safetensors"));
    assert_eq!(first.len(), second.len());
    for ((name, a), (_, b)) in first.iter().zip(&second) {
        assert_eq!(a == b, !name.starts_with("fc."), "{name}");
    }
}

#[test]
fn fine_tuning_from_a_layer_up_leaves_what_lies_before_it() {
    let place = Place::with_photos();
    let flags = "--backbone resnet18 --weights random --mode finetune --epochs 2 --batch-size 8";
    train(&place, &format!("{flags} --freeze-until layer4 --lr 0.01"));
    let first = tensors(&place.read("run/best.safetensors"));
    train(&place, &format!("{flags} --freeze-until layer4 --lr 0.02 --exist-ok"));
    let second = tensors(&place.read("run/best.safetensors"));
    for ((name, a), (_, b)) in first.iter().zip(&second) {
        if !name.ends_with("num_batches_tracked") {
            assert_eq!(a != b, name.starts_with("layer4.") || name.starts_with("fc."), "{name}");
        }
    }
}

#[test]
fn fine_tuning_learns_with_every_schedule() {
    let place = Place::with_photos();
    let run = |flags: &str| {
        train(
            &place,
            &format!("--backbone resnet18 --weights random --mode finetune --batch-size 8 --exist-ok {flags}"),
        )
    };
    let close = |found: &[f64], expected: &[f64]| {
        // The same formula in another order of operations.
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} is not {expected:?}");
    };
    // Running statistics take longer to settle than these few steps.
    let result = run("--epochs 3 --lr 0.01 --lr-step-size 2 --lr-gamma 0.5 --bn frozen");
    close(&rates(&place, "run", 3), &[0.01, 0.01, 0.005]);
    assert!(result["best_val_acc"].as_f64().unwrap() >= 0.875, "{result}");

    run("--epochs 2 --lr 0.01 --lr-scheduler cosineannealinglr --lr-min 0.001");
    close(&rates(&place, "run", 2), &[0.01, 0.0055]);

    run("--epochs 2 --lr 0.01 --lr-scheduler constant --lr-warmup-epochs 1 --lr-warmup-decay 0.1");
    close(&rates(&place, "run", 2), &[0.001, 0.01]);

    // 16 photos in batches of 8 over 2 epochs are 4 steps: the rise ends with step 0.3 * 4 - 1 = 0.2, the fall
    // with step 3 at lr / 25 / 10000; the last step of epoch 1 is step 1.
    run("--epochs 2 --lr 0.01 --lr-scheduler onecyclelr");
    let (last, fraction) = (0.01 / 25.0 / 1e4, (1.0 - 0.2) / (3.0 - 0.2));
    let middle = last + (0.01 - last) * (1.0 + f64::cos(std::f64::consts::PI * fraction)) / 2.0;
    close(&rates(&place, "run", 2), &[middle, last]);
}

#[test]
fn every_other_training_flag_has_an_effect_of_its_own() {
    let place = Place::with_photos();
    let mut models: Vec<(&str, Vec<u8>)> = Vec::new();
    for flags in [
        "",
        "--optimizer adamw",
        "--optimizer adamw --weight-decay 0.5",
        "--weight-decay 0.1",
        "--momentum 0.5",
        "--nesterov",
        "--class-weights 3,1",
        "--label-smoothing 0.1",
        "--color-jitter 0.4,0.4,0.4,0.1",
        "--rotation 30",
        "--hflip-prob 0",
        "--no-augment",
        "--batch-size 3",
        "--lr 0.002",
        "--seed 1",
    ] {
        train(
            &place,
            &format!("--backbone squeezenet1_1 --weights random --mode frozen --epochs 1 --exist-ok {flags}"),
        );
        let model = place.read("run/best.safetensors");
        for (others, other) in &models {
            assert!(tensors(&model) != tensors(other), "{flags:?} gives the same weights as {others:?}");
        }
        models.push((flags, model));
    }
}

#[test]
fn flags_without_effect_are_named() {
    let place = Place::with_photos();
    let train = "train photos --backbone squeezenet1_1 --weights random --imgsz 32 --exist-ok --output-dir run --mode";
    let ended = place.run(&format!("{train} probe --epochs 3 --rotation 5 --time 5m")).done();
    let ended = ended.says(&["warning: --time has no effect here: it goes with --mode auto"]);
    let ended = ended.says(&["warning: --epochs has no effect here: it goes with --mode frozen or finetune"]);
    ended.says(&["warning: --rotation has no effect"]);
    let ended = place.run(&format!("{train} frozen --epochs 1 --lr-min 0.1 --optimizer adamw --momentum 0")).done();
    let ended = ended.says(&["--lr-min has no effect", "--momentum has no effect here: it goes with --optimizer sgd"]);
    assert_eq!(ended.stderr.matches("no effect").count(), 2, "{}", ended.stderr);
    let ended = place.run(&format!("{train} auto --time 0 --momentum 0.5 --keep best --epochs 3")).done();
    let ended = ended.says(&["--momentum has no effect here: it goes with --optimizer sgd", "--keep has no effect"]);
    assert_eq!(ended.stderr.matches("no effect").count(), 2, "{}", ended.stderr);
    let contradiction = format!("{train} frozen --no-augment --rotation 5");
    place.run(&contradiction).refuses(&["--no-augment", "--rotation"]);
}

#[test]
fn batch_norms_can_be_kept_frozen() {
    let place = Place::with_photos();
    let moved = |flags: &str| {
        train(
            &place,
            &format!(
                "--backbone resnet18 --weights random --mode finetune --epochs 1 --batch-size 8 --exist-ok {flags}"
            ),
        );
        let model = tensors(&place.read("run/best.safetensors"));
        let (_, mean) = model.iter().find(|(name, _)| name == "bn1.running_mean").unwrap();
        mean.iter().any(|&byte| byte != 0)
    };
    assert!(moved("--bn train"));
    assert!(!moved("--bn frozen"));
}

#[test]
fn classes_of_different_size_can_be_balanced() {
    let place = Place::with_photos();
    place.draw(Class::Squares, "photos/train", 12..20);
    train(&place, "--backbone squeezenet1_1 --weights random --mode frozen --epochs 1 --class-weights balanced");
    let balanced = place.read("run/best.safetensors");
    train(&place, "--backbone squeezenet1_1 --weights random --mode frozen --epochs 1 --exist-ok");
    assert_ne!(balanced, place.read("run/best.safetensors"));
}

#[test]
fn the_model_keeps_how_photos_are_prepared() {
    let place = Place::with_photos();
    let prepared = |flags: &str| {
        train(&place, &format!("--mode probe --backbone squeezenet1_1 --weights random --exist-ok {flags}"));
        let about = place.run("info run/best.safetensors --json").done().json();
        ["resize", "crop"].map(|side| about["preprocessing"][side].as_u64().unwrap())
    };
    // 32 * 256 / 224, rounded down.
    assert_eq!(prepared(""), [36, 32]);
    assert_eq!(prepared("--val-resize-size 48"), [48, 32]);
}

#[test]
fn a_folder_of_class_folders_is_divided() {
    let place = Place::empty();
    for class in [Class::Discs, Class::Squares, Class::Stripes] {
        place.draw(class, "photos", 0..10);
    }
    let ended = place.run(
        "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir run --val-fraction 0.3 --json",
    );
    let ended = ended.done().says(&["3 classes, 21 photos to train on, 9 to validate on"]);
    assert!(ended.json()["best_val_acc"].as_f64().unwrap() >= 7.0 / 9.0, "{}", ended.stdout);
    assert_eq!(place.text("run/labels.txt"), "discs\nsquares\nstripes\n");
}

#[test]
fn runs_are_numbered_and_the_text_says_what_to_do_next() {
    let place = Place::with_photos();
    for run in ["runs/train", "runs/train2"] {
        let ended = place.run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32").done();
        let ended = ended.says(&[&format!("writing to {run}"), "regraft predict", "random weights"]);
        for line in ["Epoch 1/1", "train loss: ", "val loss: ", "Training complete in 0m ", "Saved model: "] {
            assert!(ended.stdout.contains(line), "{line:?} is not in {}", ended.stdout);
        }
        assert!(ended.stdout.contains(&format!("Model: {run}/best.safetensors")), "{}", ended.stdout);
        assert!(!ended.stdout.contains("best so far"), "of a single epoch: {}", ended.stdout);
        assert!(place.path(run).join("best.safetensors").is_file());
    }
    let ended =
        place.run("train photos --backbone squeezenet1_1 --weights random --imgsz 32 --mode frozen --epochs 2").done();
    assert!(ended.stdout.contains("best so far"), "{}", ended.stdout);
}

/// Name and bytes of each tensor of a `.safetensors` file, in the file's order.
fn tensors(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    let header = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    header
        .map(|(name, about)| {
            let offset = |i: usize| about["data_offsets"][i].as_u64().unwrap() as usize;
            (name.clone(), data[offset(0)..offset(1)].to_vec())
        })
        .collect()
}
