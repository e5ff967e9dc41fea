//! Weights in the layouts that the kernels read.
//!
//! A [`Filter`] is packed or transformed once for as long as the weight does not change. For a large trainable weight and a
//! batch of few pixels, packing would be most of the memory traffic. There the kernel gets the raw weight and packs each
//! panel in cache, where it multiplies with it.

use rayon::prelude::*;

use super::algorithm::{Algorithm, Use};
use super::{Shape, direct, few_channels, grouped, winograd};
use crate::simd::Level;
use crate::{Memory, Precision, bf16};

/// A weight as passed to a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form<'a> {
    /// In the layout that the kernel reads.
    Packed(&'a [f32]),
    /// `[kh, kw, in_channels / groups, out_channels]`: the kernel packs it panel by panel.
    Raw(&'a [f32]),
}

impl<'a> Form<'a> {
    /// The packed weight, for kernels that take no other form.
    pub fn packed(self) -> &'a [f32] {
        match self {
            Form::Packed(data) => data,
            Form::Raw(_) => unreachable!("this kernel takes no raw weight"),
        }
    }
}

/// A convolution weight prepared for one direction, borrowed: what [`forward`](super::forward) and
/// [`backward_input`](super::backward_input) take.
#[derive(Clone, Copy, Debug)]
pub struct Ready<'a> {
    pub(super) level: Level,
    pub(super) precision: Precision,
    pub(super) algorithm: Algorithm,
    pub(super) form: Form<'a>,
}

impl Ready<'_> {
    /// The algorithm that reads the weight.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl<'a> From<&'a Filter> for Ready<'a> {
    fn from(filter: &'a Filter) -> Self {
        let &Filter { level, precision, algorithm, ref data, len, .. } = filter;
        Ready { level, precision, algorithm, form: Form::Packed(&data[..len]) }
    }
}

/// A convolution weight in the layout of its algorithm, for one direction, with memory for reuse.
#[derive(Clone, Debug)]
pub struct Filter {
    level: Level,
    requested: Precision,
    /// The precision in use: `f32` where the algorithm or the shape has no bfloat16 products.
    precision: Precision,
    algorithm: Algorithm,
    data: Memory,
    /// Elements of `data` in use.
    len: usize,
}

impl Filter {
    /// An empty filter, whose memory [`once_forward`](Self::once_forward) and [`once_backward`](Self::once_backward) use.
    ///
    /// # Panics
    /// If the precision is not [available](Precision::is_available).
    pub fn new(precision: Precision) -> Self {
        Self::at(Level::current(), precision)
    }

    /// An empty filter for a level.
    pub(super) fn at(level: Level, precision: Precision) -> Self {
        assert!(precision.is_available(), "{precision:?} on this CPU");
        let (requested, algorithm) = (precision, Algorithm::Direct);
        Self { level, requested, precision, algorithm, data: Memory::default(), len: 0 }
    }

    /// Prepares `weight`, `[kh, kw, in_channels / groups, out_channels]`, for [`forward`](super::forward) on many batches.
    ///
    /// The algorithm is chosen for the batch size of `shape`. Other batch sizes work too, perhaps more slowly.
    ///
    /// # Panics
    /// If `weight` has another length than the shape says, or if the precision is not
    /// [available](Precision::is_available).
    pub fn for_forward(shape: &Shape, weight: &[f32], precision: Precision) -> Self {
        let mut filter = Self::new(precision);
        filter.set_for(Algorithm::choose(shape, Use::Often, precision), shape, weight, false);
        filter
    }

    /// [`for_forward`](Self::for_forward), but for [`backward_input`](super::backward_input).
    pub fn for_backward(shape: &Shape, weight: &[f32], precision: Precision) -> Self {
        let mut filter = Self::new(precision);
        filter.set_for(Algorithm::choose(shape, Use::Often, precision), shape, weight, true);
        filter
    }

    /// Prepares `weight` for [`forward`](super::forward) on one batch, reusing this filter's memory.
    ///
    /// # Panics
    /// If `weight` has another length than the shape says.
    pub fn once_forward<'a>(&'a mut self, shape: &Shape, weight: &'a [f32]) -> Ready<'a> {
        self.once(shape, weight, false)
    }

    /// [`once_forward`](Self::once_forward), but for [`backward_input`](super::backward_input).
    pub fn once_backward<'a>(&'a mut self, shape: &Shape, weight: &'a [f32]) -> Ready<'a> {
        self.once(shape, weight, true)
    }

    /// Prepares `weight` for one batch, in one direction.
    fn once<'a>(&'a mut self, shape: &Shape, weight: &'a [f32], backward: bool) -> Ready<'a> {
        let algorithm = Algorithm::choose(shape, Use::Once, self.requested);
        self.raw(algorithm, shape, weight, backward).unwrap_or_else(|| {
            self.set_for(algorithm, shape, weight, backward);
            Ready::from(&*self)
        })
    }

