//! What training has changed, in PyTorch's layouts.

use regraft_engine::{Error, Pending, SessionState};
use regraft_graph::{StateDict, Tensor};

use super::gradients::Waiting;
use super::{Parameter, Parameters, find};

/// The number of steps that a parameter has taken, among the optimiser's tensors; exact up to 2^24, as in PyTorch.
const STEP: &str = "step";

/// The name of one of the optimiser's tensors.
fn slot_name(parameter: &Parameter, slot: &str) -> String {
    format!("{}.{slot}", parameter.spec.name)
}

impl Parameters {
    /// Some tensors, exported by name.
    fn export<'a>(
        &'a self,
        which: impl Fn(&Parameter) -> bool,
        values: impl Fn(&'a Parameter) -> &'a [f32],
    ) -> StateDict {
        let all = self.all.iter().filter(|it| which(it));
        all.map(|it| (it.spec.name.clone(), it.export(values(it)))).collect()
    }

    /// The tensors that training changes, as inference uses them.
    pub fn weights(&self) -> StateDict {
        self.export(|it| it.changes, |it| &it.values)
    }

    /// Everything that training has changed.
    pub fn state(&self) -> SessionState {
        // While the average is in use, the two have changed places.
        let [trained, average] = [self.average_in_use, !self.average_in_use].map(|elsewhere| {
            move || self.export(|it| it.changes, |it| if elsewhere { &it.average } else { &it.values })
        });
        let Waiting { batches, weight } = self.waiting;
        let gradients =
            self.export(|it| it.learns() && batches > 0, |it| if batches == 1 { &it.grad } else { &it.sum });
        SessionState {
            trained: trained(),
            optimizer: self.optimizer(),
            pending: Pending { batches, weight, gradients },
            average: self.averages.then(average),
        }
    }

    fn optimizer(&self) -> StateDict {
        let mut state = StateDict::new();
        for parameter in self.all.iter().filter(|p| p.learns()) {
            for (name, slot) in self.rule.slots().iter().zip(&parameter.slots) {
                state.insert(slot_name(parameter, name), parameter.export(slot));
            }
            if self.rule.counts_steps() {
                state.insert(slot_name(parameter, STEP), Tensor::full([1], parameter.steps as f32));
            }
        }
        state
    }

    /// Checks that a state has all that [`restore`](Self::restore) needs.
    fn check(&self, state: &SessionState) -> Result<(), Error> {
        for Parameter { spec, .. } in self.all.iter().filter(|p| p.changes) {
            for tensors in [&state.trained].into_iter().chain(&state.average) {
                find(tensors, &spec.name, &spec.shape)?;
            }
        }
        for parameter in self.all.iter().filter(|p| p.learns()) {
            let spec = &parameter.spec;
            for slot in self.rule.slots() {
                find(&state.optimizer, &slot_name(parameter, slot), &spec.shape)?;
            }
            if self.rule.counts_steps() {
                let name = slot_name(parameter, STEP);
                let step = find(&state.optimizer, &name, &[1])?.data()[0];
                if !(step >= 0.0 && step.fract() == 0.0) {
                    return Err(Error::Tensor { name, reason: format!("is {step}, which is no number of steps") });
                }
            }
            if state.pending.batches > 0 {
                find(&state.pending.gradients, &spec.name, &spec.shape)?;
            }
        }
        Ok(())
    }

    /// Puts back what [`state`](Self::state) gave; the average is not in use then.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor is absent or misshapen; nothing is changed then.
    pub fn restore(&mut self, state: &SessionState) -> Result<(), Error> {
        self.check(state)?;
        let SessionState { trained, optimizer, pending, average } = state;
        for parameter in self.all.iter_mut().filter(|p| p.changes) {
            let name = &parameter.spec.name;
            parameter.values = parameter.layout.pack(trained[name].data());
            parameter.average =
                average.as_ref().map_or_else(Vec::new, |average| parameter.layout.pack(average[name].data()));
        }
        for parameter in self.all.iter_mut().filter(|p| p.learns()) {
            for (i, slot) in self.rule.slots().iter().enumerate() {
                parameter.slots[i] = parameter.layout.pack(optimizer[&slot_name(parameter, slot)].data());
            }
            if self.rule.counts_steps() {
                parameter.steps = optimizer[&slot_name(parameter, STEP)].data()[0] as u64;
            }
            if pending.batches > 0 {
                let gradient = parameter.layout.pack(pending.gradients[&parameter.spec.name].data());
                *(if pending.batches == 1 { &mut parameter.grad } else { &mut parameter.sum }) = gradient;
            }
        }
        self.waiting = Waiting { batches: pending.batches, weight: pending.weight };
        (self.averages, self.average_in_use) = (average.is_some(), false);
        self.version += 1;
        Ok(())
    }
}
