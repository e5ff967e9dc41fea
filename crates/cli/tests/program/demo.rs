//! `regraft demo`: what it makes, says and leaves behind.

use crate::common::Place;

#[test]
fn the_demo_needs_nothing_and_shows_what_transfer_is_worth() {
    let place = Place::empty();
    let line = "demo --per-kind 16 --output-dir shown";
    let result = place.run(&format!("{line} --json")).done().says(&["rootstock", "random weights"]).json();
    let number = |name: &str| result[name].as_f64().unwrap();
    assert_eq!(number("val_n"), 17.0 * 4.0);
    // One of 17 by chance.
    let (transferred, random) = (number("best_val_acc"), number("random_features_val_acc"));
    assert!(transferred > random && transferred > 0.3, "{result}");
    assert_eq!(result["predictions"].as_array().unwrap().len(), 3);
    let measured = place.run("eval shown/run/best.safetensors shown/flowers --json").done().json();
    assert_eq!((&measured["n"], measured["top1"].as_f64()), (&(17 * 4).into(), Some(transferred)));
    // Again, with the same pictures.
    let text = place.run(line).done().stdout;
    for words in ["272 pictures of 17 kinds", "random features: ", "regraft train PHOTOS", &format!("{transferred:.4}")]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn the_demo_does_not_touch_what_is_not_its_own() {
    let place = Place::with_photos();
    place.run("demo --output-dir photos").fails(&["photos", "other things", "--output-dir"]);
    // A folder of flowers that is not the demo's either.
    std::fs::rename(place.path("photos"), place.path("flowers")).unwrap();
    place.run("demo --output-dir .").fails(&["other things", "--output-dir"]);
    assert!(std::fs::read_dir(place.path("flowers")).unwrap().next().is_some());
    place.run("demo --per-kind 3").refuses(&["--per-kind"]);
}
