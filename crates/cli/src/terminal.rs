//! Progress on stderr: a bar with rate and time left on a terminal, plain lines otherwise.

use std::fmt;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use regraft::{Epoch, Progress};
use regraft_progress::BYTES;

use crate::flags::with_flags;

/// How often work without a terminal tells where it is.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// A score's name for people, from that of its column.
pub fn metric_name(column: &str) -> &'static str {
    match column {
        "map" => "mAP",
        "r2" => "R²",
        _ => "Acc",
    }
}

/// A fraction as people read it: `94.1%`.
pub fn percent(fraction: f64) -> String {
    format!("{:.1}%", 100.0 * fraction)
}

/// A path as it can be pasted into a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,".contains(c);
    match text.chars().all(plain) && !text.is_empty() {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Prints what the library reports.
pub struct Terminal {
    /// Whether stdout is for JSON alone, and everything else goes to stderr.
    json: bool,
    work: Mutex<Option<Work>>,
    overall: Mutex<Option<Overall>>,
}

/// How far the whole work is, of which the current stage is a part.
#[derive(Clone, Copy)]
struct Overall {
    /// Units that were done before this sitting, and when it began.
    first: u64,
    began: Instant,
    /// Units before the current stage, and of all stages.
    before: u64,
    total: u64,
}

impl Overall {
    /// Time left of all stages, once `done` units of the current one are done; none before there is a rate.
    fn left(&self, done: u64) -> Option<Duration> {
        let (now, seconds) = (self.before + done, self.began.elapsed().as_secs_f64());
        let rate = now.saturating_sub(self.first) as f64 / seconds;
        (rate > 0.0).then(|| Duration::from_secs_f64(self.total.saturating_sub(now) as f64 / rate))
    }
}

/// The current stage.
struct Work {
    bar: Option<ProgressBar>,
    what: String,
    unit: String,
    total: u64,
    started: Instant,
    told: Instant,
}

impl Terminal {
    pub fn new(json: bool) -> Self {
        Self { json, work: Mutex::new(None), overall: Mutex::new(None) }
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a line to stderr, above the bar if there is one.
    fn tell(&self, text: &str) {
        match self.work().as_ref().and_then(|work| work.bar.as_ref()) {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Progress for Terminal {
    fn note(&self, text: &str) {
        self.tell(&with_flags(text));
    }

    fn warn(&self, text: &str) {
        self.tell(&format!("warning: {}", with_flags(text)));
    }

    fn begin(&self, what: &str, unit: &str, total: u64) {
        let bar = stderr().is_terminal().then(|| {
            let per_second = unit.to_owned();
            let rate = move |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.1} {per_second}/s", state.per_sec());
            };
            let style = ProgressStyle::with_template(match unit {
                BYTES => "{prefix} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
                _ => "{prefix} [{bar:30}] {pos}/{len}, {rate}, {eta} left {msg}",
            });
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate);
            ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(what.to_owned())
        });
        let now = Instant::now();
        let (what, unit) = (what.to_owned(), unit.to_owned());
        *self.work() = Some(Work { bar, what, unit, total, started: now, told: now });
    }

    fn overall(&self, before: u64, total: u64) {
        let mut overall = self.overall.lock().unwrap_or_else(PoisonError::into_inner);
        *overall = Some(match *overall {
            Some(known) if known.total == total => Overall { before, ..known },
            _ => Overall { first: before, began: Instant::now(), before, total },
        });
    }

    fn advance(&self, done: u64, detail: &str) {
        let overall = *self.overall.lock().unwrap_or_else(PoisonError::into_inner);
        let mut work = self.work();
        let Some(work) = work.as_mut() else { return };
        // Of a stage that is a part of the whole, the time left of the whole is what people wait for.
        let left = overall.filter(|it| work.total * 2 <= it.total && !detail.is_empty()).and_then(|it| it.left(done));
        let in_all = left.map_or(String::new(), |left| format!(", {} left in all", HumanDuration(left)));
        match &work.bar {
            Some(bar) => {
                bar.set_message(format!("{detail}{in_all}"));
                bar.set_position(done);
            }
            None if work.told.elapsed() >= PLAIN_INTERVAL && done < work.total => {
                work.told = Instant::now();
                let rate = done as f64 / work.started.elapsed().as_secs_f64();
                let left = (work.total - done) as f64 / rate;
                let Work { what, unit, total, .. } = work;
                if unit == BYTES {
                    let [done, total, rate] = [done, *total, rate as u64].map(HumanBytes);
                    eprintln!("{what}: {done}/{total}, {rate}/s, {left:.0} s left");
                } else {
                    eprintln!("{what}: {done}/{total}, {rate:.1} {unit}/s, {left:.0} s left {detail}{in_all}");
                }
            }
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = self.work().take().and_then(|work| work.bar) {
            bar.finish_and_clear();
        }
    }

    fn epoch(&self, epoch: &Epoch) {
        let Epoch { epochs, train_loss, train_score, val_loss, val_score, seconds, .. } = epoch;
        let [train, val] = [epoch.train_metric, epoch.val_metric].map(metric_name);
        // Of a single epoch it says nothing.
        let best = if epoch.best && *epochs > 1 { ", best so far" } else { "" };
        let text = format!(
            "Epoch {}/{epochs}\ntrain loss: {train_loss:.4} {train}: {train_score:.4}\nval loss: {val_loss:.4} {val}: \
             {val_score:.4}\n{seconds:.1} s{best}\n",
            epoch.epoch
        );
        if self.json {
            self.tell(&text);
        } else {
            // A reader that has gone must not end the training.
            let _ = writeln!(stdout(), "{text}");
        }
    }

    fn run_folder(&self, path: &Path) {
        self.tell(&format!("writing to {}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_paths_can_be_pasted() {
        assert_eq!(quoted(Path::new("runs/train/best.safetensors")), "runs/train/best.safetensors");
        assert_eq!(quoted(Path::new("runs/my run")), "'runs/my run'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
        assert_eq!(percent(0.94117), "94.1%");
    }
}
