//! Times the memory-bound kernels (batch norm, pooling, depthwise convolution) and a plain copy.
//!
//! `cargo run --release -p regraft-kernels --example bandwidth [batch] [threads] [name]`
//!
//! The bandwidth of a kernel counts each of its maps once, as if it read every input once and wrote every output once.

use std::time::Instant;

use rayon::prelude::*;
use regraft_kernels::batch_norm::{self, Affine, Backward, Statistics, Target};
use regraft_kernels::conv::{self, Epilogue, Filter};
use regraft_kernels::{Activation, Memory, Precision, peak, pool, simd::Level};

/// Name, input size, channels, kernel size, stride.
type Case = (&'static str, usize, usize, usize, usize);

/// Name, map size, channels.
const NORMS: &[(&str, usize, usize)] = &[
    ("norm 64 at 112", 112, 64),
    ("norm 64 at 56", 56, 64),
    ("norm 128 at 28", 28, 128),
    ("norm 144 at 56", 56, 144),
    ("norm 512 at 7", 7, 512),
];

const POOLS: &[Case] = &[
    ("max resnet", 112, 64, 3, 2),
    ("max vgg 1", 224, 64, 2, 2),
    ("max vgg 3", 56, 256, 2, 2),
    ("max vgg 5", 14, 512, 2, 2),
    ("max squeezenet", 111, 96, 3, 2),
    ("avg resnet", 7, 512, 7, 1),
    ("avg mobilenet", 7, 1280, 7, 1),
    ("avg squeezenet", 13, 1000, 13, 1),
];

const DEPTHWISE: &[Case] = &[
    ("3x3 32 at 112", 112, 32, 3, 1),
    ("3x3/2 96 at 112", 112, 96, 3, 2),
    ("3x3 144 at 56", 56, 144, 3, 1),
    ("3x3/2 144 at 56", 56, 144, 3, 2),
    ("3x3 192 at 28", 28, 192, 3, 1),
    ("3x3/2 192 at 28", 28, 192, 3, 2),
    ("3x3 384 at 14", 14, 384, 3, 1),
    ("3x3 576 at 14", 14, 576, 3, 1),
    ("3x3/2 576 at 14", 14, 576, 3, 2),
    ("3x3 960 at 7", 7, 960, 3, 1),
    ("3x3 16 at 112", 112, 16, 3, 1),
    ("5x5/2 72 at 56", 56, 72, 5, 2),
    ("5x5 120 at 28", 28, 120, 5, 1),
    ("5x5 480 at 14", 14, 480, 5, 1),
    ("5x5/2 672 at 14", 14, 672, 5, 2),
    ("5x5 1152 at 7", 7, 1152, 5, 1),
];

/// Shortest time in seconds of at least five runs and at least 0.1 s of runs.
fn time(mut run: impl FnMut()) -> f64 {
    let (mut best, mut runs) = (f64::INFINITY, 0);
    let begin = Instant::now();
    while runs < 5 || begin.elapsed().as_secs_f64() < 0.1 {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Bytes per second that a copy of `floats` values reads and writes.
fn copy_rate(floats: usize) -> f64 {
    let (from, mut to) = (vec![1.0f32; floats], vec![0.0f32; floats]);
    let piece = 16 * 1024;
    let seconds = time(|| to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(t, f)| t.copy_from_slice(f)));
    8.0 * floats as f64 / seconds
}

fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 37 % 101) as f32 - 50.0).collect()
}

fn main() {
    let mut args = std::env::args().skip(1);
    let n: usize = args.next().and_then(|a| a.parse().ok()).unwrap_or(32);
    let threads: usize = args.next().and_then(|a| a.parse().ok()).unwrap_or(2);
    let wanted = args.next().unwrap_or_default();
    let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    threads.install(|| {
        let rates: Vec<_> = [1 << 12, 1 << 17, 1 << 20, 1 << 25].map(|len| (len, copy_rate(len))).into();
        for (len, rate) in rates {
            println!("copying {:7} KiB: {:5.1} GB/s", len * 8 / 1024, rate / 1e9);
        }
        let peak = peak::multiply_add_rate(Level::current()) / 1e9;
        println!("{}, batch {n}, {} threads, {peak:.0} GFLOP/s", Level::current().name(), rayon::current_num_threads());
        for &case in NORMS.iter().filter(|case| case.0.contains(&wanted)) {
            norm(n, case);
        }
        for &case in POOLS.iter().filter(|case| case.0.contains(&wanted)) {
            pool(n, case);
        }
        for &case in DEPTHWISE.iter().filter(|case| case.0.contains(&wanted)) {
            depthwise(n, case);
        }
    });
}

