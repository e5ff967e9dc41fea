//! The patches that a convolution multiplies with its weight, and their location in the map.

use std::ops::Range;

use crate::conv::Shape;

/// Location of patches in a map.
///
/// Positions are numbered by image, line and column. Tap `t` of the position at line `y`, column `x` reads pixel
/// `(y * step[0] + offsets[t][0], x * step[1] + offsets[t][1])`, or zero outside the map.
#[derive(Clone, Debug)]
pub(super) struct Patches {
    /// Height and width of the map.
    pub map: [usize; 2],
    /// Channels of the map.
    pub map_channels: usize,
    /// Channels of one group, which a patch reads.
    pub channels: usize,
    /// Lines and columns of positions per image.
    pub positions: [usize; 2],
    pub step: [usize; 2],
    pub offsets: Vec<[isize; 2]>,
}

impl Patches {
    /// The input patches of a convolution; a position is an output pixel.
    pub fn of_input(shape: &Shape) -> Self {
        let offset = |axis: usize, tap: usize| (tap * shape.dilation[axis]) as isize - shape.padding[axis] as isize;
        let offsets = (0..shape.taps()).map(|tap| [offset(0, tap / shape.kernel[1]), offset(1, tap % shape.kernel[1])]);
        Self {
            map: shape.input,
            map_channels: shape.in_channels,
            channels: shape.in_per_group(),
            positions: shape.output,
            step: shape.stride,
            offsets: offsets.collect(),
        }
    }

    /// Elements of a patch, `taps * channels`.
    pub fn columns(&self) -> usize {
        self.offsets.len() * self.channels
    }

    /// Whether the patch matrix is the map itself.
    pub fn is_map(&self) -> bool {
        self.offsets == [[0, 0]] && self.step == [1, 1] && self.positions == self.map
    }

    /// Splits `columns` of a patch, `[taps, channels]`, into contiguous runs; adjacent taps of all channels are one run.
    pub fn runs(&self, columns: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut column = columns.start;
        while column < columns.end {
            let (tap, channel) = (column / self.channels, column % self.channels);
            let len = (self.channels - channel).min(columns.end - column);
            let offset = self.offsets[tap];
            match runs.last_mut() {
                Some(last)
                    if len == self.map_channels
                        && last.len == last.pixels * len
                        && last.offset[0] == offset[0]
                        && last.offset[1] + last.pixels as isize == offset[1] =>
                {
                    last.pixels += 1;
                    last.len += len;
                }
                _ => runs.push(Run { offset, pixels: 1, channel, len }),
            }
            column += len;
        }
        runs
    }

    /// The patch matrix of some positions, row by row and run by run, as slices.
    ///
    /// A run inside the map is a slice of the map; a run that reaches beyond its sides is copied to `copies`.
    pub fn rows<'a>(
        &self,
        map: &'a [f32],
        first_channel: usize,
        positions: Range<usize>,
        runs: &[Run],
        copies: &'a mut [f32],
    ) -> Vec<&'a [f32]> {
        enum Place {
            Map(usize),
            Copy(usize),
        }
        let [height, width] = self.map;
        let mut places = Vec::with_capacity(positions.len() * runs.len());
        // All lines above and below the map share one run of zeros.
        let mut copied = runs.iter().map(|run| run.len).max().unwrap_or(0);
        copies[..copied].fill(0.0);
        self.for_each(positions, |image, y, x| {
            for run in runs {
                let [iy, ix] = [y as isize + run.offset[0], x as isize + run.offset[1]];
                if iy < 0 || iy as usize >= height {
                    places.push(Place::Copy(0));
                    continue;
                }
                let line = (image * height + iy as usize) * width;
                let channel = first_channel + run.channel;
                if ix >= 0 && ix as usize + run.pixels <= width {
                    places.push(Place::Map((line + ix as usize) * self.map_channels + channel));
                    continue;
                }
                places.push(Place::Copy(copied));
                for (i, out) in copies[copied..][..run.len].chunks_exact_mut(run.len / run.pixels).enumerate() {
                    let ix = ix + i as isize;
                    if ix >= 0 && (ix as usize) < width {
                        let at = (line + ix as usize) * self.map_channels + channel;
                        out.copy_from_slice(&map[at..at + out.len()]);
                    } else {
                        out.fill(0.0);
                    }
                }
                copied += run.len;
            }
        });
        let copies = &*copies;
        let lens = runs.iter().map(|run| run.len).cycle();
        let slice = |(place, len): (Place, usize)| match place {
            Place::Map(at) => &map[at..at + len],
            Place::Copy(at) => &copies[at..at + len],
        };
        places.into_iter().zip(lens).map(slice).collect()
    }

    /// Copies some `runs` of the patches of some positions to the rows of `panel`, `stride` apart.
    pub fn gather(
        &self,
        map: &[f32],
        first_channel: usize,
        positions: Range<usize>,
        runs: &[Run],
        stride: usize,
        panel: &mut [f32],
    ) {
        let [height, width] = self.map;
        let mut rows = panel.chunks_mut(stride);
        self.for_each(positions, |image, y, x| {
            let mut row = rows.next().expect("a row for each position");
            for run in runs {
                let (out, rest) = std::mem::take(&mut row).split_at_mut(run.len);
                row = rest;
                let [iy, ix] = [y as isize + run.offset[0], x as isize + run.offset[1]];
                if iy < 0 || iy as usize >= height {
                    out.fill(0.0);
                    continue;
                }
                let line = &map[(image * height + iy as usize) * width * self.map_channels..];
                if ix >= 0 && ix as usize + run.pixels <= width {
                    let at = ix as usize * self.map_channels + first_channel + run.channel;
                    copy(&line[at..], out);
                    continue;
                }
                for (i, out) in out.chunks_exact_mut(run.len / run.pixels).enumerate() {
                    let ix = ix + i as isize;
                    if ix >= 0 && (ix as usize) < width {
                        let at = ix as usize * self.map_channels + first_channel + run.channel;
                        out.copy_from_slice(&line[at..at + out.len()]);
                    } else {
                        out.fill(0.0);
                    }
                }
            }
        });
    }

    /// Calls `visit(image, line, column)` for some positions, with their pixel in the map.
    fn for_each(&self, positions: Range<usize>, mut visit: impl FnMut(usize, usize, usize)) {
        let [lines, line_len] = self.positions;
        let start = positions.start;
        let (mut image, mut y, mut x) = (start / (lines * line_len), start / line_len % lines, start % line_len);
        for _ in positions {
            visit(image, y * self.step[0], x * self.step[1]);
            x += 1;
            if x == line_len {
                (x, y) = (0, y + 1);
                if y == lines {
                    (y, image) = (0, image + 1);
                }
            }
        }
    }
}

