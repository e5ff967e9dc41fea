//! Compares the logits of a network from an ONNX file with recorded ones.
//!
//! `logits NETWORK.onnx RECORD.safetensors`: the record holds `input` `[n, 3, size, size]` and `logits` `[n, classes]`;
//! `reference/onnx/full_size.py` writes both and calls this.

use std::error::Error;
use std::path::Path;

use regraft_engine::{Engine, SessionOptions};
use regraft_engine_cpu::CpuEngine;
use regraft_kernels::elementwise::transpose;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, network, record] = &arguments[..] else { return Err("give NETWORK.onnx and RECORD.safetensors".into()) };
    let record = regraft_weights::read(Path::new(record))?;
    let (input, expected) = (&record["input"], &record["logits"]);
    let size = input.shape()[3];
    let network = regraft_onnx::read(Path::new(network), size)?;
    let mut session =
        CpuEngine::new(2)?.compile(&network.graph, &network.state, SessionOptions::inference(&network.graph))?;
    let mut images = vec![0.0; input.data().len()];
    for (planes, image) in input.data().chunks(3 * size * size).zip(images.chunks_mut(3 * size * size)) {
        transpose(planes, 3, size * size, false, image);
    }
    let logits = session.infer(images[..].into(), &[network.graph.output()])?.remove(0).into_data();
    if logits.len() != expected.data().len() {
        return Err(format!("{} logits where {} were expected", logits.len(), expected.data().len()).into());
    }
    let scale = expected.data().iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = logits.iter().zip(expected.data()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    let layers = network.graph.nodes().len() - 1;
    println!("{layers} layers, {} tensors, scale {scale:.3}, worst {worst:.2e}", network.state.len());
    Ok(())
}
