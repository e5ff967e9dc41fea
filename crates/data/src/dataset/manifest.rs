//! A CSV file that says of each photo what the right answer is.
//!
//! A column `path` names the photo, relative to the file's folder. What else there is decides the task: a column `label`
//! (one class), `labels` (any number, with `|` or `;` between them), `value` (a number), or one column of 0 and 1 for each
//! label. A column `split` may deal out the rows: `train` or `val`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use regraft_random::{Purpose, hash_name, keyed, shuffle};

use super::split::validation_mask;
use super::{Dataset, Sample, SplitOptions, Target, Task, VAL_NAMES};
use crate::error::list;
use crate::{Error, FindingKind, Findings, Result};

/// Rows that a manifest may have: far above any collection that a run could hold in memory.
const MAX_ROWS: usize = 10_000_000;

/// Labels that a manifest may have.
const MAX_LABELS: usize = 100_000;

/// Names of the column with the path.
const PATH_COLUMNS: [&str; 9] =
    ["path", "file", "filename", "image", "file_name", "file_path", "filepath", "image_name", "image_path"];

/// A manifest, read but not divided.
pub(super) struct Manifest {
    pub task: Task,
    /// Names of the classes or labels, sorted; the name of the column for a number.
    pub names: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    sample: Sample,
    is_val: Option<bool>,
}

/// A row as it stands in the file.
struct Raw {
    line: u64,
    path: PathBuf,
    is_val: Option<bool>,
    answer: Answer,
}

enum Answer {
    Names(Vec<String>),
    Value(f64),
}

/// Which columns say what.
struct Columns {
    path: usize,
    split: Option<usize>,
    answer: AnswerColumns,
}

enum AnswerColumns {
    /// One class.
    Label(usize),
    /// Labels with separators between them.
    Labels(usize),
    /// A number.
    Value(usize),
    /// 0 or 1 for each label.
    Indicators(Vec<(usize, String)>),
}

