//! The moving average of the weights.

use regraft_graph::StateDict;

use super::Tolerances;
use super::common::{Network, Samples, accumulate, assert_close, assert_same, assert_same_state};
use crate::{BatchNormMode, Engine, Error, MovingAverage, SessionOptions, StepOptions, Want};

const DECAY: f64 = 0.75;

/// The average follows its formula, running statistics included, and can stand in the place of the weights.
pub fn averaging(engine: &dyn Engine, _: &Tolerances) {
    let network = Network::new("resnet18");
    let options = network.options("layer4", BatchNormMode::Train);
    let mut session = network.compile(engine, options.clone());
    let images = Samples::new(2).images;
    session.use_average(true).unwrap();
    assert_same_state(
        "without an average",
        &session.state().unwrap(),
        &network.compile(engine, options).state().unwrap(),
    );
    let mut expected: Option<StateDict> = None;
    // Without an average in the first step; the fourth starts it anew.
    for (number, average) in [None, Some(false), Some(false), Some(true), Some(false)].into_iter().enumerate() {
        accumulate(session.as_mut(), &Samples::new(4 + number % 2));
        let average = average.map(|restart| MovingAverage { decay: DECAY, restart });
        session.step(&StepOptions { lr: 0.01, average, ..StepOptions::default() }).unwrap();
        let state = session.state().unwrap();
        let Some(MovingAverage { restart, .. }) = average else {
            assert_eq!(state.average, None, "there is no average before the first step that averages");
            continue;
        };
        let found = state.average.expect("there is an average");
        match &mut expected {
            Some(expected) if !restart => {
                for (name, average) in expected.iter_mut() {
                    let pairs = average.data_mut().iter_mut().zip(state.trained[name].data());
                    pairs.for_each(|(average, &x)| *average = DECAY as f32 * *average + (1.0 - DECAY as f32) * x);
                }
                // One rounding more or less a step.
                assert_close(&format!("step {number}"), &found, expected, 1e-6);
            }
            _ => assert_same(&format!("step {number} copies"), &found, &state.trained),
        }
        expected = Some(found);
    }
    let (state, plain) = (session.state().unwrap(), network.infer(session.as_mut(), &images));
    let average = state.average.clone().expect("there is an average");
    assert!(average.keys().any(|name| name.ends_with("running_mean")), "running statistics are averaged, too");
    session.use_average(true).unwrap();
    session.use_average(true).unwrap();
    assert_same("weights while the average is in use", &session.weights().unwrap(), &average);
    assert_same_state("state while the average is in use", &session.state().unwrap(), &state);
    let averaged = network.infer(session.as_mut(), &images);
    let mut fresh = Network { graph: network.graph.clone(), state: network.state.clone() };
    fresh.state.extend(average);
    let mut fresh = fresh.compile(engine, network.options("layer4", BatchNormMode::Train));
    assert!(averaged == network.infer(fresh.as_mut(), &images), "the average infers what its weights infer");
    assert!(averaged != plain);
    let samples = Samples::new(4);
    let refused = session.accumulate(samples.batch(), samples.targets(), Want::Losses);
    assert!(matches!(refused, Err(Error::AverageInUse)), "{refused:?}");
    let refused = session.step(&StepOptions::default());
    assert!(matches!(refused, Err(Error::AverageInUse)), "{refused:?}");
    session.use_average(false).unwrap();
    assert!(network.infer(session.as_mut(), &images) == plain, "the weights are back");
    assert_same_state("after the average was in use", &session.state().unwrap(), &state);
    // Restored while the average is in use, a session goes on with its weights.
    session.use_average(true).unwrap();
    session.restore(&state).unwrap();
    assert_same("weights after a restore", &session.weights().unwrap(), &state.trained);
    accumulate(session.as_mut(), &samples);
    let mut idle = network.compile(engine, SessionOptions::inference(&network.graph));
    idle.use_average(true).unwrap();
}
