//! What can go wrong between a name and a file of weights.

use std::io;
use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why weights could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not here and could not be fetched.
    #[error("cannot download {url}: {reason}; {}", by_hand(path))]
    Fetch {
        /// Where it was to come from.
        url: String,
        /// Where it belongs.
        path: PathBuf,
        /// What happened.
        reason: Reason,
    },
    /// The file is not here, and no network may be used.
    #[error("{} {}, and --offline (or REGRAFT_OFFLINE) forbids downloading {url}; {}", path.display(),
        damage.as_ref().map_or_else(|| "is not there".into(), |damage| format!("is damaged ({damage})")), by_hand(path))]
    Offline {
        /// Where it could come from.
        url: String,
        /// Where it belongs.
        path: PathBuf,
        /// What is wrong with the file that is there, if one is.
        damage: Option<String>,
    },
    /// The cache cannot be read or written.
    #[error("cannot {what} {}: {source}; REGRAFT_HOME names another folder for downloaded weights", path.display())]
    Cache {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The disk has no room for the file.
    #[error(
        "{} has {available} bytes free, but {url} needs {needed}; free some space, or name another folder with \
         REGRAFT_HOME", path.display()
    )]
    NoRoom {
        /// The folder of the cache.
        path: PathBuf,
        /// What was to be downloaded.
        url: String,
        /// Bytes that are free.
        available: u64,
        /// Bytes that are still to come.
        needed: u64,
    },
    /// An environment variable has a value that means nothing.
    #[error("{0}")]
    Setting(String),
    /// The caller asked to stop; what has arrived is kept.
    #[error("interrupted; what has arrived is kept, and the next download goes on from there")]
    Interrupted,
}

/// What happened to a download.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Reason {
    /// No connection to the server.
    #[error("{what}; is there a network? (Behind a proxy, set HTTPS_PROXY)")]
    Connect {
        /// Which step failed.
        what: String,
    },
    /// The proxy would not connect.
    #[error("the proxy refuses: {0}; look at HTTPS_PROXY, ALL_PROXY and NO_PROXY")]
    Proxy(String),
    /// The server's certificate is not trusted, or something else of TLS failed.
    #[error("no trusted connection: {0}; where a proxy inspects connections, name its certificate in SSL_CERT_FILE")]
    Tls(String),
    /// The server answers with an error.
    #[error("the server answers with HTTP status {status} ({}){}", meaning(*status), after(*attempts))]
    Status {
        /// The status.
        status: u16,
        /// How often it was tried.
        attempts: u32,
    },
    /// One redirect leads to the next.
    #[error("the server redirects again and again")]
    Redirects,
    /// A redirect leads from an encrypted address to one that is not.
    #[error("the server redirects to an address without https")]
    Downgrade,
    /// The answer is no HTTP.
    #[error("the server's answer makes no sense: {0}")]
    Protocol(String),
    /// The server has a file of another size.
    #[error("the server has a file of {announced} bytes, but the published one has {expected}")]
    Length {
        /// The size that the server states.
        announced: u64,
        /// The size that is published.
        expected: String,
    },
    /// The server does not stop where the file ends.
    #[error("the server sends more than the {expected} bytes of the published file")]
    TooLong {
        /// The size that is published.
        expected: String,
    },
    /// The connection breaks off or stalls.
    #[error("{what}{}{}", arrived(*done), after(*attempts))]
    Broken {
        /// Which of the two.
        what: String,
        /// Bytes that have arrived, which are kept.
        done: u64,
        /// How often it was tried.
        attempts: u32,
    },
    /// What arrived is another file.
    #[error(
        "what arrived is not the published file: its SHA-256 is {found}, and that of the file begins with {expected}"
    )]
    Hash {
        /// The digest of what arrived.
        found: String,
        /// The digits that are published.
        expected: String,
    },
}

fn by_hand(path: &std::path::Path) -> String {
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
        401 | 407 => "it wants a password",
        403 => "forbidden",
        404 | 410 => "the file is not there",
        429 => "too many requests; wait a little",
        500.. => "trouble of its own; try later",
        _ => "unexpected",
    }
}
