//! What the Session contract promises, on the CPU engine.

use regraft_engine::{
    Batch, BatchNormMode, Engine, Error, Labels, Losses, Precision, Session, SessionOptions, SessionState, StepOptions,
    Targets, UpdateRule, Want,
};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Graph, Shape, StateDict, Trainable, zoo};
use regraft_testing::pattern;

const SIDE: usize = 32;
const CLASSES: usize = 4;

fn network(name: &str) -> (Graph, StateDict) {
    let graph = zoo::build(name, CLASSES).unwrap().with_input_shape(Shape::rgb(SIDE)).unwrap();
    let state = pattern::state(&graph);
    (graph, state)
}

fn options(graph: &Graph, trainable: Trainable, batch_norm: BatchNormMode) -> SessionOptions {
    let update = UpdateRule::Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };
    SessionOptions {
        trainable,
        batch_norm,
        update,
        seed: 7,
        precision: Precision::F32,
        ..SessionOptions::inference(graph)
    }
}

fn samples(n: usize) -> (Vec<f32>, Vec<u64>, Vec<usize>) {
    (
        pattern::values("images", n * 3 * SIDE * SIDE),
        (100..100 + n as u64).collect(),
        (0..n).map(|i| i % CLASSES).collect(),
    )
}

fn step(session: &mut dyn Session, n: usize) -> Losses {
    let (inputs, keys, labels) = samples(n);
    let targets =
        Targets { labels: Labels::Classes(&labels), label_smoothing: 0.1, class_weights: Some(&[1.0, 2.0, 0.5, 1.5]) };
    session.accumulate(Batch { input: inputs[..].into(), sample_keys: &keys }, targets, Want::Logits).unwrap()
}

fn update(session: &mut dyn Session, lr: f64) {
    session.step(&StepOptions { lr, ..StepOptions::default() }).unwrap();
}

fn infer(session: &mut dyn Session, graph: &Graph, images: &[f32]) -> Vec<f32> {
    session.infer(images.into(), &[graph.output()]).unwrap().remove(0).into_data()
}

fn bits(state: &StateDict) -> Vec<u32> {
    state.values().flat_map(|tensor| tensor.data()).map(|x| x.to_bits()).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for name in ["resnet18", "mobilenet_v2", "squeezenet1_1", "vgg11"] {
        let (graph, state) = network(name);
        let train = |threads| {
            let engine = CpuEngine::new(threads).unwrap();
            let options = options(&graph, Trainable::all(&graph), BatchNormMode::Train);
            let mut session = engine.compile(&graph, &state, options).unwrap();
            for n in [3, 2] {
                step(session.as_mut(), n);
                update(session.as_mut(), 1e-3);
            }
            (bits(&session.weights().unwrap()), infer(session.as_mut(), &graph, &samples(2).0))
        };
        assert!(train(1) == train(3), "{name}");
    }
}

#[test]
fn what_is_frozen_never_changes() {
    let (graph, state) = network("resnet18");
    let engine = CpuEngine::new(2).unwrap();
    let trainable = Trainable::from_layer(&graph, "layer4").unwrap();
    let mut session = engine.compile(&graph, &state, options(&graph, trainable, BatchNormMode::Train)).unwrap();
    step(session.as_mut(), 4);
    update(session.as_mut(), 0.1);
    let after = session.weights().unwrap();
    // What is not exported must still be what it was: a fresh session from it infers the same bits.
    let mut merged = state.clone();
    merged.extend(after.clone());
    let mut fresh =
        engine.compile(&graph, &merged, options(&graph, Trainable::none(&graph), BatchNormMode::Frozen)).unwrap();
    assert_eq!(infer(fresh.as_mut(), &graph, &samples(2).0), infer(session.as_mut(), &graph, &samples(2).0));
    for spec in graph.parameters() {
        let trained = spec.name.starts_with("layer4") || spec.name.starts_with("fc");
        assert_eq!(after.contains_key(&spec.name), trained, "{}", spec.name);
        assert!(!trained || after[&spec.name] != state[&spec.name], "{} should have moved", spec.name);
    }
    // Frozen statistics: weight and bias of a trained batch norm move, its running statistics do not.
    let trainable = Trainable::all(&graph);
    let mut session = engine.compile(&graph, &state, options(&graph, trainable, BatchNormMode::Frozen)).unwrap();
    step(session.as_mut(), 4);
    update(session.as_mut(), 0.1);
    let after = session.weights().unwrap();
    assert!(!after.contains_key("bn1.running_mean") && after["bn1.weight"] != state["bn1.weight"]);
}

#[test]
fn a_restored_session_goes_on_to_the_same_bits() {
    for rule in [
        UpdateRule::Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: true },
        UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
    ] {
        let (graph, state) = network("mobilenet_v2");
        let engine = CpuEngine::new(2).unwrap();
        let options = SessionOptions { update: rule, ..options(&graph, Trainable::all(&graph), BatchNormMode::Train) };
        let mut whole = engine.compile(&graph, &state, options.clone()).unwrap();
        step(whole.as_mut(), 3);
        update(whole.as_mut(), 1e-3);
        let saved = whole.state().unwrap();
        let mut resumed = engine.compile(&graph, &state, options).unwrap();
        resumed.restore(&saved).unwrap();
        for session in [&mut whole, &mut resumed] {
            step(session.as_mut(), 2);
            update(session.as_mut(), 1e-3);
        }
        assert_eq!(bits(&whole.weights().unwrap()), bits(&resumed.weights().unwrap()));
    }
}

