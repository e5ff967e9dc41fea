//! Constant tensors: the initializers, and what `Constant` nodes hold.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use half::{bf16, f16};
use prost::bytes::Bytes;

use crate::error::Problem;
use crate::messages::{TensorProto, data_type};

/// Integers beyond so many are weights of no convolutional network.
const MAX_INTEGERS: usize = 1 << 16;

/// No tensor of a network has more dimensions.
const MAX_DIMENSIONS: usize = 8;

/// Types of elements that become `f32`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Float {
    F32,
    F16,
    Bf16,
    F64,
}

impl Float {
    fn size(self) -> usize {
        match self {
            Float::F16 | Float::Bf16 => 2,
            Float::F32 => 4,
            Float::F64 => 8,
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&chunk| value(chunk)).collect()
        }
        match self {
            Float::F32 => each(bytes, f32::from_le_bytes),
            Float::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Float::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Float::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        }
    }
}

/// Where the elements are.
#[derive(Clone, Debug)]
enum Data {
    /// In the file's bytes, little-endian.
    Raw(Float, Bytes),
    /// In another file, from a byte on.
    External(Float, Rc<PathBuf>, u64),
    /// Decoded already.
    Floats(Rc<[f32]>),
    Integers(Rc<[i64]>),
    /// Of a type that is not read, by its number.
    Other(i32),
}

/// A tensor whose values are known before any picture is seen.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    /// The initializer it comes from; its own name is what tells whose parameter it is.
    pub name: Rc<str>,
    pub dims: Vec<usize>,
    data: Data,
    /// The first two dimensions are to be swapped: `dims` are those after it.
    transposed: bool,
}

/// How many elements may still be decoded: one initializer may be read by many nodes, so that what is decoded is not
/// bounded by the size of the file.
pub(crate) struct Budget {
    left: Cell<usize>,
}

/// What a file may decode to beyond four times its size.
const MARGIN: usize = 64 << 20;

impl Budget {
    /// For a file of so many bytes, external ones included.
    pub fn new(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { left: Cell::new(bytes.saturating_mul(4).saturating_add(MARGIN) / size_of::<f32>()) }
    }

    /// Takes `elements` of it.
    pub fn charge(&self, elements: usize) -> Result<(), String> {
        let left = self.left.get().checked_sub(elements);
        self.left.set(left.ok_or("its nodes read the same weights so often that they exceed all bounds")?);
        Ok(())
    }
}

impl Constant {
    /// The tensor of a file that lies in `folder`.
    ///
    /// # Errors
    /// [`Problem::Malformed`] if shape and values contradict each other; [`Problem::Refused`] for values in a file that
    /// may not be read.
    pub fn new(proto: &TensorProto, folder: &Path) -> Result<Self, Problem> {
        let name = printable(&proto.name);
        let malformed = |reason: String| Problem::Malformed(format!("tensor {name:?}: {reason}"));
        if proto.dims.len() > MAX_DIMENSIONS {
            return Err(malformed(format!("it has {} dimensions", proto.dims.len())));
        }
        let dims: Option<Vec<usize>> = proto.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let elements = dims.as_ref().and_then(|dims| dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)));
        let (Some(dims), Some(elements)) = (dims, elements) else {
            return Err(malformed(format!("its shape {:?} is impossible", proto.dims)));
        };
        let float = match proto.data_type {
            data_type::FLOAT => Some(Float::F32),
            data_type::FLOAT16 => Some(Float::F16),
            data_type::BFLOAT16 => Some(Float::Bf16),
            data_type::DOUBLE => Some(Float::F64),
            _ => None,
        };
        let held = |found: usize| match found == elements {
            true => Ok(()),
            false => Err(malformed(format!("it has {found} values where its shape {dims:?} needs {elements}"))),
        };
        let raw_len = |size: usize| match elements.checked_mul(size) {
            Some(bytes) if bytes == proto.raw_data.len() => Ok(()),
            _ => held(proto.raw_data.len() / size).and(Err(malformed("its last value is cut off".into()))),
        };
        let data = match float {
            Some(float) if proto.data_location == 1 => {
                let (path, offset) =
                    external(proto, folder, elements, float.size()).map_err(|problem| match problem {
                        Problem::Malformed(reason) => malformed(reason),
                        Problem::Refused(reason) => Problem::Refused(format!("tensor {name:?}: {reason}")),
                        other => other,
                    })?;
                Data::External(float, Rc::new(path), offset)
            }
            Some(float) if !proto.raw_data.is_empty() => {
                raw_len(float.size())?;
                Data::Raw(float, proto.raw_data.clone())
            }
            Some(float) => {
                let values: Vec<f32> = match float {
                    Float::F32 => proto.float_data.clone(),
                    Float::F64 => proto.double_data.iter().map(|&x| x as f32).collect(),
                    Float::F16 => proto.int32_data.iter().map(|&bits| f16::from_bits(bits as u16).to_f32()).collect(),
                    Float::Bf16 => proto.int32_data.iter().map(|&bits| bf16::from_bits(bits as u16).to_f32()).collect(),
                };
                held(values.len())?;
                Data::Floats(values.into())
            }
            None => match integers(proto, elements) {
                Some(values) => {
                    held(values.len())?;
                    Data::Integers(values.into())
                }
                None => Data::Other(proto.data_type),
            },
        };
        Ok(Self { name: name.into(), dims, data, transposed: false })
    }

    /// A scalar or vector that a node gives as an attribute, or a computed one.
    pub fn floats_of(values: Vec<f32>, dims: Vec<usize>) -> Self {
        Self { name: "".into(), dims, data: Data::Floats(values.into()), transposed: false }
    }

    /// The same for integers.
    pub fn integers_of(values: Vec<i64>, dims: Vec<usize>) -> Self {
        Self { name: "".into(), dims, data: Data::Integers(values.into()), transposed: false }
    }

    /// The same under another name.
    pub fn named(self, name: &str) -> Self {
        Self { name: printable(name).into(), ..self }
    }

    /// The other file its values are in, and how much of it is read.
    pub fn external(&self) -> Option<(&Path, u64)> {
        match &self.data {
            Data::External(float, path, offset) => Some((path, offset + (self.len() * float.size()) as u64)),
            _ => None,
        }
    }

    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// The values, if they are integers.
    pub fn integers(&self) -> Option<&[i64]> {
        match &self.data {
            Data::Integers(values) => Some(values),
            _ => None,
        }
    }

    /// The values as `f32`, if they are real numbers.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn floats(&self, budget: &Budget) -> Result<Vec<f32>, String> {
        budget.charge(self.len())?;
        let values = match &self.data {
            Data::Raw(float, bytes) => float.decode(bytes),
            Data::Floats(values) => values.to_vec(),
            Data::External(float, path, offset) => {
                float.decode(&read_external(path, *offset, self.len() * float.size())?)
            }
            Data::Integers(_) => return Err(format!("the values of {:?} are integers", self.name)),
            Data::Other(number) => {
                return Err(format!(
                    "the values of {:?} have the type {number} of TensorProto.DataType; float32, float16, bfloat16 and \
                     float64 are read",
                    self.name
                ));
            }
        };
        if !self.transposed {
            return Ok(values);
        }
        budget.charge(self.len())?;
        let [rows, columns] = self.dims[..] else { unreachable!("only matrices are transposed") };
        Ok((0..rows * columns).map(|i| values[i % columns * rows + i / columns]).collect())
    }

    /// The only value, if there is but one and it is a real number.
    pub fn scalar(&self, budget: &Budget) -> Option<f32> {
        if self.len() != 1 {
            return None;
        }
        self.floats(budget).ok().map(|values| values[0])
    }

    /// The matrix with rows and columns exchanged; `None` if it is no matrix.
    pub fn transpose(&self) -> Option<Self> {
        let [rows, columns] = self.dims[..] else { return None };
        Some(Self { dims: vec![columns, rows], transposed: !self.transposed, ..self.clone() })
    }

    /// The same values in another shape of as many.
    pub fn reshape(&self, dims: Vec<usize>) -> Option<Self> {
        let fits = !self.transposed && dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)) == Some(self.len());
        fits.then(|| Self { dims, ..self.clone() })
    }
}

