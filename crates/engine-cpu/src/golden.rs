//! Every operation and a few composed networks give PyTorch's outputs and gradients (`reference/ops`).

use regraft_graph::{Conv2d, Graph, Linear, Node, Op, Shape, StateDict, Tensor, Trainable};
use regraft_kernels::Precision;
use regraft_kernels::elementwise::transpose;
use regraft_kernels::loss::{Criterion, Labels};
use regraft_testing::assert_close_to_scale;
use regraft_testing::fixture::{self, Fixture};

use super::forward::{Pass, Workspace};
use super::parameters::Parameters;
use super::plan::{Mode, Plan};
use super::{backward, forward};
use regraft_engine::{BatchNormMode, UpdateRule};

/// PyTorch's values are `f64`; ours are `f32` sums of at most a few thousand products, then up to six layers and
/// a batch norm over as few as 24 values: 2e-5 of each tensor's scale is three times the worst that was seen.
const TOLERANCE: f64 = 2e-5;

/// The name of the layer that is put before a network to see the gradient of its input.
const PROBE: &str = "probe";

/// The same network behind a layer that changes nothing but learns, so that it gets a gradient: the input's.
fn with_probe(graph: &Graph) -> (Graph, StateDict) {
    let shape = graph.input_shape();
    let channels = shape.channels();
    let (op, weight) = match shape {
        Shape::Map { .. } => {
            (Op::Conv2d(Conv2d::new(channels, channels, 1).groups(channels)), Tensor::full([channels, 1, 1, 1], 1.0))
        }
        Shape::Features(n) => {
            let mut identity = Tensor::full([n, n], 0.0);
            (0..n).for_each(|i| identity.data_mut()[i * (n + 1)] = 1.0);
            (Op::Linear(Linear { in_features: n, out_features: n, bias: false }), identity)
        }
    };
    let mut nodes = vec![graph.nodes()[0].clone(), Node { name: PROBE.into(), op, inputs: vec![0] }];
    for node in &graph.nodes()[1..] {
        nodes.push(Node { inputs: node.inputs.iter().map(|input| input + 1).collect(), ..node.clone() });
    }
    (Graph::from_nodes(shape, nodes).unwrap(), StateDict::from([(format!("{PROBE}.weight"), weight)]))
}

/// From PyTorch's NCHW to NHWC, or back.
fn permuted(values: &[f32], shape: Shape, to_nhwc: bool) -> Vec<f32> {
    let Shape::Map { channels, height, width } = shape else { return values.to_vec() };
    let (rows, cols) = if to_nhwc { (channels, height * width) } else { (height * width, channels) };
    let mut result = vec![0.0; values.len()];
    transpose(values, rows, cols, false, &mut result);
    result
}

fn check_network(fixture: &Fixture, graph: &Graph) {
    let name = &fixture.name;
    let (graph, mut state) = with_probe(graph);
    state.extend(fixture.under("param."));
    let trainable = Trainable::all(&graph);
    let mode = if fixture.training { BatchNormMode::Train } else { BatchNormMode::Frozen };
    let rule = UpdateRule::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let mut parameters = Parameters::new(&graph, &state, &trainable, mode, rule).unwrap();
    let plan = Plan::new(&graph, Mode::Training(&trainable, mode)).unwrap();
    let mut workspace = Workspace::new(&plan, Precision::F32);
    let shapes = graph.shapes().unwrap();
    let output_shape = shapes[graph.output()];

    let n = fixture.tensor("input").shape()[0];
    let inputs = permuted(fixture.tensor("input").data(), graph.input_shape(), true);
    let pass = Pass { plan: &plan, n, inputs: &inputs, keys: &[], seed: 0 };
    forward::run(&pass, &mut parameters, &mut workspace);
    let output = permuted(workspace.read(&pass, plan.output), output_shape, false);
    assert_close_to_scale(&format!("{name}: output"), &output, fixture.tensor("output").data(), TOLERANCE);

    let upstream = permuted(fixture.tensor("grad_output").data(), output_shape, true);
    let grad_output = plan.grad_output.unwrap();
    let mut buffer = workspace.take(&pass, grad_output);
    buffer[..upstream.len()].copy_from_slice(&upstream);
    workspace.put(&pass, grad_output, buffer);
    backward::run(&pass, &mut parameters, &mut workspace);

    let last = plan.backward.last().unwrap();
    assert_eq!(graph.nodes()[plan.steps[last.step].node].name, PROBE);
    let grad_input = permuted(workspace.read(&pass, last.grad_output), graph.input_shape(), false);
    assert_close_to_scale(&format!("{name}: grad.input"), &grad_input, fixture.tensor("grad.input").data(), TOLERANCE);
    for (tensor, grad) in parameters.gradients() {
        if let Some(expected) = fixture.tensors.get(&format!("grad.{tensor}")) {
            assert_close_to_scale(&format!("{name}: grad.{tensor}"), grad.data(), expected.data(), TOLERANCE);
        } else {
            assert!(tensor.starts_with(PROBE), "{name}: no expected gradient of {tensor}");
        }
    }
    let trained = parameters.trained_state();
    for (tensor, expected) in fixture.under("after.") {
        assert_close_to_scale(&format!("{name}: after.{tensor}"), trained[&tensor].data(), expected.data(), TOLERANCE);
    }
}

#[test]
fn outputs_gradients_and_statistics_are_pytorchs() {
    for fixture in fixture::all() {
        if let Some(graph) = &fixture.graph {
            check_network(&fixture, graph);
        }
    }
}

#[test]
fn losses_and_their_gradients_are_pytorchs() {
    for fixture in fixture::all() {
        let Some(expected) = &fixture.loss else { continue };
        let input = fixture.tensor("input");
        let classes = input.shape()[1];
        let loss = Criterion {
            label_smoothing: f64::from(expected.label_smoothing),
            class_weights: fixture.tensors.get("class_weights").map(Tensor::data),
        };
        let mut grad = vec![0.0; input.data().len()];
        let targets = |name| fixture.tensors.get(name).map(Tensor::data);
        let labels = None
            .or(targets("probabilities").map(Labels::Probabilities))
            .or(targets("answers").map(Labels::Binary))
            .or(targets("values").map(Labels::Values))
            .unwrap_or(Labels::Classes(&expected.labels));
        let value = loss.evaluate(input.data(), classes, labels, Some(&mut grad)).mean() as f32;
        // The loss is computed in f64; only storing it as f32 rounds.
        assert_close_to_scale(&fixture.name, &[value], fixture.tensor("output").data(), 1e-6);
        assert_close_to_scale(&fixture.name, &grad, fixture.tensor("grad.input").data(), 1e-6);
    }
}
