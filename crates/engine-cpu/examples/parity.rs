//! How far each network's logits lie from torchvision's `f64`, relative to the largest (`reference/zoo`).
//!
//! `cargo run --release -p regraft-engine-cpu --example parity`

use regraft_engine::{Engine, SessionOptions};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Shape, zoo};
use regraft_kernels::elementwise::transpose;
use regraft_testing::pattern;

fn main() {
    let engine = CpuEngine::new(2).expect("two threads");
    let references = regraft_testing::zoo::references();
    let planes = pattern::values("input", 3 * 224 * 224);
    let mut image = vec![0.0; planes.len()];
    transpose(&planes, 3, 224 * 224, false, &mut image);
    for &name in zoo::NAMES {
        let graph =
            zoo::build(name, 1000).and_then(|graph| graph.with_input_shape(Shape::rgb(224))).expect("a known name");
        let mut session = engine
            .compile(&graph, &pattern::state(&graph), SessionOptions::inference(&graph))
            .expect("a sound network");
        let logits = session.infer(image[..].into(), &[graph.output()]).expect("one image").remove(0).into_data();
        let expected = &references[name].logits;
        let scale = expected.iter().fold(0.0f32, |scale, x| scale.max(x.abs()));
        let error = logits.iter().zip(expected).fold(0.0f32, |error, (a, b)| error.max((a - b).abs()));
        println!("{name} {:.1e}", error / scale);
    }
}
