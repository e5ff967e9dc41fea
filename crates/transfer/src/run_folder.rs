//! The folder a run writes into.

use std::path::{Path, PathBuf};
use std::{fs, io};

use regraft_learn::history::{self, Row};
use regraft_learn::linear::HeadKind;

use crate::{Config, Error, Ladder, Mode, Result};

/// A run's folder and the files in it, each written whole or not at all.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Checks that `output_dir` holds no model or checkpoint, unless they may be replaced.
    ///
    /// # Errors
    /// [`Error::File`] if it does.
    pub fn require_free(output_dir: Option<&Path>, replace: bool) -> Result<()> {
        match output_dir.map(|path| Self { path: path.to_owned() }) {
            Some(folder) if !replace && (folder.best_path().exists() || folder.checkpoint_path().exists()) => {
                let reason = "already holds a run; choose another --output-dir, or give --exist-ok to replace it";
                Err(Error::File { path: folder.path, reason: reason.into() })
            }
            _ => Ok(()),
        }
    }

    /// Makes the folder of a new run: `output_dir`, or the first free of `runs/<kind>`, `runs/<kind>2`, ...
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub fn create(output_dir: Option<&Path>, kind: &str) -> Result<Self> {
        let failed = |path: &Path, e: io::Error| Error::File {
            path: path.to_owned(),
            reason: format!("cannot make this folder: {e}; choose another --output-dir"),
        };
        if let Some(path) = output_dir {
            fs::create_dir_all(path).map_err(|e| failed(path, e))?;
            return Ok(Self { path: path.to_owned() });
        }
        let runs = Path::new("runs");
        fs::create_dir_all(runs).map_err(|e| failed(runs, e))?;
        let mut number = 1;
        loop {
            // Making it is what claims it: two runs that start together get two folders.
            let path = runs.join(if number == 1 { kind.into() } else { format!("{kind}{number}") });
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(failed(&path, e)),
            }
        }
    }

    /// The folder of a run that was started before.
    ///
    /// # Errors
    /// [`Error::File`] if it is not one.
    pub fn open(path: &Path) -> Result<(Self, Config)> {
        let folder = Self { path: path.to_owned() };
        let config = folder.config_path();
        let wrong = |reason: String| Error::File { path: config.clone(), reason };
        let text = fs::read_to_string(&config)
            .map_err(|e| wrong(format!("cannot be read: {e}; give the folder of a run, such as runs/train")))?;
        let config = toml::from_str(&text).map_err(|e| wrong(format!("is not the settings of a run: {e}")))?;
        Ok((folder, config))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The best model so far.
    pub fn best_path(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The state from which the run goes on.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.path.join("last.ckpt")
    }

    fn ladder_path(&self) -> PathBuf {
        self.path.join("ladder.json")
    }

    /// The folder within for one of the roads of a run that decides itself.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub(crate) fn rung(&self, mode: Mode) -> Result<Self> {
        Self::create(Some(&self.path.join(mode.to_string())), "train")
    }

    /// Makes another run's model and results this one's.
    ///
    /// # Errors
    /// [`Error::Weights`] if one cannot be read or written.
    pub(crate) fn adopt(&self, other: &Self) -> Result<()> {
        for (from, to) in [(other.results_path(), self.results_path()), (other.best_path(), self.best_path())] {
            let copy = |file: &mut dyn io::Write| io::copy(&mut fs::File::open(&from)?, file).map(|_| ());
            regraft_weights::write_atomically(&to, copy)?;
        }
        Ok(())
    }

    /// How far a run that decides itself has come.
    ///
    /// # Errors
    /// [`Error::File`] if the file is there and does not say it.
    pub(crate) fn read_ladder(&self) -> Result<Option<Ladder>> {
        let path = self.ladder_path();
        let wrong =
            |e: String| Error::File { path: path.clone(), reason: format!("does not say how far the run is: {e}") };
        match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(wrong(e.to_string())),
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| wrong(e.to_string())),
        }
    }

    /// Writes down how far a run that decides itself has come.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file cannot be written.
    pub(crate) fn write_ladder(&self, ladder: &Ladder) -> Result<()> {
        let json = serde_json::to_string_pretty(ladder).expect("a ladder has no JSON that can fail");
        self.write("ladder.json", &(json + "\n")).map(|_| ())
    }

    fn results_path(&self) -> PathBuf {
        self.path.join("results.csv")
    }

    fn config_path(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// Checks that `needed` bytes are free, before hours are spent on what could not be saved.
    ///
    /// # Errors
    /// [`Error::NoRoom`] with both numbers. Where the system does not tell, nothing is checked.
    pub fn require_room(&self, needed: u64) -> Result<()> {
        match fs4::available_space(&self.path) {
            Ok(available) if available < needed => Err(Error::NoRoom { path: self.path.clone(), available, needed }),
            _ => Ok(()),
        }
    }

    /// Writes the settings and the class names, and removes what an earlier run left.
    ///
    /// # Errors
    /// [`Error::Weights`] if a file cannot be written, [`Error::File`] if an old one cannot be removed.
    pub fn start(&self, config: &Config, classes: &[String]) -> Result<()> {
        self.clear()?;
        for rung in [Mode::Probe, Mode::Finetune] {
            Self { path: self.path.join(rung.to_string()) }.clear()?;
        }
        let text =
            toml::to_string(config).map_err(|e| Error::Setting(format!("these settings cannot be kept: {e}")))?;
        self.write("config.toml", &text)?;
        self.write("labels.txt", &(classes.join("\n") + "\n")).map(|_| ())
    }

    /// Removes what an earlier run left that is not written at once by the next.
    pub(crate) fn clear(&self) -> Result<()> {
        for old in [self.best_path(), self.checkpoint_path(), self.ladder_path(), self.results_path()] {
            match fs::remove_file(&old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::File { reason: format!("cannot be replaced: {e}"), path: old });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the results of the epochs so far, of a network with this kind of head.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file cannot be written.
    pub fn write_results(&self, rows: &[Row], kind: HeadKind) -> Result<()> {
        self.write("results.csv", &history::to_csv(rows, kind)).map(|_| ())
    }

    /// Writes a file of text and returns where it is.
    ///
    /// # Errors
    /// [`Error::Weights`] if it cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        regraft_weights::write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_a_run_is_not_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/run");
        let config = Config::tutorial("photos".into(), "resnet18".into());
        let folder = RunFolder::create(Some(&path), "train").unwrap();
        folder.start(&config, &["a".into(), "b".into()]).unwrap();
        assert_eq!(fs::read_to_string(path.join("labels.txt")).unwrap(), "a\nb\n");
        RunFolder::require_free(Some(&path), false).unwrap();
        fs::write(folder.best_path(), "old").unwrap();
        assert!(RunFolder::require_free(Some(&path), false).unwrap_err().to_string().contains("--exist-ok"));
        RunFolder::require_free(Some(&path), true).unwrap();
        RunFolder::create(Some(&path), "train").unwrap().start(&config, &["a".into()]).unwrap();
        assert!(!folder.best_path().exists());
        assert_eq!(RunFolder::open(&path).unwrap().1, config);
    }

    #[test]
    fn a_full_disk_is_found_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(dir.path()), "train").unwrap();
        folder.require_room(1).unwrap();
        assert!(folder.require_room(u64::MAX).unwrap_err().to_string().contains("--output-dir"));
    }

    #[test]
    fn a_folder_that_is_no_run_is_named() {
        let message = RunFolder::open(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(message.contains("/nowhere/config.toml") && message.contains("runs/train"), "{message}");
    }
}
