use regraft_kernels::conv::{self, Epilogue, Filter, Shape};
use regraft_kernels::{Activation, Precision};
use std::time::Instant;
fn main() {
    for (lines, w, i, o, act) in [(2usize,112usize,16usize,64usize,true); 20].into_iter().chain([(2usize,112usize,16usize,96usize,true),(2,112,16,96,false),(2,112,16,64,true),(2,112,32,64,true),(2,112,64,64,true),(2,112,256,64,true),(4,56,24,144,true),(4,56,144,24,false),(4,28,32,192,true),(4,28,192,32,false),(14,14,64,384,true),(14,14,384,64,false),(2,112,32,16,false),(1,56,96,24,false)]).take(std::env::args().nth(1).map_or(99, |n| n.parse().unwrap())).skip(if std::env::args().len() > 1 { 0 } else { 20 }) {
        let shape = Shape { n: 1, input: [lines, w], output: [lines, w], in_channels: i, out_channels: o, kernel: [1,1], stride: [1,1], padding: [0,0], dilation: [1,1], groups: 1 };
        let x = vec![0.5f32; shape.input_len()];
        let wt = vec![0.25f32; shape.weight_len()];
        let bias = vec![0.1f32; o];
        let mut y = vec![0.0f32; shape.output_len()];
        let f = Filter::for_forward(&shape, &wt, Precision::F32);
        let e = Epilogue { bias: Some(&bias), residual: None, activation: if act { Activation::ReLU6 } else { Activation::Identity }, gather: None };
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let t = Instant::now();
            for _ in 0..200 { conv::forward_alone(&shape, &x, &f, e, &mut y); }
            best = best.min(t.elapsed().as_secs_f64() / 200.0);
        }
        println!("{lines}x{w} {i}->{o} act {act}: {:.1} us {:.0} GF/s", best * 1e6, 2e-9 * (shape.output_len() * i) as f64 / best);
    }
}
