//! Manifests as people have them.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A folder with ten one-pixel photos, `0.pgm` to `9.pgm`, and this manifest.
fn folder(manifest: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    (0..10).for_each(|i| fs::write(dir.path().join(format!("{i}.pgm")), format!("P5 1 1 255\n{i}")).unwrap());
    fs::write(dir.path().join("photos.csv"), manifest).unwrap();
    dir
}

fn open(manifest: &str) -> Result<(Dataset, Findings)> {
    let dir = folder(manifest);
    let options = SplitOptions { val_fraction: 0.5, seed: 3 };
    Dataset::open(&dir.path().join("photos.csv"), &options)
}

fn open_error(manifest: &str) -> String {
    let error = open(manifest).unwrap_err();
    assert!(matches!(error, Error::Manifest { .. } | Error::OneClass { .. }), "{error:?}");
    error.to_string()
}

fn targets(samples: &[Sample]) -> Vec<(String, Target)> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    samples.iter().map(|sample| (name(&sample.path), sample.target.clone())).collect()
}

#[test]
fn a_column_of_classes_is_classification() {
    let (dataset, findings) =
        open("path,label,split\n1.pgm,bee,train\n0.pgm,ant,train\n2.pgm,bee,val\n3.pgm,ant,test\n").unwrap();
    assert_eq!((dataset.task, dataset.classes), (Task::Classes, vec!["ant".into(), "bee".into()]));
    assert_eq!(targets(&dataset.train), [("0.pgm".into(), Target::Class(0)), ("1.pgm".into(), Target::Class(1))]);
    assert_eq!(targets(&dataset.val), [("2.pgm".into(), Target::Class(1)), ("3.pgm".into(), Target::Class(0))]);
    assert_eq!(findings, Findings::default());
}

#[test]
fn labels_stand_in_one_column_or_in_many() {
    let joined = "\u{feff}Path, labels, split\n0.pgm, sky | sea , train\n1.pgm,,train\n2.pgm,sea;sea,val\n";
    let columns = "file,split,sky,sea\n0.pgm,train,1,1\n1.pgm,train,0,0\n2.pgm,val,0,1\n";
    for manifest in [joined, columns] {
        let (dataset, _) = open(manifest).unwrap();
        assert_eq!((dataset.task, dataset.classes), (Task::Labels, vec!["sea".into(), "sky".into()]), "{manifest}");
        let expected = [("0.pgm".into(), Target::Labels(vec![0, 1])), ("1.pgm".into(), Target::Labels(vec![]))];
        assert_eq!(targets(&dataset.train), expected);
        assert_eq!(targets(&dataset.val), [("2.pgm".into(), Target::Labels(vec![0]))]);
    }
}

#[test]
fn a_column_of_numbers_is_regression() {
    let (dataset, _) = open("image,value,split\n0.pgm,-1.5,train\n1.pgm,2e3,val\n").unwrap();
    assert_eq!((dataset.task, dataset.classes), (Task::Value, vec!["value".into()]));
    assert_eq!(targets(&dataset.train), [("0.pgm".into(), Target::Value(-1.5))]);
    assert_eq!(targets(&dataset.val), [("1.pgm".into(), Target::Value(2000.0))]);
}

