//! The settings of a run, as `config.toml` keeps them.

use std::fmt;
use std::path::PathBuf;

use regraft_data::{Augmentation, Dataset, Mix, Preprocessing, Task};
use regraft_engine::{Precision, UpdateRule};
use regraft_learn::schedule::{Policy, Schedule};
use serde::{Deserialize, Serialize};

use crate::{Backbone, Error, Head, InitHead, Result, Source};

/// The road from a pretrained network to a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A probe, then fine-tuning where the time allows; the better of the two.
    Auto,
    /// All layers learn, or those from a given layer up.
    Finetune,
    /// Only the new head learns, on augmented photos.
    Frozen,
    /// Features once, then logistic regression.
    Probe,
}

impl Mode {
    /// Whether layers of the backbone may learn on this road.
    pub(crate) fn fine_tunes(self) -> bool {
        matches!(self, Mode::Auto | Mode::Finetune)
    }

    /// Whether a probe's solution becomes the head on this road.
    pub(crate) fn probes(self) -> bool {
        matches!(self, Mode::Auto | Mode::Probe)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Auto => "auto",
            Mode::Finetune => "finetune",
            Mode::Frozen => "frozen",
            Mode::Probe => "probe",
        })
    }
}

/// Which epoch's weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those that did best on the validation photos.
    #[default]
    Best,
    /// The last ones, so that the validation photos have had no say in it.
    Last,
}

/// What batch norms of layers that learn do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorm {
    /// Keep their running statistics; weight and bias learn.
    Frozen,
    /// Normalise with the batch's statistics, as PyTorch's `train()`.
    Train,
}

/// How much each class counts in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// Every photo counts the same.
    Uniform,
    /// Every class counts the same: `n / (classes * photos of the class)`.
    Balanced,
    /// A factor for each class, in the order of the sorted names.
    Given(Vec<f32>),
}

/// Weights that somebody has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The publisher's name for them, such as `IMAGENET1K_V1`.
    pub name: String,
    /// Where the publisher keeps them.
    pub url: String,
}

/// Everything that decides the result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder of photos.
    pub data: PathBuf,
    /// Fraction of each class set aside for validation, where the folder has no validation part.
    pub val_fraction: f64,
    /// Whether an unreadable photo is an error.
    pub strict: bool,
    /// Name of the architecture, or an ONNX file with the network and its weights.
    pub backbone: Backbone,
    /// What the backbone starts from.
    #[serde(default, skip_serializing_if = "Source::is_random")]
    pub weights: Source,
    /// The road.
    pub mode: Mode,
    /// The new head.
    pub head: Head,
    /// The backbone's last layer; if absent, all of it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// Probability of the dropout before each fully connected layer of the head; its own, if it has one, for 0.
    #[serde(default)]
    pub head_dropout: f32,
    /// What the head starts from.
    #[serde(default)]
    pub init_head: InitHead,
    /// Inverse regularisation strength of a probe; chosen by cross-validation if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub c: Option<f64>,
    /// First layer that learns when fine-tuning; all learn if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_until: Option<String>,
    /// What batch norms do; if absent, `train` unless the weights have theirs folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn: Option<BatchNorm>,
    /// Passes over the training photos.
    pub epochs: usize,
    /// Photos a step.
    pub batch_size: usize,
    /// Learning rate at the start.
    pub lr: f64,
    /// Learning rate of the backbone at the start; the head's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone_lr: Option<f64>,
    /// Factor of the rate from each stage of the backbone to the one below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_layer_decay: Option<f64>,
    /// Epochs after which one more stage of the backbone begins to learn; all learn at once if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfreeze_every: Option<usize>,
    /// Largest norm of all gradients together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_grad_norm: Option<f64>,
    /// Batches whose gradients make one step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Decay of the moving average of the weights, which is then what is validated and saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Epochs without a better validation accuracy after which the run ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Which epoch's weights are kept.
    #[serde(default)]
    pub keep: Keep,
    /// Seconds that the whole run may take, if it decides itself what is worth trying.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Seed of every random decision.
    pub seed: u64,
    /// How many variations of each training photo there are, which come again after as many epochs; without, every
    /// epoch has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<usize>,
    /// What training steps compute in.
    #[serde(default)]
    pub precision: Precision,
    /// Most bytes of decoded photos kept in memory; if absent, 1 GiB or a quarter of what is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<usize>,
    /// How much each class counts.
    pub class_weights: ClassWeights,
    /// What the file of weights is, if it is a published one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// The optimiser.
    pub optimizer: UpdateRule,
    /// How the learning rate goes.
    pub schedule: Schedule,
    /// What is done to every photo.
    pub preprocessing: Preprocessing,
    /// How training photos are varied; if absent, they are prepared as for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<Augmentation>,
}

