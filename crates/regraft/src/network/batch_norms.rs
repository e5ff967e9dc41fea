//! Batch norms: those that published files have folded into the convolutions before them, and those of random networks.

use std::sync::Arc;

use regraft_data::{ImageStore, Preprocessing, Sample};
use regraft_engine::{Batch, BatchNormMode, Images, Labels, SessionOptions, Targets, Want};
use regraft_graph::{BatchNorm2d, Graph, NodeId, Op, StateDict, Tensor, Trainable};

use crate::network::session::Network;
use crate::photos::features::loader;
use crate::{Context, Result};

/// Whether a network has batch norms and all of them are identities: they have been folded into the convolutions, and
/// normalising by batch statistics would break the network.
pub(crate) fn are_folded(graph: &Graph, state: &StateDict) -> bool {
    let mut any = false;
    for (id, bn) in batch_norms(graph) {
        any = true;
        let name = &graph.nodes()[id].name;
        let tensor = |suffix: &str| state.get(&format!("{name}.{suffix}")).map(|t| t.data());
        let (Some(weight), Some(mean), Some(var)) = (tensor("weight"), tensor("running_mean"), tensor("running_var"))
        else {
            return false;
        };
        // The bias may be anything: folding leaves the convolution's here.
        let identity =
            (0..bn.num_features).all(|c| mean[c] == 0.0 && (weight[c] / (var[c] + bn.eps).sqrt() - 1.0).abs() < 1e-3);
        if !identity {
            return false;
        }
    }
    any
}

/// Images that are enough to measure statistics by.
pub(crate) const SAMPLE: usize = 64;

/// Some of a collection's photos, evenly spread and prepared, `[n, height, width, channels]`: at most [`SAMPLE`].
///
/// # Errors
/// Errors of reading photos.
pub(crate) fn sample(
    photos: &[Sample],
    store: &Arc<ImageStore>,
    preprocessing: &Preprocessing,
    context: &Context,
) -> Result<Vec<f32>> {
    let some: Vec<_> = photos.iter().step_by(photos.len().div_ceil(SAMPLE).max(1)).cloned().collect();
    let mut images = Vec::new();
    for batch in loader(&some, store, preprocessing, context)?.epoch(0, 0) {
        images.extend(batch?.images);
    }
    Ok(images)
}

/// Unfolds batch norms: the mean and variance of the input of each one, for these images, become its running statistics,
/// and its weight and bias undo them. The network computes what it did, and can be trained with the statistics of each
/// batch.
///
/// A filter before a batch norm is scaled to the norm that PyTorch's initialisation gives it (`kaiming_normal_`,
/// `fan_out`): folding has left filters at norms at which a learning rate that suits one layer tears another apart.
///
/// `images` are prepared, `[n, height, width, channels]`.
///
/// # Errors
/// Errors of compiling, inferring and cancelling.
pub(crate) fn unfold(graph: &Graph, state: &mut StateDict, images: &[f32], context: &Context) -> Result<()> {
    // Unfolding changes no value in the network, so all inputs are measured in one pass.
    let norms: Vec<NodeId> = batch_norms(graph).map(|(id, _)| id).collect();
    let inputs: Vec<NodeId> = norms.iter().map(|&id| graph.nodes()[id].inputs[0]).collect();
    let moments = measure("unfolding batch norms", graph, state, &inputs, images, context)?;
    for ((id, before), moments) in norms.into_iter().zip(inputs).zip(moments) {
        let stretch = stretch(graph, state, before).unwrap_or_else(|| vec![1.0; moments.mean.len()]);
        let mut norm = Norm::take(graph, state, id);
        for (c, stretch) in stretch.into_iter().enumerate() {
            // What it has computed so far is `factor * x + offset`.
            let factor = f64::from(norm.weight[c]) / (f64::from(norm.running_var[c]) + norm.eps).sqrt();
            let offset = f64::from(norm.bias[c]) - factor * f64::from(norm.running_mean[c]);
            norm.running_mean[c] = (moments.mean[c] * stretch) as f32;
            norm.running_var[c] = (moments.var[c] * stretch.powi(2)) as f32;
            let now = factor / stretch;
            norm.weight[c] = (now * (f64::from(norm.running_var[c]) + norm.eps).sqrt()) as f32;
            norm.bias[c] = (offset + now * f64::from(norm.running_mean[c])) as f32;
        }
        norm.put(graph, state, id);
    }
    Ok(())
}

