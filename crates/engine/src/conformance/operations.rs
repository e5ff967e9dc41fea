//! Operations, small networks and losses against PyTorch's outputs and gradients (`reference/ops`).

use regraft_graph::{Conv2d, Graph, Linear, Node, Op, Shape, StateDict, Tensor, Trainable};
use regraft_testing::assert_close_to_scale;
use regraft_testing::fixture::{self, Fixture};

use super::Tolerances;
use super::common::{PLAIN, channels_last, infer};
use crate::{Batch, BatchNormMode, Engine, Labels, Losses, Outputs, Session, SessionOptions, Targets, Want};

/// The layer that holds a batch of inputs as its weight.
///
/// Sample `i` of its own input is one in place `i` and zero elsewhere, so that it gives input `i`, and so that the gradient
/// of the weight is the gradient of every input. Nothing but the contract is needed to see that.
const HOLDER: &str = "holder";

/// A layer that makes the output a vector in PyTorch's order, as losses need it.
const VECTOR: &str = "vector";

/// `graph` behind a layer that holds the inputs of `n` samples, with a vector as its output.
fn with_holder(graph: &Graph, n: usize) -> Graph {
    let (shape, op) = match graph.input_shape() {
        Shape::Map { channels, height, width } => {
            // Of a single padded pixel, each output sees one tap: the filter, turned around.
            let (kernel_size, padding) = ([height, width], [height - 1, width - 1]);
            let conv = Conv2d { kernel_size, padding, ..Conv2d::new(n, channels, 1) };
            (Shape::Map { channels: n, height: 1, width: 1 }, Op::Conv2d(conv))
        }
        Shape::Features(features) => {
            (Shape::Features(n), Op::Linear(Linear { in_features: n, out_features: features, bias: false }))
        }
    };
    let mut nodes = vec![graph.nodes()[0].clone(), Node { name: HOLDER.into(), op, inputs: vec![0] }];
    for node in &graph.nodes()[1..] {
        nodes.push(Node { inputs: node.inputs.iter().map(|input| input + 1).collect(), ..node.clone() });
    }
    nodes.push(Node { name: VECTOR.into(), op: Op::Flatten, inputs: vec![nodes.len() - 1] });
    Graph::from_nodes(shape, nodes).expect("the network fits behind its inputs")
}

/// Turns a filter around and exchanges its two channel dimensions: from `[n, channels, height, width]` to the weight that
/// gives it, or back.
fn held(tensor: &Tensor) -> Tensor {
    let (rows, columns) = (tensor.shape()[0], tensor.shape()[1]);
    let pixels: usize = tensor.shape()[2..].iter().product();
    let mut shape = tensor.shape().to_vec();
    shape.swap(0, 1);
    let mut data = vec![0.0; tensor.data().len()];
    for (i, &value) in tensor.data().iter().enumerate() {
        let (row, column, pixel) = (i / pixels / columns, i / pixels % columns, i % pixels);
        data[(column * rows + row) * pixels + (pixels - 1 - pixel)] = value;
    }
    Tensor::new(shape, data)
}

/// One in the place of each sample's number.
fn selectors(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect()
}

/// A network whose inputs are held by its first layer, and all of which learns.
struct Held {
    n: usize,
    session: Box<dyn Session>,
}

impl Held {
    fn new(engine: &dyn Engine, graph: &Graph, input: &Tensor, state: StateDict, batch_norm: BatchNormMode) -> Self {
        let n = input.shape()[0];
        let graph = with_holder(graph, n);
        let mut state = state;
        state.insert(format!("{HOLDER}.weight"), held(input));
        let options = SessionOptions {
            trainable: Trainable::all(&graph),
            batch_norm,
            update: PLAIN,
            ..SessionOptions::inference(&graph)
        };
        Self { n, session: engine.compile(&graph, &state, options).unwrap() }
    }

    fn accumulate(&mut self, targets: Targets) -> Losses {
        let (selectors, keys) = (selectors(self.n), (0..self.n as u64).collect::<Vec<_>>());
        let batch = Batch { input: selectors[..].into(), sample_keys: &keys };
        self.session.accumulate(batch, targets, Want::Logits).unwrap()
    }

    /// The gradients of the inputs and of the parameters.
    fn gradients(&self) -> (Tensor, StateDict) {
        let mut gradients = self.session.state().unwrap().pending.gradients;
        let input = gradients.remove(&format!("{HOLDER}.weight")).expect("the inputs learn");
        (held(&input), gradients)
    }
}

