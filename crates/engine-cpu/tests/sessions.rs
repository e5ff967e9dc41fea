//! What the Session contract promises, on the CPU engine.

use regraft_engine::{
    Batch, BatchNormMode, Engine, Error, Labels, Losses, Precision, Session, SessionOptions, Targets, UpdateRule,
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

fn options(trainable: Trainable, batch_norm: BatchNormMode) -> SessionOptions {
    let update = UpdateRule::Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };
    SessionOptions {
        trainable,
        batch_norm,
        update,
        seed: 7,
        precision: Precision::F32,
        infer_precision: Precision::F32,
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
    session.gradients(Batch { inputs: &inputs, keys: &keys }, targets).unwrap()
}

/// Some yes, some no: `[n, CLASSES]`.
fn answers(n: usize) -> Vec<f32> {
    (0..n * CLASSES).map(|i| (i % 3 == 0) as u8 as f32).collect()
}

fn binary_step(session: &mut dyn Session, n: usize) -> Losses {
    let ((inputs, keys, _), answers) = (samples(n), answers(n));
    let weights = [1.0, 2.0, 0.5, 1.5];
    let targets = Targets { labels: Labels::Binary(&answers), label_smoothing: 0.1, class_weights: Some(&weights) };
    session.gradients(Batch { inputs: &inputs, keys: &keys }, targets).unwrap()
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
            let options = options(Trainable::all(&graph), BatchNormMode::Train);
            let mut session = engine.compile(&graph, &state, options).unwrap();
            for n in [3, 2] {
                step(session.as_mut(), n);
                session.update(1e-3);
            }
            (bits(&session.trained_state()), session.infer(&samples(2).0).unwrap())
        };
        assert!(train(1) == train(3), "{name}");
    }
}

#[test]
fn what_is_frozen_never_changes() {
    let (graph, state) = network("resnet18");
    let engine = CpuEngine::new(2).unwrap();
    let trainable = Trainable::from_layer(&graph, "layer4").unwrap();
    let mut session = engine.compile(&graph, &state, options(trainable, BatchNormMode::Train)).unwrap();
    step(session.as_mut(), 4);
    session.update(0.1);
    let after = session.trained_state();
    // What is not exported must still be what it was: a fresh session from it infers the same bits.
    let mut merged = state.clone();
    merged.extend(after.clone());
    let mut fresh = engine.compile(&graph, &merged, options(Trainable::none(&graph), BatchNormMode::Frozen)).unwrap();
    assert_eq!(fresh.infer(&samples(2).0).unwrap(), session.infer(&samples(2).0).unwrap());
    for spec in graph.parameters() {
        let trained = spec.name.starts_with("layer4") || spec.name.starts_with("fc");
        assert_eq!(after.contains_key(&spec.name), trained, "{}", spec.name);
        assert!(!trained || after[&spec.name] != state[&spec.name], "{} should have moved", spec.name);
    }
    // Frozen statistics: weight and bias of a trained batch norm move, its running statistics do not.
    let trainable = Trainable::all(&graph);
    let mut session = engine.compile(&graph, &state, options(trainable, BatchNormMode::Frozen)).unwrap();
    step(session.as_mut(), 4);
    session.update(0.1);
    let after = session.trained_state();
    assert!(!after.contains_key("bn1.running_mean") && after["bn1.weight"] != state["bn1.weight"]);
}

#[test]
fn a_restored_session_goes_on_to_the_same_bits() {
    for update in [
        UpdateRule::Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: true },
        UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
    ] {
        let (graph, state) = network("mobilenet_v2");
        let engine = CpuEngine::new(2).unwrap();
        let options = SessionOptions { update, ..options(Trainable::all(&graph), BatchNormMode::Train) };
        let mut whole = engine.compile(&graph, &state, options.clone()).unwrap();
        step(whole.as_mut(), 3);
        whole.update(1e-3);
        let (saved, optimizer) = (whole.trained_state(), whole.optimizer_state());
        let mut resumed = engine.compile(&graph, &state, options).unwrap();
        resumed.restore_trained(&saved).unwrap();
        resumed.restore_optimizer(&optimizer).unwrap();
        for session in [&mut whole, &mut resumed] {
            step(session.as_mut(), 2);
            session.update(1e-3);
        }
        assert_eq!(bits(&whole.trained_state()), bits(&resumed.trained_state()));
    }
}