/// Gives the batch norms of a random network the statistics of their inputs for these images. With those they start from,
/// the values of a deep network fade from layer to layer.
///
/// One forward pass in training mode does it: each batch norm normalises by the batch, so what the next one sees is
/// normalised already, and with a momentum of 1 its running statistics become those of the batch.
///
/// # Errors
/// Errors of compiling and running the network.
pub(crate) fn calibrate(graph: &Graph, state: &mut StateDict, images: &[f32], context: &Context) -> Result<()> {
    let len = graph.input_shape().len();
    // Training holds the value of every node and its gradient.
    let bytes: usize = graph.shapes()?.iter().map(|shape| 2 * size_of::<f32>() * shape.len()).sum();
    let n = (images.len() / len).min((CALIBRATION_BYTES / bytes).max(MIN_CALIBRATED));
    let images = &images[..n * len];
    let outputs = graph.shapes()?[graph.output()].len();
    let mut graph = graph.clone();
    for id in 0..graph.nodes().len() {
        if let Op::BatchNorm2d(bn) = graph.op_mut(id) {
            bn.momentum = 1.0;
        }
    }
    let options = SessionOptions {
        trainable: Trainable::all(&graph),
        batch_norm: BatchNormMode::Train,
        ..SessionOptions::inference(&graph)
    };
    context.progress.begin("calibrating batch norms", "img", n as u64);
    let mut session = context.engine.compile(&graph, state, options)?;
    let (sample_keys, zeros): (Vec<u64>, _) = ((0..n as u64).collect(), vec![0.0; n * outputs]);
    let targets = Targets { labels: Labels::Values(&zeros), label_smoothing: 0.0, class_weights: None };
    session.accumulate(Batch { input: images.into(), sample_keys: &sample_keys }, targets, Want::Losses)?;
    let mut trained = session.weights()?;
    trained.retain(|name, _| name.ends_with(".running_mean") || name.ends_with(".running_var"));
    state.extend(trained);
    context.progress.end();
    context.check_cancelled()
}

/// The tensors of a batch norm.
struct Norm {
    eps: f64,
    weight: Vec<f32>,
    bias: Vec<f32>,
    running_mean: Vec<f32>,
    running_var: Vec<f32>,
}

impl Norm {
    fn take(graph: &Graph, state: &mut StateDict, id: NodeId) -> Self {
        let node = &graph.nodes()[id];
        let Op::BatchNorm2d(bn) = node.op else { unreachable!("only batch norms come here") };
        let mut values = |suffix: &str| {
            let tensor = state.remove(&format!("{}.{suffix}", node.name));
            tensor.expect("the network has just been run with this state").into_data()
        };
        let (weight, bias) = (values("weight"), values("bias"));
        let (running_mean, running_var) = (values("running_mean"), values("running_var"));
        Self { eps: f64::from(bn.eps), weight, bias, running_mean, running_var }
    }

    fn put(self, graph: &Graph, state: &mut StateDict, id: NodeId) {
        let Self { weight, bias, running_mean, running_var, .. } = self;
        let all = [("weight", weight), ("bias", bias), ("running_mean", running_mean), ("running_var", running_var)];
        for (suffix, data) in all {
            state.insert(format!("{}.{suffix}", graph.nodes()[id].name), Tensor::new([data.len()], data));
        }
    }
}

/// Brings the filters of a convolution to the length of fresh ones, and says by what factors. `None` where that would
/// be noticed elsewhere: the node is no convolution, has a bias, or has another reader.
fn stretch(graph: &Graph, state: &mut StateDict, node: NodeId) -> Option<Vec<f64>> {
    let Op::Conv2d(conv) = graph.nodes()[node].op else { return None };
    if conv.bias || graph.readers()[node] != 1 {
        return None;
    }
    let [filters, columns, height, width] = conv.weight_shape();
    let fan_in = columns * height * width;
    let fan_out = filters / conv.groups * height * width;
    let length = (2.0 * fan_in as f64 / fan_out as f64).sqrt();
    let weight = state.get_mut(&format!("{}.weight", graph.nodes()[node].name))?;
    Some(weight.data_mut().chunks_exact_mut(fan_in).map(|filter| bring_to(filter, length)).collect())
}

