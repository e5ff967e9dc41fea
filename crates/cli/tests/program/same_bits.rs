//! The same seed gives the same bits, however many threads there are.

use crate::common::Place;

#[test]
fn threads_do_not_change_a_bit_and_the_seed_does() {
    let place = Place::with_photos();
    for road in [
        "--backbone squeezenet1_1 --weights random --mode probe",
        "--backbone resnet18 --weights random --mode finetune --epochs 2 --color-jitter 0.4,0.4,0.4,0.1 --rotation 20",
        "--backbone resnet18 --weights random --mode finetune --freeze-until layer4 --epochs 2 --no-augment",
        // MobileNetV2 has dropout.
        "--backbone mobilenet_v2 --weights random --mode finetune --freeze-until features.17 --epochs 2 --optimizer adamw",
    ] {
        let model = |flags: &str| {
            place.run(&format!("train photos --imgsz 32 --output-dir run --exist-ok {road} {flags}")).done();
            place.read("run/best.safetensors")
        };
        let first = model("--threads 1");
        assert!(model("--threads 2") == first, "{road}: two threads");
        assert!(model("--threads 3") == first, "{road}: three threads");
        assert!(model("--threads 2 --cache-mib 0") == first, "{road}: without a cache of photos");
        assert!(model("--threads 2 --seed 1") != first, "{road}: another seed");
    }
}

#[test]
fn predictions_and_evaluations_do_not_depend_on_threads() {
    let place = Place::with_model();
    for command in ["eval run/best.safetensors photos --json", "predict run/best.safetensors photos --json"] {
        let one = place.run(&format!("{command} --threads 1")).done().stdout;
        assert_eq!(place.run(&format!("{command} --threads 2")).done().stdout, one);
    }
}
