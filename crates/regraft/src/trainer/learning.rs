//! Which layers learn in an epoch, and how fast.

use regraft_engine::BatchNormMode;
use regraft_graph::{Grafted, NodeId, Op, Trainable};

use crate::{BatchNorm, Error, InitHead, Pretrained, Progress, Result, Settings};

impl Settings {
    /// The layers that learn in an epoch (from 0), each with its factor of the learning rate.
    ///
    /// The head, being new, has the factor 1. The [stages](regraft_graph::Graph::stages) of the backbone have
    /// `backbone_lr / lr`, and each one `lr_layer_decay` times that of the stage above it; without a `backbone_lr` the
    /// decay begins at the head (ELECTRA, Clark et al. 2020). With `unfreeze_every` they join in one by one from the
    /// head downwards (ULMFiT, Howard and Ruder 2018), as far as `freeze_until` lets them.
    ///
    /// # Errors
    /// [`Error::Graph`] if there is no layer `freeze_until`, [`Error::Setting`] if it lies within the new head.
    pub(crate) fn trainable(&self, grafted: &Grafted, epoch: usize) -> Result<Trainable> {
        let Grafted { graph, first: head, .. } = grafted;
        let mut first = self.lowest(grafted)?;
        let backbone: Vec<NodeId> =
            graph.stages().iter().map(|stage| stage.first).filter(|first| first < head).collect();
        if let (Some(every), true) = (self.unfreeze_every, self.mode.fine_tunes()) {
            let reached = match backbone.len().checked_sub(epoch / every) {
                Some(lowest) => backbone.get(lowest).copied().unwrap_or(*head),
                None => 0,
            };
            first = first.max(reached);
        }
        let decay = self.lr_layer_decay;
        let rate = |node: NodeId| {
            if node >= *head {
                return 1.0;
            }
            let above = backbone.iter().filter(|&&first| first > node).count() as i32;
            match self.backbone_lr {
                Some(lr) => lr / self.lr * decay.powi(above),
                None => decay.powi(above + 1),
            }
        };
        Ok(Trainable::from_node(graph, first).with_rates(rate).with_new(*head))
    }

    /// Mode of the batch norms of layers that learn. Without a setting they use batch statistics, unless the weights' batch
    /// norms are folded, which that would break, or the head starts from a probe, which was fitted with the running
    /// statistics.
    pub(crate) fn batch_norm_mode(&self, backbone: &Pretrained) -> BatchNormMode {
        match self.bn {
            Some(BatchNorm::Train) => BatchNormMode::Train,
            Some(BatchNorm::Frozen) => BatchNormMode::Frozen,
            None if folded(backbone) || self.starts_from_probe() => BatchNormMode::Frozen,
            None => BatchNormMode::Train,
        }
    }

    fn starts_from_probe(&self) -> bool {
        self.init_head == InitHead::Probe
    }

    /// Reports how the batch norms of the weights are treated, and warns where that will go wrong.
    pub(crate) fn report_batch_norms(&self, backbone: &Pretrained, progress: &dyn Progress) {
        if !self.mode.fine_tunes() {
            return;
        }
        if !folded(backbone) {
            let any = backbone.graph.nodes().iter().any(|node| matches!(node.op, Op::BatchNorm2d(_)));
            if any && self.bn.is_none() && self.starts_from_probe() {
                progress.note("The head starts from a probe, which was fitted with the running statistics: batch norms are frozen.");
            }
            return;
        }
        match self.bn {
            None => {
                progress.note("The batch norms of these weights are folded into the convolutions: batch norms are frozen.");
            }
            Some(BatchNorm::Train) => progress.warn(
                "the batch norms of these weights are folded; with `bn` train they normalise again, and the network starts \
                 broken: use `bn` frozen",
            ),
            Some(BatchNorm::Frozen) => {}
        }
    }

    /// The first node that learns once no layer waits any more.
    fn lowest(&self, grafted: &Grafted) -> Result<NodeId> {
        let Grafted { graph, first: head, .. } = grafted;
        if !self.mode.fine_tunes() {
            return Ok(*head);
        }
        let Some(layer) = &self.freeze_until else { return Ok(0) };
        let first = graph.first_node_of(layer)?;
        let skipped = graph.parameters().into_iter().find(|spec| (*head..first).contains(&spec.node));
        match skipped {
            Some(spec) => Err(Error::Setting {
                field: "freeze_until",
                value: layer.clone(),
                allowed: format!(
                    "it would freeze {} of the new head, which has learned nothing yet; give a layer of the backbone, or \
                     `mode` frozen",
                    graph.nodes()[spec.node].name
                ),
            }),
            None => Ok(first),
        }
    }
}

