//! Learning-rate schedules as plain values.
//!
//! [`Schedule::rate`] is a pure function of the place in the run, so a resumed run needs no scheduler state. Names
//! and defaults are those of `torch.optim.lr_scheduler`, and so are the rates.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::Error;

/// How the learning rate goes over a run: an optional warm-up, then a policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// What follows the warm-up.
    pub policy: Policy,
    /// A linear rise before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
}

/// The rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", deny_unknown_fields)]
pub enum Policy {
    /// The base rate throughout.
    Constant,
    /// The base rate times `gamma` for every `step_size` epochs passed.
    StepLR {
        /// Epochs between two falls.
        step_size: usize,
        /// Factor of each fall.
        #[serde(default = "default_gamma")]
        gamma: f64,
    },
    /// Half a cosine from the base rate towards `eta_min`, one value per epoch; `T_max` is the number of epochs after
    /// the warm-up, as torchvision's recipes set it.
    CosineAnnealingLR {
        /// The rate it would reach after the last epoch.
        #[serde(default)]
        eta_min: f64,
    },
    /// A rise from `max_lr / div_factor` to `max_lr`, then a fall to `max_lr / div_factor / final_div_factor`, both
    /// half cosines, one value per step; the base rate is not used. Two phases, `anneal_strategy="cos"`.
    ///
    /// The momentum stays what the optimiser was given: `cycle_momentum=False`, where PyTorch's default cycles it.
    OneCycleLR {
        /// The highest rate.
        max_lr: f64,
        /// Fraction of the steps that the rise takes.
        #[serde(default = "default_pct_start")]
        pct_start: f64,
        /// `max_lr` over the first rate.
        #[serde(default = "default_div_factor")]
        div_factor: f64,
        /// The first rate over the last.
        #[serde(default = "default_final_div_factor")]
        final_div_factor: f64,
    },
}

fn default_gamma() -> f64 {
    0.1
}

fn default_pct_start() -> f64 {
    0.3
}

fn default_div_factor() -> f64 {
    25.0
}

fn default_final_div_factor() -> f64 {
    1e4
}

/// A linear rise to the policy's rate (`LinearLR` with `end_factor=1`), one value per epoch. The policy starts after
/// these epochs, as in PyTorch's `SequentialLR` and torchvision's recipes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Epochs until the full rate.
    pub total_iters: usize,
    /// Fraction of the rate in the first of them.
    pub start_factor: f64,
}

impl From<Policy> for Schedule {
    fn from(policy: Policy) -> Self {
        Self { policy, warmup: None }
    }
}

impl Schedule {
    /// The learning rate of step `step_in_epoch` of `steps_per_epoch` in `epoch` of `epochs`, all counted from 0.
    ///
    /// Equals what PyTorch's scheduler gives that step, within rounding. A place past the end gets the rate of the
    /// end.
    pub fn rate(&self, base_lr: f64, epoch: usize, step_in_epoch: usize, steps_per_epoch: usize, epochs: usize) -> f64 {
        let policy = |passed: usize| {
            let (epoch, epochs) = (epoch.saturating_sub(passed), epochs.saturating_sub(passed));
            self.policy.rate(base_lr, epoch, step_in_epoch, steps_per_epoch, epochs)
        };
        match self.warmup {
            Some(Warmup { total_iters, start_factor }) if epoch < total_iters => {
                base_lr * linear(start_factor, epoch, total_iters)
            }
            Some(Warmup { total_iters, .. }) => policy(total_iters),
            None => policy(0),
        }
    }

    /// Whether every number is in its range.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first that is not.
    pub fn validate(&self) -> Result<(), Error> {
        const POSITIVE: &str = "positive and finite";
        let require = |name, value: f64, fine: bool, allowed| {
            if fine { Ok(()) } else { Err(Error::Setting { name, value: value.to_string(), allowed }) }
        };
        let positive = |name, value: f64| require(name, value, value > 0.0 && value.is_finite(), POSITIVE);
        match self.policy {
            Policy::Constant => {}
            Policy::StepLR { step_size, gamma } => {
                require("step_size", step_size as f64, step_size > 0, "at least 1")?;
                positive("gamma", gamma)?;
            }
            Policy::CosineAnnealingLR { eta_min } => {
                require("eta_min", eta_min, eta_min >= 0.0 && eta_min.is_finite(), "at least 0 and finite")?;
            }
            Policy::OneCycleLR { max_lr, pct_start, div_factor, final_div_factor } => {
                positive("max_lr", max_lr)?;
                require("pct_start", pct_start, (0.0..=1.0).contains(&pct_start), "from 0 to 1")?;
                positive("div_factor", div_factor)?;
                positive("final_div_factor", final_div_factor)?;
            }
        }
        if let Some(Warmup { start_factor, .. }) = self.warmup {
            require("start_factor", start_factor, start_factor > 0.0 && start_factor <= 1.0, "above 0, at most 1")?;
        }
        Ok(())
    }
}

impl Policy {
    fn rate(&self, base_lr: f64, epoch: usize, step_in_epoch: usize, steps_per_epoch: usize, epochs: usize) -> f64 {
        match *self {
            Self::Constant => base_lr,
            Self::StepLR { step_size, gamma } => base_lr * gamma.powf((epoch / step_size.max(1)) as f64),
            Self::CosineAnnealingLR { eta_min } => {
                cosine(base_lr, eta_min, epoch.min(epochs) as f64 / epochs.max(1) as f64)
            }
            Self::OneCycleLR { max_lr, pct_start, div_factor, final_div_factor } => {
                let total = epochs.saturating_mul(steps_per_epoch) as f64;
                let (peak, last) = (pct_start * total - 1.0, total - 1.0);
                let step = (global_step(epoch, step_in_epoch, steps_per_epoch) as f64).min(last.max(0.0));
                let first_lr = max_lr / div_factor;
                if step < peak {
                    cosine(first_lr, max_lr, step / peak)
                } else if last > peak {
                    cosine(max_lr, first_lr / final_div_factor, (step - peak) / (last - peak))
                } else {
                    max_lr
                }
            }
        }
    }
}

