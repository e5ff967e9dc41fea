//! What is wrong is said before any work begins: which file, class or flag, and what to do.

use std::fs;

use regraft_testing::fixture;

use crate::common::{Class, Place};

/// A quick training that only the photos or another flag can spoil.
const TRAIN: &str = "train photos --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir run";

/// Requires that nothing was begun.
#[track_caller]
fn no_run(place: &Place) {
    assert!(!place.path("run").exists(), "a run's folder was made");
    assert!(!place.path("runs").exists(), "a run's folder was made");
}

#[test]
fn bad_usage_exits_with_2_and_names_the_flag() {
    let place = Place::with_photos();
    place.run("").exits(2).says(&["Usage: regraft", "train", "predict"]);
    for (line, words) in [
        ("fly", &["fly"][..]),
        ("train", &["<DATA>"]),
        (
            "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --exist-ok",
            &["--output-dir"],
        ),
        ("predict", &["<MODEL>"]),
        ("predict model.safetensors", &["<PATHS>"]),
        ("predict model.safetensors a.jpg --top-k 0", &["--top-k"]),
        ("predict model.safetensors a.jpg --tta vflip", &["--tta", "hflip"]),
        ("predict model.safetensors a.jpg --csv --json", &["--csv", "--json"]),
        ("info", &["MODEL", "--backbone"]),
        ("info --backbone resnet81", &["resnet81", "resnet18"]),
        ("info --backbone resnet18 --freeze-until layer9", &["layer9", "layer4"]),
        ("info model.safetensors --freeze-until layer4", &["--backbone"]),
        ("bench --backbone resnet81", &["resnet81", "resnet18"]),
        ("bench --batch 0", &["--batch"]),
        ("bench --runs 0", &["--runs"]),
        ("bench --precision f64", &["--precision"]),
        ("bench --threads 0", &["--threads"]),
        ("bench --threads 60000", &["--threads", "1024"]),
        ("eval model.safetensors photos --threads many", &["--threads"]),
    ] {
        place.run(line).refuses(words);
    }
    no_run(&place);
}

#[test]
fn training_flags_out_of_range_exit_with_2() {
    let place = Place::with_photos();
    for (flags, words) in [
        ("--backbone resnet81", &["resnet81", "resnet18"][..]),
        ("--mode fly", &["--mode", "finetune"]),
        ("--head ovr --mode frozen", &["--head is ovr", "--mode probe"]),
        ("--mode probe --freeze-until layer4", &["--freeze-until", "--mode finetune"]),
        ("--mode finetune --freeze-until layer9", &["layer9", "features"]),
        ("--epochs 0", &["--epochs"]),
        ("--epochs -1", &["-1"]),
        ("--batch-size 0", &["--batch-size"]),
        ("--lr 0", &["--lr"]),
        ("--lr=-1", &["--lr"]),
        ("--lr -1", &["--lr", "above 0"]),
        ("--lr nan", &["--lr"]),
        ("--momentum=-0.1", &["--momentum"]),
        ("--momentum inf", &["--momentum"]),
        ("--weight-decay=-0.1", &["--weight-decay"]),
        ("--weight-decay nan", &["--weight-decay"]),
        ("--lr-step-size 0", &["--lr-step-size"]),
        ("--lr-gamma 0", &["--lr-gamma"]),
        ("--lr-gamma nan", &["--lr-gamma"]),
        ("--lr-scheduler cosineannealinglr --lr-min=-1", &["--lr-min"]),
        ("--lr-warmup-epochs 1 --lr-warmup-decay 2", &["--lr-warmup-decay"]),
        ("--label-smoothing 1", &["--label-smoothing"]),
        ("--class-weights many", &["--class-weights", "balanced"]),
        ("--class-weights 1,-1", &["--class-weights"]),
        ("--class-weights 1,2,3", &["--class-weights", "3 numbers", "discs, squares"]),
        ("--color-jitter 1,2", &["--color-jitter", "four numbers"]),
        ("--color-jitter 0,0,0,0.6", &["--color-jitter", "hue"]),
        ("--rotation 181", &["--rotation"]),
        ("--hflip-prob 1.5", &["--hflip-prob"]),
        ("--interpolation sinc", &["--interpolation", "bicubic"]),
        ("--auto-augment autumn", &["--auto-augment", "ra", "ta_wide"]),
        ("--ra-magnitude 31", &["--ra-magnitude"]),
        ("--random-erase 2", &["--random-erase"]),
        ("--mixup-alpha=-1", &["--mixup-alpha"]),
        ("--cutmix-alpha nan", &["--cutmix-alpha"]),
        ("--no-augment --mixup-alpha 0.2", &["--no-augment", "--mixup-alpha"]),
        ("--views 0", &["--views"]),
        ("--time soon", &["--time", "1h30m"]),
        ("--freeze-until layer9", &["layer9", "features"]),
        ("--mode frozen --keep last --patience 2", &["--keep last", "--patience"]),
        ("--mode frozen --no-augment --views 2", &["--no-augment", "--views"]),
        ("--mode finetune --views 2", &["--views", "--freeze-until"]),
        ("--mode frozen --views 2 --cutmix-alpha 1", &["--views", "--cutmix-alpha"]),
        ("--val-fraction 0", &["--val-fraction"]),
        ("--val-fraction 1", &["--val-fraction"]),
        ("--imgsz 0", &["--imgsz"]),
        ("--imgsz 5", &["--imgsz", "squeezenet1_1"]),
        ("--imgsz 4294967295", &["--imgsz"]),
        ("--val-resize-size 0", &["--val-resize-size"]),
        ("--seed -1", &["-1"]),
        ("--seed 18446744073709551615", &["--seed"]),
        ("-C 0", &["-C"]),
        ("-C nan", &["-C"]),
    ] {
        let line = match flags.contains("--backbone") || flags.contains("--imgsz") {
            true => "train photos --output-dir run",
            false => "train photos --output-dir run --imgsz 32",
        };
        let backbone = if flags.contains("--backbone") { "" } else { "--backbone squeezenet1_1 --weights random" };
        place.run(&format!("{line} {backbone} {flags}")).refuses(words);
    }
    no_run(&place);
}

