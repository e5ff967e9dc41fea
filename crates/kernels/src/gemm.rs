//! Matrix products: a safe interface to the `gemm` crate.

/// A matrix view to read: element `(i, j)` lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

/// Whether every element of a matrix with these strides lies within `len` elements.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> bool {
    let last = |count: usize, stride: usize| count.checked_sub(1)?.checked_mul(stride);
    let empty = rows == 0 || cols == 0;
    empty
        || last(rows, row_stride)
            .zip(last(cols, col_stride))
            .and_then(|(r, c)| r.checked_add(c))
            .is_some_and(|l| l < len)
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix whose rows start `row_stride` apart.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride, 1), "{rows}x{cols} exceeds {} elements", data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }
}

/// A row-major matrix view to write.
pub struct MatrixMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    /// A row-major matrix whose rows start `row_stride` apart.
    ///
    /// # Panics
    /// If an element would lie outside `data`, or rows overlap.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride, 1), "{rows}x{cols} exceeds {} elements", data.len());
        assert!(rows <= 1 || row_stride >= cols, "rows overlap");
        Self { data, rows, cols, row_stride }
    }
}

/// Element types of [`gemm()`]: `f32` and `f64`.
pub trait Element: Copy + Send + Sync + private::Sealed + 'static {
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
}

mod private {
    /// Limits the element types to those that the `gemm` crate supports; it panics on others.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

impl Element for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
}

/// `out = a * b`, or `out += a * b` with `accumulate`, on the calling thread.
///
/// # Panics
/// If the shapes do not agree.
pub fn gemm<T: Element>(a: Matrix<T>, b: Matrix<T>, out: MatrixMut<T>, accumulate: bool) {
    assert_eq!((a.rows, b.cols, a.cols), (out.rows, out.cols, b.rows), "shapes of a matrix product");
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    // SAFETY: the constructors checked that every element of the three matrices lies within its slice and that the
    // output's elements are distinct. The shapes agree, by the assertion above. A stride that reaches an element is below
    // its slice's length, which is at most isize::MAX. T is f32 or f64, which the crate supports.
    #[allow(unsafe_code)]
    unsafe {
        ::gemm::gemm(
            out.rows,
            out.cols,
            a.cols,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            ::gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn gemm_equals_sums_for_any_stride() {
        for (m, k, n) in [(1, 1, 1), (1, 7, 5), (17, 33, 9), (64, 16, 48), (5, 0, 3)] {
            let (a, b) = (values("a", m * (k + 2)), values("b", n * (k + 3)));
            let start = values("out", m * (n + 1));
            for accumulate in [false, true] {
                let mut out = start.clone();
                let transposed_b = Matrix::new(&b, n, k, k + 3).transposed();
                gemm(Matrix::new(&a, m, k, k + 2), transposed_b, MatrixMut::new(&mut out, m, n, n + 1), accumulate);
                for i in 0..m {
                    for j in 0..n {
                        let mut sum = if accumulate { f64::from(start[i * (n + 1) + j]) } else { 0.0 };
                        sum +=
                            (0..k).map(|l| f64::from(a[i * (k + 2) + l]) * f64::from(b[j * (k + 3) + l])).sum::<f64>();
                        assert!((sum - f64::from(out[i * (n + 1) + j])).abs() < 1e-5, "{m}x{k}x{n} at {i},{j}");
                    }
                    assert!(i + 1 == m || out[i * (n + 1) + n] == start[i * (n + 1) + n], "padding was written");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "exceeds")]
    fn matrix_refuses_short_slice() {
        Matrix::new(&[0.0f32; 5], 2, 3, 3);
    }

    #[test]
    #[should_panic(expected = "exceeds")]
    fn matrix_refuses_overflowing_size() {
        Matrix::new(&[0.0f32; 5], usize::MAX, 2, usize::MAX);
    }
}