#[test]
fn a_number_is_learnt_by_a_single_output() {
    let graph = zoo::build("mobilenet_v2", 1).unwrap().with_input_shape(Shape::rgb(SIDE)).unwrap();
    let state = pattern::state(&graph);
    let engine = CpuEngine::new(2).unwrap();
    let head = Trainable::only(&graph, graph.head().unwrap());
    let mut session = engine.compile(&graph, &state, options(&graph, head, BatchNormMode::Frozen)).unwrap();
    let ((inputs, keys, _), values) = (samples(6), [3.0, -1.0, 0.5, 2.0, 7.0, 0.0]);
    let targets = Targets { labels: Labels::Values(&values), label_smoothing: 0.0, class_weights: None };
    let mut losses = Vec::new();
    for _ in 0..100 {
        let found =
            session.accumulate(Batch { input: inputs[..].into(), sample_keys: &keys }, targets, Want::Logits).unwrap();
        assert_eq!((found.weight, found.logits.as_ref().unwrap().len()), (6.0, 6));
        let squared = |(z, y): (&f32, &f32)| f64::from(z - y).powi(2);
        let sum: f64 = found.logits.as_ref().unwrap().iter().zip(&values).map(squared).sum();
        // The differences were rounded to f32 here.
        assert!((found.sum / sum - 1.0).abs() < 1e-6, "{found:?}");
        losses.push(found.sum);
        update(session.as_mut(), 1e-2);
    }
    assert!(losses[99] < 0.5 * losses[0], "{} and {}", losses[0], losses[99]);
}

#[test]
fn a_session_without_training_survives_an_empty_update() {
    let (graph, state) = network("resnet18");
    let engine = CpuEngine::new(1).unwrap();
    let mut session =
        engine.compile(&graph, &state, options(&graph, Trainable::none(&graph), BatchNormMode::Frozen)).unwrap();
    let before = infer(session.as_mut(), &graph, &samples(1).0);
    session.restore(&SessionState::default()).unwrap();
    assert!(matches!(session.step(&StepOptions::default()), Err(Error::NothingToTrain)));
    assert_eq!(infer(session.as_mut(), &graph, &samples(1).0), before);
}

#[test]
fn a_training_batch_norm_is_not_given_a_single_value_per_channel() {
    // At 32 pixels the maps of layer4 have one pixel.
    let (graph, state) = network("resnet18");
    let engine = CpuEngine::new(1).unwrap();
    let (inputs, keys, labels) = samples(1);
    let batch = Batch { input: inputs[..].into(), sample_keys: &keys };
    let targets = Targets { labels: Labels::Classes(&labels), label_smoothing: 0.0, class_weights: None };
    let compile = |trainable, mode| engine.compile(&graph, &state, options(&graph, trainable, mode)).unwrap();

    let mut session = compile(Trainable::all(&graph), BatchNormMode::Train);
    let error = session.accumulate(batch, targets, Want::Logits).unwrap_err();
    assert!(matches!(error, Error::Batch(_)), "{error:?}");
    let message = error.to_string();
    for word in ["\"layer4.0.bn1\"", "single value per channel", "`batch_size`", "`imgsz`", "`bn`"] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    // The layers before it have not moved either.
    for (name, tensor) in session.weights().unwrap() {
        assert_eq!(tensor, state[&name], "{name} has moved");
    }
    step(session.as_mut(), 2);

    compile(Trainable::all(&graph), BatchNormMode::Frozen).accumulate(batch, targets, Want::Logits).unwrap();
    let head = Trainable::only(&graph, graph.head().unwrap());
    compile(head, BatchNormMode::Train).accumulate(batch, targets, Want::Logits).unwrap();
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let (graph, mut state) = network("squeezenet1_1");
    let engine = CpuEngine::new(1).unwrap();
    let mut session =
        engine.compile(&graph, &state, options(&graph, Trainable::all(&graph), BatchNormMode::Train)).unwrap();
    let (inputs, keys, labels) = samples(2);
    fn targets(labels: &[usize]) -> Targets<'_> {
        Targets { labels: Labels::Classes(labels), label_smoothing: 0.0, class_weights: None }
    }
    let mut try_batch = |inputs: &[f32], keys: &[u64], labels: &[usize]| {
        session
            .accumulate(Batch { input: inputs.into(), sample_keys: keys }, targets(labels), Want::Losses)
            .unwrap_err()
            .to_string()
    };
    assert!(try_batch(&inputs[1..], &keys, &labels).contains("3x32x32"));
    assert!(try_batch(&[], &[], &[]).contains("whole number"));
    assert!(try_batch(&inputs, &keys[1..], &labels).contains("1 keys"));
    assert!(try_batch(&inputs, &keys, &[0, CLASSES]).contains("label 4"));
    let too_few = Targets { labels: Labels::Probabilities(&[0.25; 4]), ..targets(&labels) };
    let error = session
        .accumulate(Batch { input: inputs[..].into(), sample_keys: &keys }, too_few, Want::Logits)
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 samples of 4 classes come with 4 probabilities"), "{error}");
    let too_few = Targets { labels: Labels::Values(&[0.25; 9]), ..targets(&labels) };
    let error = session
        .accumulate(Batch { input: inputs[..].into(), sample_keys: &keys }, too_few, Want::Logits)
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 samples of 4 outputs come with 9 values"), "{error}");
    let mut idle =
        engine.compile(&graph, &state, options(&graph, Trainable::none(&graph), BatchNormMode::Train)).unwrap();
    let batch = Batch { input: inputs[..].into(), sample_keys: &keys };
    assert!(matches!(idle.accumulate(batch, targets(&labels), Want::Logits), Err(Error::NothingToTrain)));
    state.remove("features.3.squeeze.bias");
    let error =
        engine.compile(&graph, &state, options(&graph, Trainable::none(&graph), BatchNormMode::Train)).err().unwrap();
    assert!(error.to_string().contains("features.3.squeeze.bias"));
}
