//! Transfer learning: keep a network that has already learned to see, put a new head on it, train that.
//!
//! Training, from a folder of photos to a model ([`Trainer`]):
//!
//! ```no_run
#![doc = include_str!("../examples/train.rs")]
//! ```
//!
//! Prediction ([`Predictor`]):
//!
//! ```no_run
#![doc = include_str!("../examples/predict.rs")]
//! ```
//!
//! Features of photos, for a search or a classifier of one's own:
//!
//! ```no_run
#![doc = include_str!("../examples/features.rs")]
//! ```
//!
//! The steps behind them are public, too: [`Settings`] are declared once with range, default and help; [`FoundWeights`] finds
//! and downloads weights; [`PreparedRun`] checks, trains and finds learning rates; [`resume`] continues what was interrupted;
//! [`evaluate`] gives [`Scores`], of which every metric is a function; [`compare`] recommends a backbone; [`distill`] makes a
//! small one. Long work reports to a [`Progress`] and stops at a [`Cancel`]. Errors have a [kind](Error::kind), and name
//! settings in backquotes.

mod context;
mod error;
mod evaluation;
mod model;
mod network;
mod photos;
mod run;
mod settings;
mod trainer;

pub use context::Context;
pub use error::{Error, Result};
pub use evaluation::compare::{Candidate, CompareOptions, Comparison, Entry, SIGNIFICANT, compare};
pub use evaluation::evaluate::evaluate;
pub use evaluation::scores::{Scored, Scores};
pub use evaluation::tta::Tta;
pub use model::golden::Golden;
pub use model::predictor::{Answer, Photo, PredictOptions, Prediction, Predictor, Ranked, YES};
pub use model::provenance::{Distillation, Provenance};
pub use model::sealed::Model;
pub use network::backbone::Backbone;
pub use network::device::{DeviceChoice, default_threads, engine};
pub use network::head::Head;
pub use network::onnx;
pub use network::pretrained::Pretrained;
pub use network::source::{Embedded, Source};
pub use network::weights::{EMBEDDED, FoundWeights, Hub, WeightSpec};
pub use photos::targets::TargetScale;
pub use regraft_io::ErrorKind;
pub use regraft_progress::{Cancel, Epoch, Progress, Silent};
pub use run::folder::RunFolder;
pub use run::outcome::{Distilled, Interrupted, Outcome, Trained};
pub use settings::{
    AutoAugmentPolicy, BatchNorm, Choice, ClassWeights, FIELDS, Field, InitHead, Keep, Mode, Optimizer, Published,
    Scheduler, Seconds, Settings,
};
pub use trainer::auto::{AutoResult, Pair, Stage};
pub use trainer::builder::Trainer;
pub use trainer::distill::{DistillSettings, TeacherSpec, distill};
pub use trainer::find_lr::{FoundRate, Point};
pub use trainer::probe::score_name;
pub use trainer::start::{PreparedRun, resume};
