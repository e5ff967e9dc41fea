//! What a run is about.

use regraft_graph::StateDict;
use regraft_learn::linear::HeadKind;

use crate::photos::prepare::Photos;
use crate::trainer::probe;
use crate::{Context, InitHead, Pretrained, Provenance, Result, RunFolder, Settings};
use regraft_graph::Grafted;

/// A run's settings, network, images, output folder and context.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub settings: &'a Settings,
    pub pretrained: &'a Pretrained,
    pub photos: &'a Photos,
    pub folder: &'a RunFolder,
    pub context: &'a Context<'a>,
}

impl Job<'_> {
    /// What the network's outputs mean.
    pub fn head_kind(&self) -> HeadKind {
        self.photos.head_kind(self.settings)
    }

    /// Outputs of the network: classes or labels, 1 for a number.
    pub fn outputs(&self) -> usize {
        self.photos.dataset.classes.len()
    }

    /// What is known of a model before it is trained.
    pub fn provenance(&self) -> Provenance {
        Provenance::of(self.settings, self.pretrained, self.photos)
    }

    /// The network with its new head, and the tensors that it starts from. `head` is what the head starts from, if a probe
    /// has found it already; without, a head that starts from a probe's solution gets it here.
    ///
    /// # Errors
    /// Errors of grafting, and of the probe.
    pub fn graft(&self, head: Option<&StateDict>) -> Result<(Grafted, StateDict)> {
        let (grafted, mut state) = self.settings.graft(self.pretrained, self.outputs())?;
        match (self.settings.init_head, head) {
            (InitHead::Random, _) => {}
            (InitHead::Probe, Some(head)) => state.extend(head.clone()),
            (InitHead::Probe, None) => probe::initialise(self, &grafted, &mut state)?,
        }
        Ok((grafted, state))
    }
}
