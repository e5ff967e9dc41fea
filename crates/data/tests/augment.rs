//! Bicubic resizing, automatic policies, erasing and mixing beside torchvision's results
//! (reference/augment/generate.py).

mod common;

use common::{Golden, assert_levels};
use regraft_data::{Augmentation, Drawn};
use regraft_data::{
    AutoAugment, CropBox, Erased, Fill, Image, Interpolation, Mixed, Operation, Preprocessing, Scratch,
};
use sha2::{Digest, Sha256};

/// torchvision's operations, in its order.
const OPERATIONS: [&str; 14] = [
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
];

fn bicubic(resize: u32, crop: u32) -> Preprocessing {
    Preprocessing { resize, crop, interpolation: Interpolation::Bicubic, ..Default::default() }
}

#[test]
fn bicubic_resizing_is_pils_to_the_bit() {
    let golden = Golden::read("augment");
    let (source, mut scratch) = (golden.decoded("source.png"), Scratch::default());
    for case in golden.cases("bicubic") {
        let side = |name: &str| case[name].as_u64().unwrap() as u32;
        let key = format!("bicubic/{}_{}", side("resize"), side("crop"));
        let actual = bicubic(side("resize"), side("crop")).resize_and_crop(&source, &mut scratch);
        assert_levels(&key, &actual, &golden.image(&key), 0);
    }
    for side in [12, 50] {
        let key = format!("bicubic_board/{side}");
        let actual = bicubic(side, side).resize_and_crop(&golden.image("board"), &mut scratch);
        assert_levels(&key, &actual, &golden.image(&key), 0);
    }
    for (i, case) in golden.cases("bicubic_crop").iter().enumerate() {
        let crop: CropBox = serde_json::from_value(case.clone()).unwrap();
        let actual = Augmentation::apply(&source, &Drawn::crop(crop), &bicubic(24, 24), &mut scratch);
        assert_levels(&format!("crop {crop:?}"), &actual, &golden.image(&format!("bicubic_crop/{i}")), 0);
    }
}

#[test]
fn operations_are_torchvisions_to_the_bit() {
    let golden = Golden::read("augment");
    let few = golden.image("few");
    for (i, case) in golden.cases("operations").iter().enumerate() {
        let operation: Operation = serde_json::from_value(case.clone()).unwrap();
        let mut actual = few.clone();
        operation.apply(&mut actual);
        assert_levels(&format!("{operation:?}"), &actual, &golden.image(&format!("operations/{i}")), 0);
    }
    for (operation, key) in [(Operation::AutoContrast, "dull/autocontrast"), (Operation::Equalize, "dull/equalize")] {
        let mut actual = golden.image("dull");
        operation.apply(&mut actual);
        assert_levels(key, &actual, &golden.image(key), 0);
    }
}

#[test]
fn every_strength_of_the_policies_is_torchvisions_to_the_bit() {
    let golden = Golden::read("augment");
    let source = golden.decoded("source.png");
    let rows = source.pixels().chunks_exact(source.width() as usize * 3).take(29);
    let small = Image::new(29, 29, rows.flat_map(|row| row[..29 * 3].to_vec()).collect());
    let mut n = 0;
    for (name, policy) in [("ra", AutoAugment::Ra { num_ops: 2, magnitude: 9 }), ("ta_wide", AutoAugment::TaWide)] {
        for (kind, operation) in OPERATIONS.iter().enumerate() {
            for row in golden.cases[name][operation].as_array().unwrap() {
                let (bin, negative) = (row[0].as_u64().unwrap() as usize, row[1].as_bool().unwrap());
                let drawn = policy.operation(kind as u64, bin, negative, 29);
                let mut actual = small.clone();
                drawn.apply(&mut actual);
                let digest = Sha256::digest(actual.pixels());
                let digest: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(digest, row[3].as_str().unwrap(), "{name}: {drawn:?} for torchvision's {}", row[2]);
                n += 1;
            }
        }
    }
    assert_eq!(n, 2 * (9 * 62 + 2 * 31 + 3));
}

#[test]
fn erasing_is_torchvisions() {
    let golden = Golden::read("augment");
    let case = &golden.cases["erase"];
    let mut area = case.clone();
    area.as_object_mut().unwrap().remove("value");
    let area: CropBox = serde_json::from_value(area).unwrap();
    let fill = Fill::Value(serde_json::from_value(case["value"].clone()).unwrap());
    let mut values = golden.values("erase/before");
    Erased { area, fill }.apply(&mut values, 29);
    assert_eq!(values, golden.values("erase/after"));
}

#[test]
fn mixing_is_torchvisions_to_the_bit() {
    let golden = Golden::read("augment");
    let case = &golden.cases["mix"];
    let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
    let lambdas: Vec<f64> = serde_json::from_value(case["lambdas"].clone()).unwrap();
    let centers: Vec<(u32, u32)> = serde_json::from_value(case["centers"].clone()).unwrap();
    let classes = case["classes"].as_u64().unwrap() as usize;
    let check = |key: String, mixed: Mixed| {
        let mut images = golden.values("mix/images");
        mixed.apply(&mut images, 9);
        assert_eq!(images, golden.values(&format!("{key}/images")), "{key}: {mixed:?}");
        let mut targets = vec![0.0; labels.len() * classes];
        targets.chunks_exact_mut(classes).zip(&labels).for_each(|(target, &label)| target[label] = 1.0);
        mixed.mix_targets(&mut targets, classes);
        assert_eq!(targets, golden.values(&format!("{key}/targets")), "{key}: {mixed:?}");
    };
    for (i, &lambda) in lambdas.iter().enumerate() {
        check(format!("mixup/{i}"), Mixed::MixUp { lambda });
        for (j, &center) in centers.iter().enumerate() {
            check(format!("cutmix/{i}_{j}"), Mixed::cut(9, center, lambda));
        }
    }
}