/// Data-parallel training as a wrapper: two sessions take their share of each batch, and their gradients are
/// weighed and summed. It needs nothing but the contract.
struct Shared(Vec<Box<dyn Session>>);

impl Shared {
    fn gradients(&mut self, n: usize, binary: bool) -> f64 {
        let (inputs, keys, labels) = samples(n);
        let answers = answers(n);
        let shares = self.0.len();
        let (pixels, each) = (inputs.len() / n, n.div_ceil(shares));
        let mut losses = Vec::new();
        for (i, session) in self.0.iter_mut().enumerate() {
            let mine = i * each..n.min((i + 1) * each);
            let batch = Batch { inputs: &inputs[mine.start * pixels..mine.end * pixels], keys: &keys[mine.clone()] };
            let labels = match binary {
                true => Labels::Binary(&answers[mine.start * CLASSES..mine.end * CLASSES]),
                false => Labels::Classes(&labels[mine]),
            };
            let targets = Targets { labels, label_smoothing: 0.1, class_weights: Some(&[1.0, 2.0, 0.5, 1.5]) };
            losses.push(session.gradients(batch, targets).unwrap());
        }
        let total: f64 = losses.iter().map(|l| l.weight).sum();
        let mut sums: Vec<Vec<f32>> = Vec::new();
        for (session, losses) in self.0.iter_mut().zip(&losses) {
            let (share, mut i) = ((losses.weight / total) as f32, 0);
            session.visit_gradients(&mut |_, grad| {
                if i == sums.len() {
                    sums.push(vec![0.0; grad.len()]);
                }
                sums[i].iter_mut().zip(grad).for_each(|(sum, g)| *sum += share * *g);
                i += 1;
            });
        }
        for session in &mut self.0 {
            let mut sums = sums.iter();
            session.visit_gradients(&mut |_, grad| grad.copy_from_slice(sums.next().unwrap()));
            session.update(1e-2);
        }
        losses.iter().map(|l| l.sum).sum::<f64>() / total
    }
}

#[test]
fn the_contract_is_enough_for_data_parallel_training() {
    // Frozen statistics and keyed dropout: each sample then contributes the same wherever it is.
    for (name, binary) in [("mobilenet_v2", false), ("squeezenet1_1", false), ("squeezenet1_1", true)] {
        let (graph, state) = network(name);
        let engine = CpuEngine::new(2).unwrap();
        let compile =
            || engine.compile(&graph, &state, options(Trainable::all(&graph), BatchNormMode::Frozen)).unwrap();
        let mut alone = compile();
        let mut shared = Shared(vec![compile(), compile()]);
        for n in [5, 4] {
            let losses = if binary { binary_step(alone.as_mut(), n) } else { step(alone.as_mut(), n) };
            alone.update(1e-2);
            let loss = shared.gradients(n, binary);
            assert!((loss - losses.sum / losses.weight).abs() < 1e-5, "{name}: {loss} and {losses:?}");
        }
        let (one, two) = (alone.trained_state(), shared.0[0].trained_state());
        assert_eq!(two, shared.0[1].trained_state(), "{name}: the shares have drifted apart");
        for (name, tensor) in &one {
            // The sums are taken in another order: rounding, carried through two steps.
            regraft_testing::assert_close_to_scale(name, two[name].data(), tensor.data(), 1e-4);
        }
    }
}

#[test]
fn a_number_is_learnt_by_a_single_output() {
    let graph = zoo::build("mobilenet_v2", 1).unwrap().with_input_shape(Shape::rgb(SIDE)).unwrap();
    let state = pattern::state(&graph);
    let engine = CpuEngine::new(2).unwrap();
    let head = Trainable::only(&graph, graph.head().unwrap());
    let mut session = engine.compile(&graph, &state, options(head, BatchNormMode::Frozen)).unwrap();
    let ((inputs, keys, _), values) = (samples(6), [3.0, -1.0, 0.5, 2.0, 7.0, 0.0]);
    let targets = Targets { labels: Labels::Values(&values), label_smoothing: 0.0, class_weights: None };
    let mut losses = Vec::new();
    for _ in 0..100 {
        let found = session.gradients(Batch { inputs: &inputs, keys: &keys }, targets).unwrap();
        assert_eq!((found.weight, found.logits.len()), (6.0, 6));
        let squared = |(z, y): (&f32, &f32)| f64::from(z - y).powi(2);
        let sum: f64 = found.logits.iter().zip(&values).map(squared).sum();
        // The differences were rounded to f32 here.
        assert!((found.sum / sum - 1.0).abs() < 1e-6, "{found:?}");
        losses.push(found.sum);
        session.update(1e-2);
    }
    assert!(losses[99] < 0.5 * losses[0], "{} and {}", losses[0], losses[99]);
}

