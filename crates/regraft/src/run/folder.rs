//! The folder a run writes into.

use std::path::{Path, PathBuf};
use std::{fs, io};

use regraft_learn::history::{self, Row};
use regraft_learn::linear::HeadKind;

use crate::{AutoResult, Error, Mode, Result, Settings};

/// Names of files that may be there.
const CONFIG: &str = "config.toml";
const LABELS: &str = "labels.txt";
const DISTILLATION: &str = "distill.toml";
const AUTO: &str = "auto.json";

/// How the names of teachers' answers begin and end; between is the number of a view, or this word.
const ANSWERS: (&str, &str) = ("teachers-", ".safetensors");
const KEPT_APART: &str = "val";

/// A run's folder and the files in it, each written whole or not at all.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Checks that `output_dir` holds no model, checkpoint or distillation, unless they may be replaced. A distillation counts
    /// from its start: asking the teachers is most of its work.
    ///
    /// # Errors
    /// [`Error::File`] if it does.
    pub fn require_free(output_dir: Option<&Path>, replace: bool) -> Result<()> {
        match output_dir.map(|path| Self { path: path.to_owned() }) {
            Some(folder) if !replace && folder.taken_by().iter().any(|path| path.exists()) => {
                let reason = "already holds a run; choose another `output_dir`, or give `exist_ok` to replace it";
                Err(Error::File { path: folder.path, reason: reason.into() })
            }
            _ => Ok(()),
        }
    }

    /// Checks that a run does not replace what it needs itself.
    ///
    /// # Errors
    /// [`Error::File`] if `input` is one of the models, weights or checkpoints here.
    pub(crate) fn require_apart(&self, input: &Path) -> Result<()> {
        let Ok(input) = fs::canonicalize(input) else { return Ok(()) };
        let folders = self.stages().into_iter().chain([self.clone()]);
        let mut replaced = folders.flat_map(|folder| folder.taken_by());
        match replaced.any(|old| fs::canonicalize(old).is_ok_and(|old| old == input)) {
            true => {
                let reason = "would be replaced by this run, which needs it; choose another `output_dir`";
                Err(Error::File { path: input, reason: reason.into() })
            }
            false => Ok(()),
        }
    }

    /// Makes the folder of a new run: `output_dir`, or the first free of `runs/<kind>`, `runs/<kind>2`, ...
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub fn create(output_dir: Option<&Path>, kind: &str) -> Result<Self> {
        let failed = |path: &Path, e: io::Error| Error::File {
            path: path.to_owned(),
            reason: format!("cannot make this folder: {e}; choose another `output_dir`"),
        };
        if let Some(path) = output_dir {
            fs::create_dir_all(path).map_err(|e| failed(path, e))?;
            regraft_io::remove_stale(path);
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
    pub fn open(path: &Path) -> Result<(Self, Settings)> {
        let folder = Self { path: path.to_owned() };
        let settings = folder.settings_path();
        let wrong = |reason: String| Error::File { path: settings.clone(), reason };
        let text = fs::read_to_string(&settings)
            .map_err(|e| wrong(format!("cannot be read: {e}; give the folder of a run, such as runs/train")))?;
        let settings = Settings::from_toml(&text).map_err(|e| wrong(format!("is not the settings of a run: {e}")))?;
        regraft_io::remove_stale(path);
        Ok((folder, settings))
    }

    /// A folder that may be a run's.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Writes the settings of a distillation.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub(crate) fn write_distillation(&self, text: &str) -> Result<()> {
        self.write(DISTILLATION, text).map(|_| ())
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

    /// The settings of a distillation, by which it is told from other runs.
    pub(crate) fn distillation_path(&self) -> PathBuf {
        self.path.join(DISTILLATION)
    }

    /// The weights of a distillation's student.
    pub(crate) fn student_path(&self) -> PathBuf {
        self.path.join("student.safetensors")
    }

    /// What the teachers of a distillation say of a view of the training photos, or of those kept apart.
    pub(crate) fn answers_path(&self, view: Option<usize>) -> PathBuf {
        let view = view.map_or(KEPT_APART.to_owned(), |view| view.to_string());
        self.path.join(format!("{}{view}{}", ANSWERS.0, ANSWERS.1))
    }

    /// The files of such answers that are here, each with its view.
    ///
    /// # Errors
    /// [`Error::File`] if the folder cannot be read.
    pub(crate) fn answers(&self) -> Result<Vec<(Option<usize>, PathBuf)>> {
        let unreadable = |e: io::Error| Error::File { path: self.path.clone(), reason: format!("cannot be read: {e}") };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let view = name.and_then(|name| name.strip_prefix(ANSWERS.0)?.strip_suffix(ANSWERS.1));
            match view.map(|view| (view, view.parse())) {
                Some((KEPT_APART, _)) => found.push((None, path)),
                Some((_, Ok(view))) => found.push((Some(view), path)),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The folders of the stages of auto mode, which may not be there.
    fn stages(&self) -> [Self; 2] {
        [Mode::Probe, Mode::Finetune].map(|mode| Self { path: self.path.join(mode.to_string()) })
    }

    /// Any of these files is a run that somebody may want to keep.
    fn taken_by(&self) -> [PathBuf; 4] {
        [self.best_path(), self.checkpoint_path(), self.distillation_path(), self.student_path()]
    }

    fn auto_path(&self) -> PathBuf {
        self.path.join(AUTO)
    }

    /// What version 0.1.0 called it.
    fn old_auto_path(&self) -> PathBuf {
        self.path.join("ladder.json")
    }

    /// Makes the folder of a stage of auto mode.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub(crate) fn stage(&self, mode: Mode) -> Result<Self> {
        Self::create(Some(&self.path.join(mode.to_string())), "train")
    }

    /// Makes another run's model and results this one's.
    ///
    /// # Errors
    /// [`Error::Io`] if one cannot be read or written.
    pub(crate) fn adopt(&self, other: &Self) -> Result<()> {
        for (from, to) in [(other.results_path(), self.results_path()), (other.best_path(), self.best_path())] {
            let copy = |file: &mut dyn io::Write| io::copy(&mut fs::File::open(&from)?, file).map(|_| ());
            regraft_io::write_atomically(&to, copy)?;
        }
        Ok(())
    }

    /// How far auto mode has come.
    ///
    /// # Errors
    /// [`Error::File`] if the file is there and does not say it.
    pub(crate) fn read_auto(&self) -> Result<Option<AutoResult>> {
        let path = [self.auto_path(), self.old_auto_path()].into_iter().find(|path| path.exists());
        let Some(path) = path else { return Ok(None) };
        let wrong =
            |e: String| Error::File { path: path.clone(), reason: format!("does not say how far the run is: {e}") };
        let text = fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
        serde_json::from_str(&text).map(Some).map_err(|e| wrong(e.to_string()))
    }

    /// Writes down how far auto mode has come.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub(crate) fn write_auto(&self, result: &AutoResult) -> Result<()> {
        let json = serde_json::to_string_pretty(result).expect("a result has no JSON that can fail");
        self.write(AUTO, &(json + "\n")).map(|_| ())
    }

    fn results_path(&self) -> PathBuf {
        self.path.join("results.csv")
    }

    fn settings_path(&self) -> PathBuf {
        self.path.join(CONFIG)
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

    /// Writes the settings and the class names, and removes what an earlier run left, of whatever kind it was.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be written, [`Error::File`] if an old one cannot be removed or is what the run
    /// starts from.
    pub fn start(&self, settings: &Settings, classes: &[String]) -> Result<()> {
        settings.weights.file().map_or(Ok(()), |weights| self.require_apart(weights))?;
        self.clear()?;
        self.answers()?.iter().try_for_each(|(_, path)| remove(path))?;
        let wrong = |e| Error::File { path: self.settings_path(), reason: format!("cannot hold these settings: {e}") };
        let text = settings.to_toml().map_err(wrong)?;
        self.write(CONFIG, &text)?;
        self.write(LABELS, &(classes.join("\n") + "\n")).map(|_| ())
    }

    /// Removes what an earlier run left, of whatever kind it was, but for the answers of teachers: they say themselves what
    /// they are answers to, and took long.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be removed.
    pub(crate) fn clear(&self) -> Result<()> {
        // Files of these two names may be anybody's, unless they are the settings of a run.
        if Self::open(&self.path).is_ok() {
            remove(&self.settings_path())?;
            remove(&self.path.join(LABELS))?;
        }
        self.taken_by().iter().try_for_each(|old| remove(old))?;
        remove(&self.auto_path())?;
        remove(&self.old_auto_path())?;
        remove(&self.results_path())?;
        self.stages().iter().filter(|stage| stage.path.is_dir()).try_for_each(Self::clear)
    }

    /// Writes the results of the epochs so far, of a network with this kind of head.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn write_results(&self, rows: &[Row], kind: HeadKind) -> Result<()> {
        self.write("results.csv", &history::to_csv(rows, kind)).map(|_| ())
    }

    /// Writes a file of text and returns where it is.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        regraft_io::write_atomically(&path, |file| file.write_all(text.as_bytes()))?;
        Ok(path)
    }
}