#[test]
fn folders_that_cannot_be_learned_from_are_explained() {
    let place = Place::with_photos();
    let train = |data: &str| place.run(&TRAIN.replace("photos", data));
    train("nowhere").fails(&["nowhere does not exist"]);
    train("photos/train/discs/00.ppm").fails(&["00.ppm is a file", "give the folder"]);
    train("photos/train/discs").fails(&["no class folders", "8 photos"]);
    fs::create_dir(place.path("hollow")).unwrap();
    train("hollow").fails(&["hollow holds no photos"]);
    place.draw(Class::Discs, "single", 0..3);
    train("single").fails(&["only one class", "`discs`"]);

    place.draw(Class::Stripes, "photos/train", 0..3);
    train("photos").fails(&["photos/val", "no photos of `stripes`"]);
    fs::rename(place.path("photos/train/stripes"), place.path("photos/val/stripes")).unwrap();
    train("photos").fails(&["photos/val", "`stripes`", "the training folder does not have"]);

    // A class may be called as a setting is.
    for class in ["head", "mode"] {
        fs::rename(place.path("photos/train/discs"), place.path(&format!("photos/train/{class}"))).unwrap();
        let ended = train("photos");
        ended.fails(&[&format!("`{class}`")]);
        fs::rename(place.path(&format!("photos/train/{class}")), place.path("photos/train/discs")).unwrap();
    }
    no_run(&place);
}

#[test]
fn what_is_passed_over_is_named() {
    let place = Place::with_photos();
    fs::create_dir(place.path("photos/train/nothing")).unwrap();
    place.draw(Class::Stripes, "photos/train/.hidden", 0..1);
    place.write("photos/train/discs/.DS_Store", "x");
    place.write("photos/train/discs/text.jpg", "this is no photo");
    place.write("photos/train/discs/notes.txt", "red");
    let jpeg = fs::read(fixture::path("transforms/images/jpeg_420.jpg")).unwrap();
    place.write("photos/train/discs/cut.jpg", &jpeg[..jpeg.len() - 100]);
    place.run(TRAIN).done().says(&[
        "photos/train/nothing: no photos inside",
        "photos/train/.hidden: hidden",
        "photos/train/discs/text.jpg: not an image",
        "photos/train/discs/cut.jpg: the JPEG file is cut short",
        "2 classes, 16 photos to train on, 8 to validate on",
    ]);
    assert_eq!(place.text("run/labels.txt"), "discs\nsquares\n");
}

