use regraft_graph::{Conv2d, Graph, NodeId, Op, Shape, Trainable, zoo};

use super::*;
use crate::{BatchNormMode, Error};

/// The plan of a whole network.
fn whole(graph: &Graph, mode: Mode) -> Plan {
    Plan::new(graph, Region { input: 0, outputs: &[graph.output()] }, mode).unwrap()
}

fn node(graph: &Graph, name: &str) -> NodeId {
    graph.nodes().iter().position(|node| node.name == name).unwrap()
}

/// Names of the layers whose steps these are.
fn names<'a>(graph: &'a Graph, steps: impl IntoIterator<Item = &'a Step>) -> Vec<&'a str> {
    steps.into_iter().map(|step| graph.nodes()[step.node].name.as_str()).collect()
}

/// Names of the layers of the backward steps.
fn backward_names<'a>(graph: &'a Graph, plan: &'a Plan) -> Vec<&'a str> {
    names(graph, plan.backward.iter().map(|back| &plan.steps[back.step]))
}

/// Elements of all buffers for one sample.
fn elements(plan: &Plan) -> usize {
    plan.buffers.iter().sum()
}

fn convolutions(plan: &Plan) -> usize {
    plan.steps.iter().filter(|step| matches!(step.kind, Kind::Conv { .. })).count()
}

#[test]
fn inference_of_resnet18_is_convolutions_two_poolings_and_one_linear() {
    let plan = whole(&zoo::build("resnet18", 10).unwrap(), Mode::Inference);
    assert_eq!((convolutions(&plan), plan.steps.len()), (20, 20 + 3));
    assert_eq!(plan.steps.iter().filter(|step| step.residual.is_some()).count(), 8);
    assert!(plan.backward.is_empty());
}

#[test]
fn inference_shares_buffers() {
    let plan = whole(&zoo::build("resnet18", 10).unwrap(), Mode::Inference);
    let largest = 64 * 112 * 112;
    assert!(elements(&plan) <= largest + 2 * 64 * 56 * 56, "{} elements", elements(&plan));
}

#[test]
fn training_of_the_head_keeps_nothing_and_has_no_backward_step_below_it() {
    let graph = zoo::build("resnet18", 10).unwrap();
    let trainable = Trainable::only(&graph, graph.head().unwrap());
    let plan = whole(&graph, Mode::Training(&trainable, BatchNormMode::Train));
    assert_eq!(plan.backward.len(), 1);
    assert_eq!(plan.backward[0].grad_inputs, [None]);
    let inference = elements(&whole(&graph, Mode::Inference));
    assert!(elements(&plan) <= inference + 2 * 512, "{} and {inference}", elements(&plan));
}

#[test]
fn backward_stops_at_the_first_trainable_layer() {
    let graph = zoo::build("resnet18", 10).unwrap();
    let trainable = Trainable::from_layer(&graph, "layer4").unwrap();
    let plan = whole(&graph, Mode::Training(&trainable, BatchNormMode::Train));
    for name in backward_names(&graph, &plan) {
        assert!(["layer4", "avgpool", "fc"].iter().any(|part| name.starts_with(part)), "{name}");
    }
    // layer4.0.conv1 and layer4.0.downsample.0 learn, but nothing below wants their inputs' gradients.
    let lowest = plan.backward.iter().filter(|back| back.grad_inputs == [None]).map(|back| &plan.steps[back.step]);
    assert_eq!(names(&graph, lowest), ["layer4.0.downsample.0", "layer4.0.conv1"]);
}

#[test]
fn values_alive_together_never_share_a_buffer() {
    for &name in zoo::NAMES {
        let graph = zoo::build(name, 10).unwrap();
        let trainable = Trainable::all(&graph);
        let middle = graph.nodes()[graph.output() / 2].inputs[0];
        for (mode, outputs) in [
            (Mode::Inference, vec![graph.output()]),
            (Mode::Inference, vec![graph.output(), middle]),
            (Mode::Training(&trainable, BatchNormMode::Train), vec![graph.output()]),
            (Mode::Gradient, vec![graph.output(), middle]),
        ] {
            let plan = Plan::new(&graph, Region { input: 0, outputs: &outputs }, mode).unwrap();
            let lives = plan.lifetimes();
            for a in 1..lives.len() {
                for b in a + 1..lives.len() {
                    let apart = lives[a].last < lives[b].first || lives[b].last < lives[a].first;
                    assert!(apart || plan.values[a].buffer != plan.values[b].buffer, "{name}: {a} and {b}");
                }
            }
        }
    }
}

#[test]
fn requested_outputs_are_not_fused_away_and_live_to_the_end() {
    let graph = zoo::build("resnet18", 10).unwrap();
    let plain = whole(&graph, Mode::Inference);
    let wanted = ["conv1", "bn1", "layer1.0.bn2", "layer1.0.relu"].map(|name| node(&graph, name));
    let outputs = [&wanted[..], &[graph.output()]].concat();
    let plan = Plan::new(&graph, Region { input: 0, outputs: &outputs }, Mode::Inference).unwrap();
    assert_eq!(plan.outputs.len(), outputs.len());
    for (&value, &node) in plan.outputs.iter().zip(&outputs) {
        assert_eq!(plan.values[value].len, graph.shapes().unwrap()[node].len());
        let others = plan.values.iter().enumerate().filter(|(other, _)| *other != value);
        let shares = others.filter(|(_, other)| other.buffer == plan.values[value].buffer);
        // A buffer may have held other values before, but none after.
        let written = |value: ValueId| plan.steps.iter().position(|step| step.output == value);
        assert!(shares.into_iter().all(|(other, _)| written(other) < written(value)), "{}", graph.nodes()[node].name);
    }
    // bn1 and its ReLU, and the addition in layer1.0 with its ReLU, are steps of their own now.
    assert_eq!(plan.steps.len(), plain.steps.len() + 3, "{:?}", names(&graph, &plan.steps));
}

