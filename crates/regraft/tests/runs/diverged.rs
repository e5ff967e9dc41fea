//! A network that diverges where the loss does not show it: what is said, and what is left of the run.

use std::fs;

use regraft::{Cancel, Context, Error, Model, Outcome, PredictOptions, Predictor};
use regraft_engine_cpu::CpuEngine;

use crate::common::{Listener, VAL, resume, settings, train};
use crate::watched::{Watch, Watched};

/// The input to which the answer is not a number.
#[derive(Clone, Copy, PartialEq)]
enum Fails {
    /// One of the validation photos, which come in a batch.
    Validation,
    /// A golden input of the model, which comes alone.
    Golden,
}

/// Lets the network diverge.
#[derive(Clone)]
struct Diverging {
    fails: Fails,
    /// The epoch in which it does, from 1.
    last: usize,
    /// Updates so far, of which an epoch has one.
    epoch: usize,
}

impl Watch for Diverging {
    fn inferred(&mut self, logits: &mut [f32]) {
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
    }

    fn stepped(&mut self) {
        self.epoch += 1;
    }
}

#[test]
fn the_message_says_what_to_do_and_the_best_model_before_it_is_kept() {
    let interrupt = Cancel::new();
    let sound = CpuEngine::new(1).unwrap();
    for fails in [Fails::Validation, Fails::Golden] {
        for epoch in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let (settings, run) = (settings(dir.path(), 2), dir.path().join("run"));
            let engine = Watched::by(Diverging { fails, last: epoch, epoch: 0 });
            let context = Context { engine: &engine, progress: &Listener::default(), cancel: &interrupt, threads: 1 };
            let error = train(&settings, &run, &context).unwrap_err();
            assert!(matches!(error, Error::Diverged { .. }), "{error:?}");
            let message = error.to_string();
            for part in ["became NaN", &format!("in epoch {epoch}"), "diverged", "lower `lr` (now 0.001)"] {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
            assert_eq!(message.contains("the best model so far, that of epoch 1, is kept"), epoch > 1, "{message}");

            let best = run.join("best.safetensors");
            if epoch == 1 {
                assert!(!best.exists());
            } else {
                let model = Model::open(&best).unwrap();
                Predictor::new(model.clone(), &best, &sound, PredictOptions::default()).unwrap();
                assert_eq!((model.provenance.epoch, model.provenance.val_score), (1, Some(0.25)));
            }
            // The checkpoint is that of the last epoch that was sound: from there the run can go on.
            let context = Context { engine: &sound, ..context };
            assert!(matches!(resume(&run, &context), Ok(Outcome::Trained(_))));
            assert_eq!(fs::read_to_string(run.join("results.csv")).unwrap().lines().count(), 1 + settings.epochs);
        }
    }
}