/// Whether a file's batch norms are folded into its convolutions.
fn folded(backbone: &Pretrained) -> bool {
    backbone.weights_sha256.is_some() && backbone.batch_norms_are_folded()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    fn grafted(settings: &Settings) -> Grafted {
        let backbone = Pretrained::load(&settings.backbone, &crate::Source::Random, 224, 0).unwrap();
        settings.graft(&backbone, 3).unwrap().0
    }

    fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::tutorial("photos".into(), "resnet18".into());
        change(&mut settings);
        settings
    }

    /// The rates of some layers of a ResNet-18 in an epoch.
    fn rates(settings: &Settings, epoch: usize) -> [f64; 5] {
        let grafted = grafted(settings);
        let trainable = settings.trainable(&grafted, epoch).unwrap();
        ["conv1", "bn1", "layer3.1.conv2", "layer4", "fc"]
            .map(|layer| trainable.rate(grafted.graph.first_node_of(layer).unwrap()))
    }

    #[test]
    fn trainable_rates_fall_from_the_head_downwards() {
        assert_eq!(rates(&settings(|_| ()), 0), [1.0; 5]);
        assert_eq!(rates(&settings(|c| c.mode = Mode::Frozen), 0), [0.0, 0.0, 0.0, 0.0, 1.0]);
        assert_eq!(rates(&settings(|c| c.backbone_lr = Some(0.0005)), 0), [0.5, 0.5, 0.5, 0.5, 1.0]);
        let decay = settings(|c| c.lr_layer_decay = 0.5);
        assert_eq!(rates(&decay, 0), [0.5f64.powi(5), 0.5f64.powi(5), 0.25, 0.5, 1.0]);
        let both = settings(|c| (c.lr_layer_decay, c.backbone_lr) = (0.5, Some(0.0005)));
        assert_eq!(rates(&both, 0), [0.5f64.powi(5), 0.5f64.powi(5), 0.25, 0.5, 1.0]);
        let from = settings(|c| (c.lr_layer_decay, c.freeze_until) = (0.5, Some("layer4".into())));
        assert_eq!(rates(&from, 0), [0.0, 0.0, 0.0, 0.5, 1.0]);
    }

    #[test]
    fn trainable_stages_join_from_the_head_downwards() {
        let learning = |settings: &Settings, epoch| rates(settings, epoch).map(|rate| rate > 0.0);
        let gradual = settings(|c| c.unfreeze_every = Some(2));
        for epoch in [0, 1] {
            assert_eq!(learning(&gradual, epoch), [false, false, false, false, true]);
        }
        assert_eq!(learning(&gradual, 2), [false, false, false, true, true]);
        assert_eq!(learning(&gradual, 5), [false, false, true, true, true]);
        assert_eq!(learning(&gradual, 9), [false, false, true, true, true]);
        assert_eq!(learning(&gradual, 10), [true; 5]);
        assert_eq!(learning(&gradual, 1000), [true; 5]);
        let until = settings(|c| (c.unfreeze_every, c.freeze_until) = (Some(1), Some("layer4".into())));
        assert_eq!(learning(&until, 100), [false, false, false, true, true]);
    }

    #[test]
    fn batch_norm_mode_is_frozen_after_a_probe() {
        let backbone = Pretrained::load(&"resnet18".into(), &crate::Source::Random, 64, 0).unwrap();
        let mode = |change: fn(&mut Settings)| settings(change).batch_norm_mode(&backbone);
        assert_eq!(mode(|_| ()), BatchNormMode::Train);
        assert_eq!(mode(|c| c.init_head = InitHead::Probe), BatchNormMode::Frozen);
        assert_eq!(mode(|c| (c.init_head, c.bn) = (InitHead::Probe, Some(BatchNorm::Train))), BatchNormMode::Train);
    }

    #[test]
    fn trainable_never_freezes_the_new_head() {
        let conv = settings(|c| c.head = "conv:8,fc:4".parse().unwrap());
        let grafted = grafted(&conv);
        let trainable = conv.trainable(&grafted, 0).unwrap();
        for (node, layer) in grafted.graph.nodes().iter().enumerate() {
            assert_eq!(trainable.is_new(node), layer.name.starts_with("fc."), "{}", layer.name);
        }
        let within = Settings { freeze_until: Some("fc.5".into()), ..conv };
        let message = within.trainable(&grafted, 0).unwrap_err().to_string();
        assert!(message.contains("would freeze fc.0 of the new head"), "{message}");
    }
}
