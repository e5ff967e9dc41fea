//! Transposition of small matrices in cache.

/// Side of the squares that are transposed in registers: the compiler turns their moves into shuffles.
const SQUARE: usize = 4;

/// Elements of each row that are transposed at a time, so that the rows of `out` they go to stay in the first-level cache.
const BLOCK: usize = 16;

/// Writes `count` rows of `len` elements as columns: element `j` of `row(i)` goes to `out[j * stride + i]`.
///
/// # Panics
/// If a row is shorter than `len`, or `out` is too short.
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

/// Transposes elements `j..j + 4` of four rows.
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
    fn to_columns_moves_every_element() {
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