/// A copy of `values` in huge pages, as sessions use them.
fn memory(values: &[f32]) -> Memory {
    let mut memory = Memory::default();
    memory.reserve(values.len());
    memory[..values.len()].copy_from_slice(values);
    memory
}

fn norm(n: usize, (name, size, channels): (&str, usize, usize)) {
    let len = n * size * size * channels;
    let [x, mut y, mut g, mut other] = [(); 4].map(|()| memory(&ramp(len)));
    let (x, y, g, other) = (&x[..len], &mut y[..len], &mut g[..len], &mut other[..len]);
    let weight = vec![1.0; channels];
    let statistics = Statistics::of(x, channels);
    let (mean, var) = (&*statistics.mean, &*statistics.var);
    let affine = &Affine::new(&weight, &vec![0.0; channels], mean, var, 1e-5);
    let relu = Activation::ReLU;
    let bn = |activation| Backward { weight: &weight, statistics: (mean, var), eps: 1e-5, affine, activation };
    let (plain, masked) = (bn(Activation::Identity), bn(relu));
    let gradients = masked.parameters(x, g);
    print!("{name:20}");
    print_rate(8 * len, time(|| batch_norm::forward(affine, x, None, relu, y)));
    print_rate(12 * len, time(|| batch_norm::forward(affine, x, Some(other), relu, y)));
    print_rate(8 * len, time(|| _ = masked.parameters(x, g)));
    print_rate(12 * len, time(|| masked.input_train(&gradients, x, Target::InPlace(g))));
    print_rate(16 * len, time(|| _ = plain.mask_and_parameters(relu, y, x, g)));
    let mut elsewhere =
        || plain.input_train(&gradients, x, Target::Elsewhere { grad: g, out: other, accumulate: false });
    print_rate(12 * len, time(&mut elsewhere));
    println!();
}

fn pool(n: usize, (name, size, channels, kernel_size, stride): Case) {
    let padding = if name == "max resnet" { 1 } else { 0 };
    let out = (size + 2 * padding - kernel_size) / stride + 1;
    let shape = pool::Shape { n, input: [size; 2], output: [out; 2], channels };
    let (x, g) = (ramp(n * size * size * channels), ramp(n * out * out * channels));
    let (mut dx, mut y, mut winners) = (x.clone(), g.clone(), vec![0; g.len()]);
    let maps = 4 * (x.len() + g.len());
    print!("{name:20}");
    if name.starts_with("max") {
        let window = pool::Window { kernel_size, stride, padding };
        print_rate(maps + g.len(), time(|| pool::max_forward(&shape, window, &x, &mut y, &mut winners)));
        print_rate(maps + g.len(), time(|| pool::max_backward(&shape, window, &winners, &g, false, &mut dx)));
    } else {
        print_rate(maps, time(|| pool::avg_forward(&shape, pool::Average::Adaptive, &x, &mut y)));
        print_rate(maps, time(|| pool::avg_backward(&shape, pool::Average::Adaptive, &g, false, &mut dx)));
    }
    println!();
}

fn depthwise(n: usize, (name, size, channels, kernel, stride): Case) {
    let padding = kernel / 2;
    let out = (size + 2 * padding - kernel) / stride + 1;
    let shape = conv::Shape {
        n,
        input: [size; 2],
        output: [out; 2],
        in_channels: channels,
        out_channels: channels,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        dilation: [1; 2],
        groups: channels,
    };
    let (x, g, w) = (ramp(shape.input_len()), ramp(shape.output_len()), ramp(shape.weight_len()));
    let (mut dx, mut y, mut dw) = (x.clone(), g.clone(), w.clone());
    let maps = 4 * (x.len() + g.len());
    let filter = Filter::for_forward(&shape, &w, Precision::F32);
    let back = Filter::for_backward(&shape, &w, Precision::F32);
    let seconds = [
        time(|| conv::forward(&shape, &x, &filter, Epilogue::NONE, &mut y)),
        time(|| conv::backward_input(&shape, &g, &back, false, &mut dx)),
        time(|| conv::backward_weight(&shape, Precision::F32, &x, &g, &mut dw)),
    ];
    print!("{name:20}");
    for seconds in seconds {
        print_rate(maps, seconds);
        print!("{:6.1} GF/s", 2e-9 * (shape.output_len() * shape.taps()) as f64 / seconds);
    }
    println!();
}

fn print_rate(bytes: usize, seconds: f64) {
    print!(" |{:8.3} ms{:7.1} GB/s", 1e3 * seconds, 1e-9 * bytes as f64 / seconds);
}
