//! Published weights: what is known of them ([`Registry`]), and bringing them here ([`fetch`]).
//!
//! Files are kept in one folder under their publishers' names. One that somebody puts there by hand is as good as a
//! downloaded one: both are checked against the published SHA-256 each time they are used. What is downloaded grows as
//! `NAME.part`, and takes its name when it is whole and is the published file; so a download that is cut short, by
//! whatever, goes on where it ended. Where torchvision publishes the first digits of a hash alone (8 to 10 of 64), these
//! tell a damaged file; that nobody has put another in its place is for https to say.

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

use regraft_progress::{Cancel, Progress};

pub use error::{Error, Reason, Result};
pub use registry::{DEFAULT, Interpolation, Known, OWN, Registry, Weights};
pub use settings::{Cached, Patience, Settings};

/// A file of weights on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// The file of `weights`: the one in the cache if it is the published one, else a fresh one. Of two processes that want
/// the same file one fetches it, and the other waits for that.
///
/// # Errors
/// [`Error::Offline`] if it is not there and may not be fetched, [`Error::Fetch`] if it could not be; [`Error::Cache`]
/// and [`Error::NoRoom`] if it cannot be kept; [`Error::Setting`] for certificates that cannot be read;
/// [`Error::Interrupted`].
pub fn fetch(weights: &Weights, settings: &Settings, progress: &dyn Progress, cancel: &Cancel) -> Result<Local> {
    let path = settings.path(weights);
    let damage = match look(&path, weights)? {
        Found::Whole(sha256) => return Ok(Local { path, sha256 }),
        Found::Damaged(damage) => Some(damage),
        Found::Nothing => None,
    };
    let url = settings.url(weights);
    if settings.offline {
        return Err(Error::Offline { url, path, damage });
    }
    let make = |source| Error::Cache { what: "make", path: settings.home.clone(), source };
    fs::create_dir_all(&settings.home).map_err(make)?;
    let _lock = lock::take(&path, progress, cancel)?;
    // It may have come while the lock was somebody else's.
    match look(&path, weights)? {
        Found::Whole(sha256) => return Ok(Local { path, sha256 }),
        Found::Damaged(damage) => {
            progress.warn(&format!("{} is damaged ({damage}); downloading it anew", path.display()));
        }
        Found::Nothing => {}
    }
    progress.note(&format!(
        "downloading {url} ({:.1} MiB) to {}; licence: {}, trained on {}, whose pictures have terms of their own",
        weights.mib(),
        settings.home.display(),
        weights.licence,
        weights.trained_on
    ));
    let sha256 = download::download(weights, &path, settings, progress, cancel)?;
    Ok(Local { path, sha256 })
}

/// What is in a file's place.
enum Found {
    Nothing,
    /// The published file, with its digest.
    Whole(String),
    /// Something else, and what tells.
    Damaged(String),
}

fn look(path: &Path, weights: &Weights) -> Result<Found> {
    let failed = |source| Error::Cache { what: "read", path: path.into(), source };
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        result => result.map_err(failed)?,
    };
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let (len, (low, high)) = (about.len(), weights.bytes().into_inner());
    if !(low..=high).contains(&len) {
        return Ok(Found::Damaged(format!("it has {len} bytes where {high} belong")));
    }
    let digest = part::hex(&sha2::Digest::finalize(part::hash(&mut file).map_err(failed)?));
    Ok(match weights.has_digest(&digest) {
        true => Found::Whole(digest),
        false => Found::Damaged(format!("its SHA-256 is {digest}, which does not begin with {}", weights.sha256)),
    })
}