fn batch_norms(graph: &Graph) -> impl Iterator<Item = (NodeId, BatchNorm2d)> {
    graph.nodes().iter().enumerate().filter_map(|(id, node)| match node.op {
        Op::BatchNorm2d(bn) => Some((id, bn)),
        _ => None,
    })
}

/// Brings a filter to a length, and says by what factor; one of zeros stays.
fn bring_to(filter: &mut [f32], length: f64) -> f64 {
    let now = filter.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
    let factor = if now > 0.0 { length / now } else { 1.0 };
    filter.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
    factor
}

/// Memory that the values of a calibration may take; fewer images are used where a network is large.
const CALIBRATION_BYTES: usize = 2 << 30;

/// Fewer images than this say too little about a channel.
const MIN_CALIBRATED: usize = 8;

/// Mean and variance of each channel of a node's value.
struct Moments {
    mean: Vec<f64>,
    var: Vec<f64>,
}

/// Images that are measured together: all maps of a network are held for them.
const MEASURED_TOGETHER: usize = 8;

/// Measures the values of some nodes for these images.
fn measure(
    stage: &str,
    graph: &Graph,
    state: &StateDict,
    nodes: &[NodeId],
    images: &[f32],
    context: &Context,
) -> Result<Vec<Moments>> {
    let shapes = graph.shapes()?;
    let mut network = Network::inspected(context.engine, graph, state)?;
    let zeros = |&node: &NodeId| vec![0.0f64; shapes[node].channels()];
    let (mut sums, mut squares): (Vec<_>, Vec<_>) =
        (nodes.iter().map(zeros).collect(), nodes.iter().map(zeros).collect());
    let len = graph.input_shape().len();
    let n = images.len() / len;
    context.progress.begin(stage, "img", n as u64);
    for (i, batch) in images.chunks(MEASURED_TOGETHER * len).enumerate() {
        let values = network.infer_nodes(Images::Floats(batch), nodes)?;
        for (value, (sum, square)) in values.iter().zip(sums.iter_mut().zip(&mut squares)) {
            let channels = sum.len();
            let pixels = value.data().len() / (value.shape()[0] * channels);
            for (channel, plane) in value.data().chunks_exact(pixels).enumerate() {
                sum[channel % channels] += plane.iter().map(|&x| f64::from(x)).sum::<f64>();
                square[channel % channels] += plane.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            }
        }
        context.progress.advance(((i + 1) * MEASURED_TOGETHER).min(n) as u64, "");
        context.check_cancelled()?;
    }
    context.progress.end();
    let moments = |(node, (sum, square)): (&NodeId, (Vec<f64>, Vec<f64>))| {
        let count = (n * shapes[*node].len() / sum.len()) as f64;
        let mean: Vec<f64> = sum.iter().map(|sum| sum / count).collect();
        let var = square.iter().zip(&mean).map(|(square, mean)| (square / count - mean * mean).max(0.0)).collect();
        Moments { mean, var }
    };
    Ok(nodes.iter().zip(sums.into_iter().zip(squares)).map(moments).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cancel;
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::{Conv2d, Linear, Shape, init};
    use regraft_progress::Silent;

    /// A small network whose batch norms are identities but for their biases, and photos for it.
    fn folded() -> (Graph, StateDict, Vec<f32>) {
        let mut graph = Graph::new(Shape::rgb(16));
        let bn = |channels| Op::BatchNorm2d(BatchNorm2d { num_features: channels, eps: 1e-5, momentum: 0.1 });
        let mut x = graph.push("conv1", Op::Conv2d(Conv2d::new(3, 16, 3).padding(1)), &[0]);
        x = graph.push("bn1", bn(16), &[x]);
        x = graph.push("relu1", Op::ReLU, &[x]);
        // A second reader, so that the block's sum needs what the first batch norm gives.
        let mut y = graph.push("conv2", Op::Conv2d(Conv2d::new(16, 16, 3).padding(1).groups(16)), &[x]);
        y = graph.push("bn2", bn(16), &[y]);
        x = graph.push("add", Op::Add, &[x, y]);
        x = graph.push("conv3", Op::Conv2d(Conv2d::new(16, 32, 1).stride(2)), &[x]);
        x = graph.push("bn3", bn(32), &[x]);
        x = graph.push("relu3", Op::ReLU, &[x]);
        x = graph.push("avgpool", Op::AdaptiveAvgPool2d { output_size: 1 }, &[x]);
        x = graph.push("flatten", Op::Flatten, &[x]);
        graph.push("fc", Op::Linear(Linear { in_features: 32, out_features: 5, bias: true }), &[x]);
        let mut state = init::random(&graph, 3);
        for (id, _) in batch_norms(&graph) {
            let bias = state.get_mut(&format!("{}.bias", graph.nodes()[id].name)).unwrap();
            bias.data_mut().iter_mut().enumerate().for_each(|(i, b)| *b = (i % 7) as f32 * 0.1 - 0.2);
        }
        let images = (0..6 * graph.input_shape().len()).map(|i| ((i * 7919) % 1009) as f32 / 500.0 - 1.0).collect();
        (graph, state, images)
    }

    #[test]
    fn unfold_keeps_outputs_and_sets_statistics() {
        let (graph, folded, images) = folded();
        assert!(are_folded(&graph, &folded));
        let engine = CpuEngine::new(1).unwrap();
        let stop = Cancel::new();
        let context = Context { engine: &engine, progress: &Silent, cancel: &stop, threads: 1 };
        let mut state = folded.clone();
        unfold(&graph, &mut state, &images, &context).unwrap();
        assert!(!are_folded(&graph, &state));
        let answers = |state: &StateDict| Network::new(&engine, &graph, state).unwrap().infer_values(&images).unwrap();
        // A few layers of f32 in another order of rounding.
        regraft_testing::assert_close_to_scale("answers", &answers(&state), &answers(&folded), 1e-5);
        for (id, bn) in batch_norms(&graph) {
            let (name, before) = (&graph.nodes()[id].name, graph.nodes()[id].inputs[0]);
            let Moments { mean, var } =
                measure("test", &graph, &state, &[before], &images, &context).unwrap().remove(0);
            let narrowed = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
            let is = |suffix: &str| state[&format!("{name}.{suffix}")].data();
            regraft_testing::assert_close_to_scale(name, is("running_mean"), &narrowed(mean), 1e-4);
            regraft_testing::assert_close_to_scale(name, is("running_var"), &narrowed(var), 1e-4);
            let Op::Conv2d(conv) = graph.nodes()[before].op else { unreachable!("all follow convolutions") };
            let [filters, columns, height, width] = conv.weight_shape();
            let wanted = (2.0 * (columns * conv.groups) as f64 / filters as f64).sqrt();
            let weight = &state[&format!("{}.weight", graph.nodes()[before].name)];
            for filter in weight.data().chunks_exact(columns * height * width) {
                let length = filter.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
                assert!((length / wanted - 1.0).abs() < 1e-5, "{name}: {length}, not {wanted}");
            }
            assert_eq!(is("running_mean").len(), bn.num_features);
        }
    }

    #[test]
    fn calibrate_normalises_every_batch_norm() {
        let (graph, mut state, images) = folded();
        let engine = CpuEngine::new(1).unwrap();
        let stop = Cancel::new();
        let context = Context { engine: &engine, progress: &Silent, cancel: &stop, threads: 1 };
        calibrate(&graph, &mut state, &images, &context).unwrap();
        for (id, _) in batch_norms(&graph) {
            let Moments { mean, var } = measure("test", &graph, &state, &[id], &images, &context).unwrap().remove(0);
            let bias = state[&format!("{}.bias", graph.nodes()[id].name)].data();
            for ((mean, var), &bias) in mean.iter().zip(&var).zip(bias) {
                assert!((mean - f64::from(bias)).abs() < 1e-3 && (var - 1.0).abs() < 1e-2, "{mean} {bias} {var}");
            }
        }
    }
}
