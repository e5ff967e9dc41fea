//! The register tile: the small matrix product that all convolutions are made of.
//!
//! A tile of up to [`ROWS`] rows by a few vectors of columns stays in registers over the whole inner
//! dimension (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008). An
//! element of `a` is broadcast, so `a` may have any strides; a row of `b` is loaded as whole vectors, so `b`
//! is packed into [`Panels`].

use pulp::{Simd, WithSimd};

use crate::simd::Level;

/// Rows of a full tile.
pub(crate) const ROWS: usize = 6;

/// How a matrix `[k, n]` lies in memory as panels of columns, each panel `k` rows one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    /// Columns that a panel covers.
    pub width: usize,
    /// Elements from one row of a panel to the next.
    pub stride: usize,
    /// Elements from one panel to the next.
    pub step: usize,
}

/// Columns that a tile covers at a level: as many as registers allow beside one row of `b`.
pub(crate) fn tile_width(level: Level) -> usize {
    level.lanes() * if level == Level::Avx2 { 2 } else { 4 }
}

impl Panels {
    /// The layout of `k` rows and `n` columns at a level; the last panel has room for whole vectors.
    pub fn new(level: Level, k: usize, n: usize) -> Self {
        let width = tile_width(level);
        let stride = width.min(n.next_multiple_of(level.lanes()));
        Self { width, stride, step: k * stride }
    }

    /// Panels that `n` columns need.
    pub fn count(&self, n: usize) -> usize {
        n.div_ceil(self.width)
    }
}

/// The shape of a product `c[m, n] (+)= a[m, k] * b[k, n]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Elements from one row of `a` to the next, and from one column to the next.
    pub a: [usize; 2],
    pub b: Panels,
    /// Elements from one row of `c` to the next.
    pub c_stride: usize,
    /// Add to `c` what is there.
    pub accumulate: bool,
}

impl Product {
    /// Computes it at a level, on the calling thread.
    ///
    /// # Panics
    /// If an element would lie outside its slice.
    pub fn run(&self, level: Level, a: &[f32], b: &[f32], c: &mut [f32]) {
        level.run(Run { product: self, a, b, c });
    }
}

struct Run<'a> {
    product: &'a Product,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { product, a, b, c } = self;
        let Product { m, n, k, .. } = *product;
        if m == 0 || n == 0 {
            return;
        }
        let panels = product.b;
        let last_width = n - (n - 1) / panels.width * panels.width;
        if k > 0 {
            assert!((m - 1) * product.a[0] + (k - 1) * product.a[1] < a.len(), "a of {product:?}: {}", a.len());
            let last = (panels.count(n) - 1) * panels.step + (k - 1) * panels.stride;
            assert!(last + last_width.next_multiple_of(S::F32_LANES) <= b.len(), "b of {product:?}: {}", b.len());
        }
        assert!((m - 1) * product.c_stride + n <= c.len(), "c of {product:?}: {}", c.len());
        for panel in 0..panels.count(n) {
            let column = panel * panels.width;
            let columns = panels.width.min(n - column);
            let mut row = 0;
            while row < m {
                let rows = match m - row {
                    ROWS.. => ROWS,
                    4..ROWS => 4,
                    2..4 => 2,
                    _ => 1,
                };
                // SAFETY: the asserted bounds cover every element of the tile: rows `row..row + rows` of `a` and
                // `c`, all `k` rows of this panel of `b` in whole vectors; of `c`, just `columns` elements a row
                // are touched.
                #[allow(unsafe_code)]
                unsafe {
                    let tile = Tile {
                        k,
                        a: a.as_ptr().add(row * product.a[0]),
                        a_strides: product.a,
                        b: b.as_ptr().add(panel * panels.step),
                        b_stride: panels.stride,
                        c: c.as_mut_ptr().add(row * product.c_stride + column),
                        c_stride: product.c_stride,
                        columns,
                        accumulate: product.accumulate,
                    };
                    tile.of_rows(simd, rows);
                }
                row += rows;
            }
        }
    }
}

/// One tile of a product.
#[derive(Clone, Copy)]
struct Tile {
    k: usize,
    a: *const f32,
    a_strides: [usize; 2],
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    columns: usize,
    accumulate: bool,
}

#[allow(unsafe_code)]
impl Tile {
    /// # Safety
    /// The pointers and strides must reach `rows` by `k` elements of `a`, `k` by `columns`, rounded up to whole
    /// vectors, of `b`, and `rows` by `columns` of `c`; `rows` is 1, 2, 4 or 6.
    #[inline(always)]
    unsafe fn of_rows<S: Simd>(self, simd: S, rows: usize) {
        // SAFETY: as demanded of the caller.
        unsafe {
            match rows {
                6 => self.of_columns::<S, 6>(simd),
                4 => self.of_columns::<S, 4>(simd),
                2 => self.of_columns::<S, 2>(simd),
                _ => self.of_columns::<S, 1>(simd),
            }
        }
    }

