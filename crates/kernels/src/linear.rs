//! Fully connected layers: `torch.nn.functional.linear`. The weight keeps PyTorch's layout, `[out, in]`.

mod small_batch;

use rayon::prelude::*;

use crate::epilogue::Epilogue;
use crate::gemm::{Matrix, MatrixMut, gemm};
use crate::simd::{Level, dispatch};

/// Largest batch for the kernels of [`small_batch`].
///
/// Up to this size, reading the weight takes most of the time, or a product split by samples would have too few pieces.
const SMALL_BATCH: usize = 64;

/// Samples that one piece of work covers in a larger batch.
const ROWS_PER_PIECE: usize = 64;

/// `output = epilogue(input * weight^T)`.
///
/// # Shapes
/// - `input`: `[n, in]`
/// - `weight`: `[out, in]`
/// - `output`: `[n, out]`
///
/// # Panics
/// If the slices' lengths contradict each other.
pub fn forward(n: usize, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    let (in_features, out_features) = (input.len() / n, output.len() / n);
    assert_eq!((input.len(), weight.len()), (n * in_features, out_features * in_features), "linear");
    if n <= SMALL_BATCH {
        small_batch::forward(Level::current(), n, input, weight, epilogue, output);
    } else {
        output.par_chunks_mut(ROWS_PER_PIECE * out_features).enumerate().for_each(|(i, output)| {
            let rows = output.len() / out_features;
            let first = i * ROWS_PER_PIECE;
            let weight = Matrix::new(weight, out_features, in_features, in_features).transposed();
            let input = Matrix::new(&input[first * in_features..], rows, in_features, in_features);
            gemm(input, weight, MatrixMut::new(output, rows, out_features, out_features), false);
            dispatch(
                #[inline(always)]
                || epilogue.apply(first * out_features, out_features, output),
            );
        });
    }
}

/// The gradient of the input, `grad_output * weight`, written to `grad_input`; with `accumulate`, added to it.
///
/// # Shapes
/// As in [`forward`]; a gradient has the shape of its tensor.
///
/// # Panics
/// If the slices' lengths contradict each other.
pub fn backward_input(n: usize, grad_output: &[f32], weight: &[f32], accumulate: bool, grad_input: &mut [f32]) {
    let (out_features, in_features) = (grad_output.len() / n, grad_input.len() / n);
    assert_eq!(weight.len(), out_features * in_features, "linear");
    if n <= SMALL_BATCH {
        return small_batch::backward_input(Level::current(), n, grad_output, weight, accumulate, grad_input);
    }
    grad_input.par_chunks_mut(ROWS_PER_PIECE * in_features).enumerate().for_each(|(i, grad_input)| {
        let rows = grad_input.len() / in_features;
        let grad = Matrix::new(&grad_output[i * ROWS_PER_PIECE * out_features..], rows, out_features, out_features);
        let weight = Matrix::new(weight, out_features, in_features, in_features);
        gemm(grad, weight, MatrixMut::new(grad_input, rows, in_features, in_features), accumulate);
    });
}

