//! Weight files: PyTorch's `.pth` in its three forms and `.safetensors`, read without trusting them
//! and written so that a file is either whole or not there.
//!
//! [`read`] finds the format from the content and gives a [`StateDict`] in `f32`. [`fit()`] compares it
//! with what a network expects and names every difference at once. [`write_safetensors`] saves, and
//! `regraft_io` has the way that all of Regraft saves through.
//!
//! # What a file may do
//! Weight files come from strangers. The unpickler executes nothing: it knows the opcodes that
//! `torch.save` writes, and the few names a state dict consists of, and refuses every other name by
//! that name. No length in a file is believed before it is compared with the bytes that are really
//! there, and all tensors of a file together may decode to no more than a small multiple of its size.
//!
//! # What is read
//! - `f32`, `f16`, `bf16` and `f64` become `f32` (a `f64` beyond its range becomes an infinity).
//! - Integer and boolean tensors are skipped: they are counters such as a batch norm's
//!   `num_batches_tracked`, never parameters of the networks here.
//! - A checkpoint's state dict may lie under `state_dict`, `model_state_dict` or `model`. A `module.`
//!   before every name, which `DataParallel` leaves, is dropped.
//! - Anything else in the place of a state dict is an error, not a guess.
//!
//! # Passed over
//! candle-core reads only the zip form and brings a whole tensor library; burn-store brings Burn;
//! serde-pickle knows no persistent ids, which is how PyTorch refers to tensor data. `memmap2` would
//! need `unsafe` and gains nothing, as every element is converted anyway.

mod error;
mod fit;
mod pickle;
mod pth;
mod safetensors;
mod source;
mod tensor;

use std::path::Path;

pub use error::Error;
pub use fit::{Mismatch, Misshapen, check, fit};
pub use regraft_graph::{StateDict, Tensor};
pub use safetensors::{
    parse_safetensors, read_safetensors_metadata, read_safetensors_with_metadata, write_safetensors,
    write_safetensors_half,
};

use error::Problem;
use source::Source;

/// Reads the weights in the file at `path`, whose format its first bytes tell.
///
/// Names are those of the file, less a `module.` that stands before all of them.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Unrecognised`] if it is no weight file,
/// [`Error::Malformed`] if it is damaged, [`Error::Refused`] if it holds what a state dict does not
/// consist of.
pub fn read(path: &Path) -> Result<StateDict, Error> {
    let at = |problem: Problem| problem.at(path);
    let mut source = Source::open(path).map_err(|e| at(e.into()))?;
    let start = source.start().map_err(at)?;
    let weights = match Format::of(&start) {
        Some(Format::Safetensors) => safetensors::read(&mut source).map(|(weights, _)| weights),
        Some(Format::Zip) => pth::read_zip(&mut source),
        Some(Format::Stream) => pth::read_stream(&mut source),
        Some(Format::Tar) => pth::read_tar(&mut source),
        None => {
            let start = start[..start.len().min(24)].escape_ascii().to_string();
            return Err(Error::Unrecognised { path: path.to_path_buf(), start });
        }
    };
    weights.map(without_data_parallel_prefix).map_err(at)
}

#[derive(Clone, Copy)]
enum Format {
    Safetensors,
    Zip,
    Stream,
    Tar,
}

impl Format {
    /// The format of a file whose first 512 bytes, or all of them if fewer, are `start`.
    fn of(start: &[u8]) -> Option<Self> {
        // A safetensors file begins with a length, which could spell another format's first bytes:
        // its ninth byte settles the matter, and so is asked first.
        if start.get(8) == Some(&b'{') {
            Some(Self::Safetensors)
        } else if start.starts_with(b"PK\x03\x04") {
            Some(Self::Zip)
        } else if start.get(257..262) == Some(b"ustar") {
            Some(Self::Tar)
        } else if start.first() == Some(&0x80) && start.get(1).is_some_and(|v| (2..=5).contains(v)) {
            Some(Self::Stream)
        } else {
            None
        }
    }
}

/// Drops the `module.` that `torch.nn.DataParallel` puts before every name.
fn without_data_parallel_prefix(weights: StateDict) -> StateDict {
    const PREFIX: &str = "module.";
    if !weights.keys().all(|name| name.starts_with(PREFIX)) {
        return weights;
    }
    weights.into_iter().map(|(name, tensor)| (name[PREFIX.len()..].to_string(), tensor)).collect()
}
