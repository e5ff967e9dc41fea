//! Matrix products in float64: the `gemm` crate behind a checked interface.

/// A matrix inside a slice; element `(i, j)` lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f64],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix stored row after row.
    pub fn new(values: &'a [f64], rows: usize, cols: usize) -> Self {
        assert_eq!(values.len(), rows * cols, "elements of a {rows}x{cols} matrix");
        Self { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// `out = out * keep + a * b`, with `out` `[a.rows, b.cols]` stored row after row, on the calling thread.
///
/// One thread, so the order of the sums depends on nothing but the shapes.
///
/// # Panics
/// If the shapes do not agree.
#[allow(unsafe_code)]
pub(super) fn multiply(out: &mut [f64], keep: bool, a: Matrix, b: Matrix) {
    assert_eq!(a.cols, b.rows, "inner dimension");
    assert_eq!(out.len(), a.rows * b.cols, "elements of the product");
    // SAFETY: `Matrix::new` and `transposed` are the only constructors, so every (i, j) below (rows, cols)
    // lies within `values`; `out` holds rows * cols elements and, being borrowed mutably, overlaps neither.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            keep,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_plain_sums() {
        for (m, n, k) in [(1, 1, 1), (3, 2, 5), (17, 9, 33), (2, 40, 7)] {
            let a: Vec<f64> = (0..m * k).map(|i| ((i * 7) % 11) as f64 - 5.0).collect();
            let b: Vec<f64> = (0..k * n).map(|i| ((i * 5) % 13) as f64 - 6.0).collect();
            let plain = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f64>();
            let mut out = vec![1.0; m * n];
            multiply(&mut out, true, Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            // b^T a^T = (a b)^T exercises the transposed strides.
            let mut turned = vec![f64::NAN; m * n];
            multiply(&mut turned, false, Matrix::new(&b, k, n).transposed(), Matrix::new(&a, m, k).transposed());
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                // Small integers: every sum is exact.
                assert_eq!(out[i * n + j], 1.0 + plain(i, j));
                assert_eq!(turned[j * m + i], plain(i, j));
            }
        }
    }
}
