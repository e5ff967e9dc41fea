//! Ctrl-C, a kill at any instant, and going on.

use std::fs;
use std::path::Path;

use crate::common::{Place, Running};

/// A run of a few seconds that uses everything a checkpoint has to keep: momentum, running statistics, a
/// schedule by steps, augmentation.
const TRAIN: &str = "train photos --backbone resnet18 --weights random --mode finetune --imgsz 64 --epochs 8 --lr 0.01 \
    --lr-scheduler onecyclelr --color-jitter 0.4,0.4,0.4,0.1 --threads 1";

/// Waits until `epochs` epochs are in a run's results.
#[track_caller]
pub fn wait_for_epochs(running: &mut Running, run: &Path, epochs: usize) {
    let lines = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
    running.wait_until(&run.join("results.csv"), |bytes| lines(bytes) > epochs);
}

/// Results without the column of seconds, which no two runs share.
pub fn results(place: &Place, run: &str) -> Vec<String> {
    let text = place.text(&format!("{run}/results.csv"));
    text.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect()
}

/// Requires two runs to have the same results and the same best model, bit for bit.
#[track_caller]
pub fn assert_same_run(place: &Place, a: &str, b: &str) {
    assert_eq!(results(place, a), results(place, b));
    let model = |run: &str| place.read(&format!("{run}/best.safetensors"));
    assert!(model(a) == model(b), "the models of {a} and {b} differ");
}

#[test]
fn a_run_that_was_stopped_twice_and_killed_ends_with_the_same_bits() {
    let place = Place::with_photos();
    place.run(&format!("{TRAIN} --output-dir whole")).done();

    // Ctrl-C in the first epoch: the checkpoint is there from the start.
    let mut running = place.start(&format!("{TRAIN} --output-dir parts"));
    running.wait_until(&place.path("parts/last.ckpt"), |_| true);
    running.signal("INT");
    running.end().exits(130).says(&["stopping after this step", "everything is saved", "regraft resume parts\n"]);

    // A polite kill later.
    let mut running = place.start("resume parts --threads 2 --json");
    wait_for_epochs(&mut running, &place.path("parts"), 2);
    running.signal("TERM");
    let ended = running.end().exits(130).says(&["regraft resume parts\n"]);
    assert_eq!(ended.stdout, "");

    // A power cut after that.
    let mut running = place.start("resume parts --threads 1");
    wait_for_epochs(&mut running, &place.path("parts"), 4);
    running.kill();

    let ended = place.run("resume parts --threads 1 --json").done();
    assert_eq!(ended.json()["model"], "parts/best.safetensors");
    assert_same_run(&place, "parts", "whole");
    place.run("resume parts").fails(&["parts", "is complete", "best.safetensors"]);
}

#[test]
fn ctrl_c_while_photos_are_read_ends_the_reading() {
    let place = Place::empty();
    // Twelve megapixels under many names: seconds of reading, little disk.
    place.write("photo.ppm", [b"P6 4000 3000 255\n".as_slice(), &vec![90; 4000 * 3000 * 3]].concat());
    for folder in ["train/discs", "train/squares", "val/discs", "val/squares"] {
        let folder = place.path("many").join(folder);
        fs::create_dir_all(&folder).unwrap();
        (0..50).for_each(|i| fs::hard_link(place.path("photo.ppm"), folder.join(format!("{i}.ppm"))).unwrap());
    }
    let train = "train many --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --cache-mib 0 --threads 1 --output-dir run";
    let mut running = place.start_saying(train, "said", &[]);
    running.wait_until(&place.path("said"), |said| !said.is_empty());
    running.signal("INT");
    running.end().exits(130);
    let said = place.text("said");
    assert!(said.contains("Interrupted; nothing had to be saved.\n") && !said.contains("error"), "{said}");
    assert!(!place.path("run").exists(), "{said}");
}

#[test]
fn a_frozen_run_with_dropout_and_adamw_goes_on_with_the_same_bits() {
    for flags in ["--epochs 8", "--epochs 16 --no-augment"] {
        let place = Place::with_photos();
        let train = format!(
            "train photos --backbone mobilenet_v2 --weights random --mode finetune --freeze-until features.16 --imgsz 64 \
             --optimizer adamw --threads 1 {flags}"
        );
        place.run(&format!("{train} --output-dir whole")).done();
        let mut running = place.start(&format!("{train} --output-dir parts"));
        wait_for_epochs(&mut running, &place.path("parts"), 1);
        running.signal("INT");
        running.end().exits(130);
        // From another folder: the run knows where its photos are.
        let ended = place.command("resume .").current_dir(place.path("parts")).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_same_run(&place, "parts", "whole");
    }
}

#[test]
fn resuming_says_what_is_wrong() {
    let place = Place::with_photos();
    place.run("resume nowhere").fails(&["nowhere", "runs/train"]);
    place.run("resume photos").fails(&["photos/config.toml", "give the folder of a run"]);

    place
        .run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir probe")
        .done();
    place.run("resume probe").fails(&["is complete", "probe/best.safetensors"]);
    // A probe that was stopped starts again.
    fs::remove_file(place.path("probe/best.safetensors")).unwrap();
    place.run("resume probe").done();

    let mut running = place.start(&format!("{TRAIN} --output-dir run"));
    running.wait_until(&place.path("run/last.ckpt"), |_| true);
    running.signal("INT");
    running.end().exits(130);
    let photo = place.read("photos/train/discs/00.ppm");
    let mut other = photo.clone();
    *other.last_mut().unwrap() ^= 1;
    place.write("photos/train/discs/00.ppm", other);
    place.run("resume run").fails(&["the photos have changed", "start a new run"]);
    place.write("photos/train/discs/00.ppm", photo);

    let checkpoint = place.read("run/last.ckpt");
    place.write("run/last.ckpt", &checkpoint[..checkpoint.len() / 2]);
    place.run("resume run").fails(&["run/last.ckpt"]);
    place.write("run/last.ckpt", place.read("probe/best.safetensors"));
    place.run("resume run").fails(&["run/last.ckpt", "is not a checkpoint"]);
    fs::remove_file(place.path("run/last.ckpt")).unwrap();
    place.run("resume run").fails(&["run/last.ckpt"]);
    place.write("run/config.toml", "data = 1");
    place.run("resume run").fails(&["run/config.toml", "is not the settings of a run"]);
}

#[test]
fn a_stopped_run_is_not_replaced_unasked() {
    let place = Place::with_photos();
    let mut running = place.start(&format!("{TRAIN} --output-dir run"));
    running.wait_until(&place.path("run/last.ckpt"), |_| true);
    running.signal("INT");
    running.end().exits(130);
    place.run(&format!("{TRAIN} --output-dir run")).fails(&["already holds a run", "--exist-ok"]);
    place.run("train photos --mode probe --backbone squeezenet1_1 --weights random --imgsz 32 --output-dir run --exist-ok").done();
}
