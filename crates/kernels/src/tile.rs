//! The register tile: the small matrix product from which the convolutions are built.
//!
//! A tile of up to [`ROWS`] rows by a few vectors of columns stays in registers over the whole inner dimension (Goto and
//! van de Geijn, "Anatomy of high-performance matrix multiplication", 2008). Elements of `a` are broadcast, so `a` may
//! have any strides. Rows of `b` are loaded as whole vectors, so `b` is packed into [`Panels`].

use pulp::{Simd, WithSimd};

use crate::bf16::{Dot, PairDot, SingleDot};
use crate::epilogue::TileEpilogue;
use crate::prefetch;
use crate::simd::Level;
use crate::vector::{load, store};
use crate::{Activation, Precision};

/// Most elements of a small `b`, which stays in the second-level cache throughout.
const SMALL: usize = 32 * 1024;

/// Rows of a full tile.
pub(crate) const ROWS: usize = 6;

/// Layout of a matrix `[k, n]` as panels of columns; a panel is `k` consecutive rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panels {
    /// Columns per panel.
    pub width: usize,
    /// Elements from one row of a panel to the next.
    pub stride: usize,
    /// Elements from one panel to the next.
    pub step: usize,
}

/// Columns of a full tile at a level: as many as the registers hold beside one row of `b`.
pub(crate) fn tile_width(level: Level) -> usize {
    level.lanes() * if level == Level::Avx2 { 2 } else { 4 }
}

impl Panels {
    /// The layout of a `[k, n]` matrix at a level. The last panel is padded to whole vectors.
    pub fn new(level: Level, k: usize, n: usize) -> Self {
        let width = tile_width(level);
        let stride = width.min(n.next_multiple_of(level.lanes()));
        Self { width, stride, step: k * stride }
    }

    /// Number of panels for `n` columns.
    pub fn count(&self, n: usize) -> usize {
        n.div_ceil(self.width)
    }

    /// Packs consecutive `rows` of `n` columns into `out`.
    pub fn pack<'a>(&self, n: usize, rows: impl Iterator<Item = &'a [f32]>, out: &mut [f32]) {
        for (index, row) in rows.enumerate() {
            for (panel, values) in row[..n].chunks(self.width).enumerate() {
                out[panel * self.step + index * self.stride..][..values.len()].copy_from_slice(values);
            }
        }
    }

    /// A row-major matrix of `n` columns as the `b` of a product, with its layout.
    ///
    /// The matrix is used in place if its rows are whole vectors, else it is packed into `packed`.
    pub fn of_rows<'a>(self, level: Level, values: &'a [f32], n: usize, packed: &'a mut [f32]) -> (&'a [f32], Self) {
        if n.is_multiple_of(level.lanes()) {
            return (values, Self { width: self.width, stride: n, step: self.width });
        }
        self.pack(n, values.chunks_exact(n), packed);
        (packed, self)
    }
}

/// The matrix `a` of a product, `[m, k]`.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Element `(i, j)` is `values[i * strides[0] + j * strides[1]]`.
    Strided { values: &'a [f32], strides: [usize; 2] },
    /// Row `i` is the concatenation of `slices[i * lens.len() + j]` over `j`, each `lens[j]` long.
    Pieces { slices: &'a [&'a [f32]], lens: &'a [usize] },
}

/// Where the rows of `c` begin.
#[derive(Clone, Copy)]
pub(crate) enum RowOffsets<'a> {
    /// At multiples of this many elements.
    Strided(usize),
    /// At the listed elements.
    Listed(&'a [usize]),
}

impl RowOffsets<'_> {
    /// The element at which a row begins.
    #[inline(always)]
    fn of(&self, row: usize) -> usize {
        match self {
            RowOffsets::Strided(stride) => row * stride,
            RowOffsets::Listed(row_offsets) => row_offsets[row],
        }
    }
}

/// A product `c = epilogue(a * b)`, or `c = epilogue(c + a * b)` with `accumulate`; `a` is `[m, k]`, `b` `[k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Rows<'a>,
    pub b: &'a [f32],
    pub panels: Panels,
    pub row_offsets: RowOffsets<'a>,
    /// Whether to add the previous `c`.
    pub accumulate: bool,
    pub epilogue: TileEpilogue<'a>,
    /// With bfloat16, `a` and `b` hold pairs along `k`, and `k` counts pairs.
    pub precision: Precision,
}

