//! Decoding and transforms beside PIL's and torchvision's results (reference/transforms/generate.py).

mod common;

use common::{Golden, assert_levels};
use regraft_data::{
    Augmentation, ColorChange, CropBox, DecodeOptions, Drawn, Error, Image, Preprocessing, Scratch, color, decode_file,
    rotate,
};

#[test]
fn every_format_decodes_as_in_pil() {
    let golden = Golden::read("transforms");
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
    let golden = Golden::read("transforms");
    let options = DecodeOptions { exif_orientation: false, ..Default::default() };
    let sideways = decode_file(&golden.folder.join("images/exif_6.jpg"), &options).unwrap();
    let upright = golden.decoded("exif_6.jpg");
    assert_eq!((sideways.width(), sideways.height()), (upright.height(), upright.width()));
}

#[test]
fn resize_and_center_crop_are_torchvisions() {
    let golden = Golden::read("transforms");
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
    let golden = Golden::read("transforms");
    let source = golden.decoded("source.png");
    let mut actual = vec![0.0; source.pixels().len()];
    Preprocessing::default().normalize_into(&source, &mut actual);
    for (i, (actual, expected)) in actual.iter().zip(golden.values("normalize")).enumerate() {
        assert_eq!(actual.to_bits(), expected.to_bits(), "element {i}");
    }
}

#[test]
fn crops_and_flips_are_torchvisions() {
    let golden = Golden::read("transforms");
    let source = golden.decoded("source.png");
    let square = Preprocessing { crop: 24, ..Default::default() };
    for (i, case) in golden.cases("crop").iter().enumerate() {
        let crop: CropBox = serde_json::from_value(case.clone()).unwrap();
        let actual = Augmentation::apply(&source, &Drawn::crop(crop), &square, &mut Scratch::default());
        assert_levels(&format!("crop {crop:?}"), &actual, &golden.image(&format!("crop/{i}")), 0);
    }
    let mut flipped = source;
    flipped.flip_horizontal();
    assert_levels("flip", &flipped, &golden.image("flip"), 0);
}

#[test]
fn rotations_are_pils_to_the_bit() {
    let golden = Golden::read("transforms");
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
    let golden = Golden::read("transforms");
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
    let golden = Golden::read("transforms");
    let case = &golden.cases["chain"];
    let drawn = Drawn {
        flip: case["flip"].as_bool().unwrap(),
        angle: case["angle"].as_f64().unwrap(),
        jitter: serde_json::from_value(case["jitter"].clone()).unwrap(),
        ..Drawn::crop(serde_json::from_value(case["crop"].clone()).unwrap())
    };
    let square = Preprocessing { crop: 24, ..Default::default() };
    let actual = Augmentation::apply(&golden.decoded("source.png"), &drawn, &square, &mut Scratch::default());
    assert_levels("chain", &actual, &golden.image("chain"), 0);
}

#[test]
fn a_jpeg_cut_anywhere_is_an_error() {
    let golden = Golden::read("transforms");
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
    let golden = Golden::read("transforms");
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
