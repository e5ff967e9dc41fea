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
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The error function.
    Erf,
    /// `x * input`.
    TimesInput,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mul(c) => write!(f, "times {c}"),
            Step::Add(c) => write!(f, "plus {c}"),
            Step::Clip(low, high) => write!(f, "clipped to {low}..{high}"),
            Step::Sigmoid => f.write_str("sigmoid"),
            Step::Erf => f.write_str("erf"),
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
    use Step::{Add, Clip, Erf, Mul, Sigmoid, TimesInput};
    let sixth = |c: f32| near(c, 1.0 / 6.0);
    let root = |c: f32| near(c, std::f32::consts::FRAC_1_SQRT_2);
    match *steps {
        [Clip(0.0, high)] if near(high, 6.0) => Some(Op::ReLU6),
        [Clip(0.0, f32::INFINITY)] => Some(Op::ReLU),
        [Sigmoid] => Some(Op::Sigmoid),
        [Sigmoid, TimesInput] => Some(Op::SiLU),
        // The factor comes before the clip or after it, and after it before or after the input.
        [Add(a), Clip(0.0, high), Mul(c)] if near(a, 3.0) && near(high, 6.0) && sixth(c) => Some(Op::Hardsigmoid),
        [Mul(c), Add(a), Clip(0.0, high)] if sixth(c) && near(a, 0.5) && near(high, 1.0) => Some(Op::Hardsigmoid),
        [Add(a), Clip(0.0, high), Mul(c), TimesInput] | [Add(a), Clip(0.0, high), TimesInput, Mul(c)]
            if near(a, 3.0) && near(high, 6.0) && sixth(c) =>
        {
            Some(Op::Hardswish)
        }
        [Mul(c), Add(a), Clip(0.0, high), TimesInput] if sixth(c) && near(a, 0.5) && near(high, 1.0) => {
            Some(Op::Hardswish)
        }
        [Mul(r), Erf, Add(a), Mul(c), TimesInput] | [Mul(r), Erf, Add(a), TimesInput, Mul(c)]
            if root(r) && near(a, 1.0) && near(c, 0.5) =>
        {
            Some(Op::GELU)
        }
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

#[cfg(test)]
mod tests {
    use super::Step::{Add, Clip, Erf, Mul, Sigmoid, TimesInput};
    use super::*;

    /// What an activation is, by its definition.
    fn follow(steps: &[Step], input: f64) -> f64 {
        steps.iter().fold(input, |x, step| match *step {
            Mul(c) => x * f64::from(c),
            Add(c) => x + f64::from(c),
            Clip(low, high) => x.clamp(f64::from(low), f64::from(high)),
            Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Erf => unreachable!("GELU is compared with PyTorch's"),
            TimesInput => x * input,
        })
    }

    #[test]
    fn every_spelling_is_the_activation_it_is_taken_for() {
        let clip = |x: f64| (x + 3.0).clamp(0.0, 6.0) / 6.0;
        type Case<'a> = (&'a [Step], Op, &'a dyn Fn(f64) -> f64);
        let cases: [Case; 8] = [
            (&[Clip(0.0, 6.0)], Op::ReLU6, &|x| x.clamp(0.0, 6.0)),
            (&[Sigmoid], Op::Sigmoid, &|x| 1.0 / (1.0 + (-x).exp())),
            (&[Sigmoid, TimesInput], Op::SiLU, &|x| x / (1.0 + (-x).exp())),
            (&[Add(3.0), Clip(0.0, 6.0), Mul(1.0 / 6.0)], Op::Hardsigmoid, &clip),
            (&[Mul(1.0 / 6.0), Add(0.5), Clip(0.0, 1.0)], Op::Hardsigmoid, &clip),
            (&[Add(3.0), Clip(0.0, 6.0), Mul(1.0 / 6.0), TimesInput], Op::Hardswish, &|x| x * clip(x)),
            (&[Add(3.0), Clip(0.0, 6.0), TimesInput, Mul(1.0 / 6.0)], Op::Hardswish, &|x| x * clip(x)),
            (&[Mul(1.0 / 6.0), Add(0.5), Clip(0.0, 1.0), TimesInput], Op::Hardswish, &|x| x * clip(x)),
        ];
        for (steps, op, function) in cases {
            assert_eq!(recognise(steps), Some(op), "{steps:?}");
            for x in [-7.0, -2.5, -0.1, 0.0, 0.4, 2.9, 8.0] {
                // 1/6 is not exact in f32.
                assert!((follow(steps, x) - function(x)).abs() < 1e-6, "{steps:?} at {x}");
            }
        }
        assert_eq!(recognise(&[Add(2.0), Clip(0.0, 6.0), Mul(1.0 / 6.0)]), None);
        assert_eq!(recognise(&[Sigmoid, Mul(2.0)]), None);
    }

    #[test]
    fn neighbouring_factors_and_sums_become_one() {
        let mut steps = Vec::new();
        [Mul(2.0), Mul(3.0), Add(1.0), Add(-3.0)].into_iter().for_each(|step| push(&mut steps, step));
        assert_eq!(steps, [Mul(6.0), Add(-2.0)]);
        assert_eq!(affine(&steps), Some((6.0, -2.0)));
    }
}
