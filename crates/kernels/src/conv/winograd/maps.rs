//! Where the transforms read and write: squares of a map, and the 36 points.

use pulp::Simd;

use super::transforms::{SIDE, Sink, Source, Transform, in_both, in_row};
use crate::vector::{load, store};

/// A square of `N` by `N` pixels of a map, which may reach over its edges, where it is zero.
struct Square<'a, const N: usize, const WHOLE: bool> {
    map: &'a [f32],
    size: [usize; 2],
    channels: usize,
    image: usize,
    /// The first line and column: may be negative.
    start: [isize; 2],
    /// The first channel of the vector, and how many of it exist: all with `WHOLE`.
    channel: usize,
    lanes: usize,
}

impl<const N: usize, const WHOLE: bool> Square<'_, N, WHOLE> {
    fn is_inside(&self) -> bool {
        let inside = |axis: usize| self.start[axis] >= 0 && self.start[axis] as usize + N <= self.size[axis];
        inside(0) && inside(1)
    }

    #[inline(always)]
    fn at(&self, y: isize, x: isize) -> usize {
        ((self.image * self.size[0] + y as usize) * self.size[1] + x as usize) * self.channels + self.channel
    }
}

impl<S: Simd, const N: usize, const WHOLE: bool> Source<S, N> for Square<'_, N, WHOLE> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; N] {
        let mut values = [simd.splat_f32s(0.0); N];
        let ([y, x], lanes) = (self.start, if WHOLE { S::F32_LANES } else { self.lanes });
        let x = x + j as isize;
        if self.is_inside() {
            let line = self.size[1] * self.channels;
            let column = &self.map[self.at(y, x)..][..(N - 1) * line + lanes];
            for i in 0..N {
                values[i] = load(simd, column, i * line, lanes);
            }
        } else if x >= 0 && (x as usize) < self.size[1] {
            for i in 0..N {
                let y = y + i as isize;
                if y >= 0 && (y as usize) < self.size[0] {
                    values[i] = load(simd, self.map, self.at(y, x), lanes);
                }
            }
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
        for i in 0..SIDE {
            values[i] = load(simd, self.data, (i * SIDE + j) * self.plane + self.at, S::F32_LANES);
        }
        values
    }
}

impl<S: Simd> Sink<S, SIDE> for Points<&mut [f32]> {
    #[inline(always)]
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; SIDE]) {
        for j in 0..SIDE {
            store(simd, self.data, (i * SIDE + j) * self.plane + self.at, S::F32_LANES, values[j]);
        }
    }
}

/// Transforms a square of a map (given with its size and channels) to the points.
#[inline(always)]
pub(super) fn transform_square<S: Simd, T: Transform<N, SIDE>, const N: usize>(
    simd: S,
    (map, size, channels): (&[f32], [usize; 2], usize),
    image: usize,
    start: [isize; 2],
    channel: usize,
    lanes: usize,
    mut points: Points<&mut [f32]>,
) {
    if lanes == S::F32_LANES {
        let square = Square::<N, true> { map, size, channels, image, start, channel, lanes };
        in_both::<S, T, N, SIDE>(simd, &square, &mut points);
    } else {
        let square = Square::<N, false> { map, size, channels, image, start, channel, lanes };
        in_both::<S, T, N, SIDE>(simd, &square, &mut points);
    }
}

/// Transforms a square of a map to a row of the points.
#[inline(always)]
pub(super) fn transform_row<S: Simd, T: Transform<N, SIDE>, const N: usize, const ROW: usize>(
    simd: S,
    (map, size, channels): (&[f32], [usize; 2], usize),
    image: usize,
    start: [isize; 2],
    channel: usize,
    lanes: usize,
    mut points: Points<&mut [f32]>,
) {
    if lanes == S::F32_LANES {
        let square = Square::<N, true> { map, size, channels, image, start, channel, lanes };
        in_row::<S, T, N, SIDE, ROW>(simd, &square, &mut points);
    } else {
        let square = Square::<N, false> { map, size, channels, image, start, channel, lanes };
        in_row::<S, T, N, SIDE, ROW>(simd, &square, &mut points);
    }
}
