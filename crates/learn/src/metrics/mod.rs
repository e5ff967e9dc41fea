//! How good a classifier is: accuracy with its uncertainty, loss, confusion matrix, per-class numbers.
//!
//! [`Tally`] takes logits and labels batch by batch; [`Tally::finish`] makes an [`Evaluation`] of them, which
//! serialises to the JSON that `eval --json` prints and displays as tables.

mod evaluation;
mod mcnemar;
mod tally;
mod text;
mod wilson;

pub use evaluation::{Averages, ClassMetrics, Evaluation};
pub use mcnemar::mcnemar;
pub use tally::Tally;
pub use wilson::wilson;

/// The index of the largest value, the first of equals; 0 if there are none.
pub fn argmax(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}
