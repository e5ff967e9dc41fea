//! Runs that are stopped at a chosen instant and go on, where the network is frozen up to some layer.

use std::fs;
use std::path::Path;

use regraft::{AutoAugmentPolicy, Context, InitHead, Mode, Optimizer, Outcome, Settings};
use regraft_engine_cpu::CpuEngine;

use crate::common::{Listener, resume, settings, train};

/// The best model of a run, and its results without the seconds, which no two runs share.
fn results(run: &Path) -> (Vec<u8>, Vec<String>) {
    let rows = fs::read_to_string(run.join("results.csv")).unwrap();
    let rows = rows.lines().map(|row| row.rsplit_once(',').unwrap().0.to_owned());
    (fs::read(run.join("best.safetensors")).unwrap(), rows.collect())
}

/// Runs with each of the listeners in turn, every one after the first going on where the last one stopped.
/// Returns where each was stopped: epochs and steps.
fn sittings(settings: &Settings, run: &Path, listeners: &[Listener]) -> Vec<(usize, usize)> {
    let mut stopped = Vec::new();
    for (i, listener) in listeners.iter().enumerate() {
        let engine = CpuEngine::new(1 + i % 2).unwrap();
        let context = Context { engine: &engine, progress: listener, cancel: &listener.stop, threads: 1 + i % 2 };
        let outcome = if i == 0 { train(settings, run, &context) } else { resume(run, &context) };
        match outcome.unwrap() {
            Outcome::Interrupted(at) => stopped.push((at.epoch, at.step)),
            Outcome::Trained(_) | Outcome::Distilled(_) => assert_eq!(i + 1, listeners.len(), "finished too early"),
        }
    }
    stopped
}

#[test]
fn a_run_stopped_at_any_instant_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let settings = |augmented: bool| {
        let mut settings = settings(dir.path(), 5);
        settings.mode = Mode::Finetune;
        // With dropout, whose masks must be the same too. 10 photos are 3 steps.
        settings.backbone = "mobilenet_v2".into();
        settings.freeze_until = Some("features.16".into());
        if !augmented {
            settings.no_augment = true;
        }
        settings
    };
    let stop = Listener::stopping;
    for augmented in [false, true] {
        let settings = settings(augmented);
        let path = |name: &str| dir.path().join(format!("{name} {augmented}"));
        assert_eq!(sittings(&settings, &path("whole"), &[Listener::default()]), []);

        // What is kept is computed again in every sitting, and a sitting may end while it is.
        let features = if augmented { "epoch 1/3" } else { "training features" };
        let listeners = [
            stop(features, 0),
            stop("epoch 1/3", 4),
            stop("epoch 1/3", 10),
            stop("validation features", 0),
            stop("validating", 0),
            stop("epoch 2/3", 4),
            stop("epoch 2/3", 8),
            Listener::default(),
        ];
        let first = if augmented { (0, 1) } else { (0, 0) };
        let expected = [first, (0, if augmented { 2 } else { 1 }), (0, 3), (0, 3), (0, 3), (1, 1), (1, 2)];
        assert_eq!(sittings(&settings, &path("parts"), &listeners), expected);
        assert!(results(&path("parts")) == results(&path("whole")), "augmented: {augmented}");
    }
}

#[test]
fn what_steps_and_epochs_carry_on_survives_an_interruption() {
    let dir = tempfile::tempdir().unwrap();
    let settings = |change: fn(&mut Settings)| {
        // 10 photos are 3 batches.
        let mut settings = settings(dir.path(), 5);
        settings.mode = Mode::Finetune;
        settings.backbone = "resnet18".into();
        settings.optimizer = Optimizer::AdamW;
        change(&mut settings);
        settings
    };
    let configs = [
        // Stopped between the two batches of a step, and when another stage begins to learn.
        settings(|c| {
            (c.accumulate, c.ema, c.unfreeze_every, c.clip_grad_norm) = (2, Some(0.8), Some(1), Some(0.5));
            (c.backbone_lr, c.lr_layer_decay) = (Some(0.0005), 0.5);
        }),
        settings(|c| {
            (c.head, c.cut) = ("conv:8,fc:6".parse().unwrap(), Some("layer3".into()));
            (c.ema, c.head_dropout, c.freeze_until) = (Some(0.5), 0.3, Some("layer3".into()));
        }),
        settings(|c| (c.init_head, c.patience, c.epochs) = (InitHead::Probe, Some(2), 3)),
    ];
    for (i, settings) in configs.iter().enumerate() {
        let path = |name: &str| dir.path().join(format!("{name} {i}"));
        assert_eq!(sittings(settings, &path("whole"), &[Listener::default()]), []);
        let stop = Listener::stopping;
        let listeners = [
            stop("epoch 1/3", 4),
            stop("epoch 1/3", 8),
            stop("validating", 0),
            stop("epoch 2/3", 0),
            stop("epoch 2/3", 8),
            Listener::default(),
        ];
        let stopped = sittings(settings, &path("parts"), &listeners);
        assert_eq!(stopped, [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)], "run {i}");
        assert!(results(&path("parts")) == results(&path("whole")), "run {i}");
    }
}

#[test]
fn views_and_mixed_batches_go_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let stop = Listener::stopping;
    for views in [true, false] {
        let mut settings = settings(dir.path(), 5);
        settings.mode = Mode::Frozen;
        settings.backbone = "mobilenet_v2".into();
        (settings.auto_augment, settings.random_erase) = (Some(AutoAugmentPolicy::TaWide), 0.1);
        if views {
            settings.views = Some(2);
        } else {
            (settings.mixup_alpha, settings.cutmix_alpha) = (0.2, 1.0);
        }
        let path = |name: &str| dir.path().join(format!("{name} {views}"));
        assert_eq!(sittings(&settings, &path("whole"), &[Listener::default()]), []);
        let (second, third) = if views {
            ("training features, view 2/2", "training features, view 1/2")
        } else {
            ("epoch 2/3", "epoch 3/3")
        };
        let listeners = [
            stop("epoch 1/3", 4),
            stop(second, 0),
            stop("epoch 2/3", 8),
            // The third epoch sees the first view again, which this sitting has not computed.
            stop(third, 0),
            stop("epoch 3/3", 4),
            Listener::default(),
        ];
        sittings(&settings, &path("parts"), &listeners);
        assert!(results(&path("parts")) == results(&path("whole")), "views: {views}");
    }
}
