//! The optimiser's step.

use regraft_engine::UpdateRule;
use regraft_kernels::optim::{AdamW, Sgd};

use super::gradients::Waiting;
use super::{Parameter, Parameters};

impl Parameters {
    /// Changes what learns by its gradient, and forgets the gradients.
    pub fn update(&mut self, lr: f64) {
        self.version += 1;
        self.waiting = Waiting::default();
        for parameter in self.all.iter_mut().filter(|p| p.learns()) {
            let Parameter { values, grad, slots, steps, rate, .. } = parameter;
            *steps += 1;
            let lr = lr * *rate;
            match (self.rule, slots.as_mut_slice()) {
                (UpdateRule::Sgd { momentum, weight_decay, nesterov }, [buffer]) => {
                    Sgd { lr, momentum, weight_decay, nesterov }.step(values, grad, buffer);
                }
                (UpdateRule::AdamW { betas, eps, weight_decay }, [first, second]) => {
                    AdamW { lr, betas, eps, weight_decay }.step(*steps, values, grad, first, second);
                }
                _ => unreachable!("a tensor has the slots of its rule"),
            }
        }
    }
}
