//! Weights in the forms that kernels read.
//!
//! A [`Filter`] is packed, or transformed, once for as long as the weight does not change. Where the weight learns, and is
//! large while the batch has few pixels, that would be most of the traffic with memory: there the kernel gets it as it is,
//! and packs each panel where it multiplies with it, in cache.

use rayon::prelude::*;

use super::algorithm::{Algorithm, Use};
use super::{Shape, direct, few_channels, grouped, winograd};
use crate::simd::Level;
use crate::{Memory, Precision, bf16};

/// A weight as a kernel gets it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form<'a> {
    /// In the form that the kernel reads.
    Packed(&'a [f32]),
    /// `[kh, kw, in_channels / groups, out_channels]`: the kernel packs it panel by panel.
    AsIs(&'a [f32]),
}

impl<'a> Form<'a> {
    /// The packed weight, for a kernel that gets no other.
    pub fn packed(self) -> &'a [f32] {
        match self {
            Form::Packed(data) => data,
            Form::AsIs(_) => unreachable!("only a kernel that packs by itself gets the weight as it is"),
        }
    }
}

/// A convolution's weight, ready for one direction.
#[derive(Clone, Copy, Debug)]
pub struct Ready<'a> {
    pub(super) level: Level,
    pub(super) precision: Precision,
    pub(super) algorithm: Algorithm,
    pub(super) form: Form<'a>,
}

impl Ready<'_> {
    /// The algorithm that reads it.
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

/// A convolution's weight in the form that its kernel reads, for one direction.
#[derive(Clone, Debug)]
pub struct Filter {
    level: Level,
    /// Wanted, and what it has come to for this shape.
    wanted: Precision,
    precision: Precision,
    algorithm: Algorithm,
    /// Of which `len` elements are used.
    data: Memory,
    len: usize,
}

impl Filter {
    /// Empty: memory for [`once_forward`](Self::once_forward) and [`once_backward`](Self::once_backward).
    ///
    /// # Panics
    /// If this CPU lacks the precision.
    pub fn new(precision: Precision) -> Self {
        Self::at(Level::current(), precision)
    }

    pub(super) fn at(level: Level, precision: Precision) -> Self {
        assert!(precision.is_available(), "{precision:?} on this CPU");
        let (wanted, algorithm) = (precision, Algorithm::Direct);
        Self { level, wanted, precision, algorithm, data: Memory::default(), len: 0 }
    }

    /// Prepares `weight`, `[kh, kw, in_channels / groups, out_channels]`, for [`forward`](super::forward) with batch after batch like that
    /// of `shape`. Other batches are computed as well, perhaps by a slower algorithm.
    pub fn for_forward(shape: &Shape, weight: &[f32], precision: Precision) -> Self {
        let mut filter = Self::new(precision);
        filter.set_for(Algorithm::choose(shape, Use::Often, precision), shape, weight, false);
        filter
    }

    /// Prepares `weight` for [`backward_input`](super::backward_input) with batch after batch.
    pub fn for_backward(shape: &Shape, weight: &[f32], precision: Precision) -> Self {
        let mut filter = Self::new(precision);
        filter.set_for(Algorithm::choose(shape, Use::Often, precision), shape, weight, true);
        filter
    }

    /// Makes `weight` ready for [`forward`](super::forward) with one batch, in the memory that is there.
    pub fn once_forward<'a>(&'a mut self, shape: &Shape, weight: &'a [f32]) -> Ready<'a> {
        self.once(shape, weight, false)
    }

    /// Makes `weight` ready for [`backward_input`](super::backward_input) with one batch, in the memory that is there.
    pub fn once_backward<'a>(&'a mut self, shape: &Shape, weight: &'a [f32]) -> Ready<'a> {
        self.once(shape, weight, true)
    }