/// The gradient of the weight, `grad_output^T * input`, summed over the batch.
///
/// # Shapes
/// As in [`forward`]; a gradient has the shape of its tensor.
///
/// # Panics
/// If the slices' lengths contradict each other.
pub fn backward_weight(n: usize, input: &[f32], grad_output: &[f32], grad_weight: &mut [f32]) {
    let (in_features, out_features) = (input.len() / n, grad_output.len() / n);
    assert_eq!(grad_weight.len(), out_features * in_features, "linear");
    let piece = 32;
    grad_weight.par_chunks_mut(piece * in_features).enumerate().for_each(|(i, grad_weight)| {
        let features = grad_weight.len() / in_features;
        let grads = Matrix::new(&grad_output[i * piece..], n, features, out_features).transposed();
        let input = Matrix::new(input, n, in_features, in_features);
        gemm(grads, input, MatrixMut::new(grad_weight, features, in_features, in_features), false);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use crate::testing::{assert_gradient, dot, values, values_f64};
    use regraft_testing::assert_close_to_scale;

    /// The definition in `f64`, without an epilogue.
    fn reference(n: usize, input: &[f64], weight: &[f64]) -> Vec<f64> {
        let in_features = input.len() / n;
        let row = |row: &[f64]| weight.chunks_exact(in_features).map(|weight| dot(row, weight)).collect::<Vec<_>>();
        input.chunks_exact(in_features).flat_map(row).collect()
    }

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&x| x as f32).collect()
    }

    #[test]
    fn forward_equals_reference_and_gradients_equal_differences() {
        for (n, in_features, out_features) in [(1, 3, 2), (5, 17, 9), (3, 8, 600), (130, 6, 4)] {
            let x = values_f64("x", n * in_features);
            let w = values_f64("w", out_features * in_features);
            let g = values_f64("g", n * out_features);
            let bias = f32s(&values_f64("b", out_features));
            let mut y = vec![0.0; n * out_features];
            let epilogue = Epilogue { bias: Some(&bias), residual: None, activation: Activation::ReLU, gather: None };
            forward(n, &f32s(&x), &f32s(&w), epilogue, &mut y);
            let plain = reference(n, &x, &w);
            let expected: Vec<f32> =
                plain.iter().enumerate().map(|(i, &y)| (y as f32 + bias[i % out_features]).max(0.0)).collect();
            assert_close_to_scale("forward", &y, &expected, 1e-6); // sums of a few dozen f32 products

            let mut dx = vec![0.0; x.len()];
            backward_input(n, &f32s(&g), &f32s(&w), false, &mut dx);
            let mut dw = vec![0.0; w.len()];
            backward_weight(n, &f32s(&x), &f32s(&g), &mut dw);
            // The layer is bilinear, so its gradients are the reference with exchanged arguments.
            let transpose = |m: &[f64], rows: usize| -> Vec<f64> {
                let cols = m.len() / rows;
                (0..m.len()).map(|i| m[i % rows * cols + i / rows]).collect()
            };
            let dx_ref = reference(n, &g, &transpose(&w, out_features));
            let dw_ref = reference(out_features, &transpose(&g, n), &transpose(&x, n));
            assert_close_to_scale("dx", &dx, &f32s(&dx_ref), 1e-6);
            assert_close_to_scale("dw", &dw, &f32s(&dw_ref), 3e-6);
            if x.len() + w.len() < 300 {
                assert_gradient("dx", &x, &dx_ref, |x| dot(&reference(n, x, &w), &g));
                assert_gradient("dw", &w, &dw_ref, |w| dot(&reference(n, &x, w), &g));
            }
        }
    }

    /// Sizes with tails in every dimension: samples in tiles of four, inputs in vectors and blocks, output features.
    fn grid() -> impl Iterator<Item = [usize; 3]> {
        let sizes = [[1, 1], [5, 3], [16, 8], [33, 7], [100, 65], [299, 13], [1100, 9], [2049, 131]];
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 33].into_iter().flat_map(move |n| sizes.map(|[i, o]| [n, i, o]))
    }

    #[test]
    fn small_batches_equal_reference_at_every_level() {
        for [n, in_features, out_features] in grid() {
            let x = values_f64("x", n * in_features);
            let w = values_f64("w", out_features * in_features);
            let g = values_f64("g", n * out_features);
            let (bias, residual) = (f32s(&values_f64("b", out_features)), f32s(&g));
            let epilogue =
                Epilogue { bias: Some(&bias), residual: Some(&residual), activation: Activation::ReLU, gather: None };
            let y = reference(n, &x, &w).into_iter().enumerate();
            let y: Vec<f64> = y.map(|(i, y)| (y + f64::from(bias[i % out_features]) + g[i]).max(0.0)).collect();
            let transposed: Vec<f64> =
                (0..w.len()).map(|i| w[i % out_features * in_features + i / out_features]).collect();
            let dx = reference(n, &g, &transposed);
            for level in Level::available() {
                let what = |pass| format!("{pass} {level:?} n {n} in {in_features} out {out_features}");
                let mut output = vec![f32::NAN; y.len()];
                small_batch::forward(level, n, &f32s(&x), &f32s(&w), epilogue, &mut output);
                assert_close_to_scale(&what("forward"), &output, &f32s(&y), 3e-6); // sums of up to 2049 f32 products
                let mut grad = vec![f32::NAN; x.len()];
                small_batch::backward_input(level, n, &f32s(&g), &f32s(&w), false, &mut grad);
                assert_close_to_scale(&what("dx"), &grad, &f32s(&dx), 1e-6);
                small_batch::backward_input(level, n, &f32s(&g), &f32s(&w), true, &mut grad);
                let twice: Vec<f32> = dx.iter().map(|&g| 2.0 * g as f32).collect();
                assert_close_to_scale(&what("dx twice"), &grad, &twice, 1e-6);
            }
        }
    }

    #[test]
    fn results_have_same_bits_on_any_number_of_threads() {
        for n in [1, 7, 32, 130] {
            let (in_features, out_features) = (1111, 301);
            let (x, w) = (values("x", n * in_features), values("w", out_features * in_features));
            let g = values("g", n * out_features);
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut y, mut dx, mut dw) = (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
                pool.install(|| {
                    forward(n, &x, &w, Epilogue::NONE, &mut y);
                    backward_input(n, &g, &w, false, &mut dx);
                    backward_weight(n, &x, &g, &mut dw);
                });
                [y, dx, dw].map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let one = run(1);
            assert!(one == run(2) && one == run(7), "{n} samples");
        }
    }
}