/// Text from a file, fit for terminals and logs, where control characters could forge what is read there.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}

/// The values of a tensor of integers or truth values; `None` for other types, or if there are too many.
fn integers(proto: &TensorProto, elements: usize) -> Option<Vec<i64>> {
    if elements > MAX_INTEGERS || proto.data_location == 1 {
        return None;
    }
    let raw = &proto.raw_data;
    Some(match proto.data_type {
        data_type::INT64 if raw.is_empty() => proto.int64_data.clone(),
        data_type::INT64 => raw.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        data_type::INT32 | data_type::BOOL if raw.is_empty() => proto.int32_data.iter().map(|&x| x.into()).collect(),
        data_type::INT32 => raw.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
        data_type::BOOL => raw.iter().map(|&b| b.into()).collect(),
        _ => return None,
    })
}

/// The file beside the model where a tensor's values are, and the byte where they begin.
fn external(proto: &TensorProto, folder: &Path, elements: usize, size: usize) -> Result<(PathBuf, u64), Problem> {
    let entry = |key: &str| proto.external_data.iter().find(|entry| entry.key == key).map(|entry| &entry.value);
    let number = |key: &str| match entry(key).map(|text| text.parse::<u64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(Some(number)),
        Some(Err(_)) => Err(Problem::Malformed(format!("the {key} of its external data is no number"))),
    };
    let location =
        entry("location").ok_or_else(|| Problem::Malformed("its external data does not say where it is".into()))?;
    let inside = Path::new(location).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let shown = printable(location);
    if !inside || location.is_empty() {
        return Err(Problem::Refused(format!("its values are said to be in {shown:?}, outside the model's folder")));
    }
    let path = folder.join(location);
    // A link must not lead outside either.
    let real = path.canonicalize().map_err(|e| {
        Problem::Refused(format!("its values are in the file {shown:?} beside the model, which cannot be read: {e}"))
    })?;
    let home = folder.canonicalize().map_err(|e| Problem::Read(folder.to_owned(), e))?;
    if !real.starts_with(home) || !real.is_file() {
        return Err(Problem::Refused(format!("its values are said to be in {shown:?}, outside the model's folder")));
    }
    let there = real.metadata().map_err(|e| Problem::Read(real.clone(), e))?.len();
    let (offset, needed) = (number("offset")?.unwrap_or(0), elements.checked_mul(size).map(|n| n as u64));
    if number("length")?.is_some_and(|length| Some(length) != needed) {
        return Err(Problem::Malformed("the length of its external data is not that of its shape".into()));
    }
    if needed.and_then(|needed| needed.checked_add(offset)).is_none_or(|end| end > there) {
        return Err(Problem::Malformed(format!("its values do not fit into the {there} bytes of {shown:?}")));
    }
    Ok((real, offset))
}

/// Bytes of a file; that it has them was checked.
fn read_external(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, String> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; len];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|e: std::io::Error| format!("cannot read {}: {e}", path.display()))
}
