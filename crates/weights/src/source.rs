//! A weight file as a bounded supply of bytes.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Take};
use std::path::Path;

use half::{bf16, f16};

use crate::error::Problem;

/// Tensors may share storages and repeat elements, so a file can honestly decode to more than its
/// size (`f16` alone doubles it); this many bytes of `f32` for each of its bytes are plenty.
const EXPANSION: u64 = 8;
/// What a file may decode to however small it is.
const FREE_BYTES: u64 = 1 << 20;

/// How the elements of a storage are kept in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
    /// Integers or booleans of so many bytes: passed over, but their place in a file must be known.
    Integer(u64),
}

impl Dtype {
    /// Bytes of one element.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Integer(size) => size,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    Little,
    Big,
}

/// What weights are read from.
pub(crate) trait Supply: Read + Seek {}

impl<T: Read + Seek> Supply for T {}

/// A buffered reader of it.
pub(crate) type Reader = BufReader<Box<dyn Supply>>;

/// An open file, or bytes in memory, that gives out no more than it has.
pub(crate) struct Source {
    file: Reader,
    len: u64,
    /// Elements that may still be decoded.
    budget: u64,
}

impl Source {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Ok(Self::new(Box::new(file), metadata.len()))
    }

    /// The same for bytes in memory.
    pub(crate) fn of(bytes: &'static [u8]) -> Self {
        Self::new(Box::new(Cursor::new(bytes)), bytes.len() as u64)
    }

    fn new(supply: Box<dyn Supply>, len: u64) -> Self {
        let budget = (len.saturating_mul(EXPANSION).saturating_add(FREE_BYTES)) / size_of::<f32>() as u64;
        Self { file: BufReader::new(supply), len, budget }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The first 512 bytes, or all if there are fewer.
    pub(crate) fn start(&mut self) -> Result<Vec<u8>, Problem> {
        let mut start = Vec::new();
        self.region(0, self.len.min(512))?.read_to_end(&mut start)?;
        Ok(start)
    }

    /// The whole file for a reader that seeks by itself.
    pub(crate) fn whole(&mut self) -> Result<&mut Reader, Problem> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(&mut self.file)
    }

    /// The `len` bytes from `at`.
    pub(crate) fn region(&mut self, at: u64, len: u64) -> Result<Take<&mut Reader>, Problem> {
        self.require(at, len)?;
        self.file.seek(SeekFrom::Start(at))?;
        Ok((&mut self.file).take(len))
    }

    /// Fails unless the `len` bytes from `at` are in the file.
    pub(crate) fn require(&self, at: u64, len: u64) -> Result<(), Problem> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Problem::malformed(format!(
                "{len} bytes from byte {at} are wanted, but it has {} bytes in all",
                self.len
            )),
        }
    }

    /// Counts `elements` against what the file may decode to; to be called before they are allocated.
    pub(crate) fn charge(&mut self, elements: u64) -> Result<(), Problem> {
        match self.budget.checked_sub(elements) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Problem::malformed(format!("its tensors decode to more than {EXPANSION} times its size")),
        }
    }

    /// Decodes `count` elements from byte `at` on. The caller has [charged](Self::charge) for them.
    pub(crate) fn floats(&mut self, at: u64, count: u64, dtype: Dtype, order: ByteOrder) -> Result<Vec<f32>, Problem> {
        let Some(bytes) = count.checked_mul(dtype.size()) else {
            return Problem::malformed(format!("a tensor claims {count} elements"));
        };
        let mut reader = self.region(at, bytes)?;
        let capacity = usize::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut floats = Vec::with_capacity(capacity);
        let mut chunk = [0; 1 << 14];
        let mut left = bytes;
        while left > 0 {
            let chunk = &mut chunk[..left.min(1 << 14) as usize];
            reader.read_exact(chunk)?;
            decode(chunk, dtype, order, &mut floats);
            left -= chunk.len() as u64;
        }
        Ok(floats)
    }
}

/// Appends the elements in `bytes`, whose number is a multiple of the element's size.
fn decode(bytes: &[u8], dtype: Dtype, order: ByteOrder, floats: &mut Vec<f32>) {
    fn elements<const N: usize>(bytes: &[u8], order: ByteOrder) -> impl Iterator<Item = [u8; N]> {
        bytes.as_chunks().0.iter().map(move |&element: &[u8; N]| {
            let mut element = element;
            if order == ByteOrder::Big {
                element.reverse();
            }
            element
        })
    }
    match dtype {
        Dtype::F16 => floats.extend(elements(bytes, order).map(|b| f16::from_le_bytes(b).to_f32())),
        Dtype::Bf16 => floats.extend(elements(bytes, order).map(|b| bf16::from_le_bytes(b).to_f32())),
        Dtype::F32 => floats.extend(elements(bytes, order).map(f32::from_le_bytes)),
        Dtype::F64 => floats.extend(elements(bytes, order).map(|b| f64::from_le_bytes(b) as f32)),
        Dtype::Integer(_) => unreachable!("integer tensors are skipped before their elements are asked for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_decodes_in_both_byte_orders() {
        // 1.5 in each format, by its bits.
        let cases: [(Dtype, &[u8]); 4] = [
            (Dtype::F16, &[0x00, 0x3e]),
            (Dtype::Bf16, &[0xc0, 0x3f]),
            (Dtype::F32, &[0, 0, 0xc0, 0x3f]),
            (Dtype::F64, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f]),
        ];
        for (dtype, little) in cases {
            let big: Vec<u8> = little.iter().rev().copied().collect();
            let mut floats = Vec::new();
            decode(little, dtype, ByteOrder::Little, &mut floats);
            decode(&big, dtype, ByteOrder::Big, &mut floats);
            assert_eq!(floats, [1.5, 1.5], "{dtype:?}");
        }
    }
}
