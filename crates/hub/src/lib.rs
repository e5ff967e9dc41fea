//! Published weights: their [`Registry`], and their download to a cache ([`fetch`]).
//!
//! The cache is one folder that holds files under their publishers' names. A file put there by hand is as good as a
//! downloaded one: both are checked against the published SHA-256 each time they are used. A download grows as `NAME.part`
//! and gets its name once it is the published file, so an interrupted download continues where it ended. Where torchvision
//! publishes only the first digits of a hash (8 to 10 of 64), they detect damage; against forgery there is https.

mod client;
mod download;
mod error;
mod lock;
mod part;
mod registry;
mod settings;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use regraft_io::Sha256;
use regraft_progress::{Cancel, Progress};

pub use error::{Error, Reason, Result};
pub use registry::{DEFAULT, Interpolation, Known, Registry, Weights};
pub use settings::{Cached, Settings, Timeouts};

/// A file of weights on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its path.
    pub path: PathBuf,
    /// Its SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// Returns the file of `weights` from the cache, downloading it if it is absent or damaged.
///
/// If two processes want the same file, one downloads it and the other waits. The download is a stage of `progress` with
/// the file's name and the unit [`BYTES`](regraft_progress::BYTES).
///
/// # Errors
/// [`Error::Offline`] if a download would be needed and is forbidden, [`Error::Fetch`] if it failed;
/// [`Error::CacheRead`], [`Error::CacheWrite`] and [`Error::NoRoom`]; [`Error::Setting`] for certificates that cannot be
/// read; [`Error::Cancelled`].
pub fn fetch(weights: &Weights, settings: &Settings, progress: &dyn Progress, cancel: &Cancel) -> Result<Local> {
    let path = settings.path(weights);
    let damage = match inspect(&path, weights)? {
        Found::Whole(sha256) => return Ok(Local { path, sha256 }),
        Found::Damaged(damage) => Some(damage),
        Found::Absent => None,
    };
    let url = settings.url(weights);
    if settings.offline {
        return Err(Error::Offline { url, path, damage });
    }
    let failed = |source| Error::CacheWrite { path: settings.home.clone(), source };
    fs::create_dir_all(&settings.home).map_err(failed)?;
    let _lock = lock::acquire(&path, progress, cancel)?;
    // Another process may have downloaded it while this one waited for the lock.
    match inspect(&path, weights)? {
        Found::Whole(sha256) => return Ok(Local { path, sha256 }),
        Found::Damaged(damage) => {
            progress.warn(&format!("{} is damaged ({damage}); downloading it again", path.display()));
        }
        Found::Absent => {}
    }
    progress.note(&format!(
        "downloading {url} ({:.1} MiB) to {}; licence: {}, trained on {}, whose images have terms of their own",
        weights.mib(),
        settings.home.display(),
        weights.licence,
        weights.trained_on
    ));
    let sha256 = download::download(weights, &path, settings, progress, cancel)?;
    Ok(Local { path, sha256 })
}

/// What the cache holds of a file.
enum Found {
    Absent,
    /// The published file; its SHA-256.
    Whole(String),
    /// Another file; how it differs.
    Damaged(String),
}

fn inspect(path: &Path, weights: &Weights) -> Result<Found> {
    let failed = |source| Error::CacheRead { path: path.into(), source };
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        result => result.map_err(failed)?,
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    let (len, (low, high)) = (about.len(), weights.bytes().into_inner());
    if !(low..=high).contains(&len) {
        return Ok(Found::Damaged(format!("it has {len} bytes instead of {high}")));
    }
    let mut hash = Sha256::new();
    hash.update_from(&mut file).map_err(failed)?;
    let digest = hash.finish_hex();
    Ok(match weights.has_digest(&digest) {
        true => Found::Whole(digest),
        false => Found::Damaged(format!("its SHA-256 is {digest}, which does not begin with {}", weights.sha256)),
    })
}
