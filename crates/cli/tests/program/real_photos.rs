//! Accuracy on real photos with real weights.

use regraft_testing::shared;

use crate::common::Place;

/// Probes the pretrained network with either head and compares with what PyTorch's features and scikit-learn's
/// logistic regression reach on the same photos, with C by cross-validation.
///
/// Two of the 153 validation photos may fall otherwise: they lie at the boundary, and libraries decode JPEGs and
/// choose C a little differently.
#[track_caller]
fn probe(backbone: &str, expected: f64) {
    let photos = shared("data/hymenoptera_data");
    let weights = shared(&format!("weights/{backbone}.pth"));
    let place = Place::empty();
    for head in ["softmax", "ovr"] {
        let flags = format!("--mode probe --backbone {backbone} --head {head} --output-dir {head} --json");
        let mut command = place.command(&format!("train {} {flags}", photos.display()));
        let output = command.arg("--weights").arg(&weights).output().unwrap();
        let result = crate::common::Ended::new(&flags, output).done().json();
        let found = result["best_val_acc"].as_f64().unwrap();
        assert!((found - expected).abs() <= 2.0 / 153.0 + 1e-9, "{backbone}, {head}: {found}, expected {expected}");
    }
}

#[test]
#[ignore = "needs ../shared"]
fn probe_of_mobilenet_v2_is_as_accurate_as_scikit_learns() {
    probe("mobilenet_v2", 0.9477);
}

#[test]
#[ignore = "needs ../shared"]
fn probe_of_squeezenet1_1_is_as_accurate_as_scikit_learns() {
    probe("squeezenet1_1", 0.9281);
}
