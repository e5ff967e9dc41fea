//! The settings of a run, each declared once.

mod choices;
mod derived;
mod field;
mod file;
mod validate;
mod value;

use std::fmt::Display;
use std::path::PathBuf;

use regraft_data::{ColorJitter, Interpolation, Preprocessing};
use regraft_engine::Precision;

pub use choices::{
    AutoAugmentPolicy, BatchNorm, Choice, ClassWeights, InitHead, Keep, Mode, Optimizer, Published, Scheduler,
};
pub(crate) use derived::{ADAMW_BETAS, ADAMW_EPS};
pub use field::Field;
use field::{Condition, Range};
pub use value::Seconds;
use value::SettingValue;

use crate::{Backbone, Error, Head, Result, Source};

/// Declares the settings. Each line is a setting: its sentence of help, name, type, default by mode, range, and what it goes
/// with; then, where that default does not say it, what help says of the default.
macro_rules! settings {
    ($($section:ident $title:literal {
        $($(#[doc = $help:literal])+ $name:ident: $ty:ty = $default:expr, $range:ident, $conditions:ident
            $(, $default_text:expr)?;)+
    })+) => {
        /// Everything that decides the result of a run.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            /// The folder of images, or a CSV file that lists them.
            pub data: PathBuf,
            /// The network to graft on.
            pub backbone: Backbone,
            /// What the backbone starts from.
            pub weights: Source,
            /// Name and address of these weights, if they are published ones.
            pub published: Option<Published>,
            /// How images are prepared: as for the weights, unless settings say otherwise.
            pub preprocessing: Preprocessing,
            $($($(#[doc = $help])+ pub $name: $ty,)+)+
        }

        /// All settings that have a value of their own, in the order of the sections.
        pub static FIELDS: &[Field] = &[$($(Field {
            name: stringify!($name),
            section: stringify!($section),
            title: $title,
            help: concat!($($help),+).trim_ascii_start(),
            value_name: <$ty as SettingValue>::VALUE_NAME,
            choices: <$ty as SettingValue>::CHOICES,
            is_flag: <$ty as SettingValue>::IS_FLAG,
            is_list: <$ty as SettingValue>::IS_LIST,
            range: $range,
            conditions: $conditions,
            default_text: [$(Some($default_text as fn() -> String),)? None][0],
            set: |settings, text| <$ty as SettingValue>::parse(text).map(|value| settings.$name = value),
            clear: |settings| settings.$name = <$ty as SettingValue>::absent().unwrap_or_else(|| settings.$name.clone()),
            text: |settings| settings.$name.text(),
            numbers: |settings| settings.$name.numbers(),
            toml: |settings| settings.$name.toml(),
        },)+)+];

        impl Settings {
            /// The defaults of a mode.
            pub fn new(data: PathBuf, backbone: Backbone, mode: Mode) -> Self {
                Self {
                    data,
                    backbone,
                    weights: Source::Random,
                    published: None,
                    preprocessing: Preprocessing::default(),
                    $($($name: {
                        let default: fn(Mode) -> $ty = $default;
                        default(mode)
                    },)+)+
                }
            }
        }
    };
}

/// How images are prepared for most weights.
fn usual() -> Preprocessing {
    Preprocessing::default()
}

/// The default of a setting that published weights decide.
fn as_for_weights(mostly: impl Display) -> String {
    format!("as for the weights, mostly {mostly}")
}

/// Of two values that of auto mode, or that of PyTorch's transfer-learning tutorial.
fn auto<T>(mode: Mode, auto: T, tutorial: T) -> T {
    if mode == Mode::Auto { auto } else { tutorial }
}

settings! {
    run "Run" {
        /// How to train
        mode: Mode = |mode| mode, ANY, ALWAYS, || Mode::default().text();
        /// Time that mode auto may take, such as 90s, 10m or 1h30m; 0 for a probe alone
        time: Option<Seconds> = |mode| auto(mode, Some(Seconds(600.0)), None), NOT_NEGATIVE, AUTO;
        /// Seed of every random decision
        seed: u64 = |_| 0, SEED, ALWAYS;
        /// Arithmetic of the convolutions in training; what is measured and saved is f32
        precision: Precision = |_| Precision::F32, ANY, FINE_TUNES;
    }
    data "Data" {
        /// Fraction of each class to validate on, where there is no val/ folder
        val_fraction: f64 = |_| 0.2, INSIDE, ALWAYS;
        /// An unreadable photo is an error instead of a warning
        strict: bool = |_| false, ANY, ALWAYS;
        /// Most memory for decoded photos in MiB
        cache_mib: Option<usize> = |_| None, ANY, ALWAYS, || "1024, or a quarter of what is free".into();
    }
    network "Network" {
        /// Side of the network's input in pixels
        imgsz: Option<u32> = |_| None, SIDE, ALWAYS, || as_for_weights(usual().crop);
        /// Shorter side after resizing, before the centre crop, in pixels
        val_resize_size: Option<u32> = |_| None, SIDE, ALWAYS,
            || as_for_weights(format!("`imgsz` * {} / {}", usual().resize, usual().crop));
        /// How photos are resized
        interpolation: Option<Interpolation> = |_| None, ANY, ALWAYS,
            || as_for_weights(usual().interpolation.text());
        /// Mean of red, green and blue that is subtracted, for photos of 0 to 1
        mean: Option<[f32; 3]> = |_| None, COLORS, ALWAYS, || as_for_weights(usual().mean.text());
        /// Standard deviation of red, green and blue that is then divided by
        std: Option<[f32; 3]> = |_| None, POSITIVE_COLORS, ALWAYS, || as_for_weights(usual().std.text());
        /// Freeze everything before this layer, such as layer4
        freeze_until: Option<String> = |_| None, ANY, ALWAYS;
        /// Begin with the head alone, and let one more stage of the backbone learn every N epochs
        unfreeze_every: Option<usize> = |_| None, COUNT, ALWAYS;
        /// What batch norms of trained layers do
        bn: Option<BatchNorm> = |_| None, ANY, FINE_TUNES,
            || "train; frozen where the weights have theirs folded, or the head starts from a probe".into();
    }
    head "Head" {
        /// What classifies: linear, cosine, mlp:512,256 (hidden layers) or conv:256x1,fc:128 (1x1 convolutions, then hidden
        /// layers); for a probe softmax, ovr or mean (the nearest class mean)
        head: Head = |mode| if mode == Mode::Probe { Head::Softmax } else { Head::Linear }, ANY, ALWAYS;
        /// Last layer of the backbone that stays, such as layer3; its map is averaged over its area
        cut: Option<String> = |_| None, ANY, ALWAYS;
        /// Probability of dropout before each fully connected layer of the head
        head_dropout: f64 = |_| 0.0, BELOW_ONE, DESCENDS_ALONE;
        /// What the head starts from
        init_head: InitHead = |mode| auto(mode, InitHead::Probe, InitHead::Random), ANY, DESCENDS;
        /// Inverse regularisation strength of a probe
        c: Option<f64> = |_| None, POSITIVE, PROBES, || "chosen by cross-validation".into();
    }
    optimizer "Optimiser" {
        /// Learning rate
        lr: f64 = |mode| auto(mode, 0.0003, 0.001), POSITIVE, DESCENDS;
        /// Photos a step
        batch_size: usize = |mode| auto(mode, 16, 4), COUNT, DESCENDS;
        /// Optimiser
        optimizer: Optimizer = |mode| auto(mode, Optimizer::AdamW, Optimizer::Sgd), ANY, DESCENDS;
        /// Momentum of SGD
        momentum: f64 = |_| 0.9, NOT_NEGATIVE, SGD;
        /// Nesterov's momentum
        nesterov: bool = |_| false, ANY, SGD;
        /// Weight decay
        weight_decay: Option<f64> = |_| None, NOT_NEGATIVE, DESCENDS,
            || [Optimizer::Sgd, Optimizer::AdamW].map(|it| format!("{} for {}", it.weight_decay(), it.text())).join(", ");
        /// Learning rate of the backbone
        backbone_lr: Option<f64> = |_| None, POSITIVE, ALWAYS, || "that of the head, `lr`".into();
        /// Factor of the rate from each stage of the backbone to the one below, such as 0.7
        lr_layer_decay: f64 = |mode| auto(mode, 0.8, 1.0), FACTOR, ALWAYS;
        /// Scale gradients down to this norm, taken over all of them
        clip_grad_norm: Option<f64> = |_| None, POSITIVE, DESCENDS;
        /// Batches whose gradients make one step
        accumulate: usize = |_| 1, COUNT, DESCENDS;
        /// Validate and save a moving average of the weights with this decay a step, such as 0.99
        ema: Option<f64> = |_| None, BELOW_ONE, DESCENDS;
        /// Share of the target spread over all classes
        label_smoothing: f64 = |_| 0.0, BELOW_ONE, DESCENDS;
        /// How much each class counts: uniform, balanced, or a number for each class (sorted), with commas
        class_weights: ClassWeights = |_| ClassWeights::Uniform, ANY, ALWAYS;
    }
    schedule "Schedule" {
        /// Passes over the training photos; with mode auto at most so many
        epochs: usize = |mode| auto(mode, 10, 25), COUNT, DESCENDS;
        /// Stop after so many epochs without a better validation score
        patience: Option<usize> = |_| None, COUNT, DESCENDS;
        /// Which epoch's weights are saved; mode auto keeps the last
        keep: Keep = |_| Keep::Best, ANY, DESCENDS_ALONE;
        /// How the learning rate goes
        lr_scheduler: Scheduler = |mode| auto(mode, Scheduler::CosineAnnealingLR, Scheduler::StepLR), ANY, DESCENDS;
        /// Epochs between two falls of steplr
        lr_step_size: usize = |_| 7, COUNT, STEP_LR;
        /// Factor of each fall of steplr
        lr_gamma: f64 = |_| 0.1, POSITIVE, STEP_LR;
        /// Lowest rate of cosineannealinglr
        lr_min: f64 = |_| 0.0, NOT_NEGATIVE, COSINE_LR;
        /// Epochs of linear warm-up
        lr_warmup_epochs: usize = |_| 0, ANY, DESCENDS;
        /// Fraction of the rate at which the warm-up starts
        lr_warmup_decay: f64 = |_| 0.01, FACTOR, WARMS_UP;
    }
    augmentation "Augmentation" {
        /// Prepare training photos as for validation, without random crops and flips: frozen layers then see each photo once
        no_augment: bool = |_| false, ANY, DESCENDS;
        /// Probability of mirroring a training photo
        hflip_prob: f64 = |_| 0.5, UNIT, DESCENDS;
        /// Random changes of brightness, contrast, saturation and hue, such as 0.4,0.4,0.4,0.1
        color_jitter: Option<ColorJitter> = |_| None, ANY, DESCENDS;
        /// Random rotation by up to so many degrees
        rotation: f64 = |_| 0.0, DEGREES, DESCENDS;
        /// Random operations on each training photo
        auto_augment: Option<AutoAugmentPolicy> = |_| None, ANY, DESCENDS;
        /// Strength of ra, 0 to 30
        ra_magnitude: u8 = |_| 9, MAGNITUDE, RAND_AUGMENT;
        /// Probability of erasing a rectangle of a training photo
        random_erase: f64 = |_| 0.0, UNIT, DESCENDS;
        /// Blend each photo of a batch with another, by shares from Beta(ALPHA, ALPHA)
        mixup_alpha: f64 = |_| 0.0, ALPHA, DESCENDS;
        /// Paste a rectangle of another photo into each; with `mixup_alpha`, each batch gets one of the two
        cutmix_alpha: f64 = |_| 0.0, ALPHA, DESCENDS;
        /// Vary each photo in K ways that repeat after K epochs: frozen layers then see it K times, however many epochs
        views: Option<usize> = |_| None, COUNT, DESCENDS;
    }
}

const ANY: Range = Range { allowed: "any value", holds: |_| true };
const POSITIVE: Range = Range { allowed: "a number above 0", holds: |x| x > 0.0 };
const NOT_NEGATIVE: Range = Range { allowed: "at least 0", holds: |x| x >= 0.0 };
const COUNT: Range = Range { allowed: "a whole number of at least 1", holds: |x| x >= 1.0 };
const INSIDE: Range = Range { allowed: "between 0 and 1", holds: |x| x > 0.0 && x < 1.0 };
const BELOW_ONE: Range = Range { allowed: "at least 0 and below 1", holds: |x| (0.0..1.0).contains(&x) };
const UNIT: Range = Range { allowed: "from 0 to 1", holds: |x| (0.0..=1.0).contains(&x) };
const FACTOR: Range = Range { allowed: "above 0 and up to 1", holds: |x| x > 0.0 && x <= 1.0 };
const DEGREES: Range = Range { allowed: "from 0 to 180", holds: |x| (0.0..=180.0).contains(&x) };
const ALPHA: Range = Range { allowed: "from 0 to 1000", holds: |x| (0.0..=1000.0).contains(&x) };
const MAGNITUDE: Range = Range { allowed: "from 0 to 30", holds: |x| x <= 30.0 };
const SIDE: Range =
    Range { allowed: "from 1 to 4096 pixels", holds: |x| (1.0..=Preprocessing::MAX_SIDE as f64).contains(&x) };
// TOML's integers have a sign.
const SEED: Range = Range { allowed: "a whole number below 2^63", holds: |_| true };
const COLORS: Range = Range { allowed: "three numbers", holds: |_| true };
const POSITIVE_COLORS: Range = Range { allowed: "three numbers above 0", holds: |x| x >= f64::from(f32::MIN_POSITIVE) };

/// By gradient descent.
const DESCENT: Condition =
    Condition { goes_with: "`mode` frozen or finetune", holds: |settings| settings.mode != Mode::Probe };

const ALWAYS: &[Condition] = &[];
const AUTO: &[Condition] = &[Condition { goes_with: "`mode` auto", holds: |settings| settings.mode == Mode::Auto }];
const DESCENDS: &[Condition] = &[DESCENT];
const DESCENDS_ALONE: &[Condition] =
    &[DESCENT, Condition { goes_with: "`mode` frozen or finetune", holds: |settings| settings.mode != Mode::Auto }];
const FINE_TUNES: &[Condition] =
    &[Condition { goes_with: "`mode` finetune", holds: |settings| settings.mode.fine_tunes() }];
const PROBES: &[Condition] = &[Condition {
    goes_with: "`mode` probe or `init_head` probe",
    holds: |settings| settings.mode.probes() || settings.init_head == InitHead::Probe,
}];
const SGD: &[Condition] =
    &[DESCENT, Condition { goes_with: "`optimizer` sgd", holds: |settings| settings.optimizer == Optimizer::Sgd }];
const STEP_LR: &[Condition] = &[
    DESCENT,
    Condition { goes_with: "`lr_scheduler` steplr", holds: |settings| settings.lr_scheduler == Scheduler::StepLR },
];
const COSINE_LR: &[Condition] = &[
    DESCENT,
    Condition {
        goes_with: "`lr_scheduler` cosineannealinglr",
        holds: |settings| settings.lr_scheduler == Scheduler::CosineAnnealingLR,
    },
];
const WARMS_UP: &[Condition] =
    &[DESCENT, Condition { goes_with: "`lr_warmup_epochs`", holds: |settings| settings.lr_warmup_epochs > 0 }];
const RAND_AUGMENT: &[Condition] = &[
    DESCENT,
    Condition {
        goes_with: "`auto_augment` ra",
        holds: |settings| settings.auto_augment == Some(AutoAugmentPolicy::Ra),
    },
];

impl Settings {
    /// The defaults of PyTorch's transfer-learning tutorial: 25 epochs of batches of 4, SGD at 0.001 with momentum 0.9, a
    /// tenth of the rate every 7 epochs, random crops and flips; all layers learn.
    pub fn tutorial(data: PathBuf, backbone: Backbone) -> Self {
        Self::new(data, backbone, Mode::Finetune)
    }

    /// The setting of this name.
    pub fn field(name: &str) -> Option<&'static Field> {
        FIELDS.iter().find(|field| field.name == name)
    }

    /// The defaults of a mode with changes, each a setting's name and value as text. The mode, wherever it is among them,
    /// decides the defaults.
    ///
    /// # Errors
    /// Errors of [`set`](Self::set).
    pub fn with_changes<'a>(
        data: PathBuf,
        backbone: Backbone,
        changes: impl IntoIterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self> {
        let mut settings = Self::new(data.clone(), backbone.clone(), Mode::default());
        let modes = changes.clone().into_iter().filter(|(name, _)| *name == "mode");
        modes.into_iter().try_for_each(|(name, text)| settings.set(name, text))?;
        let mut settings = Self::new(data, backbone, settings.mode);
        changes.into_iter().try_for_each(|(name, text)| settings.set(name, text))?;
        Ok(settings)
    }

    /// Gives a setting the value that a text says. Others keep theirs, even where their default depends on it:
    /// [`with_changes`](Self::with_changes) takes the mode into account.
    ///
    /// # Errors
    /// [`Error::NoSuchSetting`]; [`Error::Setting`] if it cannot have that value.
    pub fn set(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(field) = Self::field(name) else { return Err(Error::NoSuchSetting { name: name.into() }) };
        let refused = |allowed| Error::Setting { field: field.name, value: text.into(), allowed };
        (field.set)(self, text).map_err(refused)?;
        field.check(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_complete_and_their_defaults_valid() {
        let mut names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len(), "a name is used twice");
        for mode in [Mode::Auto, Mode::Probe, Mode::Frozen, Mode::Finetune] {
            let settings = Settings::new("photos".into(), "resnet18".into(), mode);
            settings.validate().unwrap();
            for field in FIELDS {
                assert!(field.help.len() > 8 && !field.help.ends_with('.'), "{}: {:?}", field.name, field.help);
                field.check(&settings).unwrap();
                let text = (field.text)(&settings);
                if !text.is_empty() {
                    let mut again = settings.clone();
                    again.set(field.name, &text).unwrap();
                    assert_eq!(again, settings, "{}", field.name);
                }
            }
        }
    }

    #[test]
    fn default_text_names_the_modes_that_differ() {
        let of = |name: &str| Settings::field(name).unwrap().default_text();
        assert_eq!(of("lr"), "0.001; 0.0003 with `mode` auto");
        assert_eq!(of("head"), "linear; softmax with `mode` probe");
        assert_eq!(of("mode"), "auto");
        assert_eq!(of("time"), "10m with `mode` auto");
        assert_eq!(of("weight_decay"), "0 for sgd, 0.01 for adamw");
        assert_eq!(of("accumulate"), "1");
        assert_eq!(of("freeze_until"), "");
        assert_eq!(of("imgsz"), "as for the weights, mostly 224");
        assert_eq!(of("val_resize_size"), "as for the weights, mostly `imgsz` * 256 / 224");
    }

    #[test]
    fn set_refuses_values_and_names() {
        let mut settings = Settings::tutorial("photos".into(), "resnet18".into());
        for (name, text, expected) in [
            ("lr", "-1", "`lr` is -1; it must be a number above 0"),
            ("lr", "fast", "`lr` is fast; it must be a number"),
            ("epochs", "0", "`epochs` is 0; it must be a whole number of at least 1"),
            ("optimizer", "lion", "`optimizer` is lion; it must be one of sgd, adamw"),
            ("imgsz", "5000", "`imgsz` is 5000; it must be from 1 to 4096 pixels"),
            ("std", "1,1,0", "`std` is 1,1,0; it must be three numbers above 0"),
            ("seed", "-1", "`seed` is -1; it must be a whole number below 2^63"),
            ("speed", "9", "there is no setting \"speed\""),
        ] {
            let message = settings.set(name, text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn with_changes_takes_the_defaults_of_the_mode_among_them() {
        let changes = [("lr", "0.5"), ("mode", "probe"), ("mode", "auto"), ("seed", "9223372036854775807")];
        let settings = Settings::with_changes("photos".into(), "resnet18".into(), changes).unwrap();
        let mut expected = Settings::new("photos".into(), "resnet18".into(), Mode::Auto);
        (expected.lr, expected.seed) = (0.5, i64::MAX as u64);
        assert_eq!(settings, expected);
        settings.validate().unwrap();
        let wrong = Settings { seed: i64::MAX as u64 + 1, ..settings };
        assert!(wrong.validate().unwrap_err().to_string().contains("`seed`"));
    }

    #[test]
    fn idle_settings_name_what_they_go_with() {
        let idle = |mode, change: fn(&mut Settings), name: &str| {
            let mut settings = Settings::new("photos".into(), "resnet18".into(), mode);
            change(&mut settings);
            Settings::field(name).unwrap().idle(&settings)
        };
        assert_eq!(idle(Mode::Probe, |_| (), "lr"), Some("`mode` frozen or finetune"));
        assert_eq!(idle(Mode::Frozen, |_| (), "c"), Some("`mode` probe or `init_head` probe"));
        assert_eq!(idle(Mode::Finetune, |s| s.init_head = InitHead::Probe, "c"), None);
        assert_eq!(idle(Mode::Auto, |_| (), "momentum"), Some("`optimizer` sgd"));
        assert_eq!(idle(Mode::Finetune, |_| (), "lr_warmup_decay"), Some("`lr_warmup_epochs`"));
        assert_eq!(idle(Mode::Frozen, |_| (), "time"), Some("`mode` auto"));
        assert_eq!(idle(Mode::Auto, |_| (), "keep"), Some("`mode` frozen or finetune"));
    }
}
