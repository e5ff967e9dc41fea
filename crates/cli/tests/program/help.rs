//! What the program says of itself.

use crate::common::{Ended, Place};

#[test]
fn every_command_explains_itself() {
    let place = Place::empty();
    for command in ["demo", "train", "resume", "eval", "predict", "backbones", "compare", "distill", "info", "bench"] {
        assert!(place.run("--help").done().stdout.contains(command), "{command}");
        let help = place.run(&format!("{command} --help")).done().stdout;
        assert!(help.contains(&format!("Usage: regraft {command}")) && help.contains("--threads"), "{help}");
    }
    let version = place.run("--version").done().stdout;
    assert!(version.starts_with(&format!("regraft {} (cpu level: ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn the_cpu_level_can_be_forced_and_must_exist() {
    let place = Place::empty();
    let with = |level: &str, line: &str| {
        let output = place.command(line).env("REGRAFT_CPU", level).output().unwrap();
        Ended::new(line, output)
    };
    let version = with("scalar", "--version").done().stdout;
    assert!(version.contains("(cpu level: scalar)"), "{version}");
    let bf16 = "bench --backbone squeezenet1_1 --batch 1 --runs 1 --precision bf16";
    with("scalar", bf16).exits(2).says(&["bf16", "scalar", "--precision"]);
    with("mmx", "bench --backbone squeezenet1_1 --batch 1 --runs 1").exits(2).says(&["REGRAFT_CPU=mmx", "scalar"]);
    let line = "bench --backbone squeezenet1_1 --batch 1 --runs 1 --json";
    let bench: serde_json::Value = serde_json::from_str(&with("scalar", line).done().stdout).unwrap();
    assert_eq!(bench["level"], "scalar");
    let layers = bench["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["kernel"] == "winograd" && layer["ms"].as_f64() > Some(0.0)), "{layers:?}");
}
