//! Every form of `.pth` gives the tensors that PyTorch gives. Fixtures: `reference/weights/generate.py`.

use std::path::{Path, PathBuf};

use regraft_weights::{Error, StateDict, read, read_safetensors_with_metadata};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../reference/weights/fixtures").join(name)
}

/// Exact: every conversion to `f32` rounds to nearest, here and in PyTorch.
#[track_caller]
fn assert_expected(found: &StateDict) {
    let (expected, _) = read_safetensors_with_metadata(&fixture("expected.safetensors")).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in &expected {
        assert_eq!(&found[name], tensor, "{name}");
    }
}

#[test]
fn all_forms_and_types_are_read_alike() {
    for name in [
        "zip.pth",
        "stream.pth",
        "tar.pth",
        "zip_protocol4.pth",
        "stream_protocol4.pth",
        "types.safetensors",
        "parameters.pth",
        "instances.pth",
    ] {
        eprintln!("{name}");
        assert_expected(&read(&fixture(name)).unwrap());
    }
}

#[test]
fn the_fixture_has_what_makes_reading_hard() {
    let weights = read(&fixture("zip.pth")).unwrap();
    assert_eq!(weights["transposed"].shape(), [5, 6]);
    assert_eq!(weights["transposed"].data()[1], weights["shared"].data()[5]);
    assert_eq!(weights["sliced"].data()[3], weights["shared"].data()[16]);
    assert_eq!(weights["scalar"].shape(), [0usize; 0]);
    assert_eq!(weights["scalar"].data(), [2.5]);
    assert_eq!(weights["empty"].shape(), [0, 3]);
    assert_eq!(weights["expanded"].data()[..3], weights["expanded"].data()[9..]);
    // Integers and booleans are skipped.
    assert!(!weights.contains_key("bn.num_batches_tracked") && !weights.contains_key("mask"));
}

#[test]
fn a_checkpoint_of_a_parallel_training_gives_its_state_dict() {
    assert_expected(&read(&fixture("checkpoint.pth")).unwrap());
}

#[test]
fn code_in_a_pickle_is_refused_by_name_and_not_executed() {
    for name in ["evil.pth", "evil_stream.pth"] {
        let error = read(&fixture(name)).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(error.to_string().contains("`posix.system`") && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn what_is_no_weight_file_is_named_by_its_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resnet18.pth");
    std::fs::write(&path, "<!DOCTYPE html><html><head>").unwrap();
    let error = read(&path).unwrap_err();
    assert!(matches!(error, Error::Unrecognised { .. }));
    assert!(error.to_string().contains("<!DOCTYPE html>"), "{error}");
    assert!(matches!(read(&directory.path().join("absent")), Err(Error::Io(regraft_io::Error::Read { .. }))));
    assert!(matches!(read(directory.path()), Err(Error::Io(regraft_io::Error::Read { .. }))));
}

#[test]
#[ignore = "needs ../shared"]
fn read_takes_published_files() {
    // The number of tensors and the sum of all magnitudes, as PyTorch gives them.
    let files = [
        ("weights/mobilenet_v2.pth", 262, 334302.8967867303),
        ("weights/squeezenet1_1.pth", 52, 46288.671806247396),
        ("weights/facenet_vggface2.safetensors", 602, 863862.3104029298),
    ];
    for (file, tensors, expected) in files {
        let weights = read(&regraft_testing::shared(file)).unwrap();
        assert_eq!(weights.len(), tensors, "{file}");
        let sum: f64 = weights.values().flat_map(|t| t.data()).map(|&x| f64::from(x).abs()).sum();
        // Both sums are in f64 over the same values, at most 24 million of them, in another order.
        assert!((sum - expected).abs() < 1e-9 * expected, "{file}: {sum} where {expected} is expected");
    }
}
