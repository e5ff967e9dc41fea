//! Accuracy on real photos with real weights, where both are at hand.

use regraft_testing::shared;

use crate::common::Place;

/// Probes the pretrained network with either head and compares with what PyTorch's features and scikit-learn's
/// logistic regression reach on the same photos, with C by cross-validation.
///
/// Two of the 153 validation photos may fall otherwise: they lie at the boundary, and libraries decode JPEGs and
/// choose C a little differently.
#[track_caller]
fn probe(test: &str, backbone: &str, expected: f64) {
    let Some(photos) = shared(test, "data/hymenoptera_data") else { return };
    let Some(weights) = shared(test, &format!("weights/{backbone}.pth")) else { return };
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
fn a_probe_of_mobilenet_v2_is_as_good_as_scikit_learns() {
    probe("a_probe_of_mobilenet_v2_is_as_good_as_scikit_learns", "mobilenet_v2", 0.9477);
}

#[test]
fn a_probe_of_squeezenet1_1_is_as_good_as_scikit_learns() {
    probe("a_probe_of_squeezenet1_1_is_as_good_as_scikit_learns", "squeezenet1_1", 0.9281);
}
