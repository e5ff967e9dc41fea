//! The form of PyTorch 0.1.10 to 1.5, which most of torchvision's files still have: five pickles
//! (magic number, protocol version, system, object, storage keys), then the storages one by one.

use std::collections::BTreeMap;
use std::io::Read;

use super::state_dict::{Described, state_dict};
use super::storage_id::StorageId;
use crate::error::Problem;
use crate::pickle::{self, Value};
use crate::source::{ByteOrder, Dtype, Source};
use crate::tensor::{Storage, View, read_views};
use regraft_graph::StateDict;

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

/// Reads the stream form. The storages are little-endian whatever machine wrote them.
pub(crate) fn read_stream(source: &mut Source) -> Result<StateDict, Problem> {
    let len = source.len();
    let mut reader = source.region(0, len)?;
    if !matches!(pickle::load(&mut reader)?.root(), Value::Int(MAGIC)) {
        return Problem::refused("it is a pickle, but torch.save did not write it");
    }
    let protocol = pickle::load(&mut reader)?;
    if !matches!(protocol.root(), Value::Int(PROTOCOL)) {
        return Problem::refused(format!("its protocol is {:?}, and {PROTOCOL} is known", protocol.root()));
    }
    let _system = pickle::load(&mut reader)?;
    let pickle = pickle::load(&mut reader)?;
    let keys = pickle::load(&mut reader)?;

    // The keys give the order of the storages; how large their elements are, only the references say.
    let mut dtypes = BTreeMap::new();
    for id in pickle.persistent_ids() {
        let id = StorageId::of(&pickle, id)?;
        if dtypes.insert(id.key, (id.dtype, id.elements)).is_some_and(|before| before != (id.dtype, id.elements)) {
            return Problem::malformed(format!("the storage {:?} is referred to in two ways", id.key));
        }
    }
    let mut at = len - reader.limit();
    let Value::List(keys_in_order) = keys.root() else {
        return Problem::malformed("it has no list of storages");
    };
    let mut storages = BTreeMap::new();
    for &key in keys_in_order {
        let key = keys.string(key)?;
        let Some(&(dtype, elements)) = dtypes.get(key) else {
            return Problem::malformed(format!("nothing refers to the storage {key:?}"));
        };
        let storage = storage(source, at, dtype)?;
        if storage.elements != elements || storages.insert(key, storage).is_some() {
            return Problem::malformed(format!(
                "the storage {key:?} has {} elements, but should have {elements}, or it occurs twice",
                storage.elements
            ));
        }
        at = end(storage);
    }

    let mut views = Vec::new();
    for (name, described) in state_dict(&pickle)? {
        let Described::View { storage, offset, shape, stride } = described else {
            return Problem::refused(format!("its entry {name:?} is a storage and no tensor"));
        };
        let id = StorageId::of(&pickle, storage)?;
        let Some(&storage) = storages.get(id.key) else {
            return Problem::malformed(format!("the storage {:?} of {name:?} is not in the file", id.key));
        };
        let storage = match id.part {
            None => storage,
            Some((first, elements)) => part(storage, first, elements)?,
        };
        views.push((name, View { storage, offset, shape, stride }));
    }
    read_views(source, views)
}

/// The storage at byte `at`: the number of its elements in eight bytes, then the elements.
pub(super) fn storage(source: &mut Source, at: u64, dtype: Dtype) -> Result<Storage, Problem> {
    let mut elements = [0; 8];
    source.region(at, 8)?.read_exact(&mut elements)?;
    let elements = u64::from_le_bytes(elements);
    let Some(bytes) = elements.checked_mul(dtype.size()) else {
        return Problem::malformed(format!("a storage claims {elements} elements"));
    };
    source.require(at + 8, bytes)?;
    Ok(Storage { dtype, order: ByteOrder::Little, at: at + 8, elements })
}

/// The byte behind a storage; cannot overflow, as the storage lies in the file.
pub(super) fn end(storage: Storage) -> u64 {
    storage.at + storage.elements * storage.dtype.size()
}

/// The run of `elements` from element `first` of a storage.
pub(super) fn part(storage: Storage, first: u64, elements: u64) -> Result<Storage, Problem> {
    if first.checked_add(elements).is_none_or(|end| end > storage.elements) {
        return Problem::malformed(format!(
            "{elements} elements from {first} of a storage of {} are referred to",
            storage.elements
        ));
    }
    Ok(Storage { at: storage.at + first * storage.dtype.size(), elements, ..storage })
}
