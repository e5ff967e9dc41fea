//! What a network's outputs are held against.

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
