//! Sources and sinks of the transforms: squares of a map, and the 36 points.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::transforms::{POINTS, SIDE, Sink, Source, Transform, in_rows, unrolled};
use crate::vector::{MAX_LANES, load, store};

/// A square of `N` by `N` pixels, one vector of channels each. It is zero where it reaches beyond the map.
#[derive(Clone, Copy)]
struct Square<'a> {
    map: &'a [f32],
    size: [usize; 2],
    channels: usize,
    image: usize,
    /// First line and column, which may be negative.
    start: [isize; 2],
    /// First channel of the vector, and its lanes.
    channel: usize,
    lanes: usize,
}

impl<'a> Square<'a> {
    /// Whether the whole square lies inside the map.
    fn is_inside(&self, side: usize) -> bool {
        let inside = |axis: usize| self.start[axis] >= 0 && self.start[axis] as usize + side <= self.size[axis];
        inside(0) && inside(1)
    }

    /// The map's elements from a pixel's vector on.
    #[inline(always)]
    fn from(&self, y: usize, x: usize) -> &'a [f32] {
        &self.map[((self.image * self.size[0] + y) * self.size[1] + x) * self.channels + self.channel..]
    }

    /// The square's lines (axis 0) or columns (axis 1) that lie inside the map.
    fn within(&self, axis: usize, side: usize) -> Range<usize> {
        let first = (-self.start[axis]).clamp(0, side as isize);
        let end = (self.size[axis] as isize - self.start[axis]).clamp(first, side as isize);
        first as usize..end as usize
    }
}

/// Copies a square to whole vectors, one per pixel.
struct Copy<'a, const N: usize> {
    square: Square<'a>,
    to: &'a mut [f32],
}

impl<const N: usize> WithSimd for Copy<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { square, to } = self;
        let (ys, xs) = (square.within(0, N), square.within(1, N));
        to[..N * N * S::F32_LANES].fill(0.0);
        for i in ys {
            for j in xs.clone() {
                let (y, x) = (square.start[0] + i as isize, square.start[1] + j as isize);
                let value = load(simd, square.from(y as usize, x as usize), 0, square.lanes);
                store(simd, to, (i * N + j) * S::F32_LANES, S::F32_LANES, value);
            }
        }
    }
}

/// A square of whole vectors.
struct Vectors<'a> {
    values: &'a [f32],
    /// Elements between lines, and between pixels.
    line: usize,
    pixel: usize,
}

impl<S: Simd, const N: usize> Source<S, N> for Vectors<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; N] {
        let mut values = [simd.splat_f32s(0.0); N];
        let column = &self.values[j * self.pixel..][..(N - 1) * self.line + S::F32_LANES];
        unrolled!(i in 0..N { values[i] = load(simd, column, i * self.line, S::F32_LANES) });
        values
    }
}

/// One vector at each of the 36 points.
pub(super) struct Points<T> {
    pub data: T,
    /// Elements between the planes of two points.
    pub plane: usize,
    /// The vector's element in each plane.
    pub at: usize,
}

impl<S: Simd> Source<S, SIDE> for Points<&[f32]> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; SIDE] {
        let mut values = [simd.splat_f32s(0.0); SIDE];
        unrolled!(i in 0..SIDE {
            values[i] = load(simd, self.data, (i * SIDE + j) * self.plane + self.at, S::F32_LANES);
        });
        values
    }
}

impl<S: Simd> Sink<S, SIDE> for Points<&mut [f32]> {
    #[inline(always)]
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; SIDE]) {
        unrolled!(j in 0..SIDE {
            store(simd, self.data, (i * SIDE + j) * self.plane + self.at, S::F32_LANES, values[j]);
        });
    }
}

/// Buffer for a copy of a square's vectors.
pub(super) type CopyBuffer = [f32; POINTS * MAX_LANES];

/// A map, its height and width, and its channels.
pub(super) type Map<'a> = (&'a [f32], [usize; 2], usize);

/// Transforms a square of a map to `ROWS` rows of points from row `FIRST` on. `copy` is a scratch buffer.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // source and destination
pub(super) fn transform_square<
    S: Simd,
    T: Transform<N, SIDE>,
    const N: usize,
    const FIRST: usize,
    const ROWS: usize,
>(
    simd: S,
    (map, size, channels): Map,
    image: usize,
    start: [isize; 2],
    channel: usize,
    lanes: usize,
    copy: &mut CopyBuffer,
    mut points: Points<&mut [f32]>,
) {
    let square = Square { map, size, channels, image, start, channel, lanes };
    // A square that reaches over an edge is copied first, because a transform with conditional reads would be several times
    // the code. `vectorize` makes the copy a function of its own.
    let source = if lanes == S::F32_LANES && square.is_inside(N) {
        Vectors { values: square.from(start[0] as usize, start[1] as usize), line: size[1] * channels, pixel: channels }
    } else {
        simd.vectorize(Copy::<N> { square, to: copy });
        Vectors { values: copy, line: N * S::F32_LANES, pixel: S::F32_LANES }
    };
    in_rows::<S, T, N, SIDE, FIRST, ROWS>(simd, &source, &mut points);
}
