//! The command line. Flag names are torchvision's and ultralytics'.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use regraft_data::{ColorJitter, Interpolation};
use regraft_engine::Precision;
use regraft_transfer::{ClassWeights, Head, Tta};

use crate::values::{
    MAX_SEED, MAX_THREADS, at_least_one, backbone, backbone_and_weights, class_weights, color_jitter, colors,
    not_negative, number, pixels, positive, weights,
};
use crate::weights::Choice;

/// Transfer learning for people with a folder of photos: keep a pretrained ConvNet, graft a new head on it.
#[derive(Parser)]
#[command(name = "regraft", version = VERSION.as_str(), arg_required_else_help = true)]
#[command(after_help = "Example: regraft train photos/ --backbone mobilenet_v2")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

impl Arguments {
    /// Reads the command line; where it is wrong, says so and ends the program.
    pub fn read() -> Self {
        let mut command = Self::command();
        let matches = command.get_matches_mut();
        let mut arguments = Self::from_arg_matches(&matches).unwrap_or_else(|e| e.format(&mut command).exit());
        if let (Command::Train(train), Some((_, matches))) = (&mut arguments.command, matches.subcommand()) {
            train.idle = train.idle(|id| matches.value_source(id) == Some(ValueSource::CommandLine));
        }
        arguments
    }
}

/// Version and the instruction set that kernels will use.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!("{} (cpu level: {})", env!("CARGO_PKG_VERSION"), regraft_kernels::simd::Level::current().name())
});

