//! Decoding and transforms beside PIL's and torchvision's results (reference/transforms/generate.py).

use std::path::PathBuf;

use regraft_data::{
    Augmentation, ColorChange, CropBox, DecodeOptions, Drawn, Error, Image, Preprocessing, Scratch, color, decode_file,
    rotate,
};
use safetensors::SafeTensors;
use serde_json::Value;

/// The fixtures, read once per test.
struct Golden {
    folder: PathBuf,
    expected: Vec<u8>,
    cases: Value,
}

impl Golden {
    fn read() -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference/transforms");
        let expected = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let cases = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
        Self { folder, expected, cases }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.expected).unwrap()
    }

    fn image(&self, key: &str) -> Image {
        let tensors = self.tensors();
        let tensor = tensors.tensor(key).unwrap();
        let [height, width, 3] = tensor.shape() else { panic!("{key} has shape {:?}", tensor.shape()) };
        Image::new(*width as u32, *height as u32, tensor.data().to_vec())
    }

    fn decoded(&self, name: &str) -> Image {
        decode_file(&self.folder.join("images").join(name), &DecodeOptions::default()).unwrap()
    }

    fn cases(&self, name: &str) -> &[Value] {
        self.cases[name].as_array().unwrap()
    }
}

/// Asserts that no channel of any pixel differs by more than `tolerance` levels of 255.
#[track_caller]
fn assert_levels(what: &str, actual: &Image, expected: &Image, tolerance: u8) {
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

#[test]
fn every_format_decodes_as_in_pil() {
    let golden = Golden::read();
    let mut n = 0;
    for key in golden.tensors().names() {
        let Some(name) = key.strip_prefix("decode/") else { continue };
        let tolerance = match name {
            // image-webp interpolates chroma with its own rounding.
            "webp_lossy.webp" => 2,
            // 70 of 100 is 178.5: PIL rounds to even, the image crate up.
            "pnm_maxval_100.pgm" => 1,
            _ => 0,
        };
        assert_levels(name, &golden.decoded(name), &golden.image(key), tolerance);
        n += 1;
    }
    assert!(n >= 40, "only {n} files");
}

#[test]
fn exif_orientation_can_be_left_alone() {
    let golden = Golden::read();
    let options = DecodeOptions { exif_orientation: false, ..Default::default() };
    let sideways = decode_file(&golden.folder.join("images/exif_6.jpg"), &options).unwrap();
    let upright = golden.decoded("exif_6.jpg");
    assert_eq!((sideways.width(), sideways.height()), (upright.height(), upright.width()));
}

#[test]
fn resize_and_center_crop_are_torchvisions() {
    let golden = Golden::read();
    let source = golden.decoded("source.png");
    for case in golden.cases("eval") {
        let side = |name: &str| case[name].as_u64().unwrap() as u32;
        let preprocessing = Preprocessing { resize: side("resize"), crop: side("crop"), ..Default::default() };
        let key = format!("eval/{}_{}", side("resize"), side("crop"));
        let actual = preprocessing.resize_and_crop(&source, &mut Scratch::default());
        assert_levels(&key, &actual, &golden.image(&key), 0);
    }
}

#[test]
fn normalize_is_torchs_to_the_bit() {
    let golden = Golden::read();
    let source = golden.decoded("source.png");
    let mut actual = vec![0.0; source.pixels().len()];
    Preprocessing::default().normalize_into(&source, &mut actual);
    let tensors = golden.tensors();
    let (expected, _) = tensors.tensor("normalize").unwrap().data().as_chunks::<4>();
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(actual.to_bits(), f32::from_le_bytes(*expected).to_bits(), "element {i}");
    }
}

