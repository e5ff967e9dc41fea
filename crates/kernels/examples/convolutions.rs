//! Times convolutions of ResNet-18, VGG-16, MobileNetV2, ResNeXt and RegNet in training: each direction by itself,
//! preparation of the weight included.
//!
//! `cargo run --release -p regraft-kernels --example convolutions [batch] [threads] [name] [bf16]`

use std::time::Instant;

use regraft_kernels::conv::{self, Epilogue, Filter, Shape};
use regraft_kernels::{Activation, Precision, peak, simd::Level};

type Case = (&'static str, usize, [usize; 2], usize, usize, usize);

/// Name, input size, input and output channels, kernel size, stride, groups.
const CASES: &[Case] = &[
    ("resnet conv1", 224, [3, 64], 7, 2, 1),
    ("resnet layer1", 56, [64, 64], 3, 1, 1),
    ("resnet layer2 down", 56, [64, 128], 3, 2, 1),
    ("resnet layer2 1x1", 56, [64, 128], 1, 2, 1),
    ("resnet layer2", 28, [128, 128], 3, 1, 1),
    ("resnet layer3 down", 28, [128, 256], 3, 2, 1),
    ("resnet layer3", 14, [256, 256], 3, 1, 1),
    ("resnet layer4 down", 14, [256, 512], 3, 2, 1),
    ("resnet layer4 1x1", 14, [256, 512], 1, 2, 1),
    ("resnet layer4", 7, [512, 512], 3, 1, 1),
    ("vgg 1", 224, [3, 64], 3, 1, 1),
    ("vgg 2", 224, [64, 64], 3, 1, 1),
    ("vgg 4", 112, [128, 128], 3, 1, 1),
    ("vgg 8", 28, [512, 512], 3, 1, 1),
    ("mobilenet conv1", 224, [3, 32], 3, 2, 1),
    ("mobilenet 1 depthwise", 112, [32, 32], 3, 1, 32),
    ("mobilenet 1 project", 112, [32, 16], 1, 1, 1),
    ("mobilenet 2 expand", 112, [16, 96], 1, 1, 1),
    ("mobilenet 2 depthwise", 112, [96, 96], 3, 2, 96),
    ("mobilenet 3 project", 56, [144, 24], 1, 1, 1),
    ("mobilenet 3 depthwise", 56, [144, 144], 3, 1, 144),
    ("mobilenet 8 expand", 14, [64, 384], 1, 1, 1),
    ("mobilenet 8 depthwise", 14, [384, 384], 3, 1, 384),
    ("mobilenet 14 project", 7, [960, 160], 1, 1, 1),
    ("resnext 32x4d layer1", 56, [128, 128], 3, 1, 32),
    ("resnext 32x4d down 2", 56, [256, 256], 3, 2, 32),
    ("resnext 32x4d layer2", 28, [256, 256], 3, 1, 32),
    ("resnext 32x4d layer3", 14, [512, 512], 3, 1, 32),
    ("resnext 32x4d layer4", 7, [1024, 1024], 3, 1, 32),
    ("regnet_y_400mf 4", 7, [440, 440], 3, 1, 55),
    ("regnet_x_1_6gf 3", 14, [408, 408], 3, 1, 17),
    ("mobilenet last", 7, [320, 1280], 1, 1, 1),
];

/// Shortest time in seconds of at least three runs, after one to warm up.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let mut best = f64::INFINITY;
    // At least 0.2 s of runs, so that one of them is undisturbed.
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 3 || begin.elapsed().as_secs_f64() < 0.2 {
        runs += 1;
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n: usize = args.next().and_then(|a| a.parse().ok()).unwrap_or(32);
    let threads: usize = args.next().and_then(|a| a.parse().ok()).unwrap_or(2);
    let wanted = args.next().unwrap_or_default();
    let precision = if args.next().as_deref() == Some("bf16") { Precision::Bf16 } else { Precision::F32 };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    pool.install(|| {
        let peak = peak::multiply_add_rate(Level::current()) / 1e9;
        println!("{} with {threads} threads: {peak:.0} GFLOP/s of multiply-adds; batch {n}", Level::current().name());
        println!("{:24}{:>10}{:>10}{:>10}", "GFLOP/s (% of peak)", "forward", "input", "weight");
        for &(name, size, [i, o], kernel, stride, groups) in CASES.iter().filter(|case| case.0.contains(&wanted)) {
            let out = (size + 2 * (kernel / 2) - kernel) / stride + 1;
            let shape = Shape {
                n,
                input: [size; 2],
                output: [out; 2],
                in_channels: i,
                out_channels: o,
                kernel: [kernel; 2],
                stride: [stride; 2],
                padding: [kernel / 2; 2],
                dilation: [1; 2],
                groups,
            };
            let x: Vec<f32> = (0..shape.input_len()).map(|i| (i % 7) as f32 - 3.0).collect();
            let g: Vec<f32> = (0..shape.output_len()).map(|i| (i % 5) as f32 - 2.0).collect();
            let w: Vec<f32> = (0..shape.weight_len()).map(|i| (i % 3) as f32 - 1.0).collect();
            let (mut y, mut dx, mut dw) = (g.clone(), x.clone(), w.clone());
            let mut filter = Filter::new(precision);
            let bias = vec![1.0; o];
            let epilogue = Epilogue { bias: Some(&bias), activation: Activation::ReLU6, ..Epilogue::NONE };
            let forward = time(|| conv::forward(&shape, &x, filter.once_forward(&shape, &w), epilogue, &mut y));
            let input = time(|| conv::backward_input(&shape, &g, filter.once_backward(&shape, &w), false, &mut dx));
            let weight = time(|| conv::backward_weight(&shape, precision, &x, &g, &mut dw));
            let operations = 2e-9 * (shape.output_len() * shape.taps() * i / groups) as f64;
            print!("{name:24}");
            for seconds in [forward, input, weight] {
                let rate = operations / seconds;
                print!("{rate:5.0}{:>5}", format!("({:.0}%)", 100.0 * rate / peak));
            }
            println!("  {:?}", filter.once_forward(&shape, &w).algorithm());
        }
    });
}
