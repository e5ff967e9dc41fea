//! Networks that people bring along, as ONNX files.

use std::fs;

use regraft_testing::fixture;

use crate::common::Place;
#[cfg(unix)]
use crate::resume::{assert_same_run, wait_for_epochs};

/// Photos, and the slim network of this name from `reference/onnx`.
fn place(name: &str) -> Place {
    let place = Place::with_photos();
    fs::copy(fixture::path(&format!("onnx/{name}.onnx")), place.path("net.onnx")).unwrap();
    place
}

#[test]
fn a_network_from_a_file_is_probed_and_predicts() {
    let place = place("mobilenet_v3");
    let ended = place.run("train photos --mode probe --backbone net.onnx --output-dir run").done();
    ended.says(&["photos are prepared as for ImageNet's networks", "--val-resize-size 36", "--imgsz 32"]);
    let info = place.run("info run/best.safetensors --json").done().json();
    assert_eq!(info["provenance"]["backbone"], "net.onnx");
    let hash = regraft_io::sha256_file(&place.path("net.onnx")).unwrap();
    assert_eq!(info["provenance"]["weights_sha256"], hash);
    assert_eq!(info["preprocessing"]["crop"], 32);
    // The model holds the network: the file is no longer needed.
    fs::remove_file(place.path("net.onnx")).unwrap();
    place.run("eval run/best.safetensors photos").done();
    place.run("predict run/best.safetensors photos/val/discs/08.ppm").done();
}

#[test]
fn a_grafted_head_finds_a_free_name_and_the_model_opens() {
    // Its own head is a convolution, so the new one comes after a pooling of its own.
    let place = place("squeezenet");
    place
        .run("train photos --mode probe --backbone net.onnx --imgsz 48 --mean 0.5,0.5,0.5 --std 0.25,0.25,0.5 --output-dir run")
        .done();
    let info = place.run("info run/best.safetensors --json").done().json();
    assert_eq!(info["preprocessing"]["mean"], serde_json::json!([0.5, 0.5, 0.5]));
    assert_eq!(info["preprocessing"]["std"], serde_json::json!([0.25, 0.25, 0.5]));
    assert_eq!(info["preprocessing"]["crop"], 48);
    assert_eq!(info["layers"].as_array().unwrap().last().unwrap()["name"], "fc");
}

#[cfg(unix)]
#[test]
fn a_stopped_run_goes_on_to_the_same_bits_and_not_with_another_file() {
    let place = place("resnet_unfolded_11");
    let train = "train photos --backbone net.onnx --mode finetune --imgsz 64 --epochs 100 --lr 0.01 --threads 1";
    place.run(&format!("{train} --output-dir whole")).done();
    let mut running = place.start(&format!("{train} --output-dir parts"));
    wait_for_epochs(&mut running, &place.path("parts"), 2);
    running.signal("INT");
    running.end().exits(130);
    let whole = place.read("net.onnx");
    place.write("net.onnx", fs::read(fixture::path("onnx/resnet.onnx")).unwrap());
    place.run("resume parts").fails(&["net.onnx", "have changed since this run began"]);
    place.write("net.onnx", whole);
    place.run("resume parts --threads 1").done();
    assert_same_run(&place, "parts", "whole");
}

#[test]
fn layers_are_shown_and_timed() {
    let place = place("shufflenet");
    let info = place.run("info --backbone net.onnx --json").done().json();
    let layers = info["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["op"] == "ChannelShuffle"), "{info}");
    place.run("info --backbone net.onnx --freeze-until stage3").done();
    let bench = place.run("bench --backbone net.onnx --batch 2 --runs 1 --what train --json").done().json();
    assert_eq!(bench["backbone"], "net.onnx");
}

#[test]
fn what_is_wrong_with_a_file_is_said_before_a_run_begins() {
    let place = place("vgg");
    place.write("text.onnx", "no network");
    for (line, words) in [
        ("train photos --mode probe --backbone absent.onnx --output-dir run", ["absent.onnx", "cannot read"]),
        ("train photos --mode probe --backbone text.onnx --output-dir run", ["text.onnx", "no whole ONNX file"]),
        ("info --backbone text.onnx", ["text.onnx", "no whole ONNX file"]),
        ("bench --backbone text.onnx", ["text.onnx", "no whole ONNX file"]),
    ] {
        place.run(line).fails(&words);
    }
    for (line, words) in [
        (
            "train photos --mode probe --backbone net.onnx --weights random --output-dir run",
            ["--weights", "weights of its own"],
        ),
        ("train photos --mode probe --backbone net.onnx --imgsz 64 --output-dir run", ["--imgsz is 64", "net.onnx"]),
        ("train photos --mode probe --backbone net.onnx --mean 0.5 --output-dir run", ["--mean", "three numbers"]),
        (
            "train photos --mode probe --backbone net.onnx --std 1,0,1 --output-dir run",
            ["--std", "three numbers above 0"],
        ),
    ] {
        place.run(line).refuses(&words);
    }
    assert!(!place.path("run").exists());
}
