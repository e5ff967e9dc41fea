//! Bringing a file here: attempts, each of which goes on where the one before ended.

use std::io::{self, Read};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use regraft_progress::{Cancel, Progress};

use crate::client::{Client, Failure, broken};
use crate::error::Reason;
use crate::part::Part;
use crate::{Error, Result, Settings, Weights};

/// How long a wait goes on before it is asked whether to stop.
const GLANCE: Duration = Duration::from_millis(50);

/// How an attempt ended.
enum Attempt {
    /// With all bytes.
    Complete,
    /// With fewer, for a reason that may pass, after which to wait so long if the server says.
    Cut(Reason, Option<Duration>),
}

/// Brings the file of `weights` to `path` and returns its SHA-256.
///
/// # Errors
/// [`Error::Fetch`] with what happened; [`Error::NoRoom`], [`Error::Cache`], [`Error::Setting`]; [`Error::Interrupted`].
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
    progress.begin(weights.file_name(), "bytes", *weights.bytes().end());
    let result = download.attempts(&mut part);
    progress.end();
    match result {
        Ok(digest) => part.finish(path).map(|()| digest),
        Err(Stop::Fetch(reason)) => {
            // A part that cannot become the file is not kept; one that can is.
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

/// Why there are no more attempts.
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
    /// Attempts until the file is here and is the published one; returns its digest.
    fn attempts(&self, part: &mut Part) -> Result<String, Stop> {
        let patience = &self.settings.patience;
        let mut pauses = patience.pauses.iter();
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
                    self.progress.warn("the parts that arrived do not make the published file; downloading it anew");
                }
                Attempt::Cut(reason, wait) => {
                    // Whoever gets on, if slowly, may go on; so a hundred attempts is the most that can be.
                    if part.len() > before + self.weights.bytes().start() / 100 {
                        pauses = patience.pauses.iter();
                        attempts = 1;
                    }
                    let Some(&pause) = pauses.next() else {
                        return Err(Stop::Fetch(counted(reason, part.len(), attempts)));
                    };
                    let pause = wait.map_or(pause, |wait| wait.clamp(pause, patience.longest_pause.max(pause)));
                    let seconds = pause.as_secs_f64();
                    self.progress.warn(&format!("{}; trying again in {seconds:.0} s", counted(reason, part.len(), 1)));
                    self.pause(pause)?;
                }
            }
        }
    }

    /// One request, and the bytes that come with its answer.
    fn attempt(&self, part: &mut Part) -> Result<Attempt, Stop> {
        let expected = self.weights.bytes();
        let whole = |len: u64| expected.contains(&len);
        if whole(part.len()) && self.weights.has_digest(&part.digest()) {
            return Ok(Attempt::Complete); // all that was missing was its name
        }
        let answer = match self.client.get(self.url, part.len(), part.tag()) {
            Ok(answer) => answer,
            Err(Failure::NoSuchPart) => {
                part.restart(None)?;
                match self.client.get(self.url, 0, None) {
                    Ok(answer) => answer,
                    Err(Failure::Passing(reason, wait)) => return Ok(Attempt::Cut(reason, wait)),
                    Err(Failure::Final(reason)) => return Err(Stop::Fetch(reason)),
                    Err(Failure::NoSuchPart) => {
                        let what = "it sends a part of a file where the whole was asked for";
                        return Err(Stop::Fetch(Reason::Protocol(what.into())));
                    }
                }
            }
            Err(Failure::Passing(reason, wait)) => return Ok(Attempt::Cut(reason, wait)),
            Err(Failure::Final(reason)) => return Err(Stop::Fetch(reason)),
        };
        if !answer.fits(&expected) {
            let announced = answer.total.unwrap_or(0);
            return Err(Stop::Fetch(Reason::Length { announced, expected: self.expected() }));
        }
        match answer.start {
            0 => part.restart(answer.tag.as_deref())?,
            _ => part.resume(),
        }
        let end = answer.total;
        let mut reader = answer.into_reader();
        let mut chunk = vec![0; 1 << 16];
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::Interrupted.into());
            }
            match reader.read(&mut chunk) {
                Ok(0) if whole(part.len()) && end.is_none_or(|end| end == part.len()) => return Ok(Attempt::Complete),
                Ok(0) => return Ok(cut("the connection broke off")),
                Ok(n) if part.len() + n as u64 > *expected.end() => {
                    return Err(Stop::Fetch(Reason::TooLong { expected: self.expected() }));
                }
                Ok(n) => {
                    part.write(&chunk[..n])?;
                    self.progress.advance(part.len(), "");
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(cut(&broken(&e))),
            }
        }
    }

    /// The published size, in words.
    fn expected(&self) -> String {
        let (low, high) = self.weights.bytes().into_inner();
        if low == high { format!("{low}") } else { format!("{low} to {high}") }
    }

    /// Waits, unless the caller wants to stop.
    fn pause(&self, pause: Duration) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < pause {
            if self.cancel.is_cancelled() {
                return Err(Error::Interrupted);
            }
            sleep(GLANCE.min(pause));
        }
        Ok(())
    }

    /// Checks that the disk has room for what is still to come; where the system does not tell, nothing is checked.
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

fn cut(what: &str) -> Attempt {
    Attempt::Cut(Reason::Broken { what: what.into(), done: 0, attempts: 1 }, None)
}

/// The reason with how much has arrived and how often it was tried.
fn counted(reason: Reason, done: u64, attempts: u32) -> Reason {
    match reason {
        Reason::Broken { what, .. } => Reason::Broken { what, done, attempts },
        Reason::Status { status, .. } => Reason::Status { status, attempts },
        other => other,
    }
}
