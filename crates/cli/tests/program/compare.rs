//! `regraft compare`: the table, its numbers, and what it says when something is wrong.

use crate::common::{Class, Place};

#[test]
fn backbones_and_heads_are_ranked_with_their_uncertainty() {
    let place = Place::with_photos();
    let line = "compare photos --backbone squeezenet1_1=random --backbone resnet18=random --folds 4 --seed 3";
    let result = place.run(&format!("{line} --json")).done().json();
    let entries = result["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &result["classes"], &result["folds"]), (6, &2.into(), &4.into()), "{result}");
    let photos = result["photos"].as_u64().unwrap();
    let mut last = 1.0;
    for entry in entries {
        let accuracy = entry["accuracy"].as_f64().unwrap();
        assert_eq!((accuracy * photos as f64).round() / photos as f64, accuracy, "a whole number of photos");
        assert!(accuracy <= last, "not sorted: {result}");
        last = accuracy;
        let interval: Vec<f64> =
            entry["accuracy_ci95"].as_array().unwrap().iter().map(|end| end.as_f64().unwrap()).collect();
        assert!(interval[0] < accuracy && accuracy <= interval[1], "{entry}");
        assert_eq!(entry["within_noise"], entry["p_value"].as_f64().unwrap() >= 0.05);
    }
    // Colours shine through random filters.
    assert!(entries[0]["accuracy"].as_f64().unwrap() > 0.8, "{result}");
    // The same photos, folds and features give the same answers.
    let again = place.run(&format!("{line} --json --threads 1")).done().json();
    for (a, b) in entries.iter().zip(again["entries"].as_array().unwrap()) {
        assert_eq!((&a["c"], &a["accuracy"]), (&b["c"], &b["accuracy"]));
    }
    let table = place.run(line).done().stdout;
    for word in ["squeezenet1_1", "resnet18", "95% interval", "the best", "Recommended: "] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let place = Place::with_photos();
    place.run("compare photos --backbone alexnet").refuses(&["alexnet", "regraft backbones"]);
    place.run("compare photos --backbone resnet18=").refuses(&["resnet18="]);
    place.run("compare photos --backbone resnet18=gone.pth").fails(&["gone.pth"]);
    let alone = place.run("compare photos --offline").done().says(&["there is one backbone alone", "--backbone"]);
    assert!(alone.stdout.contains("rootstock"), "{}", alone.stdout);
    place.draw(Class::Discs, "few/train", 0..3);
    place.draw(Class::Squares, "few/train", 0..1);
    place.draw(Class::Discs, "few/val", 3..4);
    place.run("compare few --backbone resnet18=random").fails(&["squares"]);
}
