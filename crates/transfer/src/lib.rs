//! Transfer learning: what the commands do, as a library.
//!
//! [`train()`] takes a folder of photos and a pretrained network to a [`Model`] by one of three roads: the
//! ConvNet as a feature extractor under a logistic regression (`probe`), the frozen network with a new
//! `fc`, or fine-tuning (`epochs`); or by a [`Ladder`] of them. [`compare()`] says which backbone to take,
//! [`distill()`] makes a small one. [`evaluate()`] measures a model, [`predict()`] uses it. A model is one
//! file that holds everything serving needs. Printing and arguments are the caller's; what happens on the
//! way is told to a [`Reporter`].

mod answers;
mod average;
mod backbone;
mod batch_norms;
mod checkpoint;
mod compare;
mod config;
mod context;
mod distill;
mod epochs;
mod error;
mod evaluate;
mod features;
mod find_lr;
#[cfg(test)]
mod golden;
mod gradients;
mod head;
mod inputs;
mod ladder;
mod learning;
mod loss;
mod model;
mod network;
pub mod onnx;
mod predict;
mod prepare;
mod probe;
mod report;
mod run_folder;
mod source;
mod train;
mod tta;
mod validation;

pub use answers::Unit;
pub use backbone::Backbone;
pub use compare::{Candidate, CompareOptions, Comparison, Entry, SIGNIFICANT, compare};
pub use config::{BatchNorm, ClassWeights, Config, Keep, Mode, Published};
pub use context::{Context, Finished, Outcome};
pub use distill::{DistillConfig, Distilled, TeacherConfig, distill, is_distillation, resume_distillation};
pub use error::{Error, Result};
pub use evaluate::evaluate;
pub use find_lr::{FoundRate, Point, check_find_lr, find_lr};
pub use head::{Head, InitHead};
pub use ladder::{Ladder, Pair, Rung};
pub use model::{Golden, Model, Provenance, Taught};
pub use predict::{Answer, Prediction, Ranked, YES, predict};
pub use probe::score_name;
pub use report::{EpochEnd, Reporter};
pub use run_folder::RunFolder;
pub use source::{Embedded, Source};
pub use train::{check, resume, train};
pub use tta::Tta;