    /// # Safety
    /// As [`of_rows`](Self::of_rows).
    #[inline(always)]
    unsafe fn of_columns<S: Simd, const R: usize>(self, simd: S) {
        // SAFETY: as demanded of the caller.
        unsafe {
            match self.columns.div_ceil(S::F32_LANES) {
                1 => self.of_size::<S, R, 1>(simd),
                2 => self.of_size::<S, R, 2>(simd),
                3 => self.of_size::<S, R, 3>(simd),
                _ => self.of_size::<S, R, 4>(simd),
            }
        }
    }

    /// # Safety
    /// As [`of_rows`](Self::of_rows), with `R` rows and `columns` within `V` vectors.
    #[inline(always)]
    unsafe fn of_size<S: Simd, const R: usize, const V: usize>(self, simd: S) {
        let tail = self.columns - (V - 1) * S::F32_LANES;
        let whole = tail == S::F32_LANES;
        // SAFETY: as demanded of the caller.
        unsafe {
            for (row, sums) in self.sums::<S, R, V>(simd).into_iter().enumerate() {
                let c = self.c.add(row * self.c_stride);
                for (v, sum) in sums.into_iter().enumerate() {
                    let c = c.add(v * S::F32_LANES);
                    if v + 1 < V || whole {
                        let c = c.cast::<S::f32s>();
                        let sum = if self.accumulate { simd.add_f32s(c.read_unaligned(), sum) } else { sum };
                        c.write_unaligned(sum);
                    } else {
                        let c = std::slice::from_raw_parts_mut(c, tail);
                        let sum = if self.accumulate { simd.add_f32s(simd.partial_load_f32s(c), sum) } else { sum };
                        simd.partial_store_f32s(c, sum);
                    }
                }
            }
        }
    }

    /// The tile's sums over `k`.
    ///
    /// # Safety
    /// As [`of_size`](Self::of_size).
    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize, const V: usize>(self, simd: S) -> [[S::f32s; V]; R] {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let (mut a, mut b) = (self.a, self.b);
        let [a_row, a_column] = self.a_strides;
        for _ in 0..self.k {
            let mut vectors = [simd.splat_f32s(0.0); V];
            for (v, vector) in vectors.iter_mut().enumerate() {
                // SAFETY: a row of `b` has `V` whole vectors.
                *vector = unsafe { b.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: row `r`, column `k` of `a`.
                let x = simd.splat_f32s(unsafe { *a.add(r * a_row) });
                for (sum, &vector) in sums.iter_mut().zip(&vectors) {
                    *sum = simd.mul_add_e_f32s(x, vector, *sum);
                }
            }
            // One past the last element at most, in steps that stay within the slices: `wrapping` because a
            // stride may reach further past the end.
            a = a.wrapping_add(a_column);
            b = b.wrapping_add(self.b_stride);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    /// Packs a row-major matrix.
    fn pack(panels: Panels, k: usize, n: usize, b: &[f32]) -> Vec<f32> {
        let mut packed = vec![f32::NAN; panels.count(n) * panels.step];
        for row in 0..k {
            for column in 0..n {
                let (panel, at) = (column / panels.width, column % panels.width);
                packed[panel * panels.step + row * panels.stride + at] = b[row * n + column];
            }
        }
        packed
    }

    #[test]
    fn products_of_any_shape_and_stride_equal_the_sums_at_every_level() {
        for level in Level::available() {
            for (m, k, n) in [(1, 1, 1), (6, 7, 64), (17, 33, 9), (11, 5, 100), (23, 16, 48), (5, 0, 3), (3, 9, 131)] {
                for transposed in [false, true] {
                    let strides = if transposed { [1, m + 1] } else { [k + 2, 1] };
                    let (a, b) = (values("a", (m + 1) * (k + 2)), values("b", (k + 1) * n));
                    for accumulate in [false, true] {
                        let panels = Panels::new(level, k, n);
                        let shape = Product { m, n, k, a: strides, b: panels, c_stride: n + 1, accumulate };
                        let start = values("c", m * (n + 1));
                        let mut c = start.clone();
                        shape.run(level, &a, &pack(panels, k, n, &b), &mut c);
                        for i in 0..m {
                            assert_eq!(c[i * (n + 1) + n], start[i * (n + 1) + n], "padding was written");
                            for j in 0..n {
                                let mut sum = if accumulate { f64::from(start[i * (n + 1) + j]) } else { 0.0 };
                                for l in 0..k {
                                    sum += f64::from(a[i * strides[0] + l * strides[1]]) * f64::from(b[l * n + j]);
                                }
                                let got = f64::from(c[i * (n + 1) + j]);
                                assert!((sum - got).abs() < 1e-5, "{level:?} {m}x{k}x{n} at {i},{j}: {got} for {sum}");
                            }
                        }
                    }
                }
            }
        }
    }
}