/// Removes a file that may be there.
///
/// # Errors
/// [`Error::File`] if it stays.
pub(crate) fn remove(old: &Path) -> Result<()> {
    match fs::remove_file(old) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { reason: format!("cannot be replaced: {e}"), path: old.to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    #[test]
    fn a_folder_that_holds_a_run_is_not_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/run");
        let settings = Settings::tutorial("photos".into(), "resnet18".into());
        let folder = RunFolder::create(Some(&path), "train").unwrap();
        folder.start(&settings, &["a".into(), "b".into()]).unwrap();
        assert_eq!(fs::read_to_string(path.join("labels.txt")).unwrap(), "a\nb\n");
        RunFolder::require_free(Some(&path), false).unwrap();
        fs::write(folder.best_path(), "old").unwrap();
        assert!(RunFolder::require_free(Some(&path), false).unwrap_err().to_string().contains("`exist_ok`"));
        RunFolder::require_free(Some(&path), true).unwrap();
        RunFolder::create(Some(&path), "train").unwrap().start(&settings, &["a".into()]).unwrap();
        assert!(!folder.best_path().exists());
        assert_eq!(RunFolder::open(&path).unwrap().1, settings);
    }

    #[test]
    fn the_next_run_finds_nothing_of_one_of_another_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let folder = RunFolder::create(Some(&path), "train").unwrap();
        let names = || {
            let all = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut all: Vec<String> = all.collect();
            all.sort();
            all
        };
        // Of a distillation, stopped while teachers were asked.
        fs::write(folder.distillation_path(), "").unwrap();
        assert!(RunFolder::require_free(Some(&path), false).unwrap_err().to_string().contains("`exist_ok`"));
        for file in [folder.student_path(), folder.answers_path(Some(10)), folder.answers_path(None)] {
            fs::write(file, "").unwrap();
        }
        fs::write(path.join("teachers-mine.safetensors"), "").unwrap();
        let settings = Settings::tutorial("photos".into(), "resnet18".into());
        folder.start(&settings, &["a".into()]).unwrap();
        assert_eq!(names(), ["config.toml", "labels.txt", "teachers-mine.safetensors"]);

        let stage = folder.stage(Mode::Probe).unwrap();
        fs::write(stage.best_path(), "").unwrap();
        fs::write(folder.answers_path(Some(0)), "").unwrap();
        folder.clear().unwrap();
        assert_eq!(names(), ["probe", "teachers-0.safetensors", "teachers-mine.safetensors"]);
        assert!(!stage.best_path().exists());

        // Files that are not a run's.
        fs::write(path.join("config.toml"), "port = 80").unwrap();
        fs::write(path.join("labels.txt"), "mine").unwrap();
        folder.clear().unwrap();
        assert_eq!(names()[..2], ["config.toml", "labels.txt"]);
    }

    #[test]
    fn a_run_does_not_replace_what_it_starts_from() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(dir.path()), "train").unwrap();
        let stage = folder.stage(Mode::Probe).unwrap();
        for (weights, kept) in [
            (folder.student_path(), true),
            (stage.best_path(), true),
            (dir.path().join("resnet18.pth"), false),
            ("/nowhere/best.safetensors".into(), false),
        ] {
            let _ = fs::write(&weights, "old");
            let settings =
                Settings { weights: Source::File(weights.clone()), ..Settings::tutorial("a".into(), "b".into()) };
            match folder.start(&settings, &["a".into()]) {
                Ok(()) => assert!(!kept, "{}", weights.display()),
                Err(error) => assert!(kept && error.to_string().contains("would be replaced"), "{error}"),
            }
            assert!(!kept || weights.exists(), "{}", weights.display());
        }
    }

    #[test]
    fn a_full_disk_is_found_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(dir.path()), "train").unwrap();
        folder.require_room(1).unwrap();
        assert!(folder.require_room(u64::MAX).unwrap_err().to_string().contains("`output_dir`"));
    }

    #[test]
    fn a_folder_that_is_no_run_is_named() {
        let message = RunFolder::open(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(message.contains("/nowhere/config.toml") && message.contains("runs/train"), "{message}");
    }
}
