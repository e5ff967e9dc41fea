//! Reference convolution in `f64`, straight from its definition, one multiplication at a time.

use super::Shape;

/// Calls `visit(output index, input index, weight index)` for every product of the convolution.
fn for_each_product(shape: &Shape, mut visit: impl FnMut(usize, usize, usize)) {
    let Shape { n, input: [_, in_w], output: [out_h, out_w], in_channels, out_channels, kernel: [kh, kw], .. } = *shape;
    let (in_group, out_group) = (shape.in_per_group(), shape.out_per_group());
    for image in 0..n {
        for oy in 0..out_h {
            for ox in 0..out_w {
                for ky in 0..kh {
                    let Some(iy) = shape.source(0, oy, ky) else { continue };
                    for kx in 0..kw {
                        let Some(ix) = shape.source(1, ox, kx) else { continue };
                        let out = ((image * out_h + oy) * out_w + ox) * out_channels;
                        let input = ((image * shape.input[0] + iy) * in_w + ix) * in_channels;
                        for o in 0..out_channels {
                            let first = o / out_group * in_group;
                            for i in 0..in_group {
                                let weight = ((ky * kw + kx) * in_group + i) * out_channels + o;
                                visit(out + o, input + first + i, weight);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The convolution, without an epilogue.
pub(super) fn forward(shape: &Shape, input: &[f64], weight: &[f64]) -> Vec<f64> {
    let mut output = vec![0.0; shape.output_len()];
    for_each_product(shape, |o, i, w| output[o] += input[i] * weight[w]);
    output
}

/// The gradient of the input.
pub(super) fn backward_input(shape: &Shape, grad_output: &[f64], weight: &[f64]) -> Vec<f64> {
    let mut grad = vec![0.0; shape.input_len()];
    for_each_product(shape, |o, i, w| grad[i] += grad_output[o] * weight[w]);
    grad
}

/// The gradient of the weight.
pub(super) fn backward_weight(shape: &Shape, input: &[f64], grad_output: &[f64]) -> Vec<f64> {
    let mut grad = vec![0.0; shape.weight_len()];
    for_each_product(shape, |o, i, w| grad[w] += input[i] * grad_output[o]);
    grad
}
