//! The form before PyTorch 0.1.10: a tar archive of `storages`, `tensors` and `pickle`.

use std::collections::BTreeMap;
use std::io::Read;

use tar::Archive;

use super::state_dict::{Described, state_dict};
use super::stream::{end, part, storage};
use crate::error::Problem;
use crate::pickle::{self, Class, Pickle, Value};
use crate::source::Source;
use crate::tensor::{MAX_DIMENSIONS, Storage, View, read_views};
use regraft_graph::StateDict;

/// A member of the archive, read from front to back.
#[derive(Clone, Copy)]
struct Member {
    at: u64,
    end: u64,
}

/// Reads the tar form. Keys are addresses in the process that wrote it, hence plain integers.
pub(crate) fn read_tar(source: &mut Source) -> Result<StateDict, Problem> {
    let [mut storages, mut tensors, mut object] = members(source, ["storages", "tensors", "pickle"])?;
    let storages = read_storages(source, &mut storages)?;
    let tensors = read_tensors(source, &mut tensors, &storages)?;
    let pickle = object.pickle(source)?;
    let mut views = Vec::new();
    for (name, described) in state_dict(&pickle)? {
        let view = match described {
            Described::Outside(id) => key(&pickle, id).map(|key| tensors.get(&key))?,
            Described::View { .. } => return Problem::malformed(format!("the tensor {name:?} lies in the pickle")),
        };
        let Some(view) = view else {
            return Problem::malformed(format!("the tensor {name:?} is not in the archive"));
        };
        views.push((name, view.clone()));
    }
    read_views(source, views)
}

/// The place of each of the members `wanted`.
fn members<const N: usize>(source: &mut Source, wanted: [&str; N]) -> Result<[Member; N], Problem> {
    let mut found = [None; N];
    let mut archive = Archive::new(source.whole()?);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let Some(which) = wanted.iter().position(|name| entry.path_bytes() == name.as_bytes()) else { continue };
        let at = entry.raw_file_position();
        let member = at.checked_add(entry.size()).map(|end| Member { at, end });
        if !entry.header().entry_type().is_file() || member.is_none() || found[which].is_some() {
            return Problem::malformed(format!("its member {} is no plain file or occurs twice", wanted[which]));
        }
        found[which] = member;
    }
    for (member, name) in found.iter().zip(wanted) {
        match member {
            Some(member) => source.require(member.at, member.end - member.at)?,
            None => {
                return Problem::refused(format!(
                    "it is a tar archive without the member {name} that torch.save writes"
                ));
            }
        }
    }
    Ok(found.map(|member| member.expect("checked above")))
}

impl Member {
    /// The pickle that is next.
    fn pickle(&mut self, source: &mut Source) -> Result<Pickle, Problem> {
        let mut reader = source.region(self.at, self.end - self.at)?;
        let pickle = pickle::load(&mut reader)?;
        self.at = self.end - reader.limit();
        Ok(pickle)
    }

    /// The eight bytes that are next, as a number that cannot be negative.
    fn u64(&mut self, source: &mut Source) -> Result<u64, Problem> {
        let mut bytes = [0; 8];
        source.region(self.at, self.end - self.at)?.read_exact(&mut bytes)?;
        self.at += 8;
        Ok(u64::from_le_bytes(bytes))
    }

    /// `count` sizes or strides.
    fn sizes(&mut self, source: &mut Source, count: u32) -> Result<Vec<usize>, Problem> {
        let size = |n: u64| usize::try_from(n).or_else(|_| Problem::malformed(format!("{n} is no size")));
        (0..count).map(|_| self.u64(source).and_then(size)).collect()
    }
}

/// `storages`: a number, then for each the pickle (key, location, type) and the storage itself; at last
/// a pickled list of parts of them, each (key, key of the whole, first element, elements).
fn read_storages(source: &mut Source, member: &mut Member) -> Result<BTreeMap<i128, Storage>, Problem> {
    let mut storages = BTreeMap::new();
    for _ in 0..count(&member.pickle(source)?)? {
        let pickle = member.pickle(source)?;
        let [id, _location, class] = triple(&pickle)?;
        let &Value::Class(Class::Storage(dtype)) = pickle.get(class) else {
            return Problem::malformed(format!("a storage has {} for its type", pickle.get(class).kind()));
        };
        let storage = storage(source, member.at, dtype)?;
        member.at = end(storage);
        if member.at > member.end {
            return Problem::malformed("a storage is longer than the archive's member");
        }
        storages.insert(key(&pickle, id)?, storage);
    }
    let parts = member.pickle(source)?;
    let Value::List(list) = parts.root() else { return Problem::malformed("it has no list of parts of storages") };
    for &view in list {
        let &[id, whole, first, elements] = parts.sequence(view)? else {
            return Problem::malformed("a part of a storage has not four values");
        };
        let Some(&whole) = storages.get(&key(&parts, whole)?) else {
            return Problem::malformed("it has a part of a storage that it has not");
        };
        storages.insert(key(&parts, id)?, part(whole, parts.int(first)?, parts.int(elements)?)?);
    }
    Ok(storages)
}

/// `tensors`: a number, then for each the pickle (key, key of the storage, type), the number of
/// dimensions in eight bytes of which four count, the shape, the stride and the offset.
fn read_tensors(
    source: &mut Source,
    member: &mut Member,
    storages: &BTreeMap<i128, Storage>,
) -> Result<BTreeMap<i128, View>, Problem> {
    let mut tensors = BTreeMap::new();
    for _ in 0..count(&member.pickle(source)?)? {
        let pickle = member.pickle(source)?;
        let [id, storage, _class] = triple(&pickle)?;
        let Some(&storage) = storages.get(&key(&pickle, storage)?) else {
            return Problem::malformed("a tensor's storage is not in the archive");
        };
        let dimensions = member.u64(source)? as u32;
        if dimensions as usize > MAX_DIMENSIONS {
            return Problem::malformed(format!("a tensor has {dimensions} dimensions"));
        }
        let shape = member.sizes(source, dimensions)?;
        let stride = member.sizes(source, dimensions)?;
        let offset = member.u64(source)?;
        tensors.insert(key(&pickle, id)?, View { storage, offset, shape, stride });
    }
    Ok(tensors)
}

fn count(pickle: &Pickle) -> Result<u64, Problem> {
    match pickle.root() {
        Value::Int(count) if *count >= 0 => Ok(*count as u64),
        other => Problem::malformed(format!("{} stands where a number of items belongs", other.kind())),
    }
}

fn triple(pickle: &Pickle) -> Result<[pickle::Id; 3], Problem> {
    match pickle.root() {
        Value::Tuple(items) if items.len() == 3 => Ok([items[0], items[1], items[2]]),
        other => Problem::malformed(format!("{} stands where three values belong", other.kind())),
    }
}

/// A key, which is an integer or, as a persistent id, its decimal digits.
fn key(pickle: &Pickle, id: pickle::Id) -> Result<i128, Problem> {
    match pickle.get(id) {
        Value::Int(key) => Ok(*key),
        Value::String(digits) => {
            digits.parse().or_else(|_| Problem::malformed(format!("{digits:?} is no key of a tensor")))
        }
        other => Problem::malformed(format!("{} stands where a key belongs", other.kind())),
    }
}
