//! Golden answers: what a model must answer wherever it is loaded.

use regraft_engine::{Engine, Images, Precision};
use regraft_graph::Shape;
use regraft_random::{Purpose, keyed, unit_f32};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// An input that anyone can make again, and the network's outputs when the model was sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Key of the input's noise.
    pub key: u64,
    /// The network's outputs.
    pub logits: Vec<f32>,
}

/// How many golden inputs a model carries.
pub(crate) const GOLDEN_INPUTS: u64 = 2;

impl Golden {
    /// Asks the network about the golden inputs, which have the shape `input`.
    ///
    /// # Errors
    /// Errors of `infer`; [`Error::NotFinite`] for an output that could be neither stored nor compared.
    pub fn record(input: Shape, mut infer: impl FnMut(Images) -> Result<Vec<f32>>) -> Result<Vec<Self>> {
        let ask = |key| {
            let logits = infer(Images::Floats(&Self::input(input, key)))?;
            match logits.iter().find(|z| !z.is_finite()) {
                Some(&value) => Err(Error::NotFinite { value }),
                None => Ok(Self { key, logits }),
            }
        };
        (0..GOLDEN_INPUTS).map(ask).collect()
    }

    /// Asks the network again. Fails, in words that follow the name of the model, if it answers otherwise by more than the
    /// engine's arithmetic may.
    ///
    /// # Errors
    /// Errors of `infer`. The inner error is the text.
    pub(crate) fn check(
        &self,
        input: Shape,
        engine: &dyn Engine,
        precision: Precision,
        mut infer: impl FnMut(Images) -> Result<Vec<f32>>,
    ) -> Result<Result<(), String>> {
        let found = infer(Images::Floats(&Self::input(input, self.key)))?;
        if found.len() != self.logits.len() {
            let (found, expected) = (found.len(), self.logits.len());
            return Ok(Err(format!("gives {found} outputs where it gave {expected} when it was sealed")));
        }
        let tolerance = engine.tolerance(precision);
        let scale = self.logits.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        // What is not a number is farther off than anything.
        let error = |(a, b): (&f32, &f32)| if a.is_finite() { (a - b).abs() / scale } else { f32::INFINITY };
        let worst = found.iter().zip(&self.logits).map(error).fold(0.0, f32::max);
        if worst <= tolerance {
            return Ok(Ok(()));
        }
        Ok(Err(format!(
            "does not answer its test input {} as it did when it was sealed: the outputs differ by {worst:.1e} of their \
             scale, and {} in {precision} may cost {tolerance:.0e}; the weights have been changed or damaged",
            self.key,
            engine.device(),
        )))
    }

    /// Uniform noise in `[-2, 2)`, the range of normalised photos.
    fn input(shape: Shape, key: u64) -> Vec<f32> {
        let mut rng = keyed(0, Purpose::Init, regraft_random::hash_name("golden"), key);
        (0..shape.len()).map(|_| 4.0 * unit_f32(&mut rng) - 2.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_record_refuses_outputs_that_are_not_finite() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = Golden::record(Shape::rgb(4), |_| Ok(vec![0.0, value])).unwrap_err();
            assert!(matches!(error, Error::NotFinite { .. }), "{error}");
            assert!(error.to_string().contains(&value.to_string()), "{error}");
        }
    }
}
