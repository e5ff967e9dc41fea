use super::*;
use crate::batch_norm::{self, Gather};
use crate::testing::{assert_gradient, dot, values, values_f64};
use regraft_testing::assert_close_to_scale;

fn shape(input: [usize; 2], channels: [usize; 2], kernel: [usize; 2], stride: usize, padding: [usize; 2]) -> Shape {
    let output = [0, 1].map(|i| (input[i] + 2 * padding[i] - kernel[i]) / stride + 1);
    let [in_channels, out_channels] = channels;
    let (stride, dilation) = ([stride; 2], [1; 2]);
    Shape { n: 2, input, output, in_channels, out_channels, kernel, stride, padding, dilation, groups: 1 }
}

/// Every kind of convolution in the zoo, with sizes and channel counts that leave tails.
fn grid() -> Vec<(&'static str, Shape)> {
    let mut dilated = shape([9, 8], [3, 4], [3, 3], 1, [2, 2]);
    dilated.dilation = [2, 2];
    dilated.output = [9, 8];
    let depthwise_dilated = Shape { in_channels: 19, out_channels: 19, groups: 19, ..dilated };
    vec![
        ("3x3", shape([7, 9], [5, 7], [3, 3], 1, [1, 1])),
        ("3x3 wide", shape([14, 14], [64, 48], [3, 3], 1, [1, 1])),
        ("3x3 tails", shape([13, 7], [19, 37], [3, 3], 1, [1, 1])),
        ("3x3 unpadded", shape([9, 10], [16, 100], [3, 3], 1, [0, 0])),
        ("3x3 padded wide", shape([6, 5], [24, 20], [3, 3], 1, [2, 1])),
        ("3x3 of much weight", shape([7, 7], [160, 130], [3, 3], 1, [1, 1])),
        ("3x3 of very much weight", Shape { n: 1, ..shape([4, 5], [250, 244], [3, 3], 1, [1, 1]) }),
        ("3x3 stride 2", shape([9, 10], [6, 16], [3, 3], 2, [1, 1])),
        ("7x7 stride 2", shape([15, 13], [3, 8], [7, 7], 2, [3, 3])),
        ("1x1", shape([6, 5], [17, 33], [1, 1], 1, [0, 0])),
        ("1x1 stride 2", shape([7, 7], [8, 4], [1, 1], 2, [0, 0])),
        ("1x7", shape([8, 9], [4, 3], [1, 7], 1, [0, 3])),
        ("7x1", shape([9, 8], [4, 3], [7, 1], 1, [3, 0])),
        ("one pixel", shape([1, 1], [3, 2], [3, 3], 1, [1, 1])),
        ("dilated", dilated),
        ("grouped", Shape { groups: 3, ..shape([7, 8], [6, 9], [3, 3], 1, [1, 1]) }),
        ("groups of 4", Shape { groups: 10, ..shape([9, 13], [40, 40], [3, 3], 1, [1, 1]) }),
        ("groups of 4, stride 2", Shape { groups: 8, ..shape([10, 9], [32, 32], [3, 3], 2, [1, 1]) }),
        ("groups of 8", Shape { groups: 3, ..shape([8, 15], [24, 24], [3, 3], 1, [1, 1]) }),
        ("groups of 8, padded wide", Shape { groups: 2, ..shape([5, 4], [16, 16], [3, 3], 2, [2, 2]) }),
        ("groups of 2", Shape { groups: 11, ..shape([6, 7], [22, 22], [5, 5], 2, [2, 2]) }),
        ("groups of 2, 1x1", Shape { groups: 9, ..shape([7, 6], [18, 18], [1, 1], 2, [0, 0]) }),
        ("groups of 4, one pixel", Shape { groups: 5, ..shape([1, 1], [20, 20], [3, 3], 2, [1, 1]) }),
        ("groups of 4, 7x7", Shape { groups: 6, ..shape([9, 8], [24, 24], [7, 7], 1, [0, 0]) }),
        ("grouped 1x1", Shape { groups: 2, ..shape([7, 8], [6, 4], [1, 1], 1, [0, 0]) }),
        ("3x3 padded by its size", shape([6, 5], [3, 8], [3, 3], 1, [3, 4])),
        ("groups of 4, padded by their size", Shape { groups: 4, ..shape([5, 6], [16, 16], [3, 3], 1, [3, 3]) }),
        ("groups of 4, dilated", Shape { in_channels: 24, out_channels: 24, groups: 6, ..dilated }),
        ("depthwise padded by its size", Shape { groups: 18, ..shape([5, 6], [18, 18], [3, 3], 1, [3, 3]) }),
        ("depthwise", Shape { groups: 19, ..shape([8, 7], [19, 19], [3, 3], 1, [1, 1]) }),
        ("depthwise stride 2", Shape { groups: 32, ..shape([9, 8], [32, 32], [3, 3], 2, [1, 1]) }),
        ("depthwise 5x5", Shape { groups: 16, ..shape([10, 9], [16, 16], [5, 5], 2, [2, 2]) }),
        ("depthwise 5x5, stride 1", Shape { groups: 33, ..shape([7, 11], [33, 33], [5, 5], 1, [2, 2]) }),
        ("depthwise, one image", Shape { n: 1, groups: 50, ..shape([7, 7], [50, 50], [3, 3], 1, [1, 1]) }),
        ("depthwise, even and odd", Shape { groups: 24, ..shape([8, 13], [24, 24], [3, 3], 2, [1, 1]) }),
        ("depthwise unpadded", Shape { groups: 16, ..shape([6, 5], [16, 16], [5, 5], 1, [0, 0]) }),
        ("depthwise padded wide", Shape { groups: 17, ..shape([5, 4], [17, 17], [3, 3], 2, [2, 2]) }),
        ("depthwise, one pixel", Shape { groups: 20, ..shape([1, 1], [20, 20], [5, 5], 2, [2, 2]) }),
        ("depthwise 7x7", Shape { groups: 18, ..shape([9, 8], [18, 18], [7, 7], 1, [3, 3]) }),
        ("depthwise 1x5", Shape { groups: 18, ..shape([4, 8], [18, 18], [1, 5], 1, [0, 2]) }),
        ("depthwise 1x1 stride 3", Shape { groups: 9, ..shape([8, 7], [9, 9], [1, 1], 3, [0, 0]) }),
        ("depthwise dilated", depthwise_dilated),
        ("depth multiplier", Shape { groups: 4, ..shape([6, 7], [4, 8], [3, 3], 1, [1, 1]) }),
    ]
}

