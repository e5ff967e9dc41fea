//! Batch normalisation in training, as its definition says.

use crate::Float;

/// Mean and biased variance of channel `c`.
fn moments<T: Float>(x: &[T], channels: usize, c: usize) -> (T, T) {
    let count = T::of((x.len() / channels) as f64);
    let column = || x.iter().skip(c).step_by(channels).copied();
    let mean = column().fold(T::default(), |sum, x| sum + x) / count;
    let var = column().fold(T::default(), |sum, x| sum + (x - mean) * (x - mean)) / count;
    (mean, var)
}

/// Output, mean and biased variance for rows of `weight.len()` channels.
pub fn forward<T: Float>(x: &[T], weight: &[T], bias: &[T], eps: T) -> (Vec<T>, Vec<T>, Vec<T>) {
    let channels = weight.len();
    let (mean, var): (Vec<T>, Vec<T>) = (0..channels).map(|c| moments(x, channels, c)).unzip();
    let normalise = |(i, &x): (usize, &T)| {
        let c = i % channels;
        (x - mean[c]) / (var[c] + eps).sqrt() * weight[c] + bias[c]
    };
    (x.iter().enumerate().map(normalise).collect(), mean, var)
}

/// Gradients of input, weight and bias (section 3 of the paper).
pub fn backward<T: Float>(x: &[T], weight: &[T], eps: T, grad: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
    let channels = weight.len();
    let count = T::of((x.len() / channels) as f64);
    let mut grads = (vec![T::default(); x.len()], vec![T::default(); channels], vec![T::default(); channels]);
    for c in 0..channels {
        let (mean, var) = moments(x, channels, c);
        let std = (var + eps).sqrt();
        let rows = || (c..x.len()).step_by(channels);
        for i in rows() {
            grads.1[c] += grad[i] * (x[i] - mean) / std;
            grads.2[c] += grad[i];
        }
        for i in rows() {
            let normalised = (x[i] - mean) / std;
            grads.0[i] = weight[c] / std * (grad[i] - grads.2[c] / count - normalised * grads.1[c] / count);
        }
    }
    grads
}
