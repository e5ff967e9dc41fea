//! What a pickle describes.

use super::Class;
use crate::error::Problem;
use crate::tensor::MAX_DIMENSIONS;

/// The place of a value in its [`Pickle`].
pub(crate) type Id = u32;

/// A value of a pickle; it refers to others by their [`Id`]s.
#[derive(Debug)]
pub(crate) enum Value {
    None,
    /// A boolean or a float, on which nothing here depends.
    Opaque,
    Int(i128),
    String(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Class(Class),
    /// An instance or a call that was not made; `state` is what `BUILD` would have set.
    Object {
        class: Class,
        arguments: Id,
        state: Option<Id>,
    },
    /// A reference to data outside the pickle.
    Persistent(Id),
}

impl Value {
    /// What it is, for a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Opaque => "a boolean or float",
            Self::Int(_) => "an integer",
            Self::String(_) => "a string",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dict",
            Self::Class(_) => "a class",
            Self::Object { class: Class::Storage(_), .. } => "a storage",
            Self::Object { .. } => "a tensor",
            Self::Persistent(_) => "a reference",
        }
    }
}

/// The values of one pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    pub(crate) fn root(&self) -> &Value {
        self.get(self.root)
    }

    pub(crate) fn get(&self, id: Id) -> &Value {
        &self.values[id as usize]
    }

    /// The identity of every reference to data outside the pickle.
    pub(crate) fn persistent_ids(&self) -> impl Iterator<Item = Id> {
        self.values.iter().filter_map(|value| match value {
            Value::Persistent(id) => Some(*id),
            _ => None,
        })
    }

    /// A string.
    pub(crate) fn string(&self, id: Id) -> Result<&str, Problem> {
        match self.get(id) {
            Value::String(string) => Ok(string),
            other => Problem::malformed(format!("{} stands where a string belongs", other.kind())),
        }
    }

    /// An integer in the range of `T`; a size or an index cannot be negative.
    pub(crate) fn int<T: TryFrom<i128>>(&self, id: Id) -> Result<T, Problem> {
        match self.get(id) {
            Value::Int(int) => T::try_from(*int).or_else(|_| Problem::malformed(format!("{int} is no size or index"))),
            other => Problem::malformed(format!("{} stands where an integer belongs", other.kind())),
        }
    }

    /// The elements of a tuple or list.
    pub(crate) fn sequence(&self, id: Id) -> Result<&[Id], Problem> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Ok(items),
            other => Problem::malformed(format!("{} stands where a tuple belongs", other.kind())),
        }
    }

    /// The sizes in a tuple or list, one for each dimension of a tensor.
    pub(crate) fn sizes(&self, id: Id) -> Result<Vec<usize>, Problem> {
        let sizes = self.sequence(id)?;
        if sizes.len() > MAX_DIMENSIONS {
            return Problem::malformed(format!("a tensor has {} dimensions", sizes.len()));
        }
        sizes.iter().map(|&size| self.int(size)).collect()
    }
}
