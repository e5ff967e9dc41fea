//! A session that goes on from another's state.

use super::Tolerances;
use super::common::{ADAMW, Network, SGD, Samples, accumulate, assert_same_state};
use crate::{BatchNormMode, Engine, Error, MovingAverage, Session, SessionOptions, SessionState, StepOptions};

/// A step with everything that has a state.
fn step(session: &mut dyn Session) {
    let average = Some(MovingAverage { decay: 0.9, restart: false });
    let options = StepOptions { lr: 1e-3, max_grad_norm: Some(1.0), average, collective: None };
    session.step(&options).unwrap();
}

/// A restored session goes on to the same bits: trained tensors, the optimiser, gradients that wait and the average.
/// A state with a hole is refused, and nothing is changed then.
pub fn resuming(engine: &dyn Engine, _: &Tolerances) {
    let network = Network::new("mobilenet_v2");
    for update in [SGD, ADAMW] {
        for (layer, waiting) in [("features", 0), ("features", 1), ("features.17", 2)] {
            let options = SessionOptions { update, ..network.options(layer, BatchNormMode::Train) };
            let what = format!("{update:?} from {layer}, {waiting} batches waiting");
            let mut whole = network.compile(engine, options.clone());
            accumulate(whole.as_mut(), &Samples::new(3));
            step(whole.as_mut());
            for n in 0..waiting {
                accumulate(whole.as_mut(), &Samples::new(2 + n));
            }
            let state = whole.state().unwrap();
            assert_eq!(state.pending.batches, waiting, "{what}");
            assert_eq!(state.pending.gradients.is_empty(), waiting == 0, "{what}");
            let mut resumed = network.compile(engine, options);
            refuses_holes(resumed.as_mut(), &state, &what);
            resumed.restore(&state).unwrap();
            assert_same_state(&format!("{what}: restored"), &resumed.state().unwrap(), &state);
            for session in [&mut whole, &mut resumed] {
                accumulate(session.as_mut(), &Samples::new(3));
                step(session.as_mut());
            }
            assert_same_state(&what, &resumed.state().unwrap(), &whole.state().unwrap());
            let images = Samples::new(2).images;
            let logits = network.infer(whole.as_mut(), &images);
            assert!(network.infer(resumed.as_mut(), &images) == logits, "{what}");
        }
    }
    let mut idle = network.compile(engine, SessionOptions::inference(&network.graph));
    idle.restore(&SessionState::default()).unwrap();
    assert_same_state("without training", &idle.state().unwrap(), &SessionState::default());
}

/// Each part of a state must be whole.
fn refuses_holes(session: &mut dyn Session, state: &SessionState, what: &str) {
    let before = session.state().unwrap();
    let weight = state.trained.keys().find(|name| name.ends_with("weight")).expect("something learns");
    let other_shape = |tensor: &mut regraft_graph::Tensor| {
        let data = tensor.data().to_vec();
        *tensor = regraft_graph::Tensor::new([data.len(), 1], data);
    };
    let mut damaged: Vec<(SessionState, String)> = Vec::new();
    let mut damage = |name: &str, part: &dyn Fn(&mut SessionState) -> &mut regraft_graph::StateDict| {
        let (mut absent, mut misshapen) = (state.clone(), state.clone());
        if part(&mut absent).remove(name).is_some() {
            other_shape(part(&mut misshapen).get_mut(name).expect("it is in the other"));
            damaged.extend([(absent, name.to_string()), (misshapen, name.to_string())]);
        }
    };
    damage(weight, &|state| &mut state.trained);
    damage(weight, &|state| &mut state.pending.gradients);
    damage(weight, &|state| state.average.get_or_insert_default());
    let slot = state.optimizer.keys().find(|name| name.starts_with(weight)).expect("it has a past");
    damage(slot, &|state| &mut state.optimizer);
    assert_eq!(damaged.len(), if state.pending.batches > 0 { 8 } else { 6 }, "{what}");
    for (state, name) in damaged {
        let error = session.restore(&state).unwrap_err();
        assert!(matches!(&error, Error::Tensor { name: found, .. } if *found == name), "{what}: {error}");
        assert_same_state(&format!("{what}: after a refusal"), &session.state().unwrap(), &before);
    }
}
