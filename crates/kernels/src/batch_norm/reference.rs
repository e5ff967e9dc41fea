//! Reference batch normalisation in training mode, in `f64`, straight from its definition.

/// Mean and biased variance of channel `c`.
fn moments(x: &[f64], channels: usize, c: usize) -> (f64, f64) {
    let count = (x.len() / channels) as f64;
    let column = || x.iter().skip(c).step_by(channels).copied();
    let mean = column().sum::<f64>() / count;
    let var = column().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    (mean, var)
}

/// Output, mean and biased variance of `x`, `[rows, weight.len()]`.
pub(super) fn forward(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let channels = weight.len();
    let (mean, var): (Vec<f64>, Vec<f64>) = (0..channels).map(|c| moments(x, channels, c)).unzip();
    let normalise = |(i, &x): (usize, &f64)| {
        let c = i % channels;
        (x - mean[c]) / (var[c] + eps).sqrt() * weight[c] + bias[c]
    };
    (x.iter().enumerate().map(normalise).collect(), mean, var)
}

/// Gradients of input, weight and bias (Ioffe and Szegedy 2015, section 3).
pub(super) fn backward(x: &[f64], weight: &[f64], eps: f64, grad: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let channels = weight.len();
    let count = (x.len() / channels) as f64;
    let mut grads = (vec![0.0; x.len()], vec![0.0; channels], vec![0.0; channels]);
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