/// Steps before this one, over all epochs.
fn global_step(epoch: usize, step_in_epoch: usize, steps_per_epoch: usize) -> usize {
    epoch.saturating_mul(steps_per_epoch).saturating_add(step_in_epoch)
}

/// The factor of a linear rise from `start` to 1 over `n` places.
fn linear(start: f64, place: usize, n: usize) -> f64 {
    if place >= n { 1.0 } else { start + (1.0 - start) * place as f64 / n as f64 }
}

/// Half a cosine from `start` to `end`, at `fraction` of the way.
fn cosine(start: f64, end: f64, fraction: f64) -> f64 {
    end + (start - end) * 0.5 * (1.0 + (PI * fraction).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One schedule of `reference/schedules/generate.py` and PyTorch's rate of every step.
    #[derive(Deserialize)]
    struct Golden {
        schedule: Schedule,
        base_lr: f64,
        epochs: usize,
        steps_per_epoch: usize,
        rates: Vec<f64>,
    }

    #[test]
    fn every_rate_equals_pytorchs() {
        let text = include_str!("../../../reference/schedules/rates.json");
        let cases: Vec<Golden> = serde_json::from_str(text).unwrap();
        assert!(cases.len() >= 10);
        for golden in cases {
            golden.schedule.validate().unwrap();
            assert_eq!(golden.rates.len(), golden.epochs * golden.steps_per_epoch);
            for (step, &expected) in golden.rates.iter().enumerate() {
                let (epoch, step_in_epoch) = (step / golden.steps_per_epoch, step % golden.steps_per_epoch);
                let rate =
                    golden.schedule.rate(golden.base_lr, epoch, step_in_epoch, golden.steps_per_epoch, golden.epochs);
                // PyTorch multiplies its way from step to step, so its rounding grows with the steps.
                let error = (rate - expected).abs() / golden.base_lr;
                assert!(error < 1e-12, "{:?}, step {step}: {rate} and {expected}", golden.schedule);
            }
        }
    }

    #[test]
    fn toml_like_values_use_pytorchs_names_and_defaults() {
        let parse = |text: &str| serde_json::from_str::<Schedule>(text);
        let step = parse(r#"{"policy": {"name": "StepLR", "step_size": 7}}"#).unwrap();
        assert_eq!(step, Policy::StepLR { step_size: 7, gamma: 0.1 }.into());
        let one = parse(
            r#"{"policy": {"name": "OneCycleLR", "max_lr": 0.1}, "warmup": {"total_iters": 5, "start_factor": 0.1}}"#,
        );
        let policy = Policy::OneCycleLR { max_lr: 0.1, pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4 };
        let warmup = Some(Warmup { total_iters: 5, start_factor: 0.1 });
        assert_eq!(one.unwrap(), Schedule { policy, warmup });
        assert!(parse(r#"{"policy": {"name": "StepLR", "step_size": 7, "gama": 0.5}}"#).is_err());
        assert!(
            parse(r#"{"policy": {"name": "Constant"}, "warmup": {"total_iters": 2, "start_factr": 0.5}}"#).is_err()
        );
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let one = |max_lr, pct_start| Policy::OneCycleLR { max_lr, pct_start, div_factor: 25.0, final_div_factor: 1e4 };
        let warm = |start_factor| Some(Warmup { total_iters: 2, start_factor });
        for (schedule, expected) in [
            (Policy::StepLR { step_size: 0, gamma: 0.1 }.into(), "step_size"),
            (Policy::StepLR { step_size: 1, gamma: f64::NAN }.into(), "gamma"),
            (Policy::CosineAnnealingLR { eta_min: -1.0 }.into(), "eta_min"),
            (one(0.0, 0.3).into(), "max_lr"),
            (one(0.1, 1.1).into(), "pct_start"),
            (Schedule { policy: Policy::Constant, warmup: warm(0.0) }, "start_factor"),
        ] {
            match Schedule::validate(&schedule) {
                Err(Error::Setting { name, .. }) => assert_eq!(name, expected),
                other => panic!("{other:?} for {schedule:?}"),
            }
        }
    }

    #[test]
    fn no_place_gives_a_rate_that_is_not_finite() {
        let policies = [
            Policy::Constant,
            Policy::StepLR { step_size: 1, gamma: 0.5 },
            Policy::CosineAnnealingLR { eta_min: 0.0 },
            Policy::OneCycleLR { max_lr: 0.1, pct_start: 0.0, div_factor: 25.0, final_div_factor: 1e4 },
            Policy::OneCycleLR { max_lr: 0.1, pct_start: 1.0, div_factor: 25.0, final_div_factor: 1e4 },
        ];
        for policy in policies {
            for total_iters in [0, 9] {
                let schedule = Schedule { policy, warmup: Some(Warmup { total_iters, start_factor: 0.1 }) };
                for (epoch, steps, epochs) in [(0, 0, 0), (0, 1, 1), (3, 1, 2), (usize::MAX, usize::MAX, usize::MAX)] {
                    let rate = schedule.rate(0.01, epoch, 0, steps, epochs);
                    assert!(rate.is_finite() && rate >= 0.0, "{schedule:?} at {epoch}: {rate}");
                }
            }
        }
    }
}
