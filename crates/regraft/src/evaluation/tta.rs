//! Test-time augmentation: inferring variations of an image.

use regraft_engine::Images;
use regraft_learn::linear::{HeadKind, log_probabilities};

use crate::Result;
use crate::network::session::Network;

/// How an image is varied when a model is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tta {
    /// The photo and its mirror image: the mean of both answers' probabilities, or of both numbers.
    Hflip,
}

impl Tta {
    /// What [`infer`] gives for a head.
    pub(crate) fn head(tta: Option<Self>, head: HeadKind) -> HeadKind {
        if tta.is_some() && head == HeadKind::Ovr { HeadKind::Softmax } else { head }
    }
}

/// The network's outputs for images `side` pixels wide, `[n, outputs]`: logits of `head` or, with a variation, the logits of
/// the mean probabilities: of classes, their logarithms, which are logits of a softmax; of numbers, the mean.
///
/// # Errors
/// Errors of [`Network::infer`].
pub(crate) fn infer(
    network: &mut Network,
    images: Images,
    side: u32,
    head: HeadKind,
    tta: Option<Tta>,
) -> Result<Vec<f32>> {
    let logits = network.infer(images)?;
    let Some(Tta::Hflip) = tta else { return Ok(logits) };
    let mirrored = match images {
        Images::Bytes { pixels, normalization } => {
            network.infer(Images::Bytes { pixels: &mirrored(pixels, side), normalization })?
        }
        Images::Floats(values) => network.infer(Images::Floats(&mirrored(values, side)))?,
    };
    let n = images.len() / (3 * side as usize * side as usize);
    let classes = (logits.len() / n.max(1)).max(1);
    let mean = |(one, other): (f64, f64)| {
        let top = one.max(other);
        top + (((one - top).exp() + (other - top).exp()) / 2.0).ln()
    };
    let both = |one: &[f32], other: &[f32]| -> Vec<f32> {
        let [one, other] = [one, other].map(|row| row.iter().map(|&z| f64::from(z)).collect::<Vec<_>>());
        let opposite = |row: &[f64]| row.iter().map(|z| -z).collect::<Vec<_>>();
        let means = |one: &[f64], other: &[f64]| -> Vec<f64> {
            log_probabilities(head, one).into_iter().zip(log_probabilities(head, other)).map(mean).collect()
        };
        match head {
            HeadKind::Softmax | HeadKind::Ovr => means(&one, &other).iter().map(|&log| log as f32).collect(),
            // The logit of a mean of sigmoids: its logarithm less that of the opposite's.
            HeadKind::Labels => {
                let (yes, no) = (means(&one, &other), means(&opposite(&one), &opposite(&other)));
                yes.iter().zip(no).map(|(yes, no)| (yes - no) as f32).collect()
            }
            HeadKind::Value => one.iter().zip(&other).map(|(a, b)| ((a + b) / 2.0) as f32).collect(),
        }
    };
    let rows = logits.chunks_exact(classes).zip(mirrored.chunks_exact(classes));
    Ok(rows.flat_map(|(one, other)| both(one, other)).collect())
}

/// The images mirrored left to right.
fn mirrored<T: Copy>(images: &[T], side: u32) -> Vec<T> {
    let mut images = images.to_vec();
    for row in images.chunks_exact_mut(3 * side as usize) {
        row.as_chunks_mut::<3>().0.reverse();
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pretrained, Settings};
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::Grafted;
    use regraft_learn::linear::probabilities;
    use regraft_testing::pattern;

    #[test]
    fn infer_gives_the_mean_of_both_probabilities() {
        let engine = CpuEngine::new(1).unwrap();
        let backbone = Pretrained::load(&"squeezenet1_1".into(), &crate::Source::Random, 32, 0).unwrap();
        let settings = Settings::tutorial("photos".into(), "squeezenet1_1".into());
        let (Grafted { graph, .. }, state) = settings.graft(&backbone, 3).unwrap();
        let mut network = Network::new(&engine, &graph, &state).unwrap();
        let (side, n) = (32, 3);
        let images = pattern::values("photos", n * 32 * 32 * 3);
        let flipped: Vec<f32> =
            images.chunks_exact(32 * 3).flat_map(|row| row.rchunks_exact(3).flatten().copied()).collect();
        for head in [HeadKind::Softmax, HeadKind::Ovr, HeadKind::Labels] {
            let mut ask = |images: &[f32], tta| infer(&mut network, Images::Floats(images), side, head, tta).unwrap();
            let probabilities_of = |logits: &[f32], head| {
                let rows = logits.chunks_exact(3).map(|row| row.iter().map(|&z| f64::from(z)).collect::<Vec<_>>());
                rows.flat_map(|row| probabilities(head, &row)).collect::<Vec<_>>()
            };
            let both = probabilities_of(&ask(&images, Some(Tta::Hflip)), Tta::head(Some(Tta::Hflip), head));
            let one = probabilities_of(&ask(&images, None), Tta::head(None, head));
            let other = probabilities_of(&ask(&flipped, None), head);
            assert_eq!(both.len(), 3 * n);
            for ((both, one), other) in both.iter().zip(&one).zip(&other) {
                // The logarithms are rounded to f32.
                assert!((both - (one + other) / 2.0).abs() < 1e-6, "{head:?}: {both} of {one} and {other}");
            }
            assert!(one.iter().zip(&other).any(|(one, other)| (one - other).abs() > 1e-5), "both answers are the same");
        }
    }
}