    /// The raw weight, if the algorithm's kernel packs it by itself for this shape.
    pub(super) fn raw<'a>(
        &self,
        algorithm: Algorithm,
        shape: &Shape,
        weight: &'a [f32],
        backward: bool,
    ) -> Option<Ready<'a>> {
        assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
        let takes_raw = match algorithm {
            Algorithm::Winograd if backward => winograd::takes_raw_weight(&winograd::gradient_shape(shape)),
            Algorithm::Winograd => winograd::takes_raw_weight(shape),
            // bfloat16 pairs are built from the whole weight, so that one is always packed.
            Algorithm::Direct if self.requested == Precision::F32 => {
                direct::takes_raw_weight(self.level, shape, backward)
            }
            _ => false,
        };
        let (level, precision, form) = (self.level, Precision::F32, Form::Raw(weight));
        takes_raw.then_some(Ready { level, precision, algorithm, form })
    }

    /// The algorithm that reads the weight.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Packs `weight` for an algorithm, in one direction.
    pub(super) fn set_for(&mut self, algorithm: Algorithm, shape: &Shape, weight: &[f32], backward: bool) {
        assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
        self.algorithm = algorithm;
        self.precision = self.requested;
        if !supports_pairs(algorithm, shape, backward) {
            self.precision = Precision::F32;
        }
        let Self { level, precision, ref mut data, .. } = *self;
        let paired = precision == Precision::Bf16;
        self.len = match algorithm {
            Algorithm::Winograd => {
                let shape = if backward { &winograd::gradient_shape(shape) } else { shape };
                winograd::transform_filter(level, shape, weight, backward, data)
            }
            Algorithm::Direct | Algorithm::FewChannels if backward => {
                let (words, shape) = (&mut Memory::default(), &pairs_of_outputs(shape, paired));
                let weight = if paired { paired_values(weight, words) } else { weight };
                direct::pack_backward(level, shape, weight, data)
            }
            Algorithm::FewChannels => few_channels::pack(level, precision, shape, weight, data),
            Algorithm::Direct => {
                let (words, halved) = (&mut Memory::default(), &pairs_of_inputs(shape, paired));
                let weight = if paired { paired_rows(weight, shape.out_channels, words) } else { weight };
                direct::pack_forward(level, halved, weight, data)
            }
            Algorithm::Grouped if backward => grouped::pack_backward(level, shape, weight, data),
            Algorithm::Grouped => grouped::pack_forward(level, shape, weight, data),
            Algorithm::Depthwise => {
                data.reserve(weight.len());
                data[..weight.len()].copy_from_slice(weight);
                weight.len()
            }
        };
    }
}

/// Whether an algorithm has bfloat16 products for the shape, which pair input channels, or output channels `backward`.
fn supports_pairs(algorithm: Algorithm, shape: &Shape, backward: bool) -> bool {
    match (algorithm, backward) {
        (Algorithm::FewChannels, false) => few_channels::supports_pairs(shape),
        (Algorithm::Direct, false) => shape.groups == 1 && shape.in_channels.is_multiple_of(2),
        (Algorithm::Direct | Algorithm::FewChannels, true) => shape.groups == 1 && shape.out_channels.is_multiple_of(2),
        (Algorithm::Winograd | Algorithm::Depthwise | Algorithm::Grouped, _) => false,
    }
}

/// The shape with input channels counted in pairs, if `paired`.
pub(super) fn pairs_of_inputs(shape: &Shape, paired: bool) -> Shape {
    Shape { in_channels: if paired { shape.in_channels / 2 } else { shape.in_channels }, ..*shape }
}

/// The shape with output channels counted in pairs, if `paired`.
pub(super) fn pairs_of_outputs(shape: &Shape, paired: bool) -> Shape {
    Shape { out_channels: if paired { shape.out_channels / 2 } else { shape.out_channels }, ..*shape }
}

/// Pairs neighbouring values of a weight.
fn paired_values<'a>(values: &[f32], words: &'a mut Memory) -> &'a [f32] {
    let len = values.len() / 2;
    words.reserve(len);
    bf16::pair_map(values, &mut words[..len]);
    &words[..len]
}

/// Pairs neighbouring rows of a weight.
fn paired_rows<'a>(weight: &[f32], columns: usize, words: &'a mut Memory) -> &'a [f32] {
    let len = weight.len() / 2;
    words.reserve(len);
    words[..len].par_chunks_mut(columns).zip(weight.par_chunks_exact(2 * columns)).for_each(|(words, rows)| {
        bf16::pair_all_rows(rows, 2, columns, columns, words);
    });
    &words[..len]
}