    fn once<'a>(&'a mut self, shape: &Shape, weight: &'a [f32], backward: bool) -> Ready<'a> {
        let algorithm = Algorithm::choose(shape, Use::Once, self.wanted);
        self.as_is(algorithm, shape, weight, backward).unwrap_or_else(|| {
            self.set_for(algorithm, shape, weight, backward);
            Ready::from(&*self)
        })
    }

    /// The weight for a kernel that packs by itself, if the algorithm's does for this shape.
    pub(super) fn as_is<'a>(
        &self,
        algorithm: Algorithm,
        shape: &Shape,
        weight: &'a [f32],
        backward: bool,
    ) -> Option<Ready<'a>> {
        assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
        let packs = match algorithm {
            Algorithm::Winograd if backward => winograd::packs_by_panel(&winograd::gradient_shape(shape)),
            Algorithm::Winograd => winograd::packs_by_panel(shape),
            // Pairs are made of the whole weight.
            Algorithm::Direct if self.wanted == Precision::F32 => direct::packs_by_panel(self.level, shape, backward),
            _ => false,
        };
        let (level, precision, form) = (self.level, Precision::F32, Form::AsIs(weight));
        packs.then_some(Ready { level, precision, algorithm, form })
    }

    /// The algorithm that reads it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Packs `weight` for an algorithm.
    pub(super) fn set_for(&mut self, algorithm: Algorithm, shape: &Shape, weight: &[f32], backward: bool) {
        assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
        self.algorithm = algorithm;
        self.precision = self.wanted;
        if !pairs(algorithm, shape, backward) {
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
                let weight = if paired { map_words(weight, words) } else { weight };
                direct::pack_backward(level, shape, weight, data)
            }
            Algorithm::FewChannels => few_channels::pack(level, precision, shape, weight, data),
            Algorithm::Direct => {
                let (words, halved) = (&mut Memory::default(), &pairs_of_inputs(shape, paired));
                let weight = if paired { row_words(weight, shape.out_channels, words) } else { weight };
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

/// Whether an algorithm can compute in pairs: of input channels, or of output channels for the input's gradient.
fn pairs(algorithm: Algorithm, shape: &Shape, backward: bool) -> bool {
    match (algorithm, backward) {
        (Algorithm::FewChannels, false) => few_channels::pairs(shape),
        (Algorithm::Direct, false) => shape.groups == 1 && shape.in_channels.is_multiple_of(2),
        (Algorithm::Direct | Algorithm::FewChannels, true) => shape.groups == 1 && shape.out_channels.is_multiple_of(2),
        (Algorithm::Winograd | Algorithm::Depthwise | Algorithm::Grouped, _) => false,
    }
}

/// The shape of a convolution whose input channels are pairs, if they are `paired`.
pub(super) fn pairs_of_inputs(shape: &Shape, paired: bool) -> Shape {
    Shape { in_channels: if paired { shape.in_channels / 2 } else { shape.in_channels }, ..*shape }
}

/// The shape of a convolution whose output channels are pairs, if they are `paired`.
pub(super) fn pairs_of_outputs(shape: &Shape, paired: bool) -> Shape {
    Shape { out_channels: if paired { shape.out_channels / 2 } else { shape.out_channels }, ..*shape }
}

/// Pairs of neighbouring values of a map or a weight.
fn map_words<'a>(values: &[f32], words: &'a mut Memory) -> &'a [f32] {
    let len = values.len() / 2;
    words.reserve(len);
    bf16::pair_map(values, &mut words[..len]);
    &words[..len]
}

/// Pairs of neighbouring rows of a weight.
fn row_words<'a>(weight: &[f32], columns: usize, words: &'a mut Memory) -> &'a [f32] {
    let len = weight.len() / 2;
    words.reserve(len);
    words[..len].par_chunks_mut(columns).zip(weight.par_chunks_exact(2 * columns)).for_each(|(words, rows)| {
        bf16::pair_all_rows(rows, 2, columns, columns, words);
    });
    &words[..len]
}
