//! Groups that train together.

use std::ops::Range;
use std::thread;

use regraft_collective::{Collective, Member, Solo, threads};

use super::Tolerances;
use super::common::{ADAMW, Network, Samples, accumulate, assert_same_state};
use crate::{BatchNormMode, Engine, Error, MovingAverage, Session, SessionOptions, SessionState, StepOptions};

fn step(session: &mut dyn Session, collective: Option<&dyn Collective>) -> Result<Option<f64>, Error> {
    let average = Some(MovingAverage { decay: 0.9, restart: false });
    let options = StepOptions { lr: 1e-3, max_grad_norm: Some(0.5), average, collective };
    session.step(&options).map(|report| report.grad_norm)
}

/// Runs a thread for each member of a group, with a session of its own.
fn run<R: Send>(
    network: &Network,
    engine: &dyn Engine,
    options: &SessionOptions,
    members: usize,
    work: impl Fn(Member, Box<dyn Session>) -> R + Sync,
) -> Vec<R> {
    let sessions: Vec<_> = (0..members).map(|_| network.compile(engine, options.clone())).collect();
    thread::scope(|scope| {
        let work = &work;
        let pairs = threads(members).into_iter().zip(sessions);
        let threads: Vec<_> = pairs.map(|(member, session)| scope.spawn(move || work(member, session))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a member has panicked")).collect()
    })
}

/// A group that shares the batches of a step takes the step of one process that accumulates them, bit for bit.
pub fn collectives(engine: &dyn Engine, _: &Tolerances) {
    let network = Network::new("resnet18");
    let samples = Samples::new(6);
    let options = |batch_norm| SessionOptions { update: ADAMW, ..network.options("layer4", batch_norm) };
    let frozen = options(BatchNormMode::Frozen);
    // The shares of each step's samples, by rank; one member has none in the second step.
    let shares: [&[[Range<usize>; 2]]; 2] =
        [&[[0..4, 0..3], [4..6, 3..6]], &[[0..1, 0..2], [1..4, 2..2], [4..6, 2..6]]];
    for shares in shares {
        let what = format!("{} members", shares.len());
        let mut alone = network.compile(engine, frozen.clone());
        let mut norms = Vec::new();
        for number in 0..2 {
            for share in shares.iter().map(|share| share[number].clone()).filter(|share| !share.is_empty()) {
                accumulate(alone.as_mut(), &samples.part(share));
            }
            norms.push(step(alone.as_mut(), Some(&Solo)).unwrap());
        }
        let expected = alone.state().unwrap();
        let results = run(&network, engine, &frozen, shares.len(), |member, mut session| {
            let norms: Vec<_> = (0..2)
                .map(|number| {
                    let share = shares[member.rank()][number].clone();
                    if !share.is_empty() {
                        accumulate(session.as_mut(), &samples.part(share));
                    }
                    step(session.as_mut(), Some(&member)).unwrap()
                })
                .collect();
            (norms, session.state().unwrap())
        });
        for (found, state) in results {
            assert_eq!(found, norms, "{what}: norms");
            assert_same_state(&what, &state, &expected);
        }
    }
    statistics(engine, &network, &options(BatchNormMode::Train));
    losses_of_members(engine, &network, &frozen);
}

/// Running statistics are averaged with the members' weights, so all members keep equal statistics. A member without a
/// batch has weight 0.
fn statistics(engine: &dyn Engine, network: &Network, options: &SessionOptions) {
    let samples = Samples::new(6);
    let shares = [0..2, 2..6, 6..6];
    let names =
        || network.graph.parameters().into_iter().map(|spec| spec.name).filter(|name| name.contains("running_"));
    let results = run(network, engine, options, 3, |member, mut session| {
        let share = shares[member.rank()].clone();
        let weight = match share.is_empty() {
            true => 0.0,
            false => accumulate(session.as_mut(), &samples.part(share)).weight,
        };
        let before = session.state().unwrap().trained;
        step(session.as_mut(), Some(&member)).unwrap();
        (weight, before, session.state().unwrap())
    });
    let total: f64 = results.iter().map(|(weight, ..)| weight).sum();
    let first: &SessionState = &results[0].2;
    for (_, _, state) in &results {
        assert_same_state("members", state, first);
    }
    let mut moved = 0;
    for name in names().filter(|name| first.trained.contains_key(name)) {
        for (i, &found) in first.trained[&name].data().iter().enumerate() {
            let weighted = results.iter().map(|(weight, before, _)| weight * f64::from(before[&name].data()[i]));
            let expected = weighted.sum::<f64>() / total;
            assert!((f64::from(found) - expected).abs() < 1e-6 * expected.abs().max(1.0), "{name}[{i}]");
            moved += usize::from(found != network.state[&name].data()[i]);
        }
    }
    assert!(moved > 0, "the statistics have not moved");
}

/// A lost member is an error, after which nothing has moved; a step that nobody has a batch for is one, too.
fn losses_of_members(engine: &dyn Engine, network: &Network, options: &SessionOptions) {
    let samples = Samples::new(4);
    run(network, engine, options, 3, |member, mut session| {
        let error = step(session.as_mut(), Some(&member)).unwrap_err();
        assert!(matches!(error, Error::NothingAccumulated), "{error}");
        for number in 0..=member.rank() {
            accumulate(session.as_mut(), &samples.part(number..number + 1));
        }
        if member.rank() == 1 {
            return;
        }
        let before = session.state().unwrap();
        let error = step(session.as_mut(), Some(&member)).unwrap_err();
        assert!(matches!(error, Error::Collective(_)), "{error}");
        assert_same_state("after a loss", &session.state().unwrap(), &before);
        // What waits is still there for a step alone.
        step(session.as_mut(), None).unwrap();
    });
}
