//! Several batches in one step, and clipping.

use regraft_graph::StateDict;

use super::Tolerances;
use super::common::{
    CLASS_WEIGHTS, Network, PLAIN, Samples, accumulate, assert_close, assert_same, assert_same_state, step,
};
use crate::{BatchNormMode, Engine, Error, Session, SessionOptions, StepOptions};

/// Each element of `a` and `b` combined.
fn zip(a: &StateDict, b: &StateDict, combine: impl Fn(f32, f32) -> f32) -> StateDict {
    let tensor = |(name, a): (&String, &regraft_graph::Tensor)| {
        let data = a.data().iter().zip(b[name].data()).map(|(&a, &b)| combine(a, b)).collect();
        (name.clone(), regraft_graph::Tensor::new(a.shape(), data))
    };
    a.iter().map(tensor).collect()
}

/// A session that learns by plain SGD with frozen batch norms, so that batches do not see each other.
fn session(engine: &dyn Engine, network: &Network, layer: &str) -> Box<dyn Session> {
    let options = SessionOptions { update: PLAIN, ..network.options(layer, BatchNormMode::Frozen) };
    network.compile(engine, options)
}

/// Batches accumulate to one large batch, each by its samples' weight.
pub fn accumulation(engine: &dyn Engine, tolerances: &Tolerances) {
    for (name, layer) in [("resnet18", "conv1"), ("squeezenet1_1", "features.12")] {
        let network = Network::new(name);
        let all = Samples::new(6);
        let (mut whole, mut parts) = (session(engine, &network, layer), session(engine, &network, layer));
        assert!(matches!(whole.step(&StepOptions::default()), Err(Error::NothingAccumulated)), "{name}");
        let losses = accumulate(whole.as_mut(), &all);
        let weight =
            |samples: &Samples| samples.classes.iter().map(|&class| f64::from(CLASS_WEIGHTS[class])).sum::<f64>();
        assert_eq!(losses.weight, weight(&all), "{name}");
        let shares = [0..1, 1..4, 4..6].map(|range| all.part(range));
        let (mut sum, mut correct, mut last) = (0.0, 0, StateDict::new());
        for (i, share) in shares.iter().enumerate() {
            let losses = accumulate(parts.as_mut(), share);
            (sum, correct) = (sum + losses.sum, correct + losses.correct);
            let pending = parts.state().unwrap().pending;
            assert_eq!(pending.batches, i + 1, "{name}");
            assert_eq!(pending.weight, shares[..=i].iter().map(weight).sum::<f64>(), "{name}");
            // What waits is the gradient of the mean loss of one batch, then the weighted sum of all, in their order.
            let mut alone = session(engine, &network, layer);
            accumulate(alone.as_mut(), share);
            let gradient = alone.state().unwrap().pending.gradients;
            match i {
                0 => assert_same(&format!("{name}: one batch"), &pending.gradients, &gradient),
                _ => {
                    let sum = |sum: f32, gradient: f32| sum + losses.weight as f32 * gradient;
                    let first = weight(&shares[0]) as f32;
                    let before = if i == 1 { zip(&last, &last, |g, _| 0.0 + first * g) } else { last };
                    // An engine may fuse the product and the sum.
                    assert_close(&format!("{name}: sum"), &pending.gradients, &zip(&before, &gradient, sum), 1e-6);
                }
            }
            last = pending.gradients;
        }
        // Sums of six samples' losses in f64.
        assert!((sum / losses.sum - 1.0).abs() < tolerances.order, "{name}: {sum} is not {}", losses.sum);
        assert_eq!(correct, losses.correct, "{name}");
        let gradient = whole.state().unwrap().pending.gradients;
        let scale = (1.0 / losses.weight) as f32;
        let mean = zip(&last, &last, |sum, _| scale * sum);
        assert_close(&format!("{name}: mean"), &mean, &gradient, tolerances.order);
        for session in [&mut whole, &mut parts] {
            let before = session.weights().unwrap();
            step(session.as_mut(), 0.5);
            let moved = zip(&before, &session.weights().unwrap(), |before, after| (before - after) / 0.5);
            // Differences of weights of order one are rounded to 1e-7.
            let largest = gradient.values().flat_map(|tensor| tensor.data()).fold(0.0f32, |m, g| m.max(g.abs()));
            let error = |name: &str| moved[name].data().iter().zip(gradient[name].data()).map(|(a, b)| (a - b).abs());
            let worst = gradient.keys().flat_map(|name| error(name)).fold(0.0, f32::max);
            assert!(f64::from(worst / largest) < tolerances.order + 1e-5, "{name}: a step off by {worst} of {largest}");
            assert_eq!(session.state().unwrap().pending.batches, 0, "{name}: the step has taken the gradients");
            assert!(matches!(session.step(&StepOptions::default()), Err(Error::NothingAccumulated)), "{name}");
        }
    }
}

/// Gradients are clipped by their norm over all parameters, and the norm before is told.
pub fn clipping(engine: &dyn Engine, _: &Tolerances) {
    let network = Network::new("mobilenet_v2");
    let samples = [Samples::new(3), Samples::new(2)];
    for batches in [1, 2] {
        let mut session = session(engine, &network, "features.14");
        let take = |session: &mut dyn Session, max_grad_norm| {
            samples[..batches].iter().for_each(|samples| drop(accumulate(session, samples)));
            let pending = session.state().unwrap().pending;
            let report = session.step(&StepOptions { lr: 1.0, max_grad_norm, ..StepOptions::default() }).unwrap();
            (pending, report.grad_norm, session.state().unwrap())
        };
        let start = session.state().unwrap();
        let (pending, norm, plain) = take(session.as_mut(), None);
        assert_eq!(norm, None, "without clipping no norm is computed");
        let scale = if batches == 1 { 1.0 } else { 1.0 / pending.weight };
        let squares =
            pending.gradients.values().flat_map(|tensor| tensor.data()).map(|&g| (scale * f64::from(g)).powi(2));
        let expected = squares.sum::<f64>().sqrt();
        session.restore(&start).unwrap();
        let (_, norm, loose) = take(session.as_mut(), Some(2.0 * expected));
        // The sum runs over a million elements in f32 or f64.
        assert!((norm.expect("it is clipped") / expected - 1.0).abs() < 1e-5, "{norm:?} is not {expected}");
        assert_same_state("a norm below the limit", &loose, &plain);
        session.restore(&start).unwrap();
        let (_, norm, clipped) = take(session.as_mut(), Some(expected / 4.0));
        assert!((norm.expect("it is clipped") / expected - 1.0).abs() < 1e-5, "{norm:?} is not {expected}");
        for (name, before) in &start.trained {
            let moved = |state: &crate::SessionState| {
                let pairs = before.data().iter().zip(state.trained[name].data());
                pairs.map(|(&before, &after)| f64::from(before) - f64::from(after)).collect::<Vec<_>>()
            };
            for (i, (clipped, plain)) in moved(&clipped).into_iter().zip(moved(&plain)).enumerate() {
                // Weights of order one are rounded to 1e-7 after each of the two steps.
                assert!((clipped - plain / 4.0).abs() < 1e-6, "{name}[{i}] moved by {clipped}, unclipped by {plain}");
            }
        }
    }
}
