//! Transposition of small matrices in cache.

/// Rows and columns that are transposed at once: few enough for registers, so that compilers make shuffles of the moves.
const SQUARE: usize = 4;

/// Columns of the result that are written at a time: what they lie in stays in the first-level cache.
const BLOCK: usize = 16;

/// Writes the first `len` elements of some rows as columns: element `j` of row `i` goes to `out[j * stride + i]`.
///
/// # Panics
/// If a row is shorter, or the result would not fit.
pub(crate) fn to_columns<'a>(
    count: usize,
    row: impl Fn(usize) -> &'a [f32],
    len: usize,
    stride: usize,
    out: &mut [f32],
) {
    for start in (0..len).step_by(BLOCK) {
        let end = len.min(start + BLOCK);
        for i in (0..count).step_by(SQUARE) {
            let full = end - start == BLOCK && i + SQUARE <= count;
            if full {
                let rows: [&[f32; BLOCK]; SQUARE] =
                    std::array::from_fn(|r| row(i + r)[start..].first_chunk().expect("a row has `len` elements"));
                for j in (0..BLOCK).step_by(SQUARE) {
                    square(rows, j, stride, &mut out[(start + j) * stride + i..]);
                }
                continue;
            }
            for i in i..count.min(i + SQUARE) {
                for (j, &value) in row(i)[start..end].iter().enumerate() {
                    out[(start + j) * stride + i] = value;
                }
            }
        }
    }
}

/// Transposes the square of elements `j..j + 4` of four rows.
#[inline(always)]
fn square(rows: [&[f32; BLOCK]; SQUARE], j: usize, stride: usize, out: &mut [f32]) {
    let columns: [[f32; SQUARE]; SQUARE] = std::array::from_fn(|c| std::array::from_fn(|r| rows[r][j + c]));
    for (c, column) in columns.iter().enumerate() {
        out[c * stride..][..SQUARE].copy_from_slice(column);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn every_element_goes_to_its_place() {
        for (count, len, stride) in [(1, 1, 1), (4, 16, 4), (6, 35, 9), (64, 100, 64), (13, 16, 20)] {
            let matrix = values("m", count * (len + 1));
            let mut out = vec![f32::NAN; len * stride];
            to_columns(count, |i| &matrix[i * (len + 1)..], len, stride, &mut out);
            for (at, &value) in out.iter().enumerate() {
                let (j, i) = (at / stride, at % stride);
                assert!(if i < count { value == matrix[i * (len + 1) + j] } else { value.is_nan() });
            }
        }
    }
}