#[derive(Args)]
pub struct Common {
    /// Threads to compute on [default: physical cores]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub threads: Option<u16>,
    /// Print results as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train a classifier on a folder of photos
    Train(Box<Train>),
    /// Go on with an interrupted run
    Resume(Resume),
    /// Measure a model on labelled photos
    Eval(Eval),
    /// Name what is on photos
    Predict(Predict),
    /// List the backbones and their published weights
    Backbones,
    /// Find out which backbone and head suit a folder of photos
    Compare(Compare),
    /// Show a model, or the layers of a backbone
    Info(Info),
    /// Measure images per second on this machine
    Bench(Bench),
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum ModeArg {
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
    /// Folder with train/ and val/ of class folders, or with the class folders themselves
    pub data: PathBuf,
    /// Architecture, by torchvision's name; or an ONNX file (.onnx) of a classifier, with its weights
    #[arg(long, value_parser = backbone())]
    pub backbone: String,
    /// Pretrained weights: a published name such as imagenet1k_v1 (`regraft backbones` lists them), downloaded where need
    /// be; a file, torchvision's .pth or .safetensors; or random
    #[arg(long, value_name = "NAME|FILE", default_value = "default", value_parser = weights())]
    pub weights: Choice,
    /// Download nothing: published weights must be here already
    #[arg(long)]
    pub offline: bool,
    /// What learns
    #[arg(long, value_enum, default_value = "probe")]
    pub mode: ModeArg,
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

    /// Fraction of each class to validate on, where there is no val/ folder
    #[arg(long, default_value_t = 0.2, value_parser = number(|x| x > 0.0 && x < 1.0, "between 0 and 1"), help_heading = "Data")]
    pub val_fraction: f64,
    /// An unreadable photo is an error instead of a warning
    #[arg(long, help_heading = "Data")]
    pub strict: bool,
    /// Side of the network's input in pixels [default: as the weights were published, mostly 224]
    #[arg(long, value_parser = pixels(), help_heading = "Data")]
    pub imgsz: Option<u32>,
    /// Shorter side after resizing, before the centre crop, in pixels [default: as for the weights, mostly
    /// imgsz * 256 / 224]
    #[arg(long, value_parser = pixels(), help_heading = "Data")]
    pub val_resize_size: Option<u32>,
    /// How photos are resized [default: as for the weights, mostly bilinear]
    #[arg(long, value_enum, help_heading = "Data")]
    pub interpolation: Option<InterpolationArg>,
    /// Mean of red, green and blue that is subtracted, for photos of 0 to 1 [default: as for the weights, mostly
    /// ImageNet's 0.485,0.456,0.406]
    #[arg(long, value_name = "R,G,B", value_parser = colors, allow_hyphen_values = true, help_heading = "Data")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue that is then divided by [default: as for the weights, mostly ImageNet's
    /// 0.229,0.224,0.225]
    #[arg(long, value_name = "R,G,B", value_parser = colors, allow_hyphen_values = true, help_heading = "Data")]
    pub std: Option<[f32; 3]>,
    /// Most memory for decoded photos in MiB [default: 1024, or a quarter of what is free]
    #[arg(long, help_heading = "Data")]
    pub cache_mib: Option<usize>,

    /// What classifies: softmax (the same as linear), ovr or mean (the nearest class mean) for a probe; linear, cosine, mlp:512 (or mlp:512,256) or
    /// conv:256,fc:128 (convolutions, :256x1 for 1x1 ones, with batch norm and ReLU, then fully connected layers)
    /// [default: softmax for a probe, else linear]
    #[arg(long, help_heading = "Head")]
    pub head: Option<Head>,
    /// Last layer of the backbone that stays, such as layer3; its map is averaged over its area
    #[arg(long, value_name = "LAYER", help_heading = "Head")]
    pub cut: Option<String>,
    /// Probability of dropout before each fully connected layer of the head
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = number(|x| (0.0..1.0).contains(&x), "of at least 0 and below 1"), help_heading = "Head")]
    pub head_dropout: f64,
    /// What the head starts from
    #[arg(long, value_enum, default_value = "random", help_heading = "Head")]
    pub init_head: InitHeadArg,
    /// Inverse regularisation strength of a probe [default: chosen by cross-validation]
    #[arg(short = 'C', long = "C", value_name = "C", value_parser = positive(), help_heading = "Head")]
    pub c: Option<f64>,

    /// Freeze everything before this layer (with --mode finetune), such as layer4
    #[arg(long, value_name = "LAYER", help_heading = "Training")]
    pub freeze_until: Option<String>,
    /// Begin with the head alone, and let one more stage of the backbone learn every E epochs, from the head downwards
    #[arg(long, value_name = "E", value_parser = at_least_one, help_heading = "Training")]
    pub unfreeze_every: Option<usize>,
    /// What batch norms of trained layers do [default: train; frozen where the weights have theirs folded]
    #[arg(long, value_enum, help_heading = "Training")]
    pub bn: Option<BatchNormArg>,
    /// Passes over the training photos
    #[arg(long, default_value_t = 25, value_parser = at_least_one, help_heading = "Training")]
    pub epochs: usize,
    /// Photos a step
    #[arg(short, long, default_value_t = 4, value_parser = at_least_one, help_heading = "Training")]
    pub batch_size: usize,
    /// Optimiser
    #[arg(long, value_enum, default_value = "sgd", help_heading = "Training")]
    pub optimizer: OptimizerArg,
    /// Learning rate
    #[arg(long, default_value_t = 0.001, value_parser = positive(), help_heading = "Training")]
    pub lr: f64,
    /// Train nothing; try learning rates, suggest one, and draw the curve (lr_find.svg and .csv in --output-dir)
    #[arg(long, help_heading = "Training")]
    pub find_lr: bool,
    /// Learning rate of the backbone [default: that of the head, --lr]
    #[arg(long, value_name = "LR", value_parser = positive(), help_heading = "Training")]
    pub backbone_lr: Option<f64>,
    /// Factor of the rate from each stage of the backbone to the one below, such as 0.7
    #[arg(long, value_name = "FACTOR", value_parser = number(|x| x > 0.0 && x <= 1.0, "above 0 and up to 1"), help_heading = "Training")]
    pub lr_layer_decay: Option<f64>,
    /// Scale gradients down to this norm, taken over all of them
    #[arg(long, value_name = "NORM", value_parser = positive(), help_heading = "Training")]
    pub clip_grad_norm: Option<f64>,
    /// Batches whose gradients make one step
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one, help_heading = "Training")]
    pub accumulate: usize,
    /// Validate and save a moving average of the weights with this decay a step, such as 0.99
    #[arg(long, value_name = "DECAY", value_parser = number(|x| (0.0..1.0).contains(&x), "of at least 0 and below 1"), help_heading = "Training")]
    pub ema: Option<f64>,
    /// Stop after so many epochs without a better validation accuracy
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = "Training")]
    pub patience: Option<usize>,
    /// Momentum of SGD
    #[arg(long, default_value_t = 0.9, value_parser = not_negative(), help_heading = "Training")]
    pub momentum: f64,
    /// Nesterov's momentum
    #[arg(long, help_heading = "Training")]
    pub nesterov: bool,
    /// Weight decay [default: 0 for sgd, 0.01 for adamw]
    #[arg(long, visible_alias = "wd", value_parser = not_negative(), help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// How the learning rate goes
    #[arg(long, value_enum, default_value = "steplr", help_heading = "Training")]
    pub lr_scheduler: SchedulerArg,
    /// Epochs between two falls of steplr
    #[arg(long, default_value_t = 7, value_parser = at_least_one, help_heading = "Training")]
    pub lr_step_size: usize,
    /// Factor of each fall of steplr
    #[arg(long, default_value_t = 0.1, value_parser = positive(), help_heading = "Training")]
    pub lr_gamma: f64,
    /// Lowest rate of cosineannealinglr
    #[arg(long, default_value_t = 0.0, value_parser = not_negative(), help_heading = "Training")]
    pub lr_min: f64,
    /// Epochs of linear warm-up
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub lr_warmup_epochs: usize,
    /// Fraction of the rate at which the warm-up starts
    #[arg(long, default_value_t = 0.01, value_parser = number(|x| x > 0.0 && x <= 1.0, "above 0 and up to 1"), help_heading = "Training")]
    pub lr_warmup_decay: f64,
    /// Share of the target spread over all classes
    #[arg(long, default_value_t = 0.0, value_parser = number(|x| (0.0..1.0).contains(&x), "of at least 0 and below 1"), help_heading = "Training")]
    pub label_smoothing: f64,
    /// How much each class counts: uniform, balanced, or a number for each class (sorted), with commas
    #[arg(long, default_value = "uniform", value_parser = class_weights, value_name = "WEIGHTS", help_heading = "Training")]
    pub class_weights: ClassWeights,

    /// Prepare training photos as for validation, without random crops and flips: the layers below --freeze-until, or
    /// below the head with --mode frozen, then see each photo once
    #[arg(long, conflicts_with_all = ["hflip_prob", "color_jitter", "rotation", "auto_augment", "random_erase", "mixup_alpha", "cutmix_alpha", "views"], help_heading = "Augmentation")]
    pub no_augment: bool,
    /// Probability of mirroring a training photo
    #[arg(long, default_value_t = 0.5, value_parser = number(|x| (0.0..=1.0).contains(&x), "from 0 to 1"), help_heading = "Augmentation")]
    pub hflip_prob: f64,
    /// Random changes of brightness, contrast, saturation and hue, such as 0.4,0.4,0.4,0.1
    #[arg(long, value_name = "B,C,S,H", value_parser = color_jitter, help_heading = "Augmentation")]
    pub color_jitter: Option<ColorJitter>,
    /// Random rotation by up to so many degrees
    #[arg(long, default_value_t = 0.0, value_name = "DEGREES", value_parser = number(|x| (0.0..=180.0).contains(&x), "from 0 to 180"), help_heading = "Augmentation")]
    pub rotation: f64,
    /// Random operations on each training photo
    #[arg(long, value_enum, help_heading = "Augmentation")]
    pub auto_augment: Option<AutoAugmentArg>,
    /// Strength of ra, 0 to 30
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u8).range(0..=30), help_heading = "Augmentation")]
    pub ra_magnitude: u8,
    /// Probability of erasing a rectangle of a training photo
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = number(|x| (0.0..=1.0).contains(&x), "from 0 to 1"), help_heading = "Augmentation")]
    pub random_erase: f64,
    /// Blend each photo of a batch with another, by shares from Beta(ALPHA, ALPHA)
    #[arg(long, default_value_t = 0.0, value_name = "ALPHA", value_parser = number(|x| (0.0..=1000.0).contains(&x), "from 0 to 1000"), help_heading = "Augmentation")]
    pub mixup_alpha: f64,
    /// Paste a rectangle of another photo into each; with --mixup-alpha, each batch gets one of the two
    #[arg(long, default_value_t = 0.0, value_name = "ALPHA", value_parser = number(|x| (0.0..=1000.0).contains(&x), "from 0 to 1000"), help_heading = "Augmentation")]
    pub cutmix_alpha: f64,
    /// Vary each photo in K ways that come again after K epochs: frozen layers then see it K times, however many epochs
    #[arg(long, value_name = "K", value_parser = at_least_one, help_heading = "Augmentation")]
    pub views: Option<usize>,

    /// What was given on the command line and has no effect beside the rest of it.
    #[arg(skip)]
    pub idle: Vec<String>,
}