fn values(values: &[f32]) -> Targets<'_> {
    Targets { labels: Labels::Values(values), label_smoothing: 0.0, class_weights: None }
}

/// Training and inference of one case.
fn check_network(engine: &dyn Engine, fixture: &Fixture, graph: &Graph, tolerances: &Tolerances) {
    let name = &fixture.name;
    let close = |what: &str, found: &[f32], expected: &[f32]| {
        assert_close_to_scale(&format!("{name}: {what}"), found, expected, tolerances.operation);
    };
    let (input, output) = (fixture.tensor("input"), fixture.tensor("output"));
    let batch_norm = if fixture.training { BatchNormMode::Train } else { BatchNormMode::Frozen };
    let compile = || Held::new(engine, graph, input, fixture.under("param."), batch_norm);
    // The squared error has the gradient 2 (z - y) / len, so the targets that give the wanted one depend on the output.
    let logits = compile().accumulate(values(&vec![0.0; output.data().len()])).logits.expect("they were wanted");
    close("output", &logits, output.data());
    let half = logits.len() as f32 / 2.0;
    let upstream = fixture.tensor("grad_output").data();
    let targets: Vec<f32> = logits.iter().zip(upstream).map(|(z, gradient)| z - gradient * half).collect();
    let mut held = compile();
    held.accumulate(values(&targets));
    let (grad_input, gradients) = held.gradients();
    close("grad.input", grad_input.data(), fixture.tensor("grad.input").data());
    for (tensor, gradient) in gradients {
        close(&format!("grad.{tensor}"), gradient.data(), fixture.tensor(&format!("grad.{tensor}")).data());
    }
    let weights = held.session.weights().unwrap();
    for (tensor, expected) in fixture.under("after.") {
        close(&format!("after.{tensor}"), weights[&tensor].data(), expected.data());
    }
    if !fixture.training {
        let images = channels_last(input.data(), graph.input_shape());
        let options = SessionOptions { outputs: Outputs::Any, ..SessionOptions::inference(graph) };
        let mut session = engine.compile(graph, &fixture.under("param."), options).unwrap();
        close("inference", &infer(session.as_mut(), &images, graph.output()), output.data());
    }
}

/// Every operation and some composed networks: outputs, gradients and running statistics are PyTorch's.
pub fn operations(engine: &dyn Engine, tolerances: &Tolerances) {
    for fixture in fixture::all() {
        if let Some(graph) = &fixture.graph {
            check_network(engine, &fixture, graph, tolerances);
        }
    }
}

/// Every loss and its gradient are PyTorch's.
pub fn losses(engine: &dyn Engine, tolerances: &Tolerances) {
    for fixture in fixture::all() {
        let Some(expected) = &fixture.loss else { continue };
        let input = fixture.tensor("input");
        let classes = input.shape()[1];
        let given = |name| fixture.tensors.get(name).map(Tensor::data);
        let labels = None
            .or(given("probabilities").map(Labels::Probabilities))
            .or(given("answers").map(Labels::Binary))
            .or(given("values").map(Labels::Values))
            .unwrap_or(Labels::Classes(&expected.labels));
        let label_smoothing = f64::from(expected.label_smoothing);
        let targets = Targets { labels, label_smoothing, class_weights: given("class_weights") };
        let graph = Graph::new(Shape::Features(classes));
        let mut held = Held::new(engine, &graph, input, StateDict::new(), BatchNormMode::Train);
        let losses = held.accumulate(targets);
        let close = |what: &str, found: &[f32], expected: &[f32]| {
            assert_close_to_scale(&format!("{}: {what}", fixture.name), found, expected, tolerances.loss);
        };
        let logits = losses.logits.expect("they were wanted");
        close("logits", &logits, input.data());
        close("loss", &[(losses.sum / losses.weight) as f32], fixture.tensor("output").data());
        close("gradient", held.gradients().0.data(), fixture.tensor("grad.input").data());
        assert_eq!(losses.correct, labels.count_correct(input.data(), classes), "{}", fixture.name);
        let weight = match (labels, targets.class_weights) {
            (Labels::Classes(classes), Some(weights)) => classes.iter().map(|&class| f64::from(weights[class])).sum(),
            _ => held.n as f64,
        };
        // A sum of a few weights.
        assert!((losses.weight - weight).abs() < 1e-5, "{}: weight {} is not {weight}", fixture.name, losses.weight);
    }
}
