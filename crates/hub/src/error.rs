//! Errors of this crate.

use std::io;
use std::path::{Path, PathBuf};

use regraft_io::ErrorKind;
use regraft_progress::Cancelled;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why published weights are not available.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not in the cache, and its download failed.
    #[error("cannot download {url}: {reason}; {}", by_hand(path))]
    Fetch {
        /// Address of the file.
        url: String,
        /// Path of the file in the cache.
        path: PathBuf,
        /// Cause of the failure.
        reason: Reason,
    },
    /// The file is not in the cache, and downloads are not allowed.
    #[error("{} {}, and `offline` (or REGRAFT_OFFLINE) forbids downloading {url}; {}", path.display(),
        damage.as_ref().map_or_else(|| "is not there".into(), |damage| format!("is damaged ({damage})")), by_hand(path))]
    Offline {
        /// Address of the file.
        url: String,
        /// Path of the file in the cache.
        path: PathBuf,
        /// What is wrong with the file at `path`; none if there is no file.
        damage: Option<String>,
    },
    /// A file of the cache could not be read.
    #[error("cannot read {}: {source}; {ELSEWHERE}", path.display())]
    CacheRead {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file or folder of the cache could not be written.
    #[error("cannot write {}: {source}; {ELSEWHERE}", path.display())]
    CacheWrite {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The disk has no room for the file.
    #[error("{} has {available} bytes free, but {url} needs {needed}; free some space, or {ELSEWHERE}", path.display())]
    NoRoom {
        /// Folder of the cache.
        path: PathBuf,
        /// Address of the file.
        url: String,
        /// Free bytes.
        available: u64,
        /// Bytes that have not arrived yet.
        needed: u64,
    },
    /// An environment variable has a value that is not allowed.
    #[error("{field} is {value}; it must be {allowed}")]
    Setting {
        /// Name of the variable.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The user's own registry cannot be used.
    #[error("{}: {reason}", path.display())]
    Registry {
        /// The registry's file.
        path: PathBuf,
        /// What is wrong, and in which entry.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("interrupted; bytes that have arrived are kept, and the next download continues from there")]
    Cancelled,
}

impl Error {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // The registry is configuration, too.
            Self::Setting { .. } | Self::Registry { .. } => ErrorKind::Setting,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Fetch { .. } | Self::Offline { .. } | Self::CacheRead { .. } => ErrorKind::Input,
            Self::CacheWrite { .. } | Self::NoRoom { .. } => ErrorKind::Write,
        }
    }
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Why a download failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No connection to the server.
    #[error("{what}; is there a network? (Behind a proxy, set HTTPS_PROXY)")]
    Connect {
        /// The step that failed.
        what: String,
    },
    /// The proxy refused to connect.
    #[error("the proxy refuses: {0}; look at HTTPS_PROXY, ALL_PROXY and NO_PROXY")]
    Proxy(String),
    /// The server's certificate is not trusted, or another part of TLS failed.
    #[error("no trusted connection: {0}; where a proxy inspects connections, name its certificate in SSL_CERT_FILE")]
    Tls(String),
    /// The server responded with an error.
    #[error("the server responds with HTTP status {status} ({}){}", meaning(*status), after(*attempts))]
    Status {
        /// HTTP status.
        status: u16,
        /// Number of attempts.
        attempts: u32,
    },
    /// Too many redirects.
    #[error("the server redirects again and again")]
    Redirects,
    /// A redirect from https to an address without it.
    #[error("the server redirects to an address without https")]
    Downgrade,
    /// The response is not valid HTTP.
    #[error("the server's response is not valid: {0}")]
    Protocol(String),
    /// The server's file has another size than the published one.
    #[error("the server has a file of {announced} bytes, but the published one has {expected}")]
    Length {
        /// Size that the server announces, in bytes.
        announced: u64,
        /// Published size, in bytes.
        expected: String,
    },
    /// The server sent more bytes than the published file has.
    #[error("the server sends more than the {expected} bytes of the published file")]
    TooLong {
        /// Published size, in bytes.
        expected: String,
    },
    /// The connection broke or stalled.
    #[error("{what}{}{}", arrived(*done), after(*attempts))]
    Broken {
        /// What happened.
        what: String,
        /// Bytes that have arrived and are kept.
        done: u64,
        /// Number of attempts.
        attempts: u32,
    },
    /// The bytes that arrived are not the published file.
    #[error(
        "the bytes that arrived are not the published file: their SHA-256 is {found} and should begin with {expected}"
    )]
    Hash {
        /// SHA-256 of the bytes that arrived.
        found: String,
        /// Published digits.
        expected: String,
    },
}

const ELSEWHERE: &str = "set REGRAFT_HOME to keep downloaded weights in another folder";

fn by_hand(path: &Path) -> String {
    format!("put the file at {} by hand", path.display())
}

fn arrived(bytes: u64) -> String {
    if bytes > 0 { format!(" after {bytes} bytes, which are kept for the next try") } else { String::new() }
}

fn after(attempts: u32) -> String {
    if attempts > 1 { format!(", tried {attempts} times") } else { String::new() }
}

fn meaning(status: u16) -> &'static str {
    match status {
        401 | 407 => "it asks for a password",
        403 => "forbidden",
        404 | 410 => "the file is not there",
        429 => "too many requests; wait a little",
        500.. => "an error of the server; try later",
        _ => "unexpected",
    }
}
