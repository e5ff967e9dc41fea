//! What a network's outputs are compared with.

/// The targets of a batch. Their kind decides the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Labels<'a> {
    /// The class of each sample: softmax cross-entropy.
    Classes(&'a [usize]),
    /// The probability of every class: `[n, classes]`, row-major, each row adding up to one. Softmax cross-entropy.
    Probabilities(&'a [f32]),
    /// Answers to independent yes/no questions, 0 to 1: `[n, questions]`, row-major. Binary cross-entropy; a sample's
    /// loss is the mean over its questions.
    Binary(&'a [f32]),
    /// Numbers: `[n, outputs]`, row-major. Squared error; a sample's loss is the mean over its outputs.
    Values(&'a [f32]),
}

impl Labels<'_> {
    /// Right answers in `logits`, `[n, outputs]` for the labels of `n` samples: [`Losses::correct`](crate::Losses::correct).
    ///
    /// Of equal logits or shares the first counts as the largest.
    pub fn count_correct(&self, logits: &[f32], outputs: usize) -> u64 {
        let rows = logits.chunks_exact(outputs);
        let count = match self {
            Labels::Classes(classes) => rows.zip(*classes).filter(|(row, class)| largest(row) == **class).count(),
            Labels::Probabilities(shares) => {
                rows.zip(shares.chunks_exact(outputs)).filter(|(row, shares)| largest(row) == largest(shares)).count()
            }
            Labels::Binary(answers) => {
                logits.iter().zip(*answers).filter(|&(&logit, &answer)| (logit > 0.0) == (answer > 0.5)).count()
            }
            Labels::Values(_) => 0,
        };
        count as u64
    }
}

/// Index of the largest value, the first of equals; a NaN is never larger than another value.
fn largest(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_correct_follows_the_kind_of_the_labels() {
        let logits = [0.5, 2.0, -1.0, 3.0, 3.0, 0.0];
        assert_eq!(Labels::Classes(&[1, 0]).count_correct(&logits, 3), 2);
        assert_eq!(Labels::Classes(&[0, 1]).count_correct(&logits, 3), 0, "the first of equals is the largest");
        assert_eq!(Labels::Probabilities(&[0.1, 0.6, 0.3, 0.2, 0.4, 0.4]).count_correct(&logits, 3), 1);
        assert_eq!(Labels::Binary(&[1.0, 0.0, 0.0, 0.6, 0.5, 0.0]).count_correct(&logits, 3), 4);
        assert_eq!(Labels::Values(&logits).count_correct(&logits, 3), 0);
        assert_eq!(Labels::Classes(&[0]).count_correct(&[f32::NAN, 1.0, 2.0], 3), 1);
    }
}
