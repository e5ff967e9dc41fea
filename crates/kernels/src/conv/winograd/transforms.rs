//! The transforms of Winograd's F(4x4, 3x3) with the points 0, ±√½, ±√2 and infinity.
//!
//! The method is that of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Their points 0, ±1, ±2
//! differ more in magnitude, which doubles the rounding error (Barabasz et al., "Error Analysis and Improving the Accuracy
//! of Winograd Convolution", 2020). In matrix form, with a = √½, b = √2:
//!
//! ```text
//!       [1  0 -5/2  0  1 0]        [  1     0     0 ]          [1 1   1   1   1  0]
//!       [0 -b  -2   a  1 0]        [-2/3 -2a/3  -1/3]    A^T = [0 a  -a   b  -b  0]
//! B^T = [0  b  -2  -a  1 0]    G = [-2/3  2a/3  -1/3]          [0 1/2 1/2 2   2  0]
//!       [0 -a -1/2  b  1 0]        [ 1/6   b/6   1/3]          [0 a/2 -a/2 2b -2b 1]
//!       [0  a -1/2 -b  1 0]        [ 1/6  -b/6   1/3]
//!       [0  1   0 -5/2 0 1]        [  0     0     1 ]
//! ```
//!
//! Each [`Transform`] applies one matrix along one dimension, on vectors; [`in_both`] applies it along both. Here and in the
//! kernels that use them there are no closures around vector operations: a closure is compiled for the baseline CPU first,
//! and its operations become calls.

use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};

use pulp::Simd;

/// Side of a tile in the transformed domain.
pub(super) const SIDE: usize = 6;

/// Points of a tile in the transformed domain: the number of products per pair of channels.
pub(super) const POINTS: usize = SIDE * SIDE;

/// Side of an output tile, in pixels.
pub(super) const OUT: usize = 4;

/// Side of the filter.
pub(super) const TAPS: usize = 3;

/// A transform along one dimension, from `I` values to `O`.
pub(super) trait Transform<const I: usize, const O: usize> {
    /// Transforms one vector of values.
    fn apply<S: Simd>(simd: S, x: [S::f32s; I]) -> [S::f32s; O];
}

/// Source of a transform: a square of vectors.
pub(super) trait Source<S: Simd, const I: usize> {
    /// The values of column `j`.
    fn column(&self, simd: S, j: usize) -> [S::f32s; I];
}

/// Destination of a transform: a square of vectors.
pub(super) trait Sink<S: Simd, const O: usize> {
    /// Writes the values of row `i`.
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; O]);
}

/// Unrolls a loop over the indices below a bound of at most six.
///
/// The compiler keeps the arrays of vectors of straight-line code in registers. It does not always unroll a loop, and then
/// they go through memory.
macro_rules! unrolled {
    ($index:ident in 0..$end:ident $body:block) => {
        unrolled!(@ $index, $end, $body, 0, 1, 2, 3, 4, 5);
    };
    (@ $index:ident, $end:ident, $body:block, $($value:literal),*) => {
        $(if $value < $end {
            let $index = $value;
            $body
        })*
    };
}
pub(super) use unrolled;

/// Applies a transform to the columns, then to the rows.
#[inline(always)]
pub(super) fn in_both<S: Simd, T: Transform<I, O>, const I: usize, const O: usize>(
    simd: S,
    source: &impl Source<S, I>,
    sink: &mut impl Sink<S, O>,
) {
    in_rows::<S, T, I, O, 0, O>(simd, source, sink);
}

/// Computes only `ROWS` rows of [`in_both`], from row `FIRST` on.
#[inline(always)]
pub(super) fn in_rows<
    S: Simd,
    T: Transform<I, O>,
    const I: usize,
    const O: usize,
    const FIRST: usize,
    const ROWS: usize,
>(
    simd: S,
    source: &impl Source<S, I>,
    sink: &mut impl Sink<S, O>,
) {
    let mut half = [[simd.splat_f32s(0.0); I]; ROWS];
    unrolled!(j in 0..I {
        let column = T::apply(simd, source.column(simd, j));
        unrolled!(i in 0..ROWS { half[i][j] = column[FIRST + i] });
    });
    unrolled!(i in 0..ROWS { sink.row(simd, i, T::apply(simd, half[i])) });
}

/// `factor * x`.
#[inline(always)]
fn scaled<S: Simd>(simd: S, factor: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), x)
}

/// `factor * x + y`.
#[inline(always)]
fn mul_add<S: Simd>(simd: S, factor: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), x, y)
}

/// `B^T`, which transforms the input.
pub(super) struct Input;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even_a, even_b) = (mul_add(simd, -2.0, x[2], x[4]), mul_add(simd, -0.5, x[2], x[4]));
        let odd_a = mul_add(simd, A, x[3], scaled(simd, -B, x[1]));
        let odd_b = mul_add(simd, B, x[3], scaled(simd, -A, x[1]));
        [
            simd.add_f32s(mul_add(simd, -2.5, x[2], x[0]), x[4]),
            simd.add_f32s(even_a, odd_a),
            simd.sub_f32s(even_a, odd_a),
            simd.add_f32s(even_b, odd_b),
            simd.sub_f32s(even_b, odd_b),
            simd.add_f32s(mul_add(simd, -2.5, x[3], x[1]), x[5]),
        ]
    }
}

