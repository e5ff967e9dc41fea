//! Everything that can go wrong between a folder and a batch.

use std::io;
use std::path::PathBuf;

use crate::Task;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing lies at this path.
    #[error("{} does not exist; check the path", path.display())]
    NotFound {
        /// The path as given.
        path: PathBuf,
    },
    /// A folder was expected.
    #[error(
        "{} is a file; give the folder that holds one folder of photos per class, or a .csv file that lists photos",
        path.display()
    )]
    NotAFolder {
        /// The path as given.
        path: PathBuf,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Photos lie directly in the folder, without folders that would name their classes.
    #[error(
        "{} has no class folders, but {photos} photos lie directly in it; put the photos of each class into a folder named after the class",
        path.display()
    )]
    NoClasses {
        /// The folder.
        path: PathBuf,
        /// How many photos lie directly in it.
        photos: usize,
    },
    /// No photo at all was found.
    #[error("{} holds no photos; give the folder that holds one folder of photos per class", path.display())]
    NoPhotos {
        /// The folder.
        path: PathBuf,
    },
    /// A classifier needs two classes or more.
    #[error(
        "{} has only one class with photos, `{class}`; add a second class folder beside it, or, if the class folders lie inside `{class}`, give that folder",
        path.display()
    )]
    OneClass {
        /// The folder.
        path: PathBuf,
        /// The only class.
        class: String,
    },
    /// A class folder's name is not UTF-8, so it could not be stored as a label.
    #[error("the name of class folder {} is not valid UTF-8; rename it", path.display())]
    ClassName {
        /// The class folder.
        path: PathBuf,
    },
    /// A list of photos is not as it should be.
    #[error("{}, line {line}: {reason}", path.display())]
    Manifest {
        /// The CSV file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong and what belongs there.
        reason: String,
    },
    /// Photos come with answers to another question than the model's.
    #[error("{} gives {}, but the model answers with {}", path.display(), of_task(*found), of_task(*expected))]
    OtherTask {
        /// The folder or the CSV file.
        path: PathBuf,
        /// What it gives for each photo.
        found: Task,
        /// What the model answers.
        expected: Task,
    },
    /// Training classes without a single photo to validate on.
    #[error(
        "{} has no photos of {}, which the training folder has; add some, or remove the class from the training folder",
        path.display(),
        list(classes)
    )]
    MissingClasses {
        /// The validation folder.
        path: PathBuf,
        /// Which classes it lacks.
        classes: Vec<String>,
    },
    /// Classes that the model or the training folder does not know.
    #[error(
        "{} has {}, which {known_by} does not have; its classes are {}",
        path.display(),
        list(classes),
        list(known)
    )]
    UnknownClasses {
        /// The folder with the surplus classes.
        path: PathBuf,
        /// The surplus classes.
        classes: Vec<String>,
        /// Who defines the classes: "the model" or "the training folder".
        known_by: &'static str,
        /// The classes there are.
        known: Vec<String>,
    },
    /// A class is left without photos once the unreadable ones are set aside.
    #[error("class `{class}` has no readable photo in the {part} part; replace its damaged files or remove the class")]
    ClassUnreadable {
        /// The class.
        class: String,
        /// "training" or "validation".
        part: &'static str,
    },
    /// Strict checking found photos that cannot be decoded.
    #[error("{}", unreadable(*count, first))]
    Unreadable {
        /// How many.
        count: usize,
        /// The first one's path and reason.
        first: String,
    },
    /// An error about one file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The content is not an image of a known format.
    #[error("not an image that can be read: {found}; supported are JPEG, PNG, WebP, GIF, BMP, TIFF and PNM")]
    NotAnImage {
        /// What the content looks like.
        found: &'static str,
    },
    /// The file ends before the image does.
    #[error("the {format} file is cut short; copy or download it again")]
    Truncated {
        /// The format's name.
        format: &'static str,
    },
    /// The decoder refused the content.
    #[error("damaged {format} file: {reason}")]
    Damaged {
        /// The format's name.
        format: &'static str,
        /// The decoder's reason.
        reason: String,
    },
    /// A valid file that uses a variant this crate does not read.
    #[error("this {format} file uses {what}, which is not supported; save it as an ordinary 8-bit RGB image")]
    UnsupportedVariant {
        /// The format's name.
        format: &'static str,
        /// The unsupported property.
        what: String,
    },
    /// More pixels than the limit allows.
    #[error("{width}x{height} pixels exceed the limit of {max_pixels} pixels; scale the image down")]
    TooLarge {
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// The limit in force.
        max_pixels: u64,
    },
    /// A setting outside its range.
    #[error("{what} is {value}, but must be {expected}")]
    Setting {
        /// The setting's name.
        what: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A loader's worker panicked or vanished: a bug, named with the file it was working on.
    #[error("preparing {} failed unexpectedly: {reason}; please report this", path.display())]
    Worker {
        /// The file it worked on.
        path: PathBuf,
        /// The panic's message.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// The same error, naming the file that it is about.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Read { .. } | Self::NotFound { .. } | Self::InFile { .. } | Self::Worker { .. } => self,
            other => Self::InFile { path: path.to_owned(), source: Box::new(other) },
        }
    }

    /// An error of the file system, where a missing file gets a message of its own.
    pub(crate) fn read(path: &std::path::Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path: path.to_owned() },
            _ => Self::Read { path: path.to_owned(), source },
        }
    }
}

/// What a photo has, by task.
fn of_task(task: Task) -> &'static str {
    match task {
        Task::Classes => "a class for each photo",
        Task::Labels => "any number of labels for each photo",
        Task::Value => "a number for each photo",
    }
}

/// The message of [`Error::Unreadable`].
fn unreadable(count: usize, first: &str) -> String {
    match count {
        1 => format!("1 photo cannot be read: {first}; remove or replace it, or leave out --strict"),
        _ => format!(
            "{count} photos cannot be read, the first of them: {first}; remove or replace them, or leave out --strict"
        ),
    }
}

/// Names in quotes, at most ten of them.
pub(crate) fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
