//! The examples do what they say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of grey photos in two classes.
fn photos(dir: &Path) -> PathBuf {
    for (class, grey) in [("dark", 30u8), ("light", 200)] {
        let folder = dir.join("photos").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..8u8 {
            let pixels = vec![grey + 5 * i; 40 * 40];
            fs::write(folder.join(format!("{i}.pgm")), [&b"P5 40 40 255\n"[..], &pixels].concat()).unwrap();
        }
    }
    dir.join("photos")
}

/// Runs an example, which `cargo test` has built beside this test.
fn example(name: &str, arguments: &[&Path]) -> String {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn examples_train_predict_and_give_features() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, run) = (photos(dir.path()), dir.path().join("run"));
    let said = example("train", &[&photos, &run]);
    let model = run.join("best.safetensors");
    assert!(said.starts_with("100.0% of 4 validation photos are right") && said.contains("best.safetensors"), "{said}");
    let (dark, light) = (photos.join("dark/0.pgm"), photos.join("light/7.pgm"));
    let said = example("predict", &[&model, &dark, &light]);
    let labels: Vec<_> = said.lines().map(|line| line.contains(".pgm\",\"label\":\"dark\"")).collect();
    assert_eq!(labels, [true, false], "{said}");
    let said = example("features", &[&model, &dark]);
    // The embedded backbone has 1024 features.
    assert_eq!(said.matches(',').count(), 1023, "{said}");
}

#[test]
fn examples_have_fewer_than_twenty_lines() {
    for name in ["train", "predict", "features"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.rs"));
        assert!(fs::read_to_string(path).unwrap().lines().count() < 20, "{name}");
    }
}