impl Product<'_> {
    /// Computes the product at a level, on the calling thread.
    ///
    /// # Panics
    /// If an element would lie outside its slice, or if the level or the CPU has no products of the precision.
    pub fn run(&self, level: Level, c: &mut [f32]) {
        self.run_and_sum(level, c, &mut []);
    }

    /// [`run`](Self::run); if the epilogue has pivots, also adds the results' distances from them, and the squares, to
    /// `sums`, `[2, n]`.
    pub fn run_and_sum(&self, level: Level, c: &mut [f32], sums: &mut [f32]) {
        if self.m > 0 && self.n > 0 {
            self.check(level, c.len());
            match self.precision {
                Precision::F32 => level.run(Run { product: self, c, totals: sums, dot: SingleDot }),
                Precision::Bf16 => {
                    let dot = PairDot::detect().expect("this CPU has no bfloat16 products");
                    dot.vectorize(Run { product: self, c, totals: sums, dot });
                }
            }
        }
    }

    /// Asserts that every element lies within its slice.
    fn check(&self, level: Level, c_len: usize) {
        let Self { m, n, k, panels, .. } = *self;
        // bfloat16 products always run with 512-bit vectors, so the checks below must be for that level.
        assert!(self.precision == Precision::F32 || level == Level::Avx512, "bfloat16 products at {level:?}");
        match self.a {
            Rows::Strided { values, strides } if k > 0 => {
                assert!((m - 1) * strides[0] + (k - 1) * strides[1] < values.len(), "a is short");
            }
            Rows::Strided { .. } => {}
            Rows::Pieces { slices, lens } => {
                assert_eq!((lens.iter().sum(), slices.len()), (k, m * lens.len()), "pieces of a");
                for row in slices.chunks_exact(lens.len()) {
                    assert!(row.iter().zip(lens).all(|(piece, &len)| piece.len() == len), "a piece of a is short");
                }
            }
        }
        if k > 0 {
            let width = (n - (panels.count(n) - 1) * panels.width).next_multiple_of(level.lanes());
            let last = (panels.count(n) - 1) * panels.step + (k - 1) * panels.stride;
            assert!(last + width <= self.b.len() && panels.width.is_multiple_of(level.lanes()), "b is short");
        }
        let last = match self.row_offsets {
            RowOffsets::Strided(stride) => (m - 1) * stride,
            RowOffsets::Listed(row_offsets) => {
                assert_eq!(row_offsets.len(), m, "row offsets of c");
                row_offsets.iter().copied().max().unwrap_or(0)
            }
        };
        assert!(last + n <= c_len, "c is short");
        assert!(self.epilogue.bias.is_none_or(|bias| bias.len() == n), "bias");
        assert!(self.epilogue.pivots.is_none_or(|pivots| pivots.len() == n), "pivots");
        assert!(self.epilogue.residual.is_none_or(|residual| last + n <= residual.len()), "the residual is short");
    }
}

/// Computes a whole product, tile by tile.
struct Run<'a, D> {
    /// Has passed [`Product::check`].
    product: &'a Product<'a>,
    c: &'a mut [f32],
    totals: &'a mut [f32],
    dot: D,
}

impl<D: Dot> WithSimd for Run<'_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Product { m, n, k, panels, .. } = *self.product;
        let count = panels.count(n);
        // With a small `b`, all panels for some rows, so that `c` is written in order. Otherwise all rows for one panel, so
        // that `b` is read once.
        let all = if k * n <= SMALL { count } else { 1 };
        for first in (0..count).step_by(all) {
            let mut row = 0;
            while row < m {
                let rows = match m - row {
                    ROWS.. => ROWS,
                    4..ROWS => 4,
                    2..4 => 2,
                    _ => 1,
                };
                for panel in first..first + all {
                    let columns = panels.width.min(n - panel * panels.width);
                    match rows {
                        ROWS => self.rows::<S, ROWS>(simd, panel, columns, row),
                        4 => self.rows::<S, 4>(simd, panel, columns, row),
                        2 => self.rows::<S, 2>(simd, panel, columns, row),
                        _ => self.rows::<S, 1>(simd, panel, columns, row),
                    }
                }
                row += rows;
            }
        }
    }
}