/// For f32 sums of up to 1e5 products of values below 1: the error grows like the square root of their number times 6e-8.
/// 3e-6 of the result's scale is ten times the largest error seen.
const TOLERANCE: f64 = 3e-6;

fn to_f32(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// Winograd's transforms add and subtract up to 36 values, which costs about a digit more than plain sums. All shapes of
/// the grid stay within 1e-5 of the result's scale at every level.
const WINOGRAD_TOLERANCE: f64 = 1e-5;

/// Checks all algorithms at some levels against the `f64` reference, on values rounded by `round`.
fn check_against_reference(levels: &[Level], precision: Precision, round: fn(f64) -> f64) {
    for (name, shape) in grid() {
        let rounded = |name: &str, len| values_f64(name, len).into_iter().map(round).collect::<Vec<_>>();
        let x = rounded("x", shape.input_len());
        let w = rounded("w", shape.weight_len());
        let g = rounded("g", shape.output_len());
        let (x32, w32, g32) = (to_f32(&x), to_f32(&w), to_f32(&g));
        let y_ref = to_f32(&reference::forward(&shape, &x, &w));
        let dx_ref = to_f32(&reference::backward_input(&shape, &g, &w));
        let dw_ref = to_f32(&reference::backward_weight(&shape, &x, &g));
        for (level, algorithm) in
            levels.iter().flat_map(|&level| Algorithm::fitting(&shape).map(move |algorithm| (level, algorithm)))
        {
            let tolerance = if algorithm == Algorithm::Winograd { WINOGRAD_TOLERANCE } else { TOLERANCE };
            let check = |what: &str, got: &[f32], expected: &[f32]| {
                let what = format!("{name}, {level:?}, {algorithm:?}, {precision:?}: {what}");
                assert_close_to_scale(&what, got, expected, tolerance);
            };
            let mut filter = Filter::at(level, precision);
            filter.set_for(algorithm, &shape, &w32, false);
            let raw = filter.raw(algorithm, &shape, &w32, false);
            for weight in [Some(Ready::from(&filter)), raw].into_iter().flatten() {
                let mut y = vec![f32::NAN; shape.output_len()];
                forward(&shape, &x32, weight, Epilogue::NONE, &mut y);
                check("forward", &y, &y_ref);
            }

            filter.set_for(algorithm, &shape, &w32, true);
            let raw = filter.raw(algorithm, &shape, &w32, true);
            for weight in [Some(Ready::from(&filter)), raw].into_iter().flatten() {
                let mut dx = vec![f32::NAN; shape.input_len()];
                backward_input(&shape, &g32, weight, false, &mut dx);
                check("input gradient", &dx, &dx_ref);
                backward_input(&shape, &g32, weight, true, &mut dx);
                check("accumulated", &dx, &dx_ref.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
            }

            let mut dw = vec![f32::NAN; shape.weight_len()];
            backward_weight_by(algorithm, level, precision, &shape, &x32, &g32, &mut dw);
            check("weight gradient", &dw, &dw_ref);
        }
    }
}

/// The scratch memory of these kernels grows with padding and dilation, which a file can set to any value.
#[test]
fn padded_scratch_kernels_refuse_huge_padding_and_dilation() {
    let first = shape([8, 8], [3, 8], [3, 3], 1, [2, 2]);
    let grouped = Shape { groups: 4, ..shape([8, 8], [16, 16], [3, 3], 1, [2, 2]) };
    for (algorithm, shape) in [(Algorithm::FewChannels, first), (Algorithm::Grouped, grouped)] {
        let fits = |shape: &Shape| Algorithm::fitting(shape).any(|fitting| fitting == algorithm);
        assert!(fits(&shape), "{algorithm:?}");
        let far = 1 << 28;
        for axis in [0, 1] {
            let (mut padded, mut dilated) = (shape, shape);
            padded.padding[axis] = far;
            dilated.dilation[axis] = far;
            assert!(!fits(&padded) && !fits(&dilated), "{algorithm:?}, axis {axis}");
        }
    }
}

#[test]
fn all_algorithms_equal_reference_at_every_level() {
    check_against_reference(&Level::available().collect::<Vec<_>>(), Precision::F32, |x| x);
}

/// Products of bfloat16 values are exact in `f32`; only the sums round.
#[test]
fn bf16_products_equal_reference_on_rounded_values() {
    if !Precision::Bf16.is_available() {
        eprintln!("skipped: this CPU has no bfloat16 products");
        return;
    }
    let bf16 = |x: f64| f64::from(f32::from_bits((x as f32).to_bits() & 0xffff_0000));
    check_against_reference(&[Level::current()], Precision::Bf16, bf16);
}

#[test]
fn gathered_statistics_equal_statistics_of_output() {
    let mut gathered = 0;
    for (name, shape) in grid() {
        let (x, w) = (values("x", shape.input_len()), values("w", shape.weight_len()));
        let pivots = values("pivots", shape.out_channels);
        let mut filter = Filter::new(Precision::F32);
        for algorithm in Algorithm::fitting(&shape) {
            filter.set_for(algorithm, &shape, &w, false);
            let mut y = vec![0.0; shape.output_len()];
            let gather = Gather::new(&pivots);
            let epilogue = Epilogue { gather: Some(&gather), ..Epilogue::NONE };
            forward(&shape, &x, &filter, epilogue, &mut y);
            let expected = batch_norm::Statistics::of(&y, shape.out_channels);
            // The pivot may be too far from a channel of small variance.
            let Some(found) = gather.statistics(shape.output_pixels()) else { continue };
            gathered += 1;
            // Both lose digits to the distance from the pivot, here up to ten times the mean.
            assert_close_to_scale(&format!("{name}, {algorithm:?}: mean"), &found.mean, &expected.mean, 1e-5);
            assert_close_to_scale(&format!("{name}, {algorithm:?}: variance"), &found.var, &expected.var, 1e-5);
        }
    }
    assert!(gathered > 20, "{gathered}");
}

#[test]
fn reference_gradients_equal_differences() {
    for (name, shape) in grid() {
        if shape.input_len() > 2000 {
            continue; // differences take two forward passes per element
        }
        let x = values_f64("x", shape.input_len());
        let w = values_f64("w", shape.weight_len());
        let g = values_f64("g", shape.output_len());
        let dx = reference::backward_input(&shape, &g, &w);
        assert_gradient(&format!("{name} dx"), &x, &dx, |x| dot(&reference::forward(&shape, x, &w), &g));
        let dw = reference::backward_weight(&shape, &x, &g);
        assert_gradient(&format!("{name} dw"), &w, &dw, |w| dot(&reference::forward(&shape, &x, w), &g));
    }
}

#[test]
fn epilogue_adds_bias_and_residual_before_activation() {
    for (name, shape) in grid() {
        let (x, w) = (values("x", shape.input_len()), values("w", shape.weight_len()));
        let (bias, residual) = (values("b", shape.out_channels), values("r", shape.output_len()));
        let mut plain = vec![0.0; shape.output_len()];
        let mut filter = Filter::new(Precision::F32);
        for algorithm in Algorithm::fitting(&shape) {
            filter.set_for(algorithm, &shape, &w, false);
            forward(&shape, &x, &filter, Epilogue::NONE, &mut plain);
            let scale = plain.iter().fold(0.0f32, |scale, y| scale.max(y.abs()));
            // ReLU is applied in registers, hard-swish in a pass of its own.
            for activation in [Activation::ReLU, Activation::Hardswish] {
                let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), activation, gather: None };
                let mut fused = vec![0.0; shape.output_len()];
                forward(&shape, &x, &filter, epilogue, &mut fused);
                for (i, &y) in fused.iter().enumerate() {
                    let expected = activation.value(plain[i] + bias[i % shape.out_channels] + residual[i]);
                    // Kernels add in different orders.
                    let near = (y - expected).abs() < 2.0 * TOLERANCE as f32 * scale.max(1.0);
                    assert!(near, "{name}, {algorithm:?}, {activation:?} at {i}: {y} for {expected}");
                }
            }
        }
    }
}

