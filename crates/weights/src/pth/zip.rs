//! The form since PyTorch 1.6: a zip archive of `NAME/data.pkl` and one `NAME/data/KEY` per storage.

use std::collections::BTreeMap;
use std::io::Read;

use zip::{CompressionMethod, ZipArchive, result::ZipError};

use super::state_dict::{Described, state_dict};
use super::storage_id::StorageId;
use crate::error::Problem;
use crate::pickle;
use crate::source::{ByteOrder, Source};
use crate::tensor::{Storage, View, read_views};
use regraft_graph::StateDict;

/// Where an entry's bytes lie in the file.
#[derive(Clone, Copy)]
struct Place {
    at: u64,
    len: u64,
}

/// Reads the zip form. Entries must be stored, as PyTorch stores them: nothing is ever inflated, so an
/// entry is no larger than the file. Checksums are not compared, as PyTorch does not either (it can be
/// told to write none).
pub(crate) fn read_zip(source: &mut Source) -> Result<StateDict, Problem> {
    let entries = entries(source)?;
    let mut roots = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let (Some(root), None) = (roots.next(), roots.next()) else {
        return Problem::refused("it is a zip archive, but not of one data.pkl as torch.save writes it");
    };
    let order = byte_order(source, entries.get(&format!("{root}byteorder")))?;
    let place = entries[&format!("{root}data.pkl")];
    let pickle = pickle::load(&mut source.region(place.at, place.len)?)?;

    let mut views = Vec::new();
    for (name, described) in state_dict(&pickle)? {
        let Described::View { storage, offset, shape, stride } = described else {
            return Problem::refused(format!("its entry {name:?} is a storage and no tensor"));
        };
        let id = StorageId::of(&pickle, storage)?;
        let Some(&Place { at, len }) = entries.get(&format!("{root}data/{}", id.key)) else {
            return Problem::malformed(format!("the storage {:?} of {name:?} is not in the archive", id.key));
        };
        if id.elements.checked_mul(id.dtype.size()) != Some(len) {
            return Problem::malformed(format!(
                "the storage of {name:?} has {len} bytes in the archive, but should have {} elements of {} bytes",
                id.elements,
                id.dtype.size()
            ));
        }
        let storage = Storage { dtype: id.dtype, order, at, elements: id.elements };
        views.push((name, View { storage, offset, shape, stride }));
    }
    read_views(source, views)
}

fn entries(source: &mut Source) -> Result<BTreeMap<String, Place>, Problem> {
    let mut archive = ZipArchive::new(source.whole()?).map_err(archive_problem)?;
    if archive.has_duplicate_names() {
        return Problem::refused("its zip archive has two entries of one name");
    }
    let mut entries = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(archive_problem)?;
        let name = entry.name().map_err(archive_problem)?.into_owned();
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Problem::refused(format!(
                "the entry {name:?} of its zip archive is compressed or encrypted, which torch.save never does"
            ));
        }
        let Some(at) = entry.data_start() else {
            return Problem::malformed(format!("the entry {name:?} of its zip archive begins nowhere"));
        };
        entries.insert(name, Place { at, len: entry.size() });
    }
    for Place { at, len } in entries.values() {
        source.require(*at, *len)?;
    }
    Ok(entries)
}

fn archive_problem(error: ZipError) -> Problem {
    match error {
        ZipError::Io(error) => error.into(),
        error => Problem::Malformed(format!("its zip archive cannot be read: {error}")),
    }
}

fn byte_order(source: &mut Source, place: Option<&Place>) -> Result<ByteOrder, Problem> {
    let Some(&Place { at, len }) = place else {
        return Ok(ByteOrder::Little); // PyTorch before 2.0 wrote no such record
    };
    let mut text = Vec::new();
    source.region(at, len)?.take(16).read_to_end(&mut text)?;
    match text.as_slice() {
        b"little" => Ok(ByteOrder::Little),
        b"big" => Ok(ByteOrder::Big),
        other => Problem::malformed(format!("its byte order is \"{}\"", other.escape_ascii())),
    }
}
