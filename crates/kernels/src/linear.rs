//! Fully connected layers: `torch.nn.functional.linear`. The weight keeps PyTorch's layout `[out, in]`.

use rayon::prelude::*;

use crate::conv::Epilogue;
use crate::gemm::{Matrix, MatrixMut, gemm};
use crate::simd::dispatch;

/// Output features that one piece of work computes.
const FEATURES_PER_PIECE: usize = 256;

/// Rows of the batch that one piece of work covers.
const ROWS_PER_PIECE: usize = 64;

/// `output = epilogue(input * weight^T)`.
///
/// # Shapes
/// `input` `[n, in]`, `weight` `[out, in]`, `output` `[n, out]`.
///
/// # Panics
/// If the slices' lengths contradict each other.
pub fn forward(n: usize, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    let (in_features, out_features) = (input.len() / n, output.len() / n);
    assert_eq!((input.len(), weight.len()), (n * in_features, out_features * in_features), "linear");
    // A few rows with a large weight (VGG's classifier) are split over the features, many rows over the rows.
    if n < ROWS_PER_PIECE {
        let pieces: Vec<Vec<f32>> = weight
            .par_chunks(FEATURES_PER_PIECE * in_features)
            .map(|weight| {
                let features = weight.len() / in_features;
                let mut part = vec![0.0; n * features];
                let weight = Matrix::new(weight, features, in_features, in_features).transposed();
                let out = MatrixMut::new(&mut part, n, features, features);
                gemm(Matrix::new(input, n, in_features, in_features), weight, out, false);
                part
            })
            .collect();
        for (row, out) in output.chunks_exact_mut(out_features).enumerate() {
            for (part, out) in pieces.iter().zip(out.chunks_mut(FEATURES_PER_PIECE)) {
                out.copy_from_slice(&part[row * out.len()..][..out.len()]);
            }
        }
        dispatch(
            #[inline(always)]
            || epilogue.apply(0, out_features, output),
        );
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

/// The gradient of the input: `grad_output * weight`.
pub fn backward_input(n: usize, grad_output: &[f32], weight: &[f32], accumulate: bool, grad_input: &mut [f32]) {
    let (out_features, in_features) = (grad_output.len() / n, grad_input.len() / n);
    assert_eq!(weight.len(), out_features * in_features, "linear");
    grad_input.par_chunks_mut(in_features).enumerate().for_each(|(row, grad_input)| {
        let grad = Matrix::new(&grad_output[row * out_features..], 1, out_features, out_features);
        let weight = Matrix::new(weight, out_features, in_features, in_features);
        gemm(grad, weight, MatrixMut::new(grad_input, 1, in_features, in_features), accumulate);
    });
}

/// The gradient of the weight: `grad_output^T * input`.
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

/// The layer as its definition says, without an epilogue: sums in the order of the features.
pub fn reference<T: crate::Float>(n: usize, input: &[T], weight: &[T]) -> Vec<T> {
    let in_features = input.len() / n;
    let mut output = Vec::new();
    for row in input.chunks_exact(in_features) {
        for weight in weight.chunks_exact(in_features) {
            output.push(row.iter().zip(weight).fold(T::default(), |sum, (&x, &w)| sum + x * w));
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Activation;
    use crate::testing::{assert_gradient, dot, values_f64};
    use regraft_testing::assert_close_to_scale;

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&x| x as f32).collect()
    }

    #[test]
    fn values_equal_the_reference_and_gradients_its_differences() {
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
            assert_close_to_scale("forward", &y, &expected, 1e-6); // a few dozen f32 products

            let mut dx = vec![0.0; x.len()];
            backward_input(n, &f32s(&g), &f32s(&w), false, &mut dx);
            let mut dw = vec![0.0; w.len()];
            backward_weight(n, &f32s(&x), &f32s(&g), &mut dw);
            // The layer is bilinear: the gradients are the reference with its arguments exchanged.
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
}
