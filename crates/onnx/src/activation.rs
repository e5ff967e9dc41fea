//! Activations that a file spells out operation by operation.

use std::fmt;

use regraft_graph::Op;

/// Something done to every element `x` of a value `input`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// `x * c`.
    Mul(f32),
    /// `x + c`.
    Add(f32),
    /// `min(max(x, low), high)`.
    Clip(f32, f32),
    /// `x * input`.
    TimesInput,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mul(c) => write!(f, "times {c}"),
            Step::Add(c) => write!(f, "plus {c}"),
            Step::Clip(low, high) => write!(f, "clipped to {low}..{high}"),
            Step::TimesInput => f.write_str("times the input"),
        }
    }
}

/// No activation takes more steps.
pub(crate) const MAX_STEPS: usize = 8;

/// Appends a step; neighbouring factors and sums become one.
pub(crate) fn push(steps: &mut Vec<Step>, step: Step) {
    let merged = match (steps.last(), step) {
        (Some(Step::Mul(a)), Step::Mul(b)) => Step::Mul(a * b),
        (Some(Step::Add(a)), Step::Add(b)) => Step::Add(a + b),
        _ => {
            steps.push(step);
            return;
        }
    };
    steps.pop();
    steps.push(merged);
}

/// Constants are written in the precision of the weights, which may be half.
fn near(a: f32, b: f32) -> bool {
    a == b || (a - b).abs() <= 1e-3 * b.abs()
}

/// The operation that these steps are, if they are one.
pub(crate) fn recognise(steps: &[Step]) -> Option<Op> {
    use Step::Clip;
    match *steps {
        [Clip(0.0, high)] if near(high, 6.0) => Some(Op::ReLU6),
        [Clip(0.0, f32::INFINITY)] => Some(Op::ReLU),
        _ => None,
    }
}

/// Factor and summand, if the steps are no more than these.
pub(crate) fn affine(steps: &[Step]) -> Option<(f32, f32)> {
    steps.iter().try_fold((1.0, 0.0), |(factor, summand), step| match *step {
        Step::Mul(c) => Some((factor * c, summand * c)),
        Step::Add(c) => Some((factor, summand + c)),
        _ => None,
    })
}