#[test]
fn without_a_split_both_parts_get_their_share_of_everything() {
    let rows =
        |answer: &dyn Fn(usize) -> String| (0..10).map(|i| format!("{i}.pgm,{}\n", answer(i))).collect::<String>();
    let classes = open(&format!("path,label\n{}", rows(&|i| ["a", "b"][i % 2].into()))).unwrap();
    let count = |samples: &[Sample], target: &Target| samples.iter().filter(|sample| &sample.target == target).count();
    // Half of five, rounded.
    assert_eq!([0, 1].map(|class| count(&classes.0.val, &Target::Class(class))), [3, 3]);
    assert_eq!(classes.1.count(FindingKind::Layout), 1);
    // A label of two photos is in both parts, whatever else these have.
    let labels = open(&format!("path,labels\n{}", rows(&|i| if i < 2 { "rare|all" } else { "all" }.into()))).unwrap().0;
    for part in [&labels.train, &labels.val] {
        assert_eq!(count(part, &Target::Labels(vec![0, 1])), 1);
    }
    let values = open(&format!("path,value\n{}", rows(&|i| i.to_string()))).unwrap().0;
    // One of each pair of neighbours.
    let mut pairs: Vec<usize> =
        targets(&values.val).iter().map(|(name, _)| name.as_bytes()[0] as usize / 2 - 24).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [0, 1, 2, 3, 4]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (manifest, expected) in [
        (
            "photo,label\n0.pgm,a\n",
            "line 1: there is no column `path` with the photos; the columns are `photo`, `label`",
        ),
        ("path\n0.pgm\n", "nothing says what is on the photos"),
        ("path,split\n0.pgm,val\n", "nothing says what is on the photos"),
        ("path,label,value\n0.pgm,a,1\n", "more than one of the columns"),
        ("path,label\n", "no row below it"),
        ("path,label\n0.pgm,a\n1.pgm,\n", "line 3: the label is empty"),
        ("path,label\n,a\n", "line 2: the column `path` is empty"),
        ("path,label,split\n0.pgm,a,later\n", "line 2: the split is `later`; it must be train or val"),
        ("path,value\n0.pgm,1\n1.pgm,tall\n", "line 3: the value `tall` is no number"),
        ("path,value\n0.pgm,NaN\n", "the value `NaN` is no number"),
        ("path,sky,sea\n0.pgm,1,2\n", "the column `sea` holds `2` where 0 or 1 belongs"),
        ("path,label\n0.pgm,a\n0.pgm,b\n", "line 3: "),
        ("path,label\n0.pgm,a,b\n", "line 2: cannot be read as CSV"),
        ("path,label\nnone.pgm,a\nnil.pgm,b\n", "none.pgm is no file, nor is any other"),
        ("path,label,split\n0.pgm,a,train\n1.pgm,b,train\n", "leaves no photo for the part `val`"),
        (
            "path,label,split\n0.pgm,a,train\n1.pgm,b,train\n2.pgm,c,val\n3.pgm,a,val\n4.pgm,d,val\n",
            "line 1: the part `train` has no photo of `c`, `d`, so it could not be learned; move some",
        ),
        ("path,a,a\n0.pgm,1,0\n", "columns 2 and 3 are both called `a`"),
        ("path,label\n0.pgm,a\n1.pgm,a\n", "only one class"),
    ] {
        let message = open_error(manifest);
        assert!(message.contains(expected), "{manifest:?}: {message}");
    }
}

#[test]
fn a_class_without_a_photo_to_validate_on_is_named() {
    let noted = |manifest: &str| {
        let (dataset, findings) = open(manifest).unwrap();
        let about_parts = findings.items.iter().filter(|finding| finding.message.contains("the part"));
        let kinds: Vec<_> = about_parts.map(|finding| (finding.kind, finding.message.clone())).collect();
        (dataset.classes.len(), kinds)
    };
    let message = |names: &str| {
        let message =
            format!("the part `val` has no photo of {names}; the validation accuracy says nothing about such photos");
        vec![(FindingKind::Layout, message)]
    };
    let rows = "0.pgm,a,train\n1.pgm,b,train\n2.pgm,c,train\n3.pgm,a,val\n";
    assert_eq!(noted(&format!("path,label,split\n{rows}")), (3, message("`b`, `c`")));
    assert_eq!(noted(&format!("path,label,split\n{rows}4.pgm,b,val\n5.pgm,c,val\n")), (3, vec![]));
    // A single photo of a class goes to training where the parts are drawn.
    assert_eq!(noted("path,label\n0.pgm,a\n1.pgm,a\n2.pgm,b\n"), (2, message("`b`")));
    // What is asked of labels and numbers does not end with one of them missing.
    assert_eq!(noted("path,labels,split\n0.pgm,a,train\n1.pgm,b,val\n"), (2, vec![]));
}

#[test]
fn a_photo_that_is_missing_is_left_out_and_named() {
    let (dataset, findings) = open("path,label\n0.pgm,a\n1.pgm,b\n2.pgm,a\n3.pgm,b\nnone.pgm,c\n").unwrap();
    assert_eq!(dataset.classes, ["a", "b"]);
    let finding = findings.items.iter().find(|finding| finding.kind == FindingKind::Unreadable).unwrap();
    assert!(finding.message.contains("line 6"), "{finding}");
}

#[test]
fn a_model_is_measured_on_the_validation_part_by_its_own_order() {
    let dir = folder("path,labels,split\n0.pgm,sky,train\n1.pgm,sky|sea,val\n");
    let path = dir.path().join("photos.csv");
    let of = |task, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        crate::open_eval(&path, task, &names).map(|(samples, _)| targets(&samples))
    };
    assert_eq!(of(Task::Labels, &["sky", "air", "sea"]).unwrap(), [("1.pgm".into(), Target::Labels(vec![0, 2]))]);
    let message = of(Task::Labels, &["sky"]).unwrap_err().to_string();
    assert!(message.contains("`sea`") && message.contains("the model"), "{message}");
    let message = of(Task::Value, &["value"]).unwrap_err().to_string();
    assert!(message.contains("labels") && message.contains("number"), "{message}");
}