fn one() -> usize {
    1
}

impl Config {
    /// The tutorial's settings: 25 epochs of batches of 4, SGD at 0.001 with momentum 0.9, a tenth of the rate
    /// every 7 epochs, random crops and flips.
    pub fn tutorial(data: PathBuf, backbone: Backbone) -> Self {
        Self {
            data,
            val_fraction: 0.2,
            strict: false,
            backbone,
            weights: Source::Random,
            published: None,
            mode: Mode::Finetune,
            head: Head::Linear,
            cut: None,
            head_dropout: 0.0,
            init_head: InitHead::Random,
            c: None,
            freeze_until: None,
            bn: None,
            epochs: 25,
            batch_size: 4,
            lr: 0.001,
            optimizer: UpdateRule::Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false },
            schedule: Policy::StepLR { step_size: 7, gamma: 0.1 }.into(),
            backbone_lr: None,
            lr_layer_decay: None,
            unfreeze_every: None,
            clip_grad_norm: None,
            accumulate: 1,
            ema: None,
            patience: None,
            keep: Keep::Best,
            time: None,
            label_smoothing: 0.0,
            class_weights: ClassWeights::Uniform,
            preprocessing: Preprocessing::default(),
            augmentation: Some(Augmentation::default()),
            seed: 0,
            views: None,
            precision: Precision::F32,
            cache_bytes: None,
        }
    }

    /// The settings of a run that decides itself: a probe, then at most 10 epochs of fine-tuning that starts from its
    /// solution (LP-FT), with AdamW, since its steps don't depend on how the weights of a file are scaled. Where fine-tuning
    /// has something to gain it takes a rate that moves; where not, the probe is kept.
    pub fn ladder(data: PathBuf, backbone: Backbone) -> Self {
        Self {
            mode: Mode::Auto,
            init_head: InitHead::Probe,
            epochs: 10,
            batch_size: 16,
            lr: 0.0003,
            lr_layer_decay: Some(0.8),
            optimizer: UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
            schedule: Policy::CosineAnnealingLR { eta_min: 0.0 }.into(),
            ..Self::tutorial(data, backbone)
        }
    }

    /// Checks what can be checked without looking at any file.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the setting, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Setting(text));
        if self.epochs == 0 {
            return wrong("--epochs is 0; it must be at least 1".into());
        }
        if self.batch_size == 0 {
            return wrong("--batch-size is 0; it must be at least 1".into());
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return wrong(format!("--lr is {}; it must be a positive number", self.lr));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return wrong(format!("--label-smoothing is {}; it must be at least 0 and below 1", self.label_smoothing));
        }
        if self.c.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
            return wrong("-C must be a positive number".into());
        }
        if self.clip_grad_norm.is_some_and(|norm| !(norm.is_finite() && norm > 0.0)) {
            return wrong("--clip-grad-norm must be a positive number".into());
        }
        if self.accumulate == 0 {
            return wrong("--accumulate is 0; it must be at least 1 batch".into());
        }
        if self.ema.is_some_and(|decay| !(0.0..1.0).contains(&decay)) {
            return wrong("--ema must be at least 0 and below 1; 0.99 averages over about 100 steps".into());
        }
        if self.patience == Some(0) {
            return wrong("--patience is 0; it must be at least 1 epoch".into());
        }
        if self.patience.is_some() && (self.keep == Keep::Last || self.mode == Mode::Auto) {
            let keeps_last = if self.keep == Keep::Last { "--keep last" } else { "--mode auto, which keeps the last," };
            return wrong(format!(
                "--patience waits for a better epoch, and {keeps_last} looks for none: leave one out"
            ));
        }
        if self.time.is_some_and(|seconds| !(seconds.is_finite() && seconds >= 0.0)) {
            return wrong("--time must be at least 0 seconds".into());
        }
        self.validate_head()?;
        self.validate_learning()?;
        self.validate_views()?;
        if let ClassWeights::Given(weights) = &self.class_weights
            && !weights.iter().all(|weight| weight.is_finite() && *weight > 0.0)
        {
            return wrong(format!("--class-weights are {weights:?}; they must all be positive"));
        }
        let (momentum, weight_decay) = match self.optimizer {
            UpdateRule::Sgd { momentum, weight_decay, .. } => (momentum, weight_decay),
            UpdateRule::AdamW { weight_decay, .. } => (0.0, weight_decay),
        };
        for (flag, value) in [("momentum", momentum), ("weight-decay", weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(format!("--{flag} is {value}; it must be at least 0"));
            }
        }
        self.schedule.validate()?;
        self.preprocessing.validate()?;
        Ok(self.augmentation.as_ref().map_or(Ok(()), Augmentation::validate)?)
    }

    /// Checks that there are layers whose values of a photo can be kept, and photos that vary one by one.
    fn validate_views(&self) -> Result<()> {
        let Some(views) = self.views else { return Ok(()) };
        let wrong = |text: &str| Err(Error::Setting(text.into()));
        match &self.augmentation {
            _ if views == 0 => wrong("--views is 0; it must be at least 1"),
            _ if self.mode.fine_tunes() && self.freeze_until.is_none() => wrong(
                "--views keeps what frozen layers make of photos, and fine-tuning without --freeze-until has none",
            ),
            None => wrong("--views varies photos, and --no-augment does not: leave one of them out"),
            Some(augmentation) if augmentation.mix.is_some() => wrong(
                "--views keeps what frozen layers make of single photos, and --mixup-alpha and --cutmix-alpha mix them \
                 before: leave out either",
            ),
            Some(_) => Ok(()),
        }
    }

    /// Checks what depends on what is asked about the photos.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the flag that does not go with it.
    pub(crate) fn validate_for(&self, dataset: &Dataset) -> Result<()> {
        let wrong = |text: String| Err(Error::Setting(text));
        let (head, classes) = (&self.head, &dataset.classes);
        match dataset.task {
            Task::Classes => {}
            Task::Labels if *head == Head::Mean => {
                return wrong("--head mean is for photos of one class each, and these have labels".into());
            }
            Task::Labels => {}
            Task::Value if matches!(head, Head::Ovr | Head::Mean | Head::Cosine) => {
                return wrong(format!("--head {head} tells classes apart, and these photos have a number each"));
            }
            Task::Value => {
                let mixes = |mix: Mix| mix.cutmix_alpha > 0.0;
                let given = [
                    ("--class-weights", self.class_weights != ClassWeights::Uniform),
                    ("--label-smoothing", self.label_smoothing > 0.0),
                    ("--cutmix-alpha", self.augmentation.as_ref().and_then(|it| it.mix).is_some_and(mixes)),
                ];
                if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
                    return wrong(format!("{flag} goes with classes or labels, and these photos have a number each"));
                }
            }
        }
        match &self.class_weights {
            ClassWeights::Given(weights) if weights.len() != classes.len() => wrong(format!(
                "--class-weights gives {} numbers, but there are {} classes: {}",
                weights.len(),
                classes.len(),
                classes.join(", ")
            )),
            _ => Ok(()),
        }
    }

    /// The weight of each class in the loss, or of each label's yes, if they differ.
    pub(crate) fn loss_weights(&self, dataset: &Dataset) -> Option<Vec<f32>> {
        match &self.class_weights {
            ClassWeights::Uniform => None,
            ClassWeights::Given(weights) => Some(weights.clone()),
            ClassWeights::Balanced => {
                let (classes, n) = (dataset.classes.len(), dataset.train.len() as f32);
                let mut counts = vec![0usize; classes];
                dataset.train.iter().flat_map(|sample| sample.target.indices()).for_each(|&class| counts[class] += 1);
                let weight = |&count: &usize| match dataset.task {
                    // A label's yeses count as much as its noes.
                    Task::Labels => (n - count as f32) / count as f32,
                    Task::Classes | Task::Value => n / classes as f32 / count as f32,
                };
                Some(counts.iter().map(weight).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regraft_data::{Sample, Target};

    #[test]
    fn a_config_survives_its_toml() {
        let mut config = Config::tutorial("photos".into(), "resnet18".into());
        config.weights = Source::File("weights.pth".into());
        config.published = Some(Published { name: "V1".into(), url: "https://host/weights.pth".into() });
        config.bn = Some(BatchNorm::Frozen);
        config.class_weights = ClassWeights::Given(vec![0.5, 2.0]);
        config.head = "conv:256,fc:128".parse().unwrap();
        (config.cut, config.init_head) = (Some("layer3".into()), InitHead::Probe);
        (config.ema, config.patience, config.accumulate) = (Some(0.99), Some(3), 2);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), config, "{text}");
    }

    #[test]
    fn what_older_versions_did_not_know_has_its_default() {
        let config = Config::tutorial("photos".into(), "resnet18".into());
        let text = toml::to_string(&config).unwrap();
        let old: Vec<&str> = text
            .lines()
            .filter(|line| !["head_dropout", "init_head", "accumulate"].iter().any(|new| line.starts_with(new)))
            .collect();
        assert_eq!(toml::from_str::<Config>(&old.join("\n")).unwrap(), config);
    }

    #[test]
    fn balanced_weights_make_every_class_count_the_same() {
        let mut config = Config::tutorial("photos".into(), "resnet18".into());
        config.class_weights = ClassWeights::Balanced;
        let photos = dataset(Task::Classes, [0, 0, 0, 1].map(Target::Class));
        assert_eq!(config.loss_weights(&photos).unwrap(), [4.0 / 6.0, 2.0]);
        let labelled = dataset(Task::Labels, [vec![0], vec![0, 1], vec![], vec![0]].map(Target::Labels));
        assert_eq!(config.loss_weights(&labelled).unwrap(), [1.0 / 3.0, 3.0]);
        config.validate_for(&photos).unwrap();
        config.class_weights = ClassWeights::Given(vec![1.0; 3]);
        let message = config.validate_for(&photos).unwrap_err().to_string();
        assert!(message.contains("3 numbers") && message.contains("a, b"), "{message}");
    }

    fn dataset(task: Task, targets: impl IntoIterator<Item = Target>) -> Dataset {
        let train = targets.into_iter().map(|target| Sample { path: "photo".into(), target }).collect();
        Dataset { root: "photos".into(), task, classes: vec!["a".into(), "b".into()], train, val: Vec::new() }
    }

    #[test]
    fn what_does_not_go_with_the_task_is_named() {
        let refused = |task, change: fn(&mut Config)| {
            let mut config = Config::tutorial("photos".into(), "resnet18".into());
            change(&mut config);
            config.validate_for(&dataset(task, [])).unwrap_err().to_string()
        };
        assert!(refused(Task::Labels, |c| c.head = Head::Mean).contains("--head mean"));
        assert!(refused(Task::Value, |c| c.head = Head::Cosine).contains("--head cosine"));
        assert!(refused(Task::Value, |c| c.class_weights = ClassWeights::Balanced).contains("--class-weights"));
        assert!(refused(Task::Value, |c| c.label_smoothing = 0.1).contains("--label-smoothing"));
        let cut = |c: &mut Config| {
            let mix = Some(Mix { mixup_alpha: 0.0, cutmix_alpha: 1.0 });
            c.augmentation = Some(Augmentation { mix, ..Augmentation::default() });
        };
        assert!(refused(Task::Value, cut).contains("--cutmix-alpha"));
    }

    #[test]
    fn contradictions_are_named() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::tutorial("photos".into(), "resnet18".into());
            change(&mut config);
            config.validate().map_err(|e| e.to_string())
        };
        assert!(with(|_| ()).is_ok());
        assert!(with(|c| c.epochs = 0).unwrap_err().contains("--epochs"));
        assert!(with(|c| c.lr = f64::NAN).unwrap_err().contains("--lr"));
        assert!(with(|c| c.head = Head::Ovr).unwrap_err().contains("--mode probe"));
        assert!(with(|c| c.schedule = Policy::StepLR { step_size: 0, gamma: 0.1 }.into()).is_err());
        assert!(
            with(|c| c.optimizer = UpdateRule::Sgd { momentum: 0.9, weight_decay: f64::NAN, nesterov: false })
                .unwrap_err()
                .contains("--weight-decay")
        );
        let views = |c: &mut Config| (c.mode, c.views) = (Mode::Frozen, Some(2));
        assert!(with(views).is_ok());
        assert!(with(|c| c.views = Some(2)).unwrap_err().contains("--freeze-until"));
        assert!(with(|c| (c.mode, c.views) = (Mode::Frozen, Some(0))).unwrap_err().contains("--views is 0"));
        let plain = |c: &mut Config| (c.mode, c.views, c.augmentation) = (Mode::Frozen, Some(2), None);
        assert!(with(plain).unwrap_err().contains("--no-augment"));
        let mixed = |c: &mut Config| {
            let mix = Some(Mix { mixup_alpha: 0.2, cutmix_alpha: 0.0 });
            let augmentation = Some(Augmentation { mix, ..Augmentation::default() });
            (c.mode, c.views, c.augmentation) = (Mode::Frozen, Some(2), augmentation);
        };
        assert!(with(mixed).unwrap_err().contains("--mixup-alpha"));
        assert!(with(|c| c.label_smoothing = 1.0).unwrap_err().contains("--label-smoothing"));
    }
}