/// The input pixels with one residue modulo the stride.
///
/// The same taps read all of them, so their gradient is a convolution of the output gradient with stride 1.
pub(super) struct Residue {
    /// First line and column of these pixels.
    pub first: [usize; 2],
    /// The taps that read them.
    pub taps: Vec<usize>,
    /// Their patches in the output gradient.
    pub patches: Patches,
}

impl Residue {
    /// All residues of a shape's stride.
    pub fn all(shape: &Shape) -> Vec<Self> {
        let mut residues = Vec::new();
        for first_y in 0..shape.stride[0].min(shape.input[0]) {
            for first_x in 0..shape.stride[1].min(shape.input[1]) {
                let first = [first_y, first_x];
                // The output position that reads the first pixel through a tap, if it is a whole number.
                let offset = |axis: usize, tap: usize| {
                    let from = (first[axis] + shape.padding[axis]) as isize - (tap * shape.dilation[axis]) as isize;
                    let stride = shape.stride[axis] as isize;
                    (from.rem_euclid(stride) == 0).then_some(from.div_euclid(stride))
                };
                let reached = (0..shape.taps()).filter_map(|tap| {
                    let [y, x] = [offset(0, tap / shape.kernel[1])?, offset(1, tap % shape.kernel[1])?];
                    Some((tap, [y, x]))
                });
                let (taps, offsets): (Vec<_>, Vec<_>) = reached.unzip();
                let positions = std::array::from_fn(|i| (shape.input[i] - first[i]).div_ceil(shape.stride[i]));
                let patches = Patches {
                    map: shape.output,
                    map_channels: shape.out_channels,
                    channels: shape.out_per_group(),
                    positions,
                    step: [1, 1],
                    offsets,
                };
                residues.push(Self { first, taps, patches });
            }
        }
        residues
    }
}

/// Contiguous elements of a patch: channels of one pixel, or all channels of several pixels in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The first pixel, relative to the position.
    pub offset: [isize; 2],
    pub pixels: usize,
    /// First channel.
    pub channel: usize,
    /// Number of elements.
    pub len: usize,
}

/// Fills `to` from `from`. Short runs are copied as overlapping vectors, which avoids the call of a general copy.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    const SHORT: usize = 8;
    let len = to.len();
    if !(SHORT..=4 * SHORT).contains(&len) {
        return to.copy_from_slice(&from[..len]);
    }
    for start in (0..len).step_by(SHORT) {
        // The last vector overlaps the one before it.
        let start = start.min(len - SHORT);
        let vector: [f32; SHORT] = from[start..start + SHORT].try_into().expect("as long as asked for");
        to[start..start + SHORT].copy_from_slice(&vector);
    }
}