#[test]
fn results_have_same_bits_on_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut bits = Vec::new();
            for (_, shape) in grid() {
                let shape = Shape { n: 5, ..shape };
                let (x, w) = (values("x", shape.input_len()), values("w", shape.weight_len()));
                let g = values("g", shape.output_len());
                let (mut y, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
                let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; shape.out_channels]);
                let mut filter = Filter::new(Precision::F32);
                for algorithm in Algorithm::fitting(&shape) {
                    filter.set_for(algorithm, &shape, &w, false);
                    forward(&shape, &x, &filter, Epilogue::NONE, &mut y);
                    filter.set_for(algorithm, &shape, &w, true);
                    backward_input(&shape, &g, &filter, false, &mut dx);
                    backward_weight_by(algorithm, Level::current(), Precision::F32, &shape, &x, &g, &mut dw);
                    bits.extend(y.iter().chain(&dx).chain(&dw).map(|x| x.to_bits()));
                }
                backward_bias(&g, &mut db);
                bits.extend(db.into_iter().map(f32::to_bits));
            }
            bits
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(7));
}

#[test]
fn unpack_weight_inverts_pack_weight() {
    let w = values("w", 6 * 5 * 9);
    let packed = pack_weight(6, 5, 9, &w);
    assert_eq!(packed[(7 * 5 + 3) * 6 + 4], w[(4 * 5 + 3) * 9 + 7]);
    assert_eq!(unpack_weight(6, 5, 9, &packed), w);
}