/// `G`, which transforms the filter.
pub(super) struct Filter;

impl Transform<3, 6> for Filter {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: [S::f32s; 3]) -> [S::f32s; 6] {
        let even_a = mul_add(simd, -1.0 / 3.0, x[2], scaled(simd, -2.0 / 3.0, x[0]));
        let odd_a = scaled(simd, -2.0 / 3.0 * A, x[1]);
        let even_b = mul_add(simd, 1.0 / 3.0, x[2], scaled(simd, 1.0 / 6.0, x[0]));
        let odd_b = scaled(simd, B / 6.0, x[1]);
        [
            x[0],
            simd.add_f32s(even_a, odd_a),
            simd.sub_f32s(even_a, odd_a),
            simd.add_f32s(even_b, odd_b),
            simd.sub_f32s(even_b, odd_b),
            x[2],
        ]
    }
}

/// `A^T`, which transforms products back to the output.
pub(super) struct Output;

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: [S::f32s; 6]) -> [S::f32s; 4] {
        let (sum_a, difference_a) = (simd.add_f32s(x[1], x[2]), simd.sub_f32s(x[1], x[2]));
        let (sum_b, difference_b) = (simd.add_f32s(x[3], x[4]), simd.sub_f32s(x[3], x[4]));
        [
            simd.add_f32s(x[0], simd.add_f32s(sum_a, sum_b)),
            mul_add(simd, B, difference_b, scaled(simd, A, difference_a)),
            mul_add(simd, 2.0, sum_b, scaled(simd, 0.5, sum_a)),
            mul_add(simd, 2.0 * B, difference_b, mul_add(simd, 0.5 * A, difference_a, x[5])),
        ]
    }
}

/// `A`, which transforms the output gradient for the weight gradient.
pub(super) struct OutputGradient;

impl Transform<4, 6> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: [S::f32s; 4]) -> [S::f32s; 6] {
        let (even_a, even_b) = (mul_add(simd, 0.5, x[2], x[0]), mul_add(simd, 2.0, x[2], x[0]));
        let odd_a = mul_add(simd, 0.5 * A, x[3], scaled(simd, A, x[1]));
        let odd_b = mul_add(simd, 2.0 * B, x[3], scaled(simd, B, x[1]));
        [
            x[0],
            simd.add_f32s(even_a, odd_a),
            simd.sub_f32s(even_a, odd_a),
            simd.add_f32s(even_b, odd_b),
            simd.sub_f32s(even_b, odd_b),
            x[3],
        ]
    }
}

/// `G^T`, which transforms sums of products back to the weight gradient.
pub(super) struct FilterGradient;

impl Transform<6, 3> for FilterGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, x: [S::f32s; 6]) -> [S::f32s; 3] {
        let (sum_a, difference_a) = (simd.add_f32s(x[1], x[2]), simd.sub_f32s(x[1], x[2]));
        let (sum_b, difference_b) = (simd.add_f32s(x[3], x[4]), simd.sub_f32s(x[3], x[4]));
        [
            mul_add(simd, 1.0 / 6.0, sum_b, mul_add(simd, -2.0 / 3.0, sum_a, x[0])),
            mul_add(simd, B / 6.0, difference_b, scaled(simd, -2.0 / 3.0 * A, difference_a)),
            mul_add(simd, 1.0 / 3.0, sum_b, mul_add(simd, -1.0 / 3.0, sum_a, x[5])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    fn along<T: Transform<I, O>, const I: usize, const O: usize>(x: [f32; I]) -> [f32; O] {
        T::apply(pulp::Scalar::new(), x)
    }

    #[test]
    fn products_of_transforms_equal_correlation() {
        let d: [f32; 6] = values("d", 6).try_into().unwrap();
        let g: [f32; 3] = values("g", 3).try_into().unwrap();
        let (u, v): ([f32; 6], [f32; 6]) = (along::<Filter, 3, 6>(g), along::<Input, 6, 6>(d));
        let y: [f32; 4] = along::<Output, 6, 4>(std::array::from_fn(|i| u[i] * v[i]));
        for i in 0..4 {
            let expected: f32 = (0..3).map(|t| d[i + t] * g[t]).sum();
            assert!((y[i] - expected).abs() < 2e-6, "{y:?}");
        }
    }

    /// A matrix and its transpose give equal inner products.
    #[test]
    fn gradient_transforms_are_transposes() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let m: [f32; 6] = values("m", 6).try_into().unwrap();
        let y: [f32; 4] = values("y", 4).try_into().unwrap();
        let g: [f32; 3] = values("g", 3).try_into().unwrap();
        let (forward, back) = (along::<Output, 6, 4>(m), along::<OutputGradient, 4, 6>(y));
        assert!((dot(&forward, &y) - dot(&m, &back)).abs() < 2e-6);
        let (forward, back) = (along::<Filter, 3, 6>(g), along::<FilterGradient, 6, 3>(m));
        assert!((dot(&forward, &m) - dot(&g, &back)).abs() < 2e-6);
    }
}
