//! Photos on their way to a network: a folder becomes a [`Dataset`], its files are decoded to
//! [`Image`]s, transformed as torchvision would, and delivered as [`Batch`]es.
//!
//! ```text
//! folder -> Dataset (classes, samples, splits) -> ImageStore (decode, cache)
//!        -> Preprocessing | Augmentation -> Loader -> Batch (f32, NHWC)
//! ```
//!
//! Everything that can be wrong with a folder is found before the first epoch ([`Dataset::open`]
//! looks at every folder and file, [`Dataset::verify`] decodes every photo) and comes back as
//! [`Findings`] or as an [`Error`] that says what to do. Every random decision is keyed by the run's
//! seed and by what it is about, so batches depend neither on the number of threads nor on the cache.
//!
//! This crate knows nothing of networks.

mod affine;
pub mod augment;
mod auto_augment;
pub mod color;
pub mod dataset;
pub mod decode;
mod erase;
mod error;
mod findings;
mod fingerprint;
mod image;
mod levels;
pub mod loader;
mod mix;
pub mod preprocess;
mod resize;
mod store;
mod verify;
mod walk;

pub use self::image::Image;
pub use affine::rotate;
pub use augment::{Augmentation, ColorJitter, CropBox, Drawn};
pub use auto_augment::{AutoAugment, Operation};
pub use color::ColorChange;
pub use dataset::{Dataset, Sample, SplitOptions, Target, Task, open_eval};
pub use decode::{DecodeOptions, Format, decode, decode_file};
pub use erase::{Erased, Fill, RandomErasing};
pub use error::{Error, Result};
pub use findings::{Finding, FindingKind, Findings};
pub use fingerprint::{Duplicate, Fingerprint, fingerprint};
pub use loader::{Batch, Batches, Loader, LoaderOptions};
pub use mix::{Mix, Mixed};
pub use preprocess::{Interpolation, Preprocessing};
pub use resize::Scratch;
pub use store::{ImageStore, default_cache_bytes};
pub use verify::verify;
pub use walk::image_paths;
