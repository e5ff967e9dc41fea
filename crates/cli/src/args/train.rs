//! The flags of `regraft train`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use regraft::{ClassWeights, Head};
use regraft_data::{ColorJitter, Interpolation};

use super::PrecisionArg;
use crate::values::{
    AUTO, MAX_SEED, at_least_one, backbone_or_auto, class_weights, color_jitter, colors, not_negative, number, pixels,
    positive, seconds, weights,
};
use regraft::WeightSpec;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ModeArg {
    /// A probe, then fine-tuning from it where --time allows; keeps what is better beyond chance
    Auto,
    /// Features once, then logistic regression: seconds
    Probe,
    /// Train only a new last layer, on augmented photos
    Frozen,
    /// Train all layers, or those from --freeze-until up
    Finetune,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum InitHeadArg {
    /// PyTorch's random values
    Random,
    /// The solution of a probe: linear probing, then fine-tuning (LP-FT)
    Probe,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum KeepArg {
    /// Those of the best validation accuracy
    Best,
    /// The last, so that the validation photos have no say in the choice
    Last,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum BatchNormArg {
    /// Keep the running statistics
    Frozen,
    /// Use the statistics of each batch, as PyTorch's train()
    Train,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum OptimizerArg {
    Sgd,
    Adamw,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum SchedulerArg {
    /// Multiply by --lr-gamma every --lr-step-size epochs
    Steplr,
    /// Half a cosine down to --lr-min
    Cosineannealinglr,
    /// Up to --lr and down again, step by step
    Onecyclelr,
    /// No change
    Constant,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum InterpolationArg {
    Bilinear,
    Bicubic,
}

impl From<InterpolationArg> for Interpolation {
    fn from(arg: InterpolationArg) -> Self {
        match arg {
            InterpolationArg::Bilinear => Interpolation::Bilinear,
            InterpolationArg::Bicubic => Interpolation::Bicubic,
        }
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum AutoAugmentArg {
    /// RandAugment: two random operations of one strength
    Ra,
    /// TrivialAugmentWide: one random operation of any strength
    TaWide,
}

#[derive(Args)]
pub struct Train {
    /// Folder with train/ and val/ of class folders, or with the class folders themselves; or a CSV file that lists photos
    pub data: PathBuf,
    /// Architecture, by torchvision's name; an ONNX file (.onnx) of a classifier, with its weights; or auto: rootstock, which
    /// is inside this program
    #[arg(long, default_value = AUTO, value_parser = backbone_or_auto())]
    pub backbone: String,
    /// Pretrained weights: a published name such as imagenet1k_v1 (`regraft backbones` lists them), downloaded where need
    /// be; a file, torchvision's .pth or .safetensors; or random
    #[arg(long, value_name = "NAME|FILE", default_value = "default", value_parser = weights())]
    pub weights: WeightSpec,
    /// Download nothing: published weights must be here already
    #[arg(long)]
    pub offline: bool,
    /// What learns
    #[arg(long, value_enum, default_value = "auto")]
    pub mode: ModeArg,
    /// Time that --mode auto may take, such as 90s, 10m or 1h30m; 0 for a probe alone
    #[arg(long, default_value = "10m", value_parser = seconds, value_name = "TIME")]
    pub time: f64,
    /// Folder for the run [default: runs/train, runs/train2, ...]
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
    /// Replace the run that --output-dir holds
    #[arg(long, requires = "output_dir")]
    pub exist_ok: bool,
    /// Seed of every random decision
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub seed: u64,
    /// Arithmetic of the convolutions in training; what is measured and saved is f32
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: PrecisionArg,
    #[command(flatten)]
    pub photos: PhotoArgs,
    #[command(flatten)]
    pub head: HeadArgs,
    #[command(flatten)]
    pub training: TrainingArgs,
    #[command(flatten)]
    pub augmentation: AugmentationArgs,

    /// What was given on the command line and has no effect beside the rest of it.
    #[arg(skip)]
    pub idle: Vec<String>,
}

/// Which photos, and how they are prepared.
#[derive(Args)]
#[command(next_help_heading = "Data")]
pub struct PhotoArgs {
    /// Fraction of each class to validate on, where there is no val/ folder
    #[arg(long, default_value_t = 0.2, value_parser = number(|x| x > 0.0 && x < 1.0, "between 0 and 1"))]
    pub val_fraction: f64,
    /// An unreadable photo is an error instead of a warning
    #[arg(long)]
    pub strict: bool,
    /// Side of the network's input in pixels [default: as the weights were published, mostly 224]
    #[arg(long, value_parser = pixels())]
    pub imgsz: Option<u32>,
    /// Shorter side after resizing, before the centre crop, in pixels [default: as for the weights, mostly
    /// imgsz * 256 / 224]
    #[arg(long, value_parser = pixels())]
    pub val_resize_size: Option<u32>,
    /// How photos are resized [default: as for the weights, mostly bilinear]
    #[arg(long, value_enum)]
    pub interpolation: Option<InterpolationArg>,
    /// Mean of red, green and blue that is subtracted, for photos of 0 to 1 [default: as for the weights, mostly
    /// ImageNet's 0.485,0.456,0.406]
    #[arg(long, value_name = "R,G,B", value_parser = colors, allow_hyphen_values = true)]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue that is then divided by [default: as for the weights, mostly ImageNet's
    /// 0.229,0.224,0.225]
    #[arg(long, value_name = "R,G,B", value_parser = colors, allow_hyphen_values = true)]
    pub std: Option<[f32; 3]>,
    /// Most memory for decoded photos in MiB [default: 1024, or a quarter of what is free]
    #[arg(long)]
    pub cache_mib: Option<usize>,
}

/// What is grafted on.
#[derive(Args)]
#[command(next_help_heading = "Head")]
pub struct HeadArgs {
    /// What classifies: softmax (the same as linear), ovr or mean (the nearest class mean) for a probe; linear, cosine, mlp:512 (or mlp:512,256) or
    /// conv:256,fc:128 (convolutions, :256x1 for 1x1 ones, with batch norm and ReLU, then fully connected layers)
    /// [default: softmax for a probe, else linear]
    #[arg(long)]
    pub head: Option<Head>,
    /// Last layer of the backbone that stays, such as layer3; its map is averaged over its area
    #[arg(long, value_name = "LAYER")]
    pub cut: Option<String>,
    /// Probability of dropout before each fully connected layer of the head
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = number(|x| (0.0..1.0).contains(&x), "of at least 0 and below 1"))]
    pub head_dropout: f64,
    /// What the head starts from [default: random; with --mode auto, probe]
    #[arg(long, value_enum)]
    pub init_head: Option<InitHeadArg>,
    /// Inverse regularisation strength of a probe [default: chosen by cross-validation]
    #[arg(short = 'C', long = "C", value_name = "C", value_parser = positive())]
    pub c: Option<f64>,
}

/// How gradient descent goes.
#[derive(Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingArgs {
    /// Freeze everything before this layer (with --mode finetune), such as layer4
    #[arg(long, value_name = "LAYER")]
    pub freeze_until: Option<String>,
    /// Begin with the head alone, and let one more stage of the backbone learn every E epochs, from the head downwards
    #[arg(long, value_name = "E", value_parser = at_least_one)]
    pub unfreeze_every: Option<usize>,
    /// What batch norms of trained layers do [default: train; frozen where the weights have theirs folded, or the head starts
    /// from a probe]
    #[arg(long, value_enum)]
    pub bn: Option<BatchNormArg>,
    /// Passes over the training photos [default: 25; with --mode auto at most 10]
    #[arg(long, value_parser = at_least_one)]
    pub epochs: Option<usize>,
    /// Photos a step [default: 4; with --mode auto 16]
    #[arg(short, long, value_parser = at_least_one)]
    pub batch_size: Option<usize>,
    /// Optimiser [default: sgd; with --mode auto adamw]
    #[arg(long, value_enum)]
    pub optimizer: Option<OptimizerArg>,
    /// Learning rate [default: 0.001; with --mode auto 0.0003]
    #[arg(long, value_parser = positive())]
    pub lr: Option<f64>,
    /// Train nothing; try learning rates, suggest one, and draw the curve (lr_find.svg and .csv in --output-dir)
    #[arg(long)]
    pub find_lr: bool,
    /// Learning rate of the backbone [default: that of the head, --lr]
    #[arg(long, value_name = "LR", value_parser = positive())]
    pub backbone_lr: Option<f64>,
    /// Factor of the rate from each stage of the backbone to the one below, such as 0.7 [default: 1; with --mode auto 0.8]
    #[arg(long, value_name = "FACTOR", value_parser = number(|x| x > 0.0 && x <= 1.0, "above 0 and up to 1"))]
    pub lr_layer_decay: Option<f64>,
    /// Scale gradients down to this norm, taken over all of them
    #[arg(long, value_name = "NORM", value_parser = positive())]
    pub clip_grad_norm: Option<f64>,
    /// Batches whose gradients make one step
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one)]
    pub accumulate: usize,
    /// Validate and save a moving average of the weights with this decay a step, such as 0.99
    #[arg(long, value_name = "DECAY", value_parser = number(|x| (0.0..1.0).contains(&x), "of at least 0 and below 1"))]
    pub ema: Option<f64>,
    /// Stop after so many epochs without a better validation accuracy
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub patience: Option<usize>,
    /// Which epoch's weights are saved; --mode auto keeps the last
    #[arg(long, value_enum, default_value = "best")]
    pub keep: KeepArg,
    /// Momentum of SGD
    #[arg(long, default_value_t = 0.9, value_parser = not_negative())]
    pub momentum: f64,
    /// Nesterov's momentum
    #[arg(long)]
    pub nesterov: bool,
    /// Weight decay [default: 0 for sgd, 0.01 for adamw]
    #[arg(long, visible_alias = "wd", value_parser = not_negative())]
    pub weight_decay: Option<f64>,
    /// How the learning rate goes [default: steplr; with --mode auto cosineannealinglr]
    #[arg(long, value_enum)]
    pub lr_scheduler: Option<SchedulerArg>,
    /// Epochs between two falls of steplr
    #[arg(long, default_value_t = 7, value_parser = at_least_one)]
    pub lr_step_size: usize,
    /// Factor of each fall of steplr
    #[arg(long, default_value_t = 0.1, value_parser = positive())]
    pub lr_gamma: f64,
    /// Lowest rate of cosineannealinglr
    #[arg(long, default_value_t = 0.0, value_parser = not_negative())]
    pub lr_min: f64,
    /// Epochs of linear warm-up
    #[arg(long, default_value_t = 0)]
    pub lr_warmup_epochs: usize,
    /// Fraction of the rate at which the warm-up starts
    #[arg(long, default_value_t = 0.01, value_parser = number(|x| x > 0.0 && x <= 1.0, "above 0 and up to 1"))]
    pub lr_warmup_decay: f64,
    /// Share of the target spread over all classes
    #[arg(long, default_value_t = 0.0, value_parser = number(|x| (0.0..1.0).contains(&x), "of at least 0 and below 1"))]
    pub label_smoothing: f64,
    /// How much each class counts: uniform, balanced, or a number for each class (sorted), with commas
    #[arg(long, default_value = "uniform", value_parser = class_weights, value_name = "WEIGHTS")]
    pub class_weights: ClassWeights,
}

/// How training photos are varied.
#[derive(Args)]
#[command(next_help_heading = "Augmentation")]
pub struct AugmentationArgs {
    /// Prepare training photos as for validation, without random crops and flips: the layers below --freeze-until, or
    /// below the head with --mode frozen, then see each photo once
    #[arg(long, conflicts_with_all = ["hflip_prob", "color_jitter", "rotation", "auto_augment", "random_erase", "mixup_alpha", "cutmix_alpha", "views"])]
    pub no_augment: bool,
    /// Probability of mirroring a training photo
    #[arg(long, default_value_t = 0.5, value_parser = number(|x| (0.0..=1.0).contains(&x), "from 0 to 1"))]
    pub hflip_prob: f64,
    /// Random changes of brightness, contrast, saturation and hue, such as 0.4,0.4,0.4,0.1
    #[arg(long, value_name = "B,C,S,H", value_parser = color_jitter)]
    pub color_jitter: Option<ColorJitter>,
    /// Random rotation by up to so many degrees
    #[arg(long, default_value_t = 0.0, value_name = "DEGREES", value_parser = number(|x| (0.0..=180.0).contains(&x), "from 0 to 180"))]
    pub rotation: f64,
    /// Random operations on each training photo
    #[arg(long, value_enum)]
    pub auto_augment: Option<AutoAugmentArg>,
    /// Strength of ra, 0 to 30
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u8).range(0..=30))]
    pub ra_magnitude: u8,
    /// Probability of erasing a rectangle of a training photo
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = number(|x| (0.0..=1.0).contains(&x), "from 0 to 1"))]
    pub random_erase: f64,
    /// Blend each photo of a batch with another, by shares from Beta(ALPHA, ALPHA)
    #[arg(long, default_value_t = 0.0, value_name = "ALPHA", value_parser = number(|x| (0.0..=1000.0).contains(&x), "from 0 to 1000"))]
    pub mixup_alpha: f64,
    /// Paste a rectangle of another photo into each; with --mixup-alpha, each batch gets one of the two
    #[arg(long, default_value_t = 0.0, value_name = "ALPHA", value_parser = number(|x| (0.0..=1000.0).contains(&x), "from 0 to 1000"))]
    pub cutmix_alpha: f64,
    /// Vary each photo in K ways that come again after K epochs: frozen layers then see it K times, however many epochs
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    pub views: Option<usize>,
}

