//! What the program says of itself.

use crate::common::Place;

#[test]
fn every_command_explains_itself() {
    let place = Place::empty();
    for command in ["train", "resume", "eval", "predict", "info", "bench"] {
        assert!(place.run("--help").done().stdout.contains(command), "{command}");
        let help = place.run(&format!("{command} --help")).done().stdout;
        assert!(help.contains(&format!("Usage: regraft {command}")) && help.contains("--threads"), "{help}");
    }
    let version = place.run("--version").done().stdout;
    assert!(version.starts_with(&format!("regraft {} (cpu level: ", env!("CARGO_PKG_VERSION"))), "{version}");
}
