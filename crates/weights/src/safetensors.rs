//! The safetensors format: a length in eight bytes, a JSON header of so many bytes, the tensors.
//!
//! Reading parses and validates the header with the `safetensors` crate (offsets cover the data
//! without gaps, shapes agree with them). Writing does the header here: the crate keeps metadata in a
//! hash map, whose order differs from run to run, and equal content must give equal files.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use half::f16;
use regraft_graph::StateDict;
use safetensors::Dtype as Stored;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use crate::error::{Error, Problem};
use crate::source::{ByteOrder, Dtype, Source};
use crate::tensor::{Storage, View, read_views};
use regraft_io::write_atomically;

/// The largest header that is read: a hundred times that of the largest networks here.
const MAX_HEADER: u64 = 1 << 24;

/// The tensors and the metadata of the safetensors file at `path`; see [`read`](crate::read) for what
/// becomes of the element types. Names are the file's, unchanged.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Malformed`] if it is no whole safetensors file,
/// [`Error::Refused`] if it has tensors of a type that no network here has.
pub fn read_safetensors_with_metadata(path: &Path) -> Result<(StateDict, BTreeMap<String, String>), Error> {
    let mut source = Source::open(path).map_err(|e| Problem::from(e).at(path))?;
    read(&mut source).map_err(|problem| problem.at(path))
}

/// The metadata alone of the safetensors file at `path`: no tensor is read, however many there are.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Malformed`] or [`Error::Refused`] if it is no whole safetensors
/// file.
pub fn read_safetensors_metadata(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut source = Source::open(path).map_err(|e| Problem::from(e).at(path))?;
    let (header, _) = read_header(&mut source).map_err(|problem| problem.at(path))?;
    Ok(metadata(&header))
}

/// [`read_safetensors_with_metadata`] of a file that is in memory.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Refused`], as there.
pub fn parse_safetensors(bytes: &'static [u8]) -> Result<(StateDict, BTreeMap<String, String>), Error> {
    read(&mut Source::of(bytes)).map_err(|problem| problem.at(Path::new("weights in memory")))
}

/// The header, and where the tensors begin.
fn read_header(source: &mut Source) -> Result<(Metadata, u64), Problem> {
    let mut header_len = [0; 8];
    source.region(0, 8)?.read_exact(&mut header_len)?;
    let header_len = u64::from_le_bytes(header_len);
    if header_len > MAX_HEADER {
        return Problem::refused(format!("its header claims {header_len} bytes, and {MAX_HEADER} are allowed"));
    }
    let mut header = Vec::new();
    source.region(8, header_len)?.read_to_end(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header)
        .map_err(|error| Problem::Malformed(format!("its safetensors header is wrong: {error}")))?;
    let data = 8 + header_len;
    if source.len() - data != header.data_len() as u64 {
        return Problem::malformed(format!(
            "its tensors take {} bytes, but it has {}",
            header.data_len(),
            source.len() - data
        ));
    }
    Ok((header, data))
}

fn metadata(header: &Metadata) -> BTreeMap<String, String> {
    header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(crate) fn read(source: &mut Source) -> Result<(StateDict, BTreeMap<String, String>), Problem> {
    let (header, data) = read_header(source)?;
    let mut views = Vec::new();
    for name in header.offset_keys() {
        let TensorInfo { dtype, shape, data_offsets } = header.info(&name).expect("a name from the header");
        let Some(dtype) = element_type(*dtype) else {
            return Problem::refused(format!("the tensor {name:?} is of type {dtype:?}, which is not supported"));
        };
        let storage = Storage {
            dtype,
            order: ByteOrder::Little,
            at: data + data_offsets.0 as u64,
            elements: (data_offsets.1 - data_offsets.0) as u64 / dtype.size(),
        };
        views.push((name, View { storage, offset: 0, stride: row_major(shape), shape: shape.clone() }));
    }
    Ok((read_views(source, views)?, metadata(&header)))
}

fn element_type(stored: Stored) -> Option<Dtype> {
    Some(match stored {
        Stored::F16 => Dtype::F16,
        Stored::BF16 => Dtype::Bf16,
        Stored::F32 => Dtype::F32,
        Stored::F64 => Dtype::F64,
        Stored::BOOL | Stored::U8 | Stored::I8 => Dtype::Integer(1),
        Stored::I16 | Stored::U16 => Dtype::Integer(2),
        Stored::I32 | Stored::U32 => Dtype::Integer(4),
        Stored::I64 | Stored::U64 => Dtype::Integer(8),
        _ => return None,
    })
}

/// The strides of a tensor without gaps; those of a tensor without elements are never used.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut stride = vec![1usize; shape.len()];
    for d in (1..shape.len()).rev() {
        stride[d - 1] = stride[d].saturating_mul(shape[d]);
    }
    stride
}

/// Writes `weights` and `metadata` to a safetensors file at `path`, in `f32` and [whole or not at
/// all](write_atomically). Equal content gives equal bytes.
///
/// # Errors
/// [`Error::Io`], with the bytes needed where the disk was full.
pub fn write_safetensors(path: &Path, weights: &StateDict, metadata: &BTreeMap<String, String>) -> Result<(), Error> {
    write(path, weights, metadata, ("F32", size_of::<f32>()), |float, bytes| bytes.extend(float.to_le_bytes()))
}

/// The same in half precision: numbers are rounded to the nearest `f16`, and those beyond its range become infinite.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_half(
    path: &Path,
    weights: &StateDict,
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let half = |float, bytes: &mut Vec<u8>| bytes.extend(f16::from_f32(float).to_le_bytes());
    write(path, weights, metadata, ("F16", size_of::<f16>()), half)
}

/// Writes every number by `put`, which gives it so many bytes of a type.
fn write(
    path: &Path,
    weights: &StateDict,
    metadata: &BTreeMap<String, String>,
    dtype: (&str, usize),
    put: impl Fn(f32, &mut Vec<u8>),
) -> Result<(), Error> {
    let header = header(weights, metadata, dtype);
    Ok(write_atomically(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        let mut bytes = Vec::new();
        for floats in weights.values().flat_map(|tensor| tensor.data().chunks(1 << 12)) {
            bytes.clear();
            floats.iter().for_each(|&float| put(float, &mut bytes));
            file.write_all(&bytes)?;
        }
        Ok(())
    })?)
}

/// The header, filled with blanks to a multiple of eight bytes so that the tensors lie aligned.
fn header(weights: &StateDict, metadata: &BTreeMap<String, String>, (dtype, size): (&str, usize)) -> Vec<u8> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), json!(metadata));
    }
    let mut end = 0;
    for (name, tensor) in weights {
        let start = end;
        end += tensor.data().len() * size;
        entries.insert(name.clone(), json!({"dtype": dtype, "shape": tensor.shape(), "data_offsets": [start, end]}));
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}
