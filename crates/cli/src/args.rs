//! The command line. Flag names are torchvision's and ultralytics'.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Transfer learning for people with a folder of photos: keep a pretrained ConvNet, graft a new head on it.
#[derive(Parser)]
#[command(name = "regraft", version = VERSION.as_str(), arg_required_else_help = true)]
#[command(after_help = "Example: regraft train photos/ --backbone mobilenet_v2 --weights mobilenet_v2.pth")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// Version and the instruction set that kernels will use.
static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} (cpu level: {})", env!("CARGO_PKG_VERSION"), regraft_kernels::simd::level()));

#[derive(Args)]
pub struct Common {
    /// Threads to compute on [default: physical cores]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
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
    /// Show a model, or the layers of a backbone
    Info(Info),
    /// Measure images per second on this machine
    Bench(Bench),
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// Features once, then logistic regression: seconds
    Probe,
    /// Train only a new last layer, on augmented photos
    Frozen,
    /// Train all layers, or those from --freeze-until up
    Finetune,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum HeadArg {
    /// Multinomial logistic regression
    Softmax,
    /// One-vs-rest: a binary decision for each class
    Ovr,
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

#[derive(Args)]
pub struct Train {
    /// Folder with train/ and val/ of class folders, or with the class folders themselves
    pub data: PathBuf,
    /// Architecture, by torchvision's name (see `regraft info --help`)
    #[arg(long)]
    pub backbone: String,
    /// Pretrained weights: torchvision's .pth, or .safetensors; random weights without
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// The road
    #[arg(long, value_enum, default_value = "probe")]
    pub mode: ModeArg,
    /// Folder for the run [default: runs/train, runs/train2, ...]
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
    /// Replace the run that --output-dir holds
    #[arg(long)]
    pub exist_ok: bool,
    /// Seed of every random decision
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Fraction of each class to validate on, where there is no val/ folder
    #[arg(long, default_value_t = 0.2, help_heading = "Data")]
    pub val_fraction: f64,
    /// An unreadable photo is an error instead of a warning
    #[arg(long, help_heading = "Data")]
    pub strict: bool,
    /// Side of the network's input in pixels
    #[arg(long, default_value_t = 224, help_heading = "Data")]
    pub imgsz: u32,
    /// Shorter side after resizing, before the centre crop, in pixels [default: imgsz * 256 / 224]
    #[arg(long, help_heading = "Data")]
    pub val_resize_size: Option<u32>,
    /// Most memory for decoded photos in MiB [default: 1024, or a quarter of what is free]
    #[arg(long, help_heading = "Data")]
    pub cache_mib: Option<usize>,

    /// Kind of logistic regression (with --mode probe)
    #[arg(long, value_enum, default_value = "softmax", help_heading = "Probe")]
    pub head: HeadArg,
    /// Inverse regularisation strength [default: chosen by cross-validation]
    #[arg(short = 'C', long = "C", value_name = "C", help_heading = "Probe")]
    pub c: Option<f64>,

    /// Freeze everything before this layer (with --mode finetune), such as layer4
    #[arg(long, value_name = "LAYER", help_heading = "Training")]
    pub freeze_until: Option<String>,
    /// What batch norms of trained layers do [default: train; frozen where the weights have theirs folded]
    #[arg(long, value_enum, help_heading = "Training")]
    pub bn: Option<BatchNormArg>,
    /// Passes over the training photos
    #[arg(long, default_value_t = 25, help_heading = "Training")]
    pub epochs: usize,
    /// Photos a step
    #[arg(short, long, default_value_t = 4, help_heading = "Training")]
    pub batch_size: usize,
    /// Optimiser
    #[arg(long, value_enum, default_value = "sgd", help_heading = "Training")]
    pub optimizer: OptimizerArg,
    /// Learning rate
    #[arg(long, default_value_t = 0.001, help_heading = "Training")]
    pub lr: f64,
    /// Momentum of SGD
    #[arg(long, default_value_t = 0.9, help_heading = "Training")]
    pub momentum: f64,
    /// Nesterov's momentum
    #[arg(long, help_heading = "Training")]
    pub nesterov: bool,
    /// Weight decay [default: 0 for sgd, 0.01 for adamw]
    #[arg(long, visible_alias = "wd", help_heading = "Training")]
    pub weight_decay: Option<f64>,
    /// How the learning rate goes
    #[arg(long, value_enum, default_value = "steplr", help_heading = "Training")]
    pub lr_scheduler: SchedulerArg,
    /// Epochs between two falls of steplr
    #[arg(long, default_value_t = 7, help_heading = "Training")]
    pub lr_step_size: usize,
    /// Factor of each fall of steplr
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub lr_gamma: f64,
    /// Lowest rate of cosineannealinglr
    #[arg(long, default_value_t = 0.0, help_heading = "Training")]
    pub lr_min: f64,
    /// Epochs of linear warm-up
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub lr_warmup_epochs: usize,
    /// Fraction of the rate at which the warm-up starts
    #[arg(long, default_value_t = 0.01, help_heading = "Training")]
    pub lr_warmup_decay: f64,
    /// Share of the target spread over all classes
    #[arg(long, default_value_t = 0.0, help_heading = "Training")]
    pub label_smoothing: f64,
    /// How much each class counts: uniform, balanced, or a number for each class (sorted), with commas
    #[arg(long, default_value = "uniform", help_heading = "Training")]
    pub class_weights: String,

    /// Probability of mirroring a training photo
    #[arg(long, default_value_t = 0.5, help_heading = "Augmentation")]
    pub hflip_prob: f64,
    /// Random changes of brightness, contrast, saturation and hue, such as 0.4,0.4,0.4,0.1
    #[arg(long, value_name = "B,C,S,H", help_heading = "Augmentation")]
    pub color_jitter: Option<String>,
    /// Random rotation by up to so many degrees
    #[arg(long, default_value_t = 0.0, value_name = "DEGREES", help_heading = "Augmentation")]
    pub rotation: f64,
}

#[derive(Args)]
pub struct Resume {
    /// Folder of the run
    pub run: PathBuf,
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
}

#[derive(Args)]
pub struct Predict {
    /// Model file (best.safetensors of a run)
    pub model: PathBuf,
    /// Photos, folders of photos, or - for a list of paths on stdin
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Classes to name for each photo
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: u32,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

#[derive(Args)]
#[command(after_help = format!("Backbones: {}", regraft_graph::zoo::NAMES.join(", ")))]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "backbone"]))]
pub struct Info {
    /// Model file
    pub model: Option<PathBuf>,
    /// Show the layers of an architecture instead
    #[arg(long)]
    pub backbone: Option<String>,
    /// Mark as frozen what lies before this layer
    #[arg(long, value_name = "LAYER", requires = "backbone")]
    pub freeze_until: Option<String>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum What {
    Forward,
    Train,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Precision {
    F32,
}

#[derive(Args)]
pub struct Bench {
    /// Architecture
    #[arg(long, default_value = "resnet18")]
    pub backbone: String,
    /// Images a batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// What to time
    #[arg(long, value_enum, default_value = "forward")]
    pub what: What,
    /// Arithmetic
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: Precision,
    /// Timed runs, after two to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
