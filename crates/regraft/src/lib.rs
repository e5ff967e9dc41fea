//! Transfer learning: what the commands do, as a library.
//!
//! [`train()`] takes a folder of photos and a pretrained network to a [`Model`] by one of three roads: the
//! ConvNet as a feature extractor under a logistic regression (`probe`), the frozen network with a new
//! `fc`, or fine-tuning (`epochs`); or by a [`Ladder`] of them. [`compare()`] says which backbone to take,
//! [`distill()`] makes a small one. [`evaluate()`] measures a model, [`predict()`] uses it. A model is one
//! file that holds everything serving needs. Printing and arguments are the caller's; what happens on the
//! way is told to a [`Progress`].

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
    AutoAugmentPolicy, BatchNorm, ClassWeights, FIELDS, Field, InitHead, Keep, Mode, Optimizer, Published, Scheduler,
    Seconds, Settings,
};
pub use trainer::auto::{AutoResult, Pair, Stage};
pub use trainer::distill::{DistillSettings, TeacherSpec, distill};
pub use trainer::find_lr::{FoundRate, Point};
pub use trainer::probe::score_name;
pub use trainer::start::{PreparedRun, resume};
