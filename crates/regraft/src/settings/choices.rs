//! Settings that are one of a few choices.

use std::fmt;

use regraft_data::Interpolation;
use regraft_engine::Precision;
use serde::{Deserialize, Serialize};

use super::value::SettingValue;
use crate::{DeviceChoice, Tta};

/// A type with a few values, each of which has a name.
pub trait Choice: Copy + 'static {
    /// What help calls a value.
    const VALUE_NAME: &'static str;

    /// The names, each with a sentence of help that has settings in backquotes.
    const CHOICES: &'static [(&'static str, &'static str)];

    /// The value of this name.
    fn from_name(name: &str) -> Option<Self>;

    /// The name of the value.
    fn name(self) -> &'static str;
}

impl<T: Choice> SettingValue for T {
    const VALUE_NAME: &'static str = T::VALUE_NAME;
    const CHOICES: &'static [(&'static str, &'static str)] = T::CHOICES;

    fn parse(text: &str) -> Result<Self, String> {
        let names = || T::CHOICES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        T::from_name(text).ok_or_else(|| format!("it must be one of {}", names()))
    }

    fn text(&self) -> String {
        self.name().into()
    }
}

/// Declares names and help of an enum's variants.
macro_rules! choices {
    ($($ty:ident $value_name:literal { $($variant:ident = $name:literal, $help:literal;)+ })+) => {$(
        impl Choice for $ty {
            const VALUE_NAME: &'static str = $value_name;
            const CHOICES: &'static [(&'static str, &'static str)] = &[$(($name, $help)),+];

            fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    )+};
}

/// How a network is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A probe, then fine-tuning where the time allows; the better of the two.
    #[default]
    Auto,
    /// Features once, then logistic regression.
    Probe,
    /// Only the new head learns, on augmented images.
    Frozen,
    /// All layers learn, or those from a given layer up.
    Finetune,
}

impl Mode {
    /// Whether layers of the backbone may learn.
    pub(crate) fn fine_tunes(self) -> bool {
        matches!(self, Mode::Auto | Mode::Finetune)
    }

    /// Whether a probe's solution becomes the head.
    pub(crate) fn probes(self) -> bool {
        matches!(self, Mode::Auto | Mode::Probe)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which epoch's weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that did best on the validation images.
    Best,
    /// The last ones.
    Last,
}

/// What batch norms of layers that learn do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNorm {
    /// Keep their running statistics; weight and bias learn.
    Frozen,
    /// Normalise with the batch's statistics, as PyTorch's `train()`.
    Train,
}

/// What a new head's last layer starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitHead {
    /// PyTorch's random values.
    Random,
    /// The solution of a probe: linear probing, then fine-tuning (LP-FT, Kumar et al. 2022).
    Probe,
}

/// The optimiser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// `torch.optim.SGD`.
    Sgd,
    /// `torch.optim.AdamW` with PyTorch's betas and eps.
    AdamW,
}

/// How the learning rate goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Falls by a factor every few epochs.
    StepLR,
    /// Half a cosine.
    CosineAnnealingLR,
    /// Up and down again, step by step.
    OneCycleLR,
    /// No change.
    Constant,
}

/// Random operations on training images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoAugmentPolicy {
    /// RandAugment.
    Ra,
    /// TrivialAugmentWide.
    TaWide,
}

/// How much each class counts in the loss.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// Every image counts the same.
    Uniform,
    /// Every class counts the same: `n / (classes * images of the class)`.
    Balanced,
    /// A factor for each class, in the order of the sorted names.
    Given(Vec<f32>),
}

/// Published weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The publisher's name for them, such as `IMAGENET1K_V1`.
    pub name: String,
    /// Where the publisher keeps them.
    pub url: String,
}

choices! {
    Mode "MODE" {
        Auto = "auto", "A probe, then fine-tuning from it where `time` allows; keeps what is better beyond chance";
        Probe = "probe", "Features once, then logistic regression: seconds";
        Frozen = "frozen", "Train only a new last layer, on augmented photos";
        Finetune = "finetune", "Train all layers, or those from `freeze_until` up";
    }
    Keep "EPOCH" {
        Best = "best", "Those of the best validation score";
        Last = "last", "The last, so that the validation photos have no say in the choice";
    }
    BatchNorm "STATISTICS" {
        Frozen = "frozen", "Keep the running statistics";
        Train = "train", "Use the statistics of each batch, as PyTorch's train()";
    }
    InitHead "INIT" {
        Random = "random", "PyTorch's random values";
        Probe = "probe", "The solution of a probe: linear probing, then fine-tuning (LP-FT)";
    }
    Optimizer "OPTIMIZER" {
        Sgd = "sgd", "Stochastic gradient descent";
        AdamW = "adamw", "Adam with decoupled weight decay";
    }
    Scheduler "SCHEDULER" {
        StepLR = "steplr", "Multiply by `lr_gamma` every `lr_step_size` epochs";
        CosineAnnealingLR = "cosineannealinglr", "Half a cosine down to `lr_min`";
        OneCycleLR = "onecyclelr", "Up to `lr` and down again, step by step";
        Constant = "constant", "No change";
    }
    AutoAugmentPolicy "POLICY" {
        Ra = "ra", "RandAugment: two random operations of one strength";
        TaWide = "ta_wide", "TrivialAugmentWide: one random operation of any strength";
    }
    Interpolation "FILTER" {
        Bilinear = "bilinear", "Bilinear with antialias";
        Bicubic = "bicubic", "Bicubic with antialias";
    }
    DeviceChoice "DEVICE" {
        Auto = "auto", "The fastest there is";
        Cpu = "cpu", "This machine's processor";
        Gpu = "gpu", "A GPU; this version has no engine for one";
    }
    Tta "VARIATION" {
        Hflip = "hflip", "The photo and its mirror image: the mean of both answers";
    }
    Precision "PRECISION" {
        F32 = "f32", "Single precision";
        Bf16 = "bf16", "bfloat16 where it is faster: needs a CPU with AVX-512 BF16";
    }
}
