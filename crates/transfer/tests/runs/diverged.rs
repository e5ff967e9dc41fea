//! A network that diverges where the loss does not show it: what is said, and what is left of the run.

use std::fs;
use std::sync::atomic::AtomicBool;

use regraft_engine::{Batch, CpuEngine, Engine, Losses, Precision, Session, SessionOptions, Targets};
use regraft_graph::{Graph, StateDict};
use regraft_transfer::{Context, Error, Model, Outcome, resume, train};

use crate::common::{Listener, VAL, settings};

/// The input to which the answer is not a number.
#[derive(Clone, Copy, PartialEq)]
enum Fails {
    /// One of the validation photos, which come in a batch.
    Validation,
    /// A golden input of the model, which comes alone.
    Golden,
}

/// The CPU engine, until the network diverges.
struct Diverging {
    engine: CpuEngine,
    fails: Fails,
    /// The epoch in which it does, from 1.
    epoch: usize,
}

impl Engine for Diverging {
    fn describe(&self) -> String {
        self.engine.describe()
    }

    fn supports(&self, precision: Precision) -> Result<(), regraft_engine::Error> {
        self.engine.supports(precision)
    }

    fn compile(
        &self,
        graph: &Graph,
        state: &StateDict,
        options: SessionOptions,
    ) -> Result<Box<dyn Session>, regraft_engine::Error> {
        let session = self.engine.compile(graph, state, options)?;
        Ok(Box::new(DivergingSession { session, fails: self.fails, last: self.epoch, epoch: 0 }))
    }
}

struct DivergingSession {
    session: Box<dyn Session>,
    fails: Fails,
    last: usize,
    /// Updates so far, of which an epoch has one.
    epoch: usize,
}

impl Session for DivergingSession {
    fn infer(&mut self, inputs: &[f32]) -> Result<Vec<f32>, regraft_engine::Error> {
        let mut logits = self.session.infer(inputs)?;
        let rows = logits.len() / 2;
        if rows == VAL {
            // One photo right in the first epoch, two in the second: every epoch is the best so far.
            for (i, row) in logits.chunks_exact_mut(2).enumerate() {
                let (class, right) = (i / (VAL / 2), i < self.epoch);
                row.copy_from_slice(if (class == 0) == right { &[1.0, 0.0] } else { &[0.0, 1.0] });
            }
        }
        if self.epoch == self.last && (rows == VAL) == (self.fails == Fails::Validation) {
            logits[0] = f32::NAN;
        }
        Ok(logits)
    }

    fn gradients(&mut self, batch: Batch, targets: Targets) -> Result<Losses, regraft_engine::Error> {
        self.session.gradients(batch, targets)
    }

    fn visit_gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        self.session.visit_gradients(visit);
    }

    fn update(&mut self, lr: f64) {
        self.session.update(lr);
        self.epoch += 1;
    }

    fn trained_state(&self) -> StateDict {
        self.session.trained_state()
    }

    fn visit_trained(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        self.session.visit_trained(visit);
    }

    fn optimizer_state(&self) -> StateDict {
        self.session.optimizer_state()
    }

    fn restore_trained(&mut self, state: &StateDict) -> Result<(), regraft_engine::Error> {
        self.session.restore_trained(state)
    }

    fn restore_optimizer(&mut self, state: &StateDict) -> Result<(), regraft_engine::Error> {
        self.session.restore_optimizer(state)
    }
}

#[test]
fn the_message_says_what_to_do_and_the_best_model_before_it_is_kept() {
    let interrupt = AtomicBool::new(false);
    let sound = CpuEngine::new(1).unwrap();
    for fails in [Fails::Validation, Fails::Golden] {
        for epoch in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let (config, run) = (settings(dir.path(), 2), dir.path().join("run"));
            let engine = Diverging { engine: CpuEngine::new(1).unwrap(), fails, epoch };
            let context =
                Context { engine: &engine, reporter: &Listener::default(), interrupt: &interrupt, threads: 1 };
            let error = train(&config, Some(&run), false, &context).unwrap_err();
            assert!(matches!(error, Error::Diverged { .. }), "{error:?}");
            let message = error.to_string();
            for part in ["became NaN", &format!("in epoch {epoch}"), "diverged", "lower --lr (now 0.001)"] {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
            assert_eq!(message.contains("the best model so far, that of epoch 1, is kept"), epoch > 1, "{message}");

            let best = run.join("best.safetensors");
            if epoch == 1 {
                assert!(!best.exists());
            } else {
                let model = Model::open(&best).unwrap();
                model.session(&sound, &best).unwrap();
                assert_eq!((model.provenance.epoch, model.provenance.val_score), (1, Some(0.25)));
            }
            // The checkpoint is that of the last epoch that was sound: from there the run can go on.
            let context = Context { engine: &sound, ..context };
            assert!(matches!(resume(&run, &context), Ok(Outcome::Finished(_))));
            assert_eq!(fs::read_to_string(run.join("results.csv")).unwrap().lines().count(), 1 + config.epochs);
        }
    }
}