impl Manifest {
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Read`]; [`Error::Manifest`] naming the line and the column of what is wrong.
    pub fn read(path: &Path, findings: &mut Findings) -> Result<Self> {
        let wrong = |line: u64, reason: String| Error::Manifest { path: path.to_owned(), line, reason };
        // Opened here, so that a path that does not exist is told from a file that is no CSV.
        let file = std::fs::File::open(path).map_err(|source| Error::read(path, source))?;
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(std::io::BufReader::new(file));
        let failed = |e: csv::Error| {
            let line = e.position().map_or(0, csv::Position::line);
            wrong(line, format!("cannot be read as CSV: {e}"))
        };
        let header: Vec<String> = reader.headers().map_err(failed)?.iter().map(without_mark).collect();
        let columns = Columns::find(&header).map_err(|reason| wrong(1, reason))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut raw, mut seen): (Vec<Raw>, HashMap<PathBuf, u64>) = (Vec::new(), HashMap::new());
        for record in reader.records() {
            let record = record.map_err(failed)?;
            let line = record.position().map_or(0, csv::Position::line);
            let row = columns.row(&record, &header, line, folder).map_err(|reason| wrong(line, reason))?;
            if let Some(before) = seen.insert(row.path.clone(), line) {
                let photo = row.path.display();
                return Err(wrong(line, format!("{photo} stands in line {before} already; keep one of the two")));
            }
            if raw.len() == MAX_ROWS {
                return Err(wrong(line, format!("there are more than {MAX_ROWS} rows")));
            }
            raw.push(row);
        }
        if raw.is_empty() {
            return Err(wrong(1, "there is a header, but no row below it".into()));
        }
        let missing = raw.iter().filter(|row| !row.path.is_file()).count();
        if missing == raw.len() {
            let Raw { line, path: photo, .. } = &raw[0];
            let reason = format!(
                "{} is no file, nor is any other photo named; paths are relative to the manifest",
                photo.display()
            );
            return Err(wrong(*line, reason));
        }
        for row in raw.iter().filter(|row| !row.path.is_file()) {
            let message = format!("named in line {} of {}, is no file; left out", row.line, path.display());
            findings.add(FindingKind::Unreadable, &row.path, message);
        }
        raw.retain(|row| row.path.is_file());
        let (task, names) = columns.names(&raw);
        if names.len() > MAX_LABELS {
            return Err(wrong(1, format!("there are {} different labels, more than {MAX_LABELS}", names.len())));
        }
        let index: HashMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
        let mut rows: Vec<Row> = raw
            .into_iter()
            .map(|row| {
                let target = match (row.answer, task) {
                    (Answer::Value(value), _) => Target::Value(value),
                    (Answer::Names(of), Task::Classes) => Target::Class(index[of[0].as_str()]),
                    (Answer::Names(of), _) => {
                        let set: BTreeSet<usize> = of.iter().map(|name| index[name.as_str()]).collect();
                        Target::Labels(set.into_iter().collect())
                    }
                };
                Row { sample: Sample { path: row.path, target }, is_val: row.is_val }
            })
            .collect();
        // The order of the rows is nobody's choice.
        rows.sort_by(|a, b| a.sample.path.cmp(&b.sample.path));
        drop(index);
        Ok(Self { task, names, rows })
    }

    /// The photos in two parts: as the column `split` says or, without one, drawn.
    ///
    /// # Errors
    /// [`Error::Manifest`] if a part is empty, or the training part lacks a class; [`Error::OneClass`] if there is nothing
    /// to tell apart. A class that validation lacks is noted.
    pub fn divide(mut self, path: &Path, options: &SplitOptions, findings: &mut Findings) -> Result<Dataset> {
        if let (Task::Classes, [only]) = (self.task, self.names.as_slice()) {
            return Err(Error::OneClass { path: path.to_owned(), class: only.clone() });
        }
        let divided = self.rows.iter().any(|row| row.is_val.is_some());
        let is_val: Vec<bool> = match divided {
            true => self.rows.iter().map(|row| row.is_val == Some(true)).collect(),
            false => self.draw(options),
        };
        if !divided {
            let share = options.val_fraction;
            let message = format!("has no column `split`; {share} of the photos are set aside for validation");
            findings.add(FindingKind::Layout, path, message);
        }
        let (mut train, mut val) = (Vec::new(), Vec::new());
        for (row, is_val) in std::mem::take(&mut self.rows).into_iter().zip(is_val) {
            if is_val { &mut val } else { &mut train }.push(row.sample);
        }
        for (part, samples) in [("train", &train), ("val", &val)] {
            if samples.is_empty() {
                let reason = format!("leaves no photo for the part `{part}`");
                return Err(Error::Manifest { path: path.to_owned(), line: 1, reason });
            }
        }
        if self.task == Task::Classes {
            let unlearned = self.lacked_by(&train);
            if !unlearned.is_empty() {
                let names = list(&unlearned);
                let reason = format!(
                    "the part `train` has no photo of {names}, so it could not be learned; move some of its photos there, \
                     or remove its rows"
                );
                return Err(Error::Manifest { path: path.to_owned(), line: 1, reason });
            }
            let unmeasured = self.lacked_by(&val);
            if !unmeasured.is_empty() {
                let names = list(&unmeasured);
                let message = format!(
                    "the part `val` has no photo of {names}; the validation accuracy says nothing about such photos"
                );
                findings.add(FindingKind::Layout, path, message);
            }
        }
        let root = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Dataset { root, task: self.task, classes: self.names, train, val })
    }

    /// The classes that none of some samples shows.
    fn lacked_by(&self, samples: &[Sample]) -> Vec<String> {
        let shown: BTreeSet<usize> = samples.iter().flat_map(|sample| sample.target.indices()).copied().collect();
        self.names
            .iter()
            .enumerate()
            .filter(|(class, _)| !shown.contains(class))
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// The photos to measure a model on that knows `names`: those of the validation part, or all without one.
    ///
    /// # Errors
    /// [`Error::UnknownClasses`] for what the model does not know.
    pub fn evaluation(self, path: &Path, names: &[String]) -> Result<Vec<Sample>> {
        let index: Vec<Option<usize>> =
            self.names.iter().map(|name| names.iter().position(|known| known == name)).collect();
        if self.task != Task::Value && index.contains(&None) {
            let unknown = self.names.iter().zip(&index).filter(|(_, at)| at.is_none());
            let classes = unknown.map(|(name, _)| name.clone()).collect();
            let (path, known) = (path.to_owned(), names.to_vec());
            return Err(Error::UnknownClasses { path, classes, known_by: "the model", known });
        }
        let known = |i: usize| index[i].expect("all are known");
        let any_val = self.rows.iter().any(|row| row.is_val == Some(true));
        let rows = self.rows.into_iter().filter(|row| !any_val || row.is_val == Some(true));
        let samples = rows.map(|Row { sample: Sample { path, target }, .. }| {
            let target = match target {
                Target::Class(class) => Target::Class(known(class)),
                Target::Labels(labels) => {
                    let mut labels: Vec<usize> = labels.into_iter().map(known).collect();
                    labels.sort_unstable();
                    Target::Labels(labels)
                }
                value @ Target::Value(_) => value,
            };
            Sample { path, target }
        });
        Ok(samples.collect())
    }

    /// Which rows go to validation: a share of each class; of the photos of each label that have no rarer one; or of each
    /// stretch of the numbers, so that both parts span them.
    fn draw(&self, options: &SplitOptions) -> Vec<bool> {
        let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
        match self.task {
            Task::Value => {
                let mut order: Vec<usize> = (0..self.rows.len()).collect();
                let value = |i: usize| if let Target::Value(value) = self.rows[i].sample.target { value } else { 0.0 };
                order.sort_by(|&a, &b| value(a).total_cmp(&value(b)).then(a.cmp(&b)));
                let stretch = (1.0 / options.val_fraction).ceil().max(2.0) as usize;
                groups.extend(order.chunks(stretch).enumerate().map(|(i, of)| (i.to_string(), of.to_vec())));
                // What is left over at the end would give a photo away on its own.
                if groups.len() > 1 && groups.last().is_some_and(|(_, last)| last.len() < stretch) {
                    let (_, rest) = groups.pop().expect("there is a last one");
                    groups.last_mut().expect("there is one before").1.extend(rest);
                }
            }
            Task::Classes | Task::Labels => {
                let mut counts = vec![0usize; self.names.len()];
                let indices = |i: usize| self.rows[i].sample.target.indices();
                (0..self.rows.len()).flat_map(indices).for_each(|&i| counts[i] += 1);
                let mut of_name: Vec<Vec<usize>> = vec![Vec::new(); self.names.len() + 1];
                for i in 0..self.rows.len() {
                    let rarest = indices(i).iter().copied().min_by_key(|&name| (counts[name], name));
                    of_name[rarest.unwrap_or(self.names.len())].push(i);
                }
                let names = self.names.iter().cloned().chain([String::new()]);
                groups.extend(names.zip(of_name));
            }
        }
        let mut is_val = vec![false; self.rows.len()];
        for (name, mut of) in groups {
            // The mask is shuffled, but to it photos are numbers; they are drawn by seed and group.
            shuffle(&mut of, &mut keyed(options.seed, Purpose::Split, hash_name(&name), 1));
            for (&i, val) in of.iter().zip(validation_mask(&name, of.len(), options)) {
                is_val[i] = val;
            }
        }
        is_val
    }
}

/// A name without the mark that some programs put before the first.
fn without_mark(name: &str) -> String {
    name.trim_start_matches('\u{feff}').trim().to_owned()
}

impl Columns {
    fn find(header: &[String]) -> Result<Self, String> {
        let named = |names: &[&str]| {
            header.iter().position(|column| names.iter().any(|name| column.eq_ignore_ascii_case(name)))
        };
        let list = || header.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if let Some((i, name)) = header.iter().enumerate().find(|(i, name)| header[..*i].contains(name)) {
            return Err(format!(
                "columns {} and {} are both called `{name}`",
                header.iter().position(|other| other == name).unwrap_or(0) + 1,
                i + 1
            ));
        }
        let Some(path) = named(&PATH_COLUMNS) else {
            return Err(format!("there is no column `path` with the photos; the columns are {}", list()));
        };
        let split = named(&["split"]);
        let rest: Vec<usize> = (0..header.len()).filter(|&i| i != path && Some(i) != split).collect();
        let of = |name: &str| rest.iter().copied().find(|&i| header[i].eq_ignore_ascii_case(name));
        let answers = [
            of("label").map(AnswerColumns::Label),
            of("labels").map(AnswerColumns::Labels),
            of("value").map(AnswerColumns::Value),
        ];
        let mut answers = answers.into_iter().flatten();
        let answer = match (answers.next(), answers.next()) {
            (Some(answer), None) => answer,
            (Some(_), Some(_)) => {
                return Err("there is more than one of the columns `label`, `labels` and `value`; leave one".into());
            }
            (None, _) if rest.is_empty() => {
                return Err(format!(
                    "nothing says what is on the photos: there must be a column `label` (one class), `labels` (several, \
                     with | between them) or `value` (a number), or one of 0 and 1 for each label; the columns are {}",
                    list()
                ));
            }
            (None, _) => AnswerColumns::Indicators(rest.iter().map(|&i| (i, header[i].clone())).collect()),
        };
        Ok(Self { path, split, answer })
    }

    fn row(&self, record: &csv::StringRecord, header: &[String], line: u64, folder: &Path) -> Result<Raw, String> {
        let cell = |column: usize| record.get(column).unwrap_or_default();
        if cell(self.path).is_empty() {
            return Err(format!("the column `{}` is empty", header[self.path]));
        }
        let is_val = match self.split.map(cell) {
            None => None,
            Some(name) if name.eq_ignore_ascii_case("train") => Some(false),
            Some(name) if VAL_NAMES.iter().any(|val| name.eq_ignore_ascii_case(val)) => Some(true),
            Some(other) => return Err(format!("the split is `{other}`; it must be train or val")),
        };
        let answer = match &self.answer {
            AnswerColumns::Label(column) => match cell(*column) {
                "" => return Err("the label is empty".into()),
                name => Answer::Names(vec![name.to_owned()]),
            },
            AnswerColumns::Labels(column) => {
                let names = cell(*column).split(['|', ';']).map(str::trim).filter(|name| !name.is_empty());
                Answer::Names(names.map(str::to_owned).collect())
            }
            AnswerColumns::Value(column) => {
                let number = cell(*column).parse().ok().filter(|value: &f64| value.is_finite());
                Answer::Value(number.ok_or_else(|| format!("the value `{}` is no number", cell(*column)))?)
            }
            AnswerColumns::Indicators(columns) => {
                let mut names = Vec::new();
                for (column, name) in columns {
                    match cell(*column) {
                        "1" | "1.0" => names.push(name.clone()),
                        "0" | "0.0" | "-1" => {}
                        other => {
                            return Err(format!(
                                "the column `{name}` holds `{other}` where 0 or 1 belongs; for a class, call a column \
                                 `label`, for a number, `value`"
                            ));
                        }
                    }
                }
                Answer::Names(names)
            }
        };
        Ok(Raw { line, path: folder.join(cell(self.path)), is_val, answer })
    }

    /// The task and the names of all classes or labels.
    fn names(&self, rows: &[Raw]) -> (Task, Vec<String>) {
        let of_rows = || {
            let all: BTreeSet<&String> = rows
                .iter()
                .flat_map(|row| match &row.answer {
                    Answer::Names(names) => names.as_slice(),
                    Answer::Value(_) => &[],
                })
                .collect();
            all.into_iter().cloned().collect()
        };
        match &self.answer {
            AnswerColumns::Label(_) => (Task::Classes, of_rows()),
            AnswerColumns::Labels(_) => (Task::Labels, of_rows()),
            AnswerColumns::Value(_) => (Task::Value, vec!["value".into()]),
            AnswerColumns::Indicators(columns) => {
                let names: BTreeSet<&String> = columns.iter().map(|(_, name)| name).collect();
                (Task::Labels, names.into_iter().cloned().collect())
            }
        }
    }
}

#[cfg(test)]
mod tests;
