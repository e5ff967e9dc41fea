//! The command line. Flag names are torchvision's and ultralytics'.

mod train;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use regraft::{DeviceChoice, DistillSettings, Tta, WeightSpec};
use regraft_data::Preprocessing;
use regraft_engine::Precision;
pub use train::Train;

use crate::values::{
    MAX_SEED, MAX_THREADS, TeacherArg, at_least_one, backbone, backbone_and_weights, choice, not_negative, number,
    pixels, positive, teacher, weights,
};

/// Transfer learning for people with a folder of photos: keep a pretrained ConvNet, graft a new head on it.
#[derive(Parser)]
#[command(name = "regraft", version = VERSION.as_str(), arg_required_else_help = true)]
#[command(after_help = "First: regraft demo. Then with your own photos: regraft train photos/")]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

impl Arguments {
    /// Reads the command line; where it is wrong, says so and ends the program.
    pub fn read() -> Self {
        Self::try_read(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads these words, the first of which is the program's name.
    ///
    /// # Errors
    /// What clap says of them.
    pub fn try_read<T: Into<OsString> + Clone>(words: impl IntoIterator<Item = T>) -> Result<Self, clap::Error> {
        let mut command = Self::whole_command();
        let matches = command.try_get_matches_from_mut(words)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// The command line, where a negative number is a value that an option refuses in its own words, and not an option.
    fn whole_command() -> clap::Command {
        let negative = |arg: Arg| {
            let option = !arg.is_positional() && arg.get_action().takes_values();
            if option { arg.allow_negative_numbers(true) } else { arg }
        };
        Self::command().mut_args(negative).mut_subcommands(|command| command.mut_args(negative))
    }
}

/// The defaults of `regraft distill`.
static DISTILL: LazyLock<DistillSettings> =
    LazyLock::new(|| DistillSettings::new(Vec::new(), String::new(), Vec::new(), Preprocessing::default()));

/// Version and the instruction set that kernels will use.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!("{} (cpu level: {})", env!("CARGO_PKG_VERSION"), regraft_kernels::simd::Level::current().name())
});

#[derive(Args)]
pub struct Common {
    /// Threads to compute on [default: physical cores]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub threads: Option<u16>,
    /// Device to compute on
    #[arg(long, global = true, default_value = "auto", value_parser = choice::<DeviceChoice>())]
    pub device: DeviceChoice,
    /// Print results as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// See transfer learning work, on pictures that the program draws itself: needs nothing, takes less than a minute
    Demo(Demo),
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
    /// Teach a small network what larger ones know, on any photos
    Distill(Box<Distill>),
    /// Show a model, or the layers of a backbone
    Info(Info),
    /// Measure images per second on this machine
    Bench(Bench),
}

#[derive(Args)]
pub struct Demo {
    /// Folder for pictures and results
    #[arg(long, default_value = "regraft-demo")]
    pub output_dir: PathBuf,
    /// Pictures of each of the 17 kinds, a quarter of which is set aside
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(8..=10_000))]
    pub per_kind: u32,
    /// Seed of the drawing and of the division
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub seed: u64,
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
    /// A backbone to try, with its default weights or others as for train --weights, or an ONNX file; may be repeated
    /// [default: the one inside this program, and all whose default weights have been downloaded]
    #[arg(long = "backbone", value_name = "NAME[=WEIGHTS]", value_parser = backbone_and_weights)]
    pub backbones: Vec<(String, WeightSpec)>,
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
pub struct Distill {
    /// Who is learned from: a backbone with its default published weights, or others as for train --weights, or a model
    /// file (best.safetensors of a run); may be repeated
    #[arg(long = "teacher", value_name = "NAME[=WEIGHTS]|MODEL", required = true, value_parser = teacher)]
    pub teachers: Vec<TeacherArg>,
    /// Architecture of the network that learns
    #[arg(long, default_value = "rootstock", value_parser = backbone)]
    pub student: String,
    /// Photos, and folders with photos anywhere inside; they need no labels
    #[arg(long, num_args = 1.., required = true, value_name = "DIR")]
    pub images: Vec<PathBuf>,
    /// What the student starts from, as for train --weights: published weights of its network or of a teacher's by their name,
    /// a file, or random values. They may be those of a wider network with the same layers: the most important channels stay
    /// [default: random]
    #[arg(long, value_name = "NAME|FILE", value_parser = weights())]
    pub weights: Option<WeightSpec>,
    /// Folder for the run [default: runs/distill, runs/distill2, ...]
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
    /// Replace the run that --output-dir holds
    #[arg(long, requires = "output_dir")]
    pub exist_ok: bool,
    /// Passes over the photos
    #[arg(long, default_value_t = DISTILL.epochs, value_parser = at_least_one)]
    pub epochs: usize,
    /// Photos a step
    #[arg(short, long, default_value_t = DISTILL.batch_size, value_parser = at_least_one)]
    pub batch_size: usize,
    /// Highest learning rate of AdamW, which rises and falls once
    #[arg(long, default_value_t = DISTILL.lr, value_parser = positive())]
    pub lr: f64,
    /// Weight decay
    #[arg(long, visible_alias = "wd", default_value_t = DISTILL.weight_decay, value_parser = not_negative())]
    pub weight_decay: f64,
    /// Ways in which each photo is cropped and mirrored; teachers are asked about each once, and the answers are kept on disk
    #[arg(long, default_value_t = DISTILL.views, value_name = "K", value_parser = at_least_one)]
    pub views: usize,
    /// Smallest part of a photo's area that a view may be
    #[arg(long, default_value_t = DISTILL.min_scale, value_parser = number(|x| x > 0.0 && x < 1.0, "between 0 and 1"))]
    pub min_scale: f64,
    /// Fraction of the photos kept apart to see how well the student does on others
    #[arg(long, default_value_t = DISTILL.val_fraction, value_parser = number(|x| x > 0.0 && x < 1.0, "between 0 and 1"))]
    pub val_fraction: f64,
    /// Side of the student's input in pixels [default: as it is made for]
    #[arg(long, value_parser = pixels())]
    pub imgsz: Option<u32>,
    /// Save the weights in half precision
    #[arg(long)]
    pub half: bool,
    /// Licence of the student's weights, for their file to say; mind those of the teachers
    #[arg(long, value_name = "TEXT")]
    pub licence: Option<String>,
    /// Seed of every random decision
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub seed: u64,
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
    #[arg(long, value_parser = choice::<Tta>())]
    pub tta: Option<Tta>,
    /// Write each photo's path, target and probabilities to a CSV file
    #[arg(long, value_name = "FILE")]
    pub predictions: Option<PathBuf>,
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
    #[arg(long, value_parser = choice::<Tta>())]
    pub tta: Option<Tta>,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "backbone"]))]