#[test]
fn strictly_a_bad_photo_is_an_error() {
    let jpeg = fs::read(fixture::path("transforms/images/jpeg_420.jpg")).unwrap();
    for (file, content, word) in
        [("cut.jpg", &jpeg[..jpeg.len() - 100], "cut short"), ("text.jpg", &b"this is no photo"[..], "not an image")]
    {
        let place = Place::with_photos();
        place.write(&format!("photos/val/squares/{file}"), content);
        place.run(&format!("{TRAIN} --strict")).fails(&[file, word, "leave out --strict"]);
        no_run(&place);
    }
    // A file that never claimed to be a photo is no reason to stop.
    let place = Place::with_photos();
    place.write("photos/val/squares/notes.txt", "green");
    place.run(&format!("{TRAIN} --strict")).done();
}

#[test]
fn a_class_that_loses_its_last_photo_is_an_error() {
    let place = Place::with_photos();
    let jpeg = fs::read(fixture::path("transforms/images/jpeg_420.jpg")).unwrap();
    fs::remove_dir_all(place.path("photos/val/squares")).unwrap();
    place.write("photos/val/squares/cut.jpg", &jpeg[..jpeg.len() - 100]);
    place.run(TRAIN).fails(&["`squares`", "no readable photo", "validation"]);
    no_run(&place);
}

#[test]
fn an_output_folder_that_cannot_be_used_is_found_before_the_work() {
    let place = Place::with_photos();
    place.write("file", "in the way");
    place
        .run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir file/run")
        .fails(&["file/run", "--output-dir"]);
    place
        .run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir file")
        .fails(&["file", "--output-dir"]);

    place.run(TRAIN).done();
    let model = place.read("run/best.safetensors");
    place.run(&format!("{TRAIN} --seed 1")).fails(&["run", "already holds a run", "--exist-ok"]);
    assert!(place.read("run/best.safetensors") == model);
    place.run(&format!("{TRAIN} --seed 1 --exist-ok")).done();
    assert!(place.read("run/best.safetensors") != model);
}

#[test]
fn weights_that_do_not_fit_are_explained() {
    let place = Place::with_model();
    let train = |weights: &str| TRAIN.replace("random", weights);
    place.run(&format!("{} --exist-ok", train("nowhere.pth"))).fails(&["nowhere.pth"]);
    place.write("text.pth", "this is no file of weights");
    place.run(&format!("{} --exist-ok", train("text.pth"))).fails(&["text.pth"]);
    let line =
        "train photos --mode probe --backbone resnet18 --imgsz 32 --output-dir other --weights run/best.safetensors";
    place.run(line).fails(&["run/best.safetensors", "does not fit the backbone resnet18", "layer1.0.conv1.weight"]);
    assert!(!place.path("other").exists());
}

#[test]
fn a_trained_model_can_be_the_weights_of_the_next() {
    let place = Place::with_model();
    let line = "train photos --mode probe --backbone squeezenet1_1 --imgsz 32 --output-dir next --weights run/best.safetensors";
    let ended = place.run(line).done();
    assert!(!ended.stderr.contains("random weights"), "{}", ended.stderr);
}

#[test]
fn a_last_batch_of_one_photo_is_no_food_for_a_batch_norm() {
    let place = Place::with_photos();
    place.draw(Class::Discs, "photos/train", 12..13);
    // 17 photos in batches of 4, and maps of one pixel in layer4.
    let line = "train photos --backbone resnet18 --weights random --mode finetune --imgsz 32 --epochs 1 --output-dir";
    place.run(&format!("{line} run")).fails(&["layer4.0.bn1", "--batch-size", "--imgsz", "--bn"]);
    place.run(&format!("{line} frozen --bn frozen")).done();
    place.run(&format!("{line} larger --batch-size 6")).done();
}

#[test]
fn training_that_diverges_says_so() {
    let place = Place::with_photos();
    let line = "train photos --backbone squeezenet1_1 --weights random --mode finetune --imgsz 32 --output-dir run --lr 1e30 --epochs 3";
    place.run(line).exits(1).says(&["error: ", "diverged", "lower"]);
}
