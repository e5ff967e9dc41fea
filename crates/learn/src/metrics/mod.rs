//! How good a model is: its score with an uncertainty, loss, and the numbers of each class or label.
//!
//! [`MetricAccumulator`] takes outputs and the targets batch by batch; [`MetricAccumulator::finish`] makes an [`Evaluation`] of them, which
//! serialises to the JSON that `eval --json` prints and displays as tables.

mod accumulator;
mod bootstrap;
mod classes;
mod evaluation;
mod labels;
mod mcnemar;
mod paired;
mod ranking;
mod text;
mod values;
mod wilson;

pub use accumulator::MetricAccumulator;
pub use classes::{Averages, ClassEvaluation, ClassMetrics};
pub use evaluation::Evaluation;
pub use labels::{LabelEvaluation, LabelMetrics};
pub use mcnemar::mcnemar;
pub use paired::paired_p_value;
pub use values::ValueEvaluation;
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

fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