impl<D: Dot> Run<'_, D> {
    /// Computes a tile of `R` rows from `row` on.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, panel: usize, columns: usize, row: usize) {
        // The condition is constant, so tiles with more vectors than the level has registers for are not compiled.
        if S::F32_LANES == Level::Avx2.lanes() {
            match columns.div_ceil(S::F32_LANES) {
                1 => self.vectors::<S, R, 1>(simd, panel, columns, row),
                _ => self.vectors::<S, R, 2>(simd, panel, columns, row),
            }
        } else {
            match columns.div_ceil(S::F32_LANES) {
                1 => self.vectors::<S, R, 1>(simd, panel, columns, row),
                2 => self.vectors::<S, R, 2>(simd, panel, columns, row),
                3 => self.vectors::<S, R, 3>(simd, panel, columns, row),
                _ => self.vectors::<S, R, 4>(simd, panel, columns, row),
            }
        }
    }

    /// Computes a tile of `V` vectors.
    ///
    /// The case of whole vectors is monomorphised, so that its loops have no branches, are unrolled and keep the sums in
    /// registers.
    #[inline(always)]
    fn vectors<S: Simd, const R: usize, const V: usize>(&mut self, simd: S, panel: usize, columns: usize, row: usize) {
        let Run { product, ref mut c, ref mut totals, dot } = *self;
        if columns == V * S::F32_LANES {
            dot.run(simd, Tile::<D, R, V, true> { product, c, totals, dot, panel, columns, row });
        } else {
            dot.run(simd, Tile::<D, R, V, false> { product, c, totals, dot, panel, columns, row });
        }
    }
}

/// Computes a tile of `R` rows and `V` vectors, which are all whole if `WHOLE`.
///
/// [`Dot::run`] makes each tile a function of its own. All tiles in one function take the compiler minutes, because its
/// loop passes process the whole function for each loop.
struct Tile<'a, D, const R: usize, const V: usize, const WHOLE: bool> {
    product: &'a Product<'a>,
    c: &'a mut [f32],
    totals: &'a mut [f32],
    dot: D,
    panel: usize,
    columns: usize,
    row: usize,
}

impl<D: Dot, const R: usize, const V: usize, const WHOLE: bool> WithSimd for Tile<'_, D, R, V, WHOLE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { panel, columns, row, .. } = self;
        let Product { k, a, b, panels, row_offsets, accumulate, epilogue, .. } = *self.product;
        let b = b[(panel * panels.step).min(b.len())..].as_ptr();
        let first = panel * panels.width;
        let columns = if WHOLE { V * S::F32_LANES } else { columns };
        let lanes = |v: usize| if WHOLE || v + 1 < V { S::F32_LANES } else { columns - v * S::F32_LANES };
        let mut at = [first; R];
        for r in 0..R {
            at[r] += row_offsets.of(row + r);
            // The results' memory is loaded during the products.
            prefetch::to_write(&self.c[at[r]..][..columns]);
        }
        // The sums start from the bias.
        let mut bias = [simd.splat_f32s(0.0); V];
        if let Some(values) = epilogue.bias {
            let values = &values[first..][..columns];
            for v in 0..V {
                bias[v] = load(simd, values, v * S::F32_LANES, lanes(v));
            }
        }
        let mut sums = [bias; R];
        // SAFETY: `check` has asserted that rows `row..row + R` of `a` have all their `k` elements, and that this panel of
        // `b` has `k` rows of `V` whole vectors of the level. `S` has the vectors of that level: `run_and_sum` runs `f32`
        // products at the level, and `check` admits bfloat16 products only at the level that `PairDot::vectorize` uses.
        #[allow(unsafe_code)]
        unsafe {
            match a {
                Rows::Strided { values, strides } => {
                    let mut rows = [values.as_ptr(); R];
                    for r in 0..R {
                        rows[r] = rows[r].wrapping_add((row + r) * strides[0]);
                    }
                    add_products::<S, D, R, V>(simd, self.dot, rows, strides[1], b, panels.stride, k, &mut sums);
                }
                Rows::Pieces { slices, lens } => {
                    let mut b = b;
                    for (piece, &len) in lens.iter().enumerate() {
                        let mut rows = [std::ptr::null(); R];
                        for r in 0..R {
                            rows[r] = slices[(row + r) * lens.len() + piece].as_ptr();
                        }
                        add_products::<S, D, R, V>(simd, self.dot, rows, 1, b, panels.stride, len, &mut sums);
                        b = b.wrapping_add(len * panels.stride);
                    }
                }
            }
        }
        let added = [accumulate.then_some(&*self.c), epilogue.residual];
        for added in added.into_iter().flatten() {
            for r in 0..R {
                let added = &added[at[r]..][..columns];
                for v in 0..V {
                    sums[r][v] = simd.add_f32s(sums[r][v], load(simd, added, v * S::F32_LANES, lanes(v)));
                }
            }
        }
        if epilogue.activation != Activation::Identity {
            for r in 0..R {
                for v in 0..V {
                    sums[r][v] = epilogue.activation.value_vector(simd, sums[r][v]);
                }
            }
        }
        if let Some(pivots) = epilogue.pivots {
            let (distances, squares) = self.totals.split_at_mut(pivots.len());
            let (distances, squares) = (&mut distances[first..][..columns], &mut squares[first..][..columns]);
            for v in 0..V {
                let (offset, lanes) = (v * S::F32_LANES, lanes(v));
                let pivot = load(simd, &pivots[first..], offset, lanes);
                let (mut sum, mut square) = (load(simd, distances, offset, lanes), load(simd, squares, offset, lanes));
                for r in 0..R {
                    let distance = simd.sub_f32s(sums[r][v], pivot);
                    sum = simd.add_f32s(sum, distance);
                    square = simd.mul_add_e_f32s(distance, distance, square);
                }
                store(simd, distances, offset, lanes, sum);
                store(simd, squares, offset, lanes, square);
            }
        }
        for r in 0..R {
            let c = &mut self.c[at[r]..][..columns];
            for v in 0..V {
                store(simd, c, v * S::F32_LANES, lanes(v), sums[r][v]);
            }
        }
    }
}

