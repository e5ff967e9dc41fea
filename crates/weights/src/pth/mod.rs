//! The files that `torch.save` writes: a pickle of the state dict, and the storages it refers to.
//!
//! Three forms share the pickle and differ in where the storages lie; see [`read_zip`],
//! [`read_stream`] and [`read_tar`]. Layouts: `torch/serialization.py` (`_load`, `_legacy_load`).

mod state_dict;
mod storage_id;
mod stream;
mod tar;
mod zip;

pub(crate) use stream::read_stream;
pub(crate) use tar::read_tar;
pub(crate) use zip::read_zip;