pub struct Info {
    /// Model file
    pub model: Option<PathBuf>,
    /// Show the layers of an architecture, or of a network in an ONNX file, instead
    #[arg(long, value_parser = backbone)]
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

#[derive(Args)]
pub struct Bench {
    /// Architecture, or an ONNX file
    #[arg(long, default_value = "resnet18", value_parser = backbone)]
    pub backbone: String,
    /// Side of the network's input in pixels [default: as it is made for, mostly 224]
    #[arg(long, value_parser = pixels())]
    pub imgsz: Option<u32>,
    /// Images a batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// What to time
    #[arg(long, value_enum, default_value = "forward")]
    pub what: What,
    /// Arithmetic of the convolutions
    #[arg(long, default_value = "f32", value_parser = choice::<Precision>())]
    pub precision: Precision,
    /// Timed runs, after two to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::whole_command().debug_assert();
    }

    #[test]
    fn negative_numbers_are_values_that_options_refuse() {
        for (line, message) in [
            ("bench --batch -1", "invalid value '-1' for '--batch <BATCH>'"),
            ("--threads -1 backbones", "invalid value '-1' for '--threads <THREADS>'"),
            ("distill --teacher resnet18 --images a --lr -1", "'--lr <LR>': it must be a number above 0"),
            ("train a --lr -1", "invalid value '-1' for '--lr <NUMBER>': it must be a number above 0"),
            ("train a --mean -1,2", "'--mean <R,G,B>': it must be three numbers"),
            ("train a --lr --epochs 5", "a value is required for '--lr <NUMBER>'"),
        ] {
            let words = ["regraft"].into_iter().chain(line.split_whitespace());
            let error = Arguments::try_read(words).err().expect(line).to_string();
            assert!(error.contains(message), "{line}: {error}");
        }
    }
}
