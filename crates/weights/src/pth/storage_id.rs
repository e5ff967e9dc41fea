//! How a pickle refers to a storage.

use crate::error::Problem;
use crate::pickle::{Class, Id, Pickle, Value};
use crate::source::Dtype;

/// The persistent id `("storage", class, key, location, elements)` of the zip form, which the stream
/// form follows with a sixth value, `view`.
pub(super) struct StorageId<'a> {
    pub(super) dtype: Dtype,
    pub(super) key: &'a str,
    pub(super) elements: u64,
    /// The run of the storage that is meant, as (first element, number of elements), where not all.
    pub(super) part: Option<(u64, u64)>,
}

impl<'a> StorageId<'a> {
    pub(super) fn of(pickle: &'a Pickle, id: Id) -> Result<Self, Problem> {
        let &[tag, class, key, _location, elements, ref rest @ ..] = pickle.sequence(id)? else {
            return Problem::malformed("a reference to a storage has too few values");
        };
        if pickle.string(tag)? != "storage" {
            return Problem::refused(format!("its pickle refers to a {:?}, not to a storage", pickle.string(tag)?));
        }
        let &Value::Class(Class::Storage(dtype)) = pickle.get(class) else {
            return Problem::malformed(format!("a storage has {} for its type", pickle.get(class).kind()));
        };
        let part = match rest.first() {
            Some(&view) if !matches!(pickle.get(view), Value::None) => match *pickle.sequence(view)? {
                [_key, offset, elements] => Some((pickle.int(offset)?, pickle.int(elements)?)),
                _ => return Problem::malformed("a view of a storage has not three values"),
            },
            _ => None,
        };
        Ok(Self { dtype, key: pickle.string(key)?, elements: pickle.int(elements)?, part })
    }
}
