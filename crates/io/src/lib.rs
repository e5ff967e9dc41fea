//! Files: atomic writes, SHA-256 hashes, bounded reads, and the kinds of errors.

mod atomic;
mod error;
mod hash;
mod kind;
mod read;
mod stale;

pub use atomic::write_atomically;
pub use error::Error;
pub use hash::{Sha256, hex, sha256, sha256_file};
pub use kind::ErrorKind;
pub use read::read_bounded;
pub use stale::remove_stale;