#[test]
fn regions_compute_only_what_their_outputs_need() {
    let graph = zoo::build("resnet18", 10).unwrap();
    let (from, to) = (node(&graph, "layer2.1.relu"), node(&graph, "layer3.0.relu"));
    let plan = Plan::new(&graph, Region { input: from, outputs: &[to] }, Mode::Inference).unwrap();
    assert_eq!(names(&graph, &plan.steps), ["layer3.0.conv1", "layer3.0.conv2", "layer3.0.downsample.0"]);
    assert_eq!((plan.values[0].len, plan.values[plan.outputs[0]].len), (128 * 28 * 28, 256 * 14 * 14));
    let trunk = Plan::new(&graph, Region { input: 0, outputs: &[from] }, Mode::Inference).unwrap();
    let head = Plan::new(&graph, Region { input: from, outputs: &[graph.output()] }, Mode::Inference).unwrap();
    assert_eq!(trunk.steps.len() + head.steps.len(), whole(&graph, Mode::Inference).steps.len());
}

#[test]
fn region_reading_past_its_input_is_an_error() {
    let graph = zoo::build("resnet18", 10).unwrap();
    let inside = node(&graph, "layer3.1.conv1");
    let region = Region { input: inside, outputs: &[graph.output()] };
    let error = Plan::new(&graph, region, Mode::Inference).err().unwrap().to_string();
    assert!(error.contains("layer3.0.relu") && error.contains("layer3.1.conv1"), "{error}");
    let error = Plan::new(&graph, Region { input: 0, outputs: &[999] }, Mode::Inference).err().unwrap();
    assert!(matches!(&error, Error::Output { node, .. } if node == "999"), "{error}");
}

#[test]
fn gradient_mode_goes_back_to_one_value() {
    let graph = zoo::build("resnet18", 10).unwrap();
    let wanted = node(&graph, "layer4.0.relu");
    let region = Region { input: 0, outputs: &[graph.output(), wanted] };
    let plan = Plan::new(&graph, region, Mode::Gradient).unwrap();
    assert!(plan.backward.iter().all(|back| !back.trains));
    assert_eq!(backward_names(&graph, &plan), ["fc", "avgpool", "layer4.1.conv2", "layer4.1.conv1"]);
    let gradient = plan.gradient.unwrap();
    assert_eq!(plan.values[gradient].len, 512 * 7 * 7);
    // The block's input is added to its result, so the gradient takes the result's place.
    assert_eq!(plan.backward[2].grad_residual, Some((gradient, false)));
    assert_eq!(plan.backward[3].grad_inputs, [Some((gradient, true))]);
    assert_eq!(convolutions(&plan), 20);
    assert!(plan.steps.iter().all(|step| !matches!(step.kind, Kind::BatchNorm { .. })), "all are folded");
}

#[test]
fn gradient_of_an_independent_value_is_absent() {
    let mut graph = Graph::new(Shape::rgb(4));
    let used = graph.push("used", Op::Conv2d(Conv2d::new(3, 3, 1)), &[0]);
    let unused = graph.push("unused", Op::ReLU, &[used]);
    graph.push("output", Op::Sigmoid, &[used]);
    let gradient = |node| {
        let outputs = [graph.output(), node];
        Plan::new(&graph, Region { input: 0, outputs: &outputs }, Mode::Gradient).unwrap().gradient
    };
    assert!(gradient(unused).is_none());
    assert!(gradient(used).is_some() && gradient(0).is_some() && gradient(graph.output()).is_some());
}

#[test]
fn masks_are_keyed_from_the_input_of_the_region_on() {
    let graph = zoo::build("mobilenet_v2", 10).unwrap();
    let boundary = node(&graph, "flatten");
    let trainable = Trainable::only(&graph, graph.head().unwrap());
    let region = Region { input: boundary, outputs: &[graph.output()] };
    let plan = Plan::new(&graph, region, Mode::Training(&trainable, BatchNormMode::Train)).unwrap();
    assert!(matches!(plan.steps[0].kind, Kind::Dropout { .. }));
    assert_eq!(plan.mask_layer(&plan.steps[0]), 1);
}

#[test]
fn interleaved_steps_share_no_buffer() {
    let graph = zoo::build("vgg11", 10).unwrap();
    let region = Region { input: 0, outputs: &[graph.output()] };
    let plan = Plan::interleaving(&graph, region, Mode::Inference, |_| vec![0..3, 3..6]).unwrap();
    let mut buffers: Vec<usize> = plan.steps[..3].iter().map(|step| plan.values[step.output].buffer).collect();
    buffers.sort_unstable();
    buffers.dedup();
    assert_eq!(buffers.len(), 3);
    assert!(elements(&plan) > elements(&whole(&graph, Mode::Inference)));
}