impl Train {
    /// The optimiser, and how the rate goes.
    pub(super) fn optimizer_and_scheduler(&self) -> (OptimizerArg, SchedulerArg) {
        let (optimizer, scheduler) = match self.mode {
            ModeArg::Auto => (OptimizerArg::Adamw, SchedulerArg::Cosineannealinglr),
            _ => (OptimizerArg::Sgd, SchedulerArg::Steplr),
        };
        (self.training.optimizer.unwrap_or(optimizer), self.training.lr_scheduler.unwrap_or(scheduler))
    }

    /// Says of every flag that was `given` and has no effect what it goes with.
    pub(super) fn idle(&self, given: impl Fn(&str) -> bool) -> Vec<String> {
        let mode = self.mode;
        let (optimizer, scheduler) = self.optimizer_and_scheduler();
        let by_steps = "--epochs --batch-size --optimizer --lr --momentum --nesterov --weight-decay --lr-scheduler \
            --lr-step-size --lr-gamma --lr-min --lr-warmup-epochs --lr-warmup-decay --label-smoothing --no-augment \
            --hflip-prob --color-jitter --rotation --auto-augment --ra-magnitude --random-erase --mixup-alpha \
            --cutmix-alpha --views --clip-grad-norm --accumulate --ema --patience --head-dropout --init-head --keep";
        let probes = matches!(mode, ModeArg::Auto | ModeArg::Probe) || self.head.init_head == Some(InitHeadArg::Probe);
        let fine_tunes = matches!(mode, ModeArg::Auto | ModeArg::Finetune);
        let rules = [
            (probes, "--mode probe or --init-head probe", "-C"),
            (mode == ModeArg::Auto, "--mode auto", "--time"),
            (mode != ModeArg::Auto, "--mode frozen or --mode finetune", "--keep --head-dropout"),
            (mode != ModeArg::Probe, "--mode frozen or --mode finetune", by_steps),
            (fine_tunes, "--mode finetune", "--bn --precision"),
            (optimizer == OptimizerArg::Sgd, "--optimizer sgd", "--momentum --nesterov"),
            (scheduler == SchedulerArg::Steplr, "--lr-scheduler steplr", "--lr-step-size --lr-gamma"),
            (scheduler == SchedulerArg::Cosineannealinglr, "--lr-scheduler cosineannealinglr", "--lr-min"),
            (self.training.lr_warmup_epochs > 0, "--lr-warmup-epochs", "--lr-warmup-decay"),
            (self.augmentation.auto_augment == Some(AutoAugmentArg::Ra), "--auto-augment ra", "--ra-magnitude"),
        ];
        let mut idle: Vec<String> = Vec::new();
        for (_, goes_with, flags) in rules.iter().filter(|(works, ..)| !works) {
            for flag in flags.split_whitespace() {
                let id = flag.trim_start_matches('-').replace('-', "_").to_lowercase();
                if given(&id) && !idle.iter().any(|text| text.starts_with(&format!("{flag} "))) {
                    idle.push(format!("{flag} has no effect here: it goes with {goes_with}"));
                }
            }
        }
        idle
    }
}
