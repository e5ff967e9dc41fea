//! What the flags of `regraft train` mean: the settings of a run.

use regraft::{BatchNorm, Config, Head, InitHead, Keep, Mode};
use regraft_data::{Augmentation, AutoAugment, Mix, Preprocessing, RandomErasing};
use regraft_engine::UpdateRule;
use regraft_learn::schedule::{Policy, Schedule, Warmup};

use super::train::{
    AugmentationArgs, AutoAugmentArg, BatchNormArg, InitHeadArg, KeepArg, ModeArg, OptimizerArg, PhotoArgs,
    SchedulerArg, Train, TrainingArgs,
};

impl Train {
    /// The run's settings but for the weights; `usual` is how photos are prepared where no flag says otherwise.
    pub fn config(&self, usual: &Preprocessing) -> Config {
        let (data, backbone) = (self.data.clone(), self.backbone.as_str().into());
        let base = match self.mode {
            ModeArg::Auto => Config::ladder(data, backbone),
            _ => Config::tutorial(data, backbone),
        };
        let TrainingArgs { epochs, batch_size, lr, .. } = self.training;
        Config {
            val_fraction: self.photos.val_fraction,
            strict: self.photos.strict,
            cache_bytes: self.photos.cache_mib.map(|mib| mib.saturating_mul(1 << 20)),
            preprocessing: self.photos.preprocessing(usual),
            mode: match self.mode {
                ModeArg::Auto => Mode::Auto,
                ModeArg::Probe => Mode::Probe,
                ModeArg::Frozen => Mode::Frozen,
                ModeArg::Finetune => Mode::Finetune,
            },
            time: (self.mode == ModeArg::Auto).then_some(self.time),
            head: self.head.head.clone().unwrap_or(match self.mode {
                ModeArg::Probe => Head::Softmax,
                _ => Head::Linear,
            }),
            cut: self.head.cut.clone(),
            head_dropout: self.head.head_dropout as f32,
            init_head: self.head.init_head.map_or(base.init_head, |init| match init {
                InitHeadArg::Random => InitHead::Random,
                InitHeadArg::Probe => InitHead::Probe,
            }),
            c: self.head.c,
            freeze_until: self.training.freeze_until.clone(),
            bn: self.training.bn.map(|bn| match bn {
                BatchNormArg::Frozen => BatchNorm::Frozen,
                BatchNormArg::Train => BatchNorm::Train,
            }),
            epochs: epochs.unwrap_or(base.epochs),
            batch_size: batch_size.unwrap_or(base.batch_size),
            lr: lr.unwrap_or(base.lr),
            backbone_lr: self.training.backbone_lr,
            lr_layer_decay: self.training.lr_layer_decay.or(base.lr_layer_decay),
            unfreeze_every: self.training.unfreeze_every,
            clip_grad_norm: self.training.clip_grad_norm,
            accumulate: self.training.accumulate,
            ema: self.training.ema,
            patience: self.training.patience,
            keep: match self.training.keep {
                KeepArg::Best => Keep::Best,
                KeepArg::Last => Keep::Last,
            },
            optimizer: self.update_rule(),
            schedule: self.schedule(lr.unwrap_or(base.lr)),
            label_smoothing: self.training.label_smoothing,
            class_weights: self.training.class_weights.clone(),
            augmentation: self.augmentation.augmentation(),
            views: self.augmentation.views,
            seed: self.seed,
            precision: self.precision.into(),
            ..base
        }
    }

    fn update_rule(&self) -> UpdateRule {
        let TrainingArgs { momentum, nesterov, weight_decay, .. } = self.training;
        match self.optimizer_and_scheduler().0 {
            OptimizerArg::Sgd => UpdateRule::Sgd { momentum, weight_decay: weight_decay.unwrap_or(0.0), nesterov },
            OptimizerArg::Adamw => {
                UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: weight_decay.unwrap_or(0.01) }
            }
        }
    }

    fn schedule(&self, max_lr: f64) -> Schedule {
        let args = &self.training;
        let policy = match self.optimizer_and_scheduler().1 {
            SchedulerArg::Steplr => Policy::StepLR { step_size: args.lr_step_size, gamma: args.lr_gamma },
            SchedulerArg::Cosineannealinglr => Policy::CosineAnnealingLR { eta_min: args.lr_min },
            SchedulerArg::Onecyclelr => {
                Policy::OneCycleLR { max_lr, pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4 }
            }
            SchedulerArg::Constant => Policy::Constant,
        };
        let warmup = (args.lr_warmup_epochs > 0)
            .then_some(Warmup { total_iters: args.lr_warmup_epochs, start_factor: args.lr_warmup_decay });
        Schedule { policy, warmup }
    }
}

impl PhotoArgs {
    fn preprocessing(&self, usual: &Preprocessing) -> Preprocessing {
        let crop = self.imgsz.unwrap_or(usual.crop);
        // In proportion, rounded down.
        let in_proportion = (crop * usual.resize / usual.crop).min(Preprocessing::MAX_SIDE);
        Preprocessing {
            resize: self.val_resize_size.unwrap_or(in_proportion),
            crop,
            interpolation: self.interpolation.map_or(usual.interpolation, Into::into),
            mean: self.mean.unwrap_or(usual.mean),
            std: self.std.unwrap_or(usual.std),
            ..usual.clone()
        }
    }
}

impl AugmentationArgs {
    fn augmentation(&self) -> Option<Augmentation> {
        (!self.no_augment).then(|| Augmentation {
            hflip: self.hflip_prob,
            degrees: self.rotation,
            color_jitter: self.color_jitter,
            auto_augment: self.auto_augment.map(|policy| match policy {
                AutoAugmentArg::Ra => AutoAugment::Ra { num_ops: 2, magnitude: self.ra_magnitude.into() },
                AutoAugmentArg::TaWide => AutoAugment::TaWide,
            }),
            random_erasing: (self.random_erase > 0.0)
                .then(|| RandomErasing { p: self.random_erase, ..RandomErasing::default() }),
            mix: (self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0)
                .then_some(Mix { mixup_alpha: self.mixup_alpha, cutmix_alpha: self.cutmix_alpha }),
            ..Augmentation::default()
        })
    }
}
