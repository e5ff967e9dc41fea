//! `regraft eval` and `regraft predict`.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use regraft_testing::fixture;
use serde_json::{Value, json};

use crate::common::{Class, Ended, Place};

/// Requires a number from 0 to 1.
#[track_caller]
fn fraction(value: &Value) -> f64 {
    let number = value.as_f64().unwrap();
    assert!((0.0..=1.0).contains(&number), "{number}");
    number
}

#[test]
fn an_evaluation_has_the_fields_scripts_rely_on() {
    let place = Place::with_model();
    let whole = place.run("eval run/best.safetensors photos --json").done().json();
    assert_eq!(whole["n"], 8);
    assert!(whole["loss"].as_f64().unwrap() > 0.0);
    let top1 = fraction(&whole["top1"]);
    assert_eq!(fraction(&whole["top5"]), 1.0);
    let [low, high] = [0, 1].map(|i| fraction(&whole["top1_ci95"][i]));
    assert!(low <= top1 && top1 <= high && low < high, "{whole}");
    assert_eq!(whole["classes"], json!(["discs", "squares"]));
    let count = |row: usize, column: usize| whole["confusion"][row][column].as_u64().unwrap();
    assert_eq!([count(0, 0) + count(0, 1), count(1, 0) + count(1, 1)], [4, 4]);
    assert_eq!((count(0, 0) + count(1, 1)) as f64 / 8.0, top1);

    // The folder of class folders itself is the same as the folder around it.
    assert_eq!(place.run("eval run/best.safetensors photos/val --json").done().json(), whole);
}

