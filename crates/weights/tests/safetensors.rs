//! What is written is read back, is the same each time, and is what the format says.

use std::collections::BTreeMap;
use std::fs;

use regraft_weights::{
    Error, StateDict, Tensor, read, read_safetensors_metadata, read_safetensors_with_metadata, write_safetensors,
    write_safetensors_half,
};

fn weights() -> StateDict {
    let ramp = |n: usize| (0..n).map(|i| i as f32 * 0.25 - 1.0).collect::<Vec<_>>();
    StateDict::from([
        ("fc.weight".into(), Tensor::new([2, 3], ramp(6))),
        ("fc.bias".into(), Tensor::new([2], vec![f32::MIN_POSITIVE, f32::MAX])),
        ("temperature".into(), Tensor::new([], vec![0.5])),
        ("none".into(), Tensor::new([0, 4], vec![])),
        // Longer than the buffer it is written through.
        ("conv.weight".into(), Tensor::new([10, 11, 9, 9], ramp(10 * 11 * 81))),
    ])
}

fn metadata() -> BTreeMap<String, String> {
    ["z", "labels", "graph", "a", "\"quoted\"\n"].map(|key| (key.to_string(), format!("{key}'s value"))).into()
}

#[test]
fn what_is_written_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write_safetensors(&path, &weights(), &metadata()).unwrap();
    assert_eq!(read_safetensors_with_metadata(&path).unwrap(), (weights(), metadata()));
    assert_eq!(read(&path).unwrap(), weights());
    assert_eq!(read_safetensors_metadata(&path).unwrap(), metadata());
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(read_safetensors_metadata(&path), Err(Error::Malformed { .. })), "a part of a file says nothing");
    write_safetensors(&path, &StateDict::new(), &BTreeMap::new()).unwrap();
    assert_eq!(read_safetensors_with_metadata(&path).unwrap(), (StateDict::new(), BTreeMap::new()));
}

#[test]
fn half_precision_takes_half_the_place_and_keeps_what_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let [whole, half] = ["whole", "half"].map(|name| directory.path().join(name));
    write_safetensors(&whole, &weights(), &metadata()).unwrap();
    write_safetensors_half(&half, &weights(), &metadata()).unwrap();
    let (read_back, about) = read_safetensors_with_metadata(&half).unwrap();
    assert_eq!(about, metadata());
    // Eleven bits of mantissa: the nearest is within half of the last one.
    let numbers = |state: &StateDict| state["conv.weight"].data().to_vec();
    for (kept, exact) in numbers(&read_back).into_iter().zip(numbers(&weights())) {
        assert!((kept - exact).abs() <= exact.abs() / 2048.0, "{exact} became {kept}");
    }
    assert_eq!(read_back["fc.bias"].data(), [0.0, f32::INFINITY]);
    let bytes = |path| fs::metadata(path).unwrap().len();
    assert!(bytes(&half) < bytes(&whole) * 11 / 20);
}

#[test]
fn equal_content_gives_equal_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write_safetensors(&path, &weights(), &metadata()).unwrap();
    // Fixed for all time: the same model has the same fingerprint with every version of Regraft.
    assert_eq!(
        regraft_io::sha256_file(&path).unwrap(),
        "cc093adfeb7a485ed46c907fe774419523e83988a935ff674bd2568a576223f0"
    );
    let bytes = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(header_len % 8, 0, "tensors begin aligned");
    assert!(bytes[8..].starts_with(br#"{"__metadata__":{"\"quoted\"\n":"\"quoted\"\n's value","a":"#));
}

#[test]
fn headers_that_contradict_the_file_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    let outcome = |header: &str, data: &[u8]| {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        fs::write(&path, bytes).unwrap();
        read(&path).map_err(|error| error.to_string())
    };
    let tensor = |dtype: &str, shape: &str, end: usize| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    assert!(outcome(&tensor("F32", "[2]", 8), &[0; 8]).is_ok());
    for (header, len, reason) in [
        (tensor("F32", "[2]", 8), 9, "8 bytes, but it has 9"),
        (tensor("F32", "[2]", 8), 7, "8 bytes, but it has 7"),
        (tensor("F32", "[3]", 8), 8, "header is wrong"),
        (tensor("F32", "[4611686018427387904,4]", 8), 8, "header is wrong"),
        (tensor("F32", "[1000000000000]", 4_000_000_000_000), 8, "4000000000000 bytes, but it has 8"),
        (tensor("F8_E4M3", "[8]", 8), 8, "F8_E4M3, which is not supported"),
        (tensor("Q4", "[8]", 8), 8, "header is wrong"),
        ("{\"a\u{1}\":1}".into(), 0, "header is wrong"),
        (r#"{"\u001b[2J":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#.into(), 0, "control characters"),
        ("{".repeat(4000), 0, "header is wrong"),
    ] {
        let message = outcome(&header, &vec![0; len]).unwrap_err();
        assert!(message.contains(reason), "{header}: {message}");
    }
    fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\x7f{").unwrap();
    assert!(matches!(read(&path), Err(Error::Refused { .. })));
}
