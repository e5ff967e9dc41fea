//! Where the transforms read and write: squares of a map, and the 36 points.

use pulp::Simd;

use super::transforms::{SIDE, Sink, Source, Transform, in_rows, unrolled};
use crate::vector::{load, store};

/// A square of `N` by `N` pixels of a map, which may reach over its edges, where it is zero.
#[derive(Clone, Copy)]
struct Square<'a> {
    map: &'a [f32],
    size: [usize; 2],
    channels: usize,
    image: usize,
    /// The first line and column: may be negative.
    start: [isize; 2],
    /// The first channel of the vector, and how many of it exist.
    channel: usize,
    lanes: usize,
}

impl Square<'_> {
    fn is_inside(&self, side: usize) -> bool {
        let inside = |axis: usize| self.start[axis] >= 0 && self.start[axis] as usize + side <= self.size[axis];
        inside(0) && inside(1)
    }

    #[inline(always)]
    fn at(&self, y: isize, x: isize) -> usize {
        ((self.image * self.size[0] + y as usize) * self.size[1] + x as usize) * self.channels + self.channel
    }
}

/// A square inside of the map, of whole vectors.
struct Inside<'a>(Square<'a>);

impl<S: Simd, const N: usize> Source<S, N> for Inside<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; N] {
        let Self(square) = self;
        let mut values = [simd.splat_f32s(0.0); N];
        let [y, x] = square.start;
        let line = square.size[1] * square.channels;
        let column = &square.map[square.at(y, x + j as isize)..][..(N - 1) * line + S::F32_LANES];
        unrolled!(i in 0..N { values[i] = load(simd, column, i * line, S::F32_LANES) });
        values
    }
}

/// Any square.
struct Border<'a>(Square<'a>);

impl<S: Simd, const N: usize> Source<S, N> for Border<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; N] {
        let Self(square) = self;
        let mut values = [simd.splat_f32s(0.0); N];
        let [y, x] = square.start;
        let x = x + j as isize;
        if x >= 0 && (x as usize) < square.size[1] {
            unrolled!(i in 0..N {
                let y = y + i as isize;
                if y >= 0 && (y as usize) < square.size[0] {
                    values[i] = load(simd, square.map, square.at(y, x), square.lanes);
                }
            });
        }
        values
    }
}

/// A vector at each of the 36 points, planes apart.
pub(super) struct Points<T> {
    pub data: T,
    /// Elements from one point's plane to the next.
    pub plane: usize,
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

/// A map, with its size and channels.
pub(super) type Map<'a> = (&'a [f32], [usize; 2], usize);

/// Transforms a square of a map to `ROWS` rows of the points, from row `FIRST` on.
#[inline(always)]
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
    mut points: Points<&mut [f32]>,
) {
    let square = Square { map, size, channels, image, start, channel, lanes };
    if lanes == S::F32_LANES && square.is_inside(N) {
        in_rows::<S, T, N, SIDE, FIRST, ROWS>(simd, &Inside(square), &mut points);
    } else {
        in_rows::<S, T, N, SIDE, FIRST, ROWS>(simd, &Border(square), &mut points);
    }
}
