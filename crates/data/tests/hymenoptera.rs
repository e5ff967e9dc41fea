//! Real photos: every pixel that evaluation sees equals torchvision's.

use regraft_data::{
    Dataset, DecodeOptions, ImageStore, Preprocessing, Scratch, SplitOptions, decode_file, default_cache_bytes,
};
use regraft_progress::Cancel;
use sha2::{Digest, Sha256};

#[test]
#[ignore = "needs ../shared"]
fn evaluation_pixels_are_torchvisions_to_the_bit() {
    let folder = regraft_testing::shared("data/hymenoptera_data/val");
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../../reference/transforms/hymenoptera_val.txt");
    // torchvision does not turn photos upright.
    let options = DecodeOptions { exif_orientation: false, ..Default::default() };
    let mut n = 0;
    for line in std::fs::read_to_string(list).unwrap().lines() {
        let (expected, path) = line.split_once(' ').unwrap();
        let image = decode_file(&folder.join(path), &options).unwrap();
        let pixels = Preprocessing::default().resize_and_crop(&image, &mut Scratch::default());
        let actual: String = Sha256::digest(pixels.pixels()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(actual[..16], *expected, "{path}");
        n += 1;
    }
    assert_eq!(n, 153);
}

#[test]
#[ignore = "needs ../shared"]
fn the_tutorials_folder_opens_and_every_photo_decodes() {
    let folder = regraft_testing::shared("data/hymenoptera_data");
    let (mut dataset, findings) = Dataset::open(&folder, &SplitOptions::default()).unwrap();
    assert_eq!(dataset.classes, ["ants", "bees"]);
    // torchvision counts 244 training photos: it goes by extensions and passes over the one GIF.
    assert_eq!((dataset.train.len(), dataset.val.len(), findings.items.len()), (245, 153, 0));
    let store = ImageStore::new(Preprocessing::default().decode_options(), default_cache_bytes());
    assert!(dataset.verify(&store, 2, true, &Cancel::new(), |_| ()).unwrap().items.is_empty());
    assert!(store.kept_bytes() > 0);
}

#[test]
#[ignore = "needs ../shared"]
fn a_folder_without_parts_is_divided_in_every_class() {
    let folder = regraft_testing::shared("data/orl_faces");
    let (dataset, _) = Dataset::open(&folder, &SplitOptions::default()).unwrap();
    assert_eq!((dataset.classes.len(), dataset.train.len(), dataset.val.len()), (40, 320, 80));
    for class in 0..40 {
        assert_eq!(dataset.val.iter().filter(|sample| sample.target.indices() == [class]).count(), 2);
    }
}