impl Train {
    /// Says of every flag that was `given` and has no effect what it goes with.
    fn idle(&self, given: impl Fn(&str) -> bool) -> Vec<String> {
        let (mode, scheduler) = (self.mode, self.lr_scheduler);
        let by_steps = "--epochs --batch-size --optimizer --lr --momentum --nesterov --weight-decay --lr-scheduler \
            --lr-step-size --lr-gamma --lr-min --lr-warmup-epochs --lr-warmup-decay --label-smoothing --no-augment \
            --hflip-prob --color-jitter --rotation --auto-augment --ra-magnitude --random-erase --mixup-alpha \
            --cutmix-alpha --views --clip-grad-norm --accumulate --ema --patience --head-dropout --init-head";
        let probes = mode == ModeArg::Probe || self.init_head == InitHeadArg::Probe;
        let rules = [
            (probes, "--mode probe or --init-head probe", "-C"),
            (mode != ModeArg::Probe, "--mode frozen or --mode finetune", by_steps),
            (mode == ModeArg::Finetune, "--mode finetune", "--bn --precision"),
            (self.optimizer == OptimizerArg::Sgd, "--optimizer sgd", "--momentum --nesterov"),
            (scheduler == SchedulerArg::Steplr, "--lr-scheduler steplr", "--lr-step-size --lr-gamma"),
            (scheduler == SchedulerArg::Cosineannealinglr, "--lr-scheduler cosineannealinglr", "--lr-min"),
            (self.lr_warmup_epochs > 0, "--lr-warmup-epochs", "--lr-warmup-decay"),
            (self.auto_augment == Some(AutoAugmentArg::Ra), "--auto-augment ra", "--ra-magnitude"),
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

#[derive(Args)]
pub struct Resume {
    /// Folder of the run
    pub run: PathBuf,
    /// Download nothing: published weights must be here still
    #[arg(long)]
    pub offline: bool,
}

#[derive(Args)]
pub struct Compare {
    /// Folder with train/ and val/ of class folders, or with the class folders themselves: all photos are used
    pub data: PathBuf,
    /// A backbone to try, with its default published weights or others as for train --weights; may be repeated [default:
    /// all whose default weights have been downloaded]
    #[arg(long = "backbone", value_name = "NAME[=WEIGHTS]", value_parser = backbone_and_weights)]
    pub backbones: Vec<(String, Choice)>,
    /// Parts that the photos are divided into, each of which is held out in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=100))]
    pub folds: u16,
    /// Seed of the division
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub seed: u64,
    /// An unreadable photo is an error instead of a warning
    #[arg(long)]
    pub strict: bool,
    /// Download nothing: published weights must be here already
    #[arg(long)]
    pub offline: bool,
}

#[derive(Args)]
pub struct Eval {
    /// Model file (best.safetensors of a run)
    pub model: PathBuf,
    /// Folder of class folders, or one with a val/ part
    pub data: PathBuf,
    /// An unreadable photo is an error instead of a warning
    #[arg(long)]
    pub strict: bool,
    /// Ask about each photo more than once
    #[arg(long, value_enum)]
    pub tta: Option<TtaArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum TtaArg {
    /// The photo and its mirror image: the mean of both answers
    Hflip,
}

impl From<TtaArg> for Tta {
    fn from(arg: TtaArg) -> Self {
        match arg {
            TtaArg::Hflip => Tta::Hflip,
        }
    }
}

#[derive(Args)]
pub struct Predict {
    /// Model file (best.safetensors of a run)
    pub model: PathBuf,
    /// Photos, folders of photos, or - for a list of paths on stdin
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Classes to name for each photo [default: 5, with --csv 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Print CSV: path, label, prob, for --top-k above 1 also label2, prob2, ..., and error
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Ask about each photo more than once
    #[arg(long, value_enum)]
    pub tta: Option<TtaArg>,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "backbone"]))]
pub struct Info {
    /// Model file
    pub model: Option<PathBuf>,
    /// Show the layers of an architecture, or of a network in an ONNX file, instead
    #[arg(long, value_parser = backbone())]
    pub backbone: Option<String>,
    /// Mark as frozen what lies before this layer
    #[arg(long, value_name = "LAYER", requires = "backbone", conflicts_with = "model")]
    pub freeze_until: Option<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum What {
    Forward,
    Train,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum PrecisionArg {
    /// Single precision
    F32,
    /// bfloat16 where it is faster: needs a CPU with AVX-512 BF16
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(arg: PrecisionArg) -> Self {
        match arg {
            PrecisionArg::F32 => Precision::F32,
            PrecisionArg::Bf16 => Precision::Bf16,
        }
    }
}

#[derive(Args)]
pub struct Bench {
    /// Architecture, or an ONNX file
    #[arg(long, default_value = "resnet18", value_parser = backbone())]
    pub backbone: String,
    /// Images a batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// What to time
    #[arg(long, value_enum, default_value = "forward")]
    pub what: What,
    /// Arithmetic of the convolutions
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: PrecisionArg,
    /// Timed runs, after two to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_flags_that_can_be_idle_exist() {
        let command = Arguments::command();
        let train = command.find_subcommand("train").unwrap();
        let line = ["regraft", "train", "photos", "--backbone", "resnet18", "--mode", "frozen", "--optimizer", "adamw"];
        let Command::Train(args) = Arguments::parse_from(line).command else { unreachable!() };
        let asked = std::cell::RefCell::new(Vec::new());
        let idle = args.idle(|id| {
            asked.borrow_mut().push(id.to_owned());
            true
        });
        assert_eq!(idle.len(), 8, "{idle:?}");
        for id in asked.into_inner() {
            assert!(train.get_arguments().any(|arg| arg.get_id() == id.as_str()), "no flag has the id {id}");
        }
    }
}
