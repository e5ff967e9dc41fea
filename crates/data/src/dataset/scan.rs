//! Walking through folders: what is a class, what is a photo, what is passed over.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, FindingKind, Findings, Format, Result};

/// Deeper folders than this are not looked into: no photo collection is that deep.
const MAX_DEPTH: usize = 64;

/// A class and its photos.
pub(crate) struct ClassFolder {
    /// The folder's name.
    pub name: String,
    /// Its photos, sorted by path, at least one.
    pub photos: Vec<PathBuf>,
}

/// Something in a folder.
pub(crate) struct Entry {
    pub path: PathBuf,
    pub name: OsString,
    pub is_folder: bool,
}

/// What lies in a folder, sorted by name. Symbolic links count as what they lead to; one that leads
/// nowhere counts as a file.
pub(crate) fn list(folder: &Path) -> Result<Vec<Entry>> {
    let metadata = fs::metadata(folder).map_err(|source| Error::read(folder, source))?;
    if !metadata.is_dir() {
        return Err(Error::NotAFolder { path: folder.to_owned() });
    }
    let failed = |source| Error::read(folder, source);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let is_folder = fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        entries.push(Entry { name: entry.file_name(), path, is_folder });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// The visible subfolder of this name, whatever its case.
pub(crate) fn subfolder(root: &Path, entries: &[Entry], name: &str) -> Option<PathBuf> {
    let found = entries.iter().find(|entry| entry.is_folder && entry.name.eq_ignore_ascii_case(name))?;
    Some(root.join(&found.name))
}

/// Whether a folder has visible folders inside.
pub(crate) fn has_subfolders(folder: &Path) -> bool {
    list(folder).is_ok_and(|entries| entries.iter().any(|entry| entry.is_folder && !is_hidden(entry)))
}

/// The class folders of `root` that hold photos, sorted by name in byte order.
pub(crate) fn class_folders(root: &Path, findings: &mut Findings) -> Result<Vec<ClassFolder>> {
    let mut folders = Vec::new();
    let mut loose_photos = Vec::new();
    for entry in list(root)? {
        if note_if_hidden(&entry, findings) {
            continue;
        }
        if !entry.is_folder {
            photo(&entry.path, &mut loose_photos, findings);
            continue;
        }
        let photos = collect_photos(&entry.path, findings)?;
        if photos.is_empty() {
            findings.add(FindingKind::EmptyFolder, &entry.path, "no photos inside; not taken as a class");
            continue;
        }
        let name = entry.name.into_string().map_err(|_| Error::ClassName { path: entry.path })?;
        folders.push(ClassFolder { name, photos });
    }
    if folders.is_empty() && !loose_photos.is_empty() {
        return Err(Error::NoClasses { path: root.to_owned(), photos: loose_photos.len() });
    }
    for path in loose_photos {
        findings.add(FindingKind::Layout, &path, "lies beside the class folders, so it has no class; not used");
    }
    // The listing is sorted by the system's strings; bytes are what the model file promises.
    folders.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(folders)
}

/// The photos in `folder` and the folders inside it, sorted by path.
pub(crate) fn collect_photos(folder: &Path, findings: &mut Findings) -> Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    collect(folder, &mut Vec::new(), &mut photos, findings)?;
    photos.sort();
    Ok(photos)
}

/// Gathers the photos in `folder` and the folders inside it. `within` holds the real paths of the folders
/// that lead here, so that a link back to one of them ends.
fn collect(folder: &Path, within: &mut Vec<PathBuf>, photos: &mut Vec<PathBuf>, findings: &mut Findings) -> Result<()> {
    let real = folder.canonicalize().map_err(|source| Error::read(folder, source))?;
    if within.contains(&real) {
        findings.add(FindingKind::Layout, folder, "links back to a folder that contains it; not followed");
        return Ok(());
    }
    if within.len() >= MAX_DEPTH {
        findings.add(FindingKind::Layout, folder, format!("lies {MAX_DEPTH} folders deep; not looked into"));
        return Ok(());
    }
    within.push(real);
    for entry in list(folder)? {
        if note_if_hidden(&entry, findings) {
            continue;
        }
        if entry.is_folder {
            collect(&entry.path, within, photos, findings)?;
        } else {
            photo(&entry.path, photos, findings);
        }
    }
    within.pop();
    Ok(())
}

/// Adds the file to `photos` if its content is an image, to `findings` if not.
fn photo(path: &Path, photos: &mut Vec<PathBuf>, findings: &mut Findings) {
    match sniff(path) {
        Ok(Ok(_)) => photos.push(path.to_owned()),
        Ok(Err(error)) => findings.add(FindingKind::NotAnImage, path, format!("{error}; passed over")),
        Err(error) => findings.add(FindingKind::Unreadable, path, format!("cannot be read: {error}; passed over")),
    }
}

/// The format of a file by its first bytes.
fn sniff(path: &Path) -> std::io::Result<Result<Format>> {
    // Opening a pipe or a device would wait or worse.
    if !fs::metadata(path)?.is_file() {
        return Ok(Err(Error::NotAnImage { found: "not an ordinary file" }));
    }
    let mut start = Vec::with_capacity(Format::SNIFF_BYTES);
    fs::File::open(path)?.take(Format::SNIFF_BYTES as u64).read_to_end(&mut start)?;
    Ok(Format::sniff(&start))
}

/// Notes a hidden entry and says whether it was one.
pub(crate) fn note_if_hidden(entry: &Entry, findings: &mut Findings) -> bool {
    let hidden = is_hidden(entry);
    if hidden {
        let what = if entry.is_folder { "folder" } else { "file" };
        findings.add(FindingKind::Hidden, &entry.path, format!("hidden or system {what}; passed over"));
    }
    hidden
}

/// Names that systems and tools leave behind, and everything that starts with a dot.
fn is_hidden(entry: &Entry) -> bool {
    let name = entry.name.as_encoded_bytes();
    let system: [&[u8]; 6] =
        [b"__MACOSX", b"Thumbs.db", b"desktop.ini", b"@eaDir", b"$RECYCLE.BIN", b"System Volume Information"];
    name.starts_with(b".") || system.iter().any(|known| name.eq_ignore_ascii_case(known))
}