#[test]
fn an_evaluation_as_text_has_the_same_numbers() {
    let place = Place::with_model();
    let whole = place.run("eval run/best.safetensors photos --json").done().json();
    let text = place.run("eval run/best.safetensors photos").done().stdout;
    let top1 = format!("{:.4}", whole["top1"].as_f64().unwrap());
    for part in ["8", &top1, "discs", "squares"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn classes_are_matched_by_name_and_never_shift() {
    let place = Place::with_model();
    place.draw(Class::Stripes, "more", 0..2);
    place.draw(Class::Squares, "more", 8..12);
    let unknown = place.run("eval run/best.safetensors more");
    unknown.fails(&["`stripes`", "the model does not have", "`discs`, `squares`"]);

    // Squares alone are still class 1.
    fs::remove_dir_all(place.path("more/stripes")).unwrap();
    let ended = place.run("eval run/best.safetensors more --json").done().says(&["has no photos of class \"discs\""]);
    let evaluation = ended.json();
    assert_eq!(evaluation["confusion"][0], json!([0, 0]));
    assert_eq!(evaluation["n"], 4);
}

#[test]
fn an_unreadable_photo_is_left_out_of_an_evaluation_or_refused() {
    let place = Place::with_model();
    let jpeg = fs::read(fixture::path("transforms/images/jpeg_420.jpg")).unwrap();
    place.write("photos/val/discs/cut.jpg", &jpeg[..jpeg.len() - 100]);
    let ended = place.run("eval run/best.safetensors photos --json").done();
    let ended = ended.says(&["warning: ", "photos/val/discs/cut.jpg", "cut short", "left out"]);
    assert_eq!(ended.json()["n"], 8);
    place.run("eval run/best.safetensors photos --strict").fails(&["cut.jpg", "cut short"]);
}

#[test]
fn predictions_are_one_json_object_a_line_in_the_order_asked_for() {
    let place = Place::with_model();
    let line = "predict run/best.safetensors photos/val/squares/09.ppm photos/val/discs --json";
    let answers = place.run(line).done().json_lines();
    let paths: Vec<&str> = answers.iter().map(|answer| answer["path"].as_str().unwrap()).collect();
    let expected = ["squares/09", "discs/08", "discs/09", "discs/10", "discs/11"];
    assert_eq!(paths, expected.map(|photo| format!("photos/val/{photo}.ppm")));
    for answer in &answers {
        assert_eq!(answer.as_object().unwrap().len(), 4, "{answer}");
        let top = answer["top"].as_array().unwrap();
        assert_eq!(top.len(), 2, "{answer}");
        assert_eq!((&answer["label"], &answer["prob"]), (&top[0]["label"], &top[0]["prob"]));
        let [first, second] = [0, 1].map(|i| fraction(&top[i]["prob"]));
        // Softmax in f64: the sum is off by a few roundings.
        assert!(first >= second && (first + second - 1.0).abs() < 1e-12, "{answer}");
    }
    let right = answers.iter().filter(|a| a["path"].as_str().unwrap().contains(a["label"].as_str().unwrap()));
    assert!(right.count() >= 4, "{answers:?}");

    let answers = place.run(&format!("{line} --top-k 1")).done().json_lines();
    assert!(answers.iter().all(|answer| answer["top"].as_array().unwrap().len() == 1), "{answers:?}");
}

#[test]
fn predictions_come_as_text_and_as_csv_too() {
    let place = Place::with_model();
    let answer = place.run("predict run/best.safetensors photos/val/discs/08.ppm --json").done().json();
    let (label, prob) = (answer["label"].as_str().unwrap(), answer["prob"].as_f64().unwrap());
    let text = place.run("predict run/best.safetensors photos/val/discs/08.ppm --top-k 1").done().stdout;
    assert_eq!(text, format!("photos/val/discs/08.ppm: {label} {:.1}%\n", 100.0 * prob));
    for flags in ["--csv", "--csv --top-k 1"] {
        let csv = place.run(&format!("predict run/best.safetensors photos/val/discs/08.ppm {flags}")).done().stdout;
        assert_eq!(csv, format!("path,label,prob,error\nphotos/val/discs/08.ppm,{label},{prob},\n"));
    }
}

#[test]
fn csv_has_columns_for_as_many_classes_as_were_asked_for() {
    let place = Place::with_model();
    let answer = place.run("predict run/best.safetensors photos/val/discs/08.ppm --json").done().json();
    let [first, second] = [0, 1].map(|i| {
        let ranked = &answer["top"][i];
        format!("{},{}", ranked["label"].as_str().unwrap(), ranked["prob"].as_f64().unwrap())
    });
    let line = "predict run/best.safetensors nowhere.ppm photos/val/discs/08.ppm --csv --top-k";
    // The model knows two classes: there is nothing to put in further columns.
    for k in ["2", "9"] {
        let csv = place.run(&format!("{line} {k}")).exits(1).stdout;
        let expected = "path,label,prob,label2,prob2,error\nnowhere.ppm,,,,,does not exist; check the path\n";
        assert_eq!(csv, format!("{expected}photos/val/discs/08.ppm,{first},{second},\n"));
    }
}

#[test]
fn paths_can_come_on_stdin() {
    let place = Place::with_model();
    let with_stdin = |text: &str| {
        let line = "predict run/best.safetensors - --json";
        let mut command = place.command(line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Ended::new(line, child.wait_with_output().unwrap())
    };
    let ended = with_stdin("photos/val/squares/08.ppm\n\nphotos/val/discs/08.ppm\r\n").done();
    let paths: Vec<Value> = ended.json_lines().into_iter().map(|answer| answer["path"].clone()).collect();
    assert_eq!(paths, ["photos/val/squares/08.ppm", "photos/val/discs/08.ppm"]);
    with_stdin("").fails(&["no photos"]);
}

#[test]
fn a_file_that_cannot_be_read_is_answered_and_the_others_go_on() {
    let place = Place::with_model();
    let jpeg = fs::read(fixture::path("transforms/images/jpeg_420.jpg")).unwrap();
    place.write("some/cut.jpg", &jpeg[..jpeg.len() - 100]);
    place.write("some/whole.jpg", &jpeg);
    place.write("text.jpg", "this is no photo");
    let line = "predict run/best.safetensors text.jpg nowhere.jpg some";
    let ended = place.run(&format!("{line} --json")).exits(1).says(&["error: 3 of 4 files could not be read"]);
    let answers = ended.json_lines();
    for (answer, (path, reason)) in answers.iter().zip([
        ("text.jpg", "not an image"),
        ("nowhere.jpg", "does not exist"),
        ("some/cut.jpg", "cut short"),
        ("some/whole.jpg", ""),
    ]) {
        assert_eq!(answer["path"], path);
        match answer["error"].as_str() {
            Some(error) => assert!(!reason.is_empty() && error.contains(reason), "{answer}"),
            None => assert!(reason.is_empty() && answer["label"].is_string(), "{answer}"),
        }
    }
    assert_eq!(answers.len(), 4);

    let ended = place.run(line).exits(1).says(&["error: text.jpg: not an image", "error: some/cut.jpg: "]);
    assert_eq!(ended.stdout.lines().count(), 1);
    let ended = place.run(&format!("{line} --csv")).exits(1);
    assert!(ended.stdout.contains("\nnowhere.jpg,,,does not exist"), "{}", ended.stdout);
    assert_eq!(ended.stdout.lines().count(), 5);
}

#[test]
fn a_reader_that_has_gone_ends_the_program_quietly() {
    let place = Place::with_model();
    for line in [
        "predict run/best.safetensors photos",
        "predict run/best.safetensors photos --json",
        "predict run/best.safetensors photos --csv",
        "eval run/best.safetensors photos",
        "eval run/best.safetensors photos --json",
        "info run/best.safetensors",
        "info --backbone resnet18 --json",
        "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32",
    ] {
        let mut child = place.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let ended = Ended::new(line, Output { status, stdout, stderr }).done();
        assert!(!ended.stderr.contains("error"), "{line}: {}", ended.stderr);
    }
    // The training went on to its end all the same.
    assert!(place.path("runs/train/best.safetensors").is_file());
}

#[test]
fn with_flips_a_photo_and_its_mirror_image_get_the_same_answer() {
    let place = Place::empty();
    // Of the size that the network sees, so that mirroring the file mirrors what it sees.
    for (class, seed) in [("dark", 3), ("light", 7)] {
        for (part, photos) in [("train", 0..4), ("val", 4..6)] {
            for i in photos {
                let pixels: Vec<u8> = (0..32 * 32).map(|p| (p * (i + seed) % 97 + seed * 20) as u8).collect();
                let mirrored: Vec<u8> = pixels.chunks(32).flat_map(|row| row.iter().rev().copied()).collect();
                let file = |pixels: &[u8]| [&b"P5 32 32 255\n"[..], pixels].concat();
                place.write(&format!("photos/{part}/{class}/{i}.pgm"), file(&pixels));
                if part == "val" {
                    place.write(&format!("mirrored/{class}/{i}.pgm"), file(&mirrored));
                }
            }
        }
    }
    let train = "train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --val-resize-size 32 --output-dir run";
    place.run(train).done();
    let answers = |folder: &str, flags: &str| {
        let ended = place.run(&format!("predict run/best.safetensors {folder} --json {flags}")).done();
        ended.json_lines().iter().map(|answer| fraction(&answer["prob"])).collect::<Vec<_>>()
    };
    let (photos, mirrored) = (answers("photos/val", "--tta hflip"), answers("mirrored", "--tta hflip"));
    assert_eq!(photos.len(), 4);
    for (photo, mirrored) in photos.iter().zip(&mirrored) {
        // The two answers are added up in the other order.
        assert!((photo - mirrored).abs() < 1e-6, "{photos:?} and {mirrored:?}");
    }
    assert_ne!(answers("photos/val", ""), answers("mirrored", ""), "without flips the two are told apart");
    assert_ne!(answers("photos/val", ""), photos);

    let loss = |folder: &str, flags: &str| {
        let ended = place.run(&format!("eval run/best.safetensors {folder} --json {flags}")).done();
        ended.json()["loss"].as_f64().unwrap()
    };
    assert!((loss("photos", "--tta hflip") - loss("mirrored", "--tta hflip")).abs() < 1e-6);
    assert_ne!(loss("photos", "--tta hflip"), loss("photos", ""));
}
