//! The cosine classifier: `scale * F.linear(F.normalize(input), F.normalize(weight))`.

use rayon::prelude::*;

use crate::epilogue::Epilogue;
use crate::linear;

/// Lower bound of a row length: `eps` of `torch.nn.functional.normalize`.
const EPS: f64 = 1e-12;

/// Rows scaled to unit length, and their original lengths.
struct UnitRows {
    rows: Vec<f32>,
    lengths: Vec<f64>,
}

impl UnitRows {
    fn new(rows: &[f32], len: usize) -> Self {
        let length = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(EPS);
        let lengths: Vec<f64> = rows.par_chunks(len).map(length).collect();
        let mut rows = rows.to_vec();
        rows.par_chunks_mut(len).zip(&lengths).for_each(|(row, length)| {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        });
        Self { rows, lengths }
    }

    /// Turns the gradient of the unit rows into that of the original rows: its component orthogonal to each row, divided by
    /// the row length.
    fn backward(&self, grad: &mut [f32]) {
        let len = self.rows.len() / self.lengths.len();
        let rows = self.rows.par_chunks(len).zip(&self.lengths);
        grad.par_chunks_mut(len).zip(rows).for_each(|(grad, (row, &length))| {
            // A clamped length is constant, so it has no derivative.
            let along = match length > EPS {
                true => grad.iter().zip(row).map(|(&g, &x)| f64::from(g) * f64::from(x)).sum::<f64>(),
                false => 0.0,
            };
            for (g, &x) in grad.iter_mut().zip(row) {
                *g = ((f64::from(*g) - along * f64::from(x)) / length) as f32;
            }
        });
    }
}

/// The cosine of each input row with each weight row, times `scale`.
///
/// # Shapes
/// - `input`: `[n, in]`
/// - `weight`: `[out, in]`
/// - `output`: `[n, out]`
///
/// # Panics
/// If the slices' lengths contradict each other.
pub fn forward(n: usize, input: &[f32], weight: &[f32], scale: f32, output: &mut [f32]) {
    let len = input.len() / n;
    linear::forward(n, &UnitRows::new(input, len).rows, &UnitRows::new(weight, len).rows, Epilogue::NONE, output);
    output.iter_mut().for_each(|y| *y *= scale);
}

/// Gradients of [`forward`], summed over the batch.
pub struct Gradients {
    /// Gradient of the input, `[n, in]`.
    pub input: Vec<f32>,
    /// Gradient of the weight, `[out, in]`.
    pub weight: Vec<f32>,
    /// Gradient of the scale.
    pub scale: f32,
}

/// The gradients of input, weight and scale.
///
/// # Shapes
/// As in [`forward`]; `grad_output` is `[n, out]`.
///
/// # Panics
/// If the slices' lengths contradict each other.
pub fn backward(n: usize, input: &[f32], weight: &[f32], scale: f32, grad_output: &[f32]) -> Gradients {
    let len = input.len() / n;
    let (x, w) = (UnitRows::new(input, len), UnitRows::new(weight, len));
    let mut cosines = vec![0.0; grad_output.len()];
    linear::forward(n, &x.rows, &w.rows, Epilogue::NONE, &mut cosines);
    let grad_scale = cosines.iter().zip(grad_output).map(|(&c, &g)| f64::from(c) * f64::from(g)).sum::<f64>();
    let grad: Vec<f32> = grad_output.iter().map(|&g| g * scale).collect();
    let (mut grad_input, mut grad_weight) = (vec![0.0; input.len()], vec![0.0; weight.len()]);
    linear::backward_input(n, &grad, &w.rows, false, &mut grad_input);
    linear::backward_weight(n, &x.rows, &grad, &mut grad_weight);
    x.backward(&mut grad_input);
    w.backward(&mut grad_weight);
    Gradients { input: grad_input, weight: grad_weight, scale: grad_scale as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, dot, values_f64};
    use regraft_testing::assert_close_to_scale;

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&x| x as f32).collect()
    }

    /// The definition in `f64`.
    fn reference(n: usize, input: &[f64], weight: &[f64], scale: f64) -> Vec<f64> {
        let len = input.len() / n;
        let norm = |row: &[f64]| dot(row, row).sqrt().max(EPS);
        let rows = input.chunks_exact(len);
        rows.flat_map(|x| weight.chunks_exact(len).map(move |w| scale * dot(x, w) / norm(x) / norm(w))).collect()
    }

    #[test]
    fn forward_equals_definition_and_backward_its_differences() {
        for (n, len, classes) in [(1, 3, 2), (5, 17, 4), (70, 6, 3)] {
            let (x, w) = (values_f64("x", n * len), values_f64("w", classes * len));
            let (g, scale) = (values_f64("g", n * classes), 7.5);
            let mut y = vec![0.0; n * classes];
            forward(n, &f32s(&x), &f32s(&w), scale as f32, &mut y);
            assert_close_to_scale("forward", &y, &f32s(&reference(n, &x, &w, scale)), 1e-6);
            let found = backward(n, &f32s(&x), &f32s(&w), scale as f32, &f32s(&g));
            // Central differences of the f64 definition.
            let differences = |at: &[f64], loss: &dyn Fn(&[f64]) -> f64| -> Vec<f64> {
                let step = 1e-6;
                let moved = |i: usize, by: f64| {
                    let mut at = at.to_vec();
                    at[i] += by;
                    loss(&at)
                };
                (0..at.len()).map(|i| (moved(i, step) - moved(i, -step)) / (2.0 * step)).collect()
            };
            let dx = differences(&x, &|x| dot(&reference(n, x, &w, scale), &g));
            let dw = differences(&w, &|w| dot(&reference(n, &x, w, scale), &g));
            // The error of f32 products of unit vectors; short rows have the largest gradients and the largest error.
            assert_close_to_scale("dx", &found.input, &f32s(&dx), 3e-6);
            assert_close_to_scale("dw", &found.weight, &f32s(&dw), 3e-6);
            let ds = [f64::from(found.scale)];
            assert_close_to_scale("ds", &f32s(&ds), &f32s(&[dot(&reference(n, &x, &w, 1.0), &g)]), 1e-5);
            assert_gradient("ds", &[scale], &[dot(&reference(n, &x, &w, 1.0), &g)], |s| {
                dot(&reference(n, &x, &w, s[0]), &g)
            });
        }
    }

    #[test]
    fn zero_row_gives_zero_output_and_finite_gradients() {
        let (x, w) = (vec![0.0; 4], vec![1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.5]);
        let mut y = vec![f32::NAN; 2];
        forward(1, &x, &w, 10.0, &mut y);
        assert_eq!(y, [0.0; 2]);
        let found = backward(1, &x, &w, 10.0, &[1.0, -1.0]);
        assert!(found.weight.iter().chain(&found.input).all(|g| g.is_finite()) && found.scale == 0.0);
    }
}