#[test]
fn crops_and_flips_are_torchvisions() {
    let golden = Golden::read();
    let source = golden.decoded("source.png");
    let square = Preprocessing { crop: 24, ..Default::default() };
    for (i, case) in golden.cases("crop").iter().enumerate() {
        let crop: CropBox = serde_json::from_value(case.clone()).unwrap();
        let drawn = Drawn { crop, flip: false, angle: 0.0, jitter: Vec::new() };
        let actual = Augmentation::apply(&source, &drawn, &square, &mut Scratch::default());
        assert_levels(&format!("crop {crop:?}"), &actual, &golden.image(&format!("crop/{i}")), 0);
    }
    let mut flipped = source;
    flipped.flip_horizontal();
    assert_levels("flip", &flipped, &golden.image("flip"), 0);
}

#[test]
fn rotations_are_pils_to_the_bit() {
    let golden = Golden::read();
    let source = golden.decoded("source.png");
    for (i, angle) in golden.cases("rotate").iter().enumerate() {
        let angle = angle.as_f64().unwrap();
        for key in [format!("rotate/{i}"), format!("rotate_square/{i}")] {
            let expected = golden.image(&key);
            let corner = top_left(&source, expected.width(), expected.height());
            assert_levels(&format!("{key}, {angle} degrees"), &rotate(&corner, angle), &expected, 0);
        }
    }
}

#[test]
fn color_changes_are_pils_to_the_bit() {
    let golden = Golden::read();
    let source = golden.decoded("colors.png");
    for (i, case) in golden.cases("color").iter().enumerate() {
        let changes: Vec<ColorChange> = serde_json::from_value(case.clone()).unwrap();
        let mut actual = source.clone();
        for &change in &changes {
            color::adjust(&mut actual, change);
        }
        assert_levels(&format!("{changes:?}"), &actual, &golden.image(&format!("color/{i}")), 0);
    }
}

#[test]
fn the_whole_chain_is_torchvisions() {
    let golden = Golden::read();
    let case = &golden.cases["chain"];
    let drawn = Drawn {
        crop: serde_json::from_value(case["crop"].clone()).unwrap(),
        flip: case["flip"].as_bool().unwrap(),
        angle: case["angle"].as_f64().unwrap(),
        jitter: serde_json::from_value(case["jitter"].clone()).unwrap(),
    };
    let square = Preprocessing { crop: 24, ..Default::default() };
    let actual = Augmentation::apply(&golden.decoded("source.png"), &drawn, &square, &mut Scratch::default());
    assert_levels("chain", &actual, &golden.image("chain"), 0);
}

#[test]
fn a_jpeg_cut_anywhere_is_an_error() {
    let golden = Golden::read();
    for name in ["jpeg_420.jpg", "jpeg_progressive.jpg", "jpeg_cmyk.jpg"] {
        let whole = std::fs::read(golden.folder.join("images").join(name)).unwrap();
        for length in 3..whole.len() {
            let result = regraft_data::decode(&whole[..length], &DecodeOptions::default());
            let error = result.err().unwrap_or_else(|| panic!("{name} decodes with {length} of {} bytes", whole.len()));
            assert!(matches!(error, Error::Truncated { .. } | Error::Damaged { .. }), "{name}, {length}: {error}");
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let golden = Golden::read();
    let options = DecodeOptions::default();
    let (mut decoded, mut refused) = (0, 0);
    for entry in std::fs::read_dir(golden.folder.join("images")).unwrap() {
        let whole = std::fs::read(entry.unwrap().path()).unwrap();
        let mut check = |bytes: &[u8]| match regraft_data::decode(bytes, &options) {
            Ok(_) => decoded += 1,
            Err(_) => refused += 1,
        };
        // About 200 places in each file, all of them near the start, where the headers are.
        let places = || (0..whole.len()).filter(|&at| at < 64 || at % (whole.len() / 150 + 1) == 0);
        for at in places() {
            check(&whole[..at]);
            for flip in [0xff, 0x01, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                check(&damaged);
            }
        }
    }
    assert!(decoded > 1000 && refused > 1000, "{decoded} decoded, {refused} refused");
}

fn top_left(image: &Image, width: u32, height: u32) -> Image {
    let rows = image.pixels().chunks_exact(image.width() as usize * 3).take(height as usize);
    Image::new(width, height, rows.flat_map(|row| row[..width as usize * 3].to_vec()).collect())
}
