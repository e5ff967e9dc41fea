//! Photos and settings for a run, and who hears about it.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use regraft::{Cancel, Context, Hub, Outcome, PreparedRun, Progress, Result, Settings};
use regraft_data::Preprocessing;

/// Validation photos of both classes together.
pub const VAL: usize = 4;

/// A folder of photos, `train` of each of two classes to train on, and the settings of a run on them.
pub fn settings(dir: &Path, train: u8) -> Settings {
    for (part, count) in [("train", train), ("val", VAL as u8 / 2)] {
        for (class, grey) in [("dark", 40u8), ("light", 200)] {
            let folder = dir.join("photos").join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..count {
                let pixels = vec![grey + 9 * i + if part == "val" { 4 } else { 0 }; 40 * 40];
                fs::write(folder.join(format!("{i}.pgm")), [&b"P5 40 40 255\n"[..], &pixels].concat()).unwrap();
            }
        }
    }
    Settings {
        preprocessing: Preprocessing { resize: 36, crop: 32, ..Preprocessing::default() },
        epochs: 3,
        ..Settings::tutorial(dir.join("photos"), "squeezenet1_1".into())
    }
}

/// Asks the run to stop when a piece of work begins or, `after` so many units of it, goes on.
#[derive(Default)]
pub struct Listener {
    pub stop_at: &'static str,
    pub after: u64,
    pub stop: Cancel,
    at_hand: Mutex<String>,
}

impl Listener {
    pub fn stopping(stop_at: &'static str, after: u64) -> Self {
        Self { stop_at, after, ..Self::default() }
    }

    fn hear(&self, done: u64) {
        if *self.at_hand.lock().unwrap() == self.stop_at && done >= self.after {
            self.stop.cancel();
        }
    }
}

impl Progress for Listener {
    fn begin(&self, what: &str, _: &str, _: u64) {
        *self.at_hand.lock().unwrap() = what.into();
        self.hear(0);
    }
    fn advance(&self, done: u64, _: &str) {
        self.hear(done);
    }
    fn end(&self) {
        self.at_hand.lock().unwrap().clear();
    }
}

/// Trains into a folder.
pub fn train(settings: &Settings, run: &Path, context: &Context) -> Result<Outcome> {
    PreparedRun::check(settings.clone(), Some(run), false, context)?.train(context)
}

/// Continues a run without a network.
pub fn resume(run: &Path, context: &Context) -> Result<Outcome> {
    regraft::resume(run, &Hub::from_env(true)?, context)
}