/// Adds to `sums` the products of `R` rows of `a`, elements `step` apart, with `len` rows of `b`, `stride` apart.
///
/// A single loop, so that the compiler keeps the sums in registers. Inside the loop over pieces it stored and loaded them
/// at every step.
///
/// # Safety
/// Each of `rows` must have `len` elements `step` apart, and `b` must have `len` rows of `V` whole vectors of `S`.
#[inline(always)]
#[allow(unsafe_code)]
#[allow(clippy::too_many_arguments)] // operands and strides of the innermost loop
unsafe fn add_products<S: Simd, D: Dot, const R: usize, const V: usize>(
    simd: S,
    dot: D,
    rows: [*const f32; R],
    step: usize,
    mut b: *const f32,
    stride: usize,
    len: usize,
    sums: &mut [[S::f32s; V]; R],
) {
    let mut acc = *sums;
    let mut at = 0;
    for _ in 0..len {
        let mut vectors = [simd.splat_f32s(0.0); V];
        for v in 0..V {
            // SAFETY: `b` is at one of its `len` rows, which the caller guarantees to have `V` whole vectors.
            vectors[v] = unsafe { b.add(v * S::F32_LANES).cast::<S::f32s>().read_unaligned() };
        }
        for r in 0..R {
            // SAFETY: `at` is one of the `len` elements that the caller guarantees for row `r`.
            let x = simd.splat_f32s(unsafe { *rows[r].wrapping_add(at) });
            for v in 0..V {
                acc[r][v] = dot.dot(simd, x, vectors[v], acc[r][v]);
            }
        }
        // `wrapping` because the last step may go past the end.
        at += step;
        b = b.wrapping_add(stride);
    }
    *sums = acc;
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
    #[should_panic(expected = "bfloat16 products at Scalar")]
    fn product_refuses_bf16_at_narrower_level() {
        let (level, [m, n, k]) = (Level::Scalar, [1, 1, 1]);
        let product = Product {
            m,
            n,
            k,
            a: Rows::Strided { values: &[1.0], strides: [1, 1] },
            b: &[1.0],
            panels: Panels::new(level, k, n),
            row_offsets: RowOffsets::Strided(n),
            accumulate: false,
            epilogue: TileEpilogue::NONE,
            precision: Precision::Bf16,
        };
        product.run(level, &mut [0.0]);
    }

    #[test]
    fn products_of_any_shape_and_stride_equal_sums_at_every_level() {
        for level in Level::available() {
            for (m, k, n) in [(1, 1, 1), (6, 7, 64), (17, 33, 9), (11, 5, 100), (23, 16, 48), (5, 0, 3), (3, 9, 131)] {
                for transposed in [false, true] {
                    let strides = if transposed { [1, m + 1] } else { [k + 2, 1] };
                    let (a_values, b_values) = (values("a", (m + 1) * (k + 2)), values("b", (k + 1) * n));
                    for accumulate in [false, true] {
                        let panels = Panels::new(level, k, n);
                        let start = values("c", m * (n + 1));
                        let mut c = start.clone();
                        let b = &pack(panels, k, n, &b_values);
                        let a = Rows::Strided { values: &a_values, strides };
                        let row_offsets = RowOffsets::Strided(n + 1);
                        Product {
                            m,
                            n,
                            k,
                            a,
                            b,
                            panels,
                            row_offsets,
                            accumulate,
                            epilogue: TileEpilogue::NONE,
                            precision: Precision::F32,
                        }
                        .run(level, &mut c);
                        for i in 0..m {
                            assert_eq!(c[i * (n + 1) + n], start[i * (n + 1) + n], "padding was written");
                            for j in 0..n {
                                let mut sum = if accumulate { f64::from(start[i * (n + 1) + j]) } else { 0.0 };
                                for l in 0..k {
                                    sum += f64::from(a_values[i * strides[0] + l * strides[1]])
                                        * f64::from(b_values[l * n + j]);
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