#[test]
fn a_session_without_training_survives_an_empty_update() {
    let (graph, state) = network("resnet18");
    let engine = CpuEngine::new(1).unwrap();
    let mut session = engine.compile(&graph, &state, options(Trainable::none(&graph), BatchNormMode::Frozen)).unwrap();
    let before = session.infer(&samples(1).0).unwrap();
    session.restore_trained(&StateDict::new()).unwrap();
    session.update(0.1);
    assert_eq!(session.infer(&samples(1).0).unwrap(), before);
}

#[test]
fn a_training_batch_norm_is_not_given_a_single_value_per_channel() {
    // At 32 pixels the maps of layer4 have one pixel.
    let (graph, state) = network("resnet18");
    let engine = CpuEngine::new(1).unwrap();
    let (inputs, keys, labels) = samples(1);
    let batch = Batch { inputs: &inputs, keys: &keys };
    let targets = Targets { labels: Labels::Classes(&labels), label_smoothing: 0.0, class_weights: None };
    let compile = |trainable, mode| engine.compile(&graph, &state, options(trainable, mode)).unwrap();

    let mut session = compile(Trainable::all(&graph), BatchNormMode::Train);
    let error = session.gradients(batch, targets).unwrap_err();
    assert!(matches!(error, Error::Batch(_)), "{error:?}");
    let message = error.to_string();
    for word in ["\"layer4.0.bn1\"", "single value per channel", "--batch-size", "--imgsz", "--bn frozen"] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    // The layers before it have not moved either.
    for (name, tensor) in session.trained_state() {
        assert_eq!(tensor, state[&name], "{name} has moved");
    }
    step(session.as_mut(), 2);

    compile(Trainable::all(&graph), BatchNormMode::Frozen).gradients(batch, targets).unwrap();
    let head = Trainable::only(&graph, graph.head().unwrap());
    compile(head, BatchNormMode::Train).gradients(batch, targets).unwrap();
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let (graph, mut state) = network("squeezenet1_1");
    let engine = CpuEngine::new(1).unwrap();
    let mut session = engine.compile(&graph, &state, options(Trainable::all(&graph), BatchNormMode::Train)).unwrap();
    let (inputs, keys, labels) = samples(2);
    fn targets(labels: &[usize]) -> Targets<'_> {
        Targets { labels: Labels::Classes(labels), label_smoothing: 0.0, class_weights: None }
    }
    let mut try_batch = |inputs: &[f32], keys: &[u64], labels: &[usize]| {
        session.gradients(Batch { inputs, keys }, targets(labels)).unwrap_err().to_string()
    };
    assert!(try_batch(&inputs[1..], &keys, &labels).contains("3x32x32"));
    assert!(try_batch(&[], &[], &[]).contains("whole number"));
    assert!(try_batch(&inputs, &keys[1..], &labels).contains("1 keys"));
    assert!(try_batch(&inputs, &keys, &[0, CLASSES]).contains("label 4"));
    let too_few = Targets { labels: Labels::Probabilities(&[0.25; 4]), ..targets(&labels) };
    let error = session.gradients(Batch { inputs: &inputs, keys: &keys }, too_few).unwrap_err().to_string();
    assert!(error.contains("2 samples of 4 classes come with 4 probabilities"), "{error}");
    let too_few = Targets { labels: Labels::Values(&[0.25; 9]), ..targets(&labels) };
    let error = session.gradients(Batch { inputs: &inputs, keys: &keys }, too_few).unwrap_err().to_string();
    assert!(error.contains("2 samples of 4 outputs come with 9 values"), "{error}");
    let mut idle = engine.compile(&graph, &state, options(Trainable::none(&graph), BatchNormMode::Train)).unwrap();
    let batch = Batch { inputs: &inputs, keys: &keys };
    assert!(matches!(idle.gradients(batch, targets(&labels)), Err(Error::NothingToTrain)));
    state.remove("features.3.squeeze.bias");
    let error = engine.compile(&graph, &state, options(Trainable::none(&graph), BatchNormMode::Train)).err().unwrap();
    assert!(error.to_string().contains("features.3.squeeze.bias"));
}
