//! Downloading a file in attempts, each of which continues where the one before ended.

use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use regraft_progress::{BYTES, Cancel, Progress};

use crate::client::{Client, Failure, broken};
use crate::error::Reason;
use crate::part::Part;
use crate::{Error, Result, Settings, Weights};

/// How often a pause checks whether to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How an attempt ended.
enum Attempt {
    /// All bytes have arrived.
    Complete,
    /// Some are missing, and a retry may get them, after the pause that the server asks for.
    Incomplete(Reason, Option<Duration>),
}

/// Downloads the file of `weights` to `path` and returns its SHA-256.
///
/// # Errors
/// [`Error::Fetch`] with the cause; [`Error::NoRoom`], [`Error::CacheRead`], [`Error::CacheWrite`], [`Error::Setting`];
/// [`Error::Cancelled`].
pub(crate) fn download(
    weights: &Weights,
    path: &Path,
    settings: &Settings,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<String> {
    let url = settings.url(weights);
    let download = Download { weights, url: &url, client: Client::new(settings, &url)?, settings, progress, cancel };
    let mut part = Part::open(path, *weights.bytes().end())?;
    download.require_room(path, part.len())?;
    progress.begin(weights.file_name(), BYTES, *weights.bytes().end());
    let result = download.attempts(&mut part);
    progress.end();
    match result {
        Ok(digest) => part.finish(path).map(|()| digest),
        Err(Stop::Fetch(reason)) => {
            // A part that cannot become the file is useless to the next download.
            if part.len() == 0 || matches!(reason, Reason::Hash { .. } | Reason::TooLong { .. }) {
                part.discard();
            }
            Err(Error::Fetch { url, path: path.into(), reason })
        }
        Err(Stop::Other(error)) => {
            if part.len() == 0 {
                part.discard();
            }
            Err(error)
        }
    }
}

/// Why attempts end.
enum Stop {
    Fetch(Reason),
    Other(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

struct Download<'a> {
    weights: &'a Weights,
    url: &'a str,
    client: Client,
    settings: &'a Settings,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Download<'_> {
    /// Attempts until the published file has arrived; returns its SHA-256.
    fn attempts(&self, part: &mut Part) -> Result<String, Stop> {
        let timeouts = &self.settings.timeouts;
        let mut pauses = timeouts.retry_pauses.iter();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let before = part.len();
            match self.attempt(part)? {
                Attempt::Complete => {
                    let digest = part.digest();
                    if self.weights.has_digest(&digest) {
                        return Ok(digest);
                    }
                    let resumed = part.is_resumed();
                    part.restart(None)?;
                    if !resumed {
                        let expected = self.weights.sha256.clone();
                        return Err(Stop::Fetch(Reason::Hash { found: digest, expected }));
                    }
                    self.progress
                        .warn("the parts that arrived do not make up the published file; downloading it again");
                }
                Attempt::Incomplete(reason, wait) => {
                    // A slow but steady download may go on; each such attempt brings a hundredth, so they are bounded.
                    if part.len() > before + self.weights.bytes().start() / 100 {
                        pauses = timeouts.retry_pauses.iter();
                        attempts = 1;
                    }
                    let Some(&pause) = pauses.next() else {
                        return Err(Stop::Fetch(counted(reason, part.len(), attempts)));
                    };
                    let pause = wait.map_or(pause, |wait| wait.clamp(pause, timeouts.max_retry_pause.max(pause)));
                    let seconds = pause.as_secs_f64();
                    self.progress.warn(&format!("{}; trying again in {seconds:.0} s", counted(reason, part.len(), 1)));
                    self.pause(pause)?;
                }
            }
        }
    }

    /// Sends one request and stores the bytes of its response.
    fn attempt(&self, part: &mut Part) -> Result<Attempt, Stop> {
        let expected = self.weights.bytes();
        let whole = |len: u64| expected.contains(&len);
        if whole(part.len()) && self.weights.has_digest(&part.digest()) {
            return Ok(Attempt::Complete); // Only its name was missing.
        }
        let response = match self.client.get(self.url, part.len(), part.validator()) {
            Ok(response) => response,
            Err(Failure::NoSuchRange) => {
                part.restart(None)?;
                match self.client.get(self.url, 0, None) {
                    Ok(response) => response,
                    Err(Failure::Transient(reason, wait)) => return Ok(Attempt::Incomplete(reason, wait)),
                    Err(Failure::Permanent(reason)) => return Err(Stop::Fetch(reason)),
                    Err(Failure::NoSuchRange) => {
                        let what = "a part of the file where the whole was requested";
                        return Err(Stop::Fetch(Reason::Protocol(what.into())));
                    }
                }
            }
            Err(Failure::Transient(reason, wait)) => return Ok(Attempt::Incomplete(reason, wait)),
            Err(Failure::Permanent(reason)) => return Err(Stop::Fetch(reason)),
        };
        if !response.fits(&expected) {
            let announced = response.total.unwrap_or(0);
            return Err(Stop::Fetch(Reason::Length { announced, expected: self.expected() }));
        }
        match response.start {
            0 => part.restart(response.validator.as_deref())?,
            _ => part.resume(),
        }
        let end = response.total;
        let mut reader = response.into_reader();
        let mut chunk = vec![0; 1 << 16];
        loop {
            self.cancel.check().map_err(Error::from)?;
            match reader.read(&mut chunk) {
                Ok(0) if whole(part.len()) && end.is_none_or(|end| end == part.len()) => return Ok(Attempt::Complete),
                Ok(0) => return Ok(incomplete("the connection broke")),
                Ok(n) if part.len() + n as u64 > *expected.end() => {
                    return Err(Stop::Fetch(Reason::TooLong { expected: self.expected() }));
                }
                Ok(n) => {
                    part.write(&chunk[..n])?;
                    self.progress.advance(part.len(), "");
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(incomplete(&broken(&e))),
            }
        }
    }

    /// The published size in words.
    fn expected(&self) -> String {
        let (low, high) = self.weights.bytes().into_inner();
        if low == high { format!("{low}") } else { format!("{low} to {high}") }
    }

    /// Waits, unless the caller asks to stop.
    fn pause(&self, pause: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < pause {
            self.cancel.check()?;
            sleep(POLL_INTERVAL.min(pause));
        }
        Ok(())
    }

    /// Fails if the disk has no room for the missing bytes. Checks nothing if the free space is unknown.
    fn require_room(&self, path: &Path, done: u64) -> Result<()> {
        let needed = self.weights.bytes().end().saturating_sub(done);
        let folder = path.parent().unwrap_or(path);
        match fs4::available_space(folder) {
            Ok(available) if available < needed => {
                Err(Error::NoRoom { path: folder.into(), url: self.url.into(), available, needed })
            }
            _ => Ok(()),
        }
    }
}

fn incomplete(what: &str) -> Attempt {
    Attempt::Incomplete(Reason::Broken { what: what.into(), done: 0, attempts: 1 }, None)
}

/// The reason, completed with the bytes that have arrived and the number of attempts.
fn counted(reason: Reason, done: u64, attempts: u32) -> Reason {
    match reason {
        Reason::Broken { what, .. } => Reason::Broken { what, done, attempts },
        Reason::Status { status, .. } => Reason::Status { status, attempts },
        other => other,
    }
}
