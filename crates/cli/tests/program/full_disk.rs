//! A disk that is full in the middle of a run. A limit on the size of files stands for it: it needs no rights, and
//! writing fails in the same places.

use std::fs;
use std::process::Command;

use crate::common::{Ended, Place};
use crate::resume::{assert_same_run, results, wait_for_epochs};

/// Runs the program where results can be written, but nothing as large as a network. Requires that it leaves no
/// halves of files behind.
#[track_caller]
fn run_without_room(place: &Place, line: &str) -> Ended {
    let elsewhere = place.path("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    // 32 or 64 KiB, as shells count differently. The signal is ignored, so that writing fails instead.
    let script = r#"trap '' XFSZ; ulimit -f 64; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_regraft")]).args(line.split_whitespace());
    command.current_dir(place.path("")).env("TMPDIR", &elsewhere);
    let ended = Ended::new(line, command.output().unwrap());
    let names = |folder| fs::read_dir(place.path(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names("elsewhere").count(), 0);
    for name in names("run") {
        assert!(!name.to_string_lossy().ends_with(".regraft.tmp"), "{name:?}");
    }
    ended
}

#[test]
fn the_run_goes_on_and_ends_with_what_could_not_be_written() {
    let place = Place::with_photos();
    let train =
        "train photos --backbone squeezenet1_1 --weights random --mode frozen --imgsz 32 --epochs 2 --output-dir";
    place.run(&format!("{train} whole")).done();
    let model = place.read("whole/best.safetensors").len();

    // The checkpoint of a frozen run is small; the model is not.
    let ended = run_without_room(&place, &format!("{train} run")).exits(1);
    let told = "cannot write run/best.safetensors: ";
    let needed = format!(" ({model} bytes are needed)");
    let warning = format!("{needed}; training goes on and tries again after the next epoch\n");
    let ended = ended.says(&[&format!("warning: {told}"), &warning, &format!("error: {told}"), &format!("{needed}\n")]);
    assert!(ended.stdout.contains("Epoch 2/2"), "{}", ended.stdout);
    assert!(!place.path("run/best.safetensors").exists());

    // With room again it goes on from the checkpoint.
    place.run("resume run").done();
    assert_same_run(&place, "run", "whole");
}

#[test]
fn what_was_saved_before_stays_as_it_is() {
    let place = Place::with_photos();
    let train =
        "train photos --backbone resnet18 --weights random --mode finetune --imgsz 64 --epochs 4 --lr 0.01 --threads 1";
    place.run(&format!("{train} --output-dir whole")).done();
    let mut running = place.start(&format!("{train} --output-dir run"));
    wait_for_epochs(&mut running, &place.path("run"), 1);
    running.signal("INT");
    running.end().exits(130);
    let files = ["best.safetensors", "last.ckpt", "config.toml", "labels.txt"].map(|name| format!("run/{name}"));
    let before = files.each_ref().map(|file| place.read(file));

    // Only a better model than the saved one is a loss, so only that is an error.
    let accuracies: Vec<f64> =
        results(&place, "whole")[1..].iter().map(|row| row.split(',').nth(4).unwrap().parse().unwrap()).collect();
    let done = results(&place, "run").len() - 1;
    let best = |accuracies: &[f64]| accuracies.iter().copied().fold(0.0, f64::max);
    let lost = best(&accuracies[done..]) > best(&accuracies[..done]);
    let ended = run_without_room(&place, "resume run").exits(i32::from(lost));
    ended.says(&["warning: cannot write run/", " bytes are needed)"]);
    for (file, before) in files.iter().zip(&before) {
        assert!(place.read(file) == *before, "{file} has changed");
    }
    place.run("eval run/best.safetensors photos").done();

    place.run("resume run").done();
    assert_same_run(&place, "run", "whole");
}
