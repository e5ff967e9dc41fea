//! Results of PIL and torchvision, and comparing with them.
#![allow(dead_code)] // each test program uses its part

use std::path::PathBuf;

use regraft_data::{DecodeOptions, Image, decode_file};
use safetensors::SafeTensors;
use serde_json::Value;

/// The fixtures, read once per test.
pub struct Golden {
    pub folder: PathBuf,
    expected: Vec<u8>,
    pub cases: Value,
}

impl Golden {
    /// Those beside the script `reference/<name>/generate.py`.
    pub fn read(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference").join(name);
        let expected = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let cases = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
        Self { folder, expected, cases }
    }

    pub fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.expected).unwrap()
    }

    pub fn image(&self, key: &str) -> Image {
        let tensors = self.tensors();
        let tensor = tensors.tensor(key).unwrap();
        let [height, width, 3] = tensor.shape() else { panic!("{key} has shape {:?}", tensor.shape()) };
        Image::new(*width as u32, *height as u32, tensor.data().to_vec())
    }

    /// A file of `reference/transforms/images`.
    pub fn decoded(&self, name: &str) -> Image {
        let images = self.folder.join("../transforms/images");
        decode_file(&images.join(name), &DecodeOptions::default()).unwrap()
    }

    /// The elements of a float32 tensor.
    pub fn values(&self, key: &str) -> Vec<f32> {
        let tensors = self.tensors();
        let (values, _) = tensors.tensor(key).unwrap().data().as_chunks::<4>();
        values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    pub fn cases(&self, name: &str) -> &[Value] {
        self.cases[name].as_array().unwrap()
    }
}

/// Asserts that no channel of any pixel differs by more than `tolerance` levels of 255.
#[track_caller]
pub fn assert_levels(what: &str, actual: &Image, expected: &Image, tolerance: u8) {
    assert_eq!((actual.width(), actual.height()), (expected.width(), expected.height()), "{what}: size");
    let pairs = actual.pixels().iter().zip(expected.pixels());
    let (at, worst) = pairs.map(|(a, e)| a.abs_diff(*e)).enumerate().max_by_key(|&(_, d)| d).unwrap();
    let (pixel, width) = (at / 3, actual.width() as usize);
    assert!(
        worst <= tolerance,
        "{what}: channel {} of ({}, {}) is {} where {} was expected, allowed {tolerance}",
        at % 3,
        pixel % width,
        pixel / width,
        actual.pixels()[at],
        expected.pixels()[at],
    );
}
