//! New heads: their grammar, and how they are grafted on a backbone.

use std::fmt;
use std::str::FromStr;

use regraft_graph::{Grafted, Graph, HeadConvolution, HeadLayers, StateDict, init};
use regraft_learn::linear::HeadKind;
use serde::{Deserialize, Serialize};

use crate::{InitHead, Pretrained, Result, Settings};

/// The kind of a new head. As text: `linear`, `mlp:512`, `conv:256,fc:128`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Head {
    /// A fully connected layer, or the network's own kind of head, under the softmax loss.
    Linear,
    /// The same as `Linear`; for a probe, multinomial logistic regression.
    Softmax,
    /// One-vs-rest logistic regression; for probes only.
    Ovr,
    /// The nearest class mean; for probes only.
    Mean,
    /// A cosine classifier: normalised features and weights, times a learned scale.
    Cosine,
    /// Layers with ReLU before the last fully connected one: `mlp:512`, `conv:256,fc:128`.
    Layers {
        /// New convolutions on the last map, each with batch norm and ReLU.
        convolutions: Vec<HeadConvolution>,
        /// Widths of fully connected layers after them.
        hidden: Vec<usize>,
    },
}

/// Largest width of a layer: far above what helps, far below what exhausts memory.
const MAX_WIDTH: usize = 65_536;

/// Largest kernel of a new convolution.
const MAX_KERNEL: usize = 7;

impl Head {
    /// What the logits mean.
    pub fn kind(&self) -> HeadKind {
        if *self == Head::Ovr { HeadKind::Ovr } else { HeadKind::Softmax }
    }

    /// Whether the head is one fully connected layer, which a probe can fit.
    pub(crate) fn is_linear(&self) -> bool {
        !matches!(self, Head::Layers { .. } | Head::Cosine)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "linear" => return Ok(Head::Linear),
            "softmax" => return Ok(Head::Softmax),
            "ovr" => return Ok(Head::Ovr),
            "mean" => return Ok(Head::Mean),
            "cosine" => return Ok(Head::Cosine),
            _ => {}
        }
        let number = |text: &str, max: usize| text.parse().ok().filter(|&n: &usize| (1..=max).contains(&n));
        let width = |text: &str| {
            number(text, MAX_WIDTH).ok_or_else(|| format!("{text:?} is no width: a whole number from 1 to {MAX_WIDTH}"))
        };
        let (mut convolutions, mut hidden) = (Vec::new(), Vec::new());
        if let Some(widths) = text.strip_prefix("mlp:") {
            hidden = widths.split(',').map(width).collect::<Result<_, _>>()?;
            return Ok(Head::Layers { convolutions, hidden });
        }
        for part in text.split(',') {
            match part.split_once(':') {
                Some(("conv", _)) if !hidden.is_empty() => {
                    return Err(format!("{part:?} comes after a fully connected layer; convolutions come first"));
                }
                Some(("conv", layer)) => {
                    let (channels, kernel) = layer.split_once('x').unwrap_or((layer, "3"));
                    let odd = number(kernel, MAX_KERNEL).filter(|kernel| kernel % 2 == 1);
                    let kernel_size = odd.ok_or_else(|| {
                        format!("{kernel:?} is no filter size: an odd number from 1 to {MAX_KERNEL}, as in conv:256x3")
                    })?;
                    convolutions.push(HeadConvolution { out_channels: width(channels)?, kernel_size });
                }
                Some(("fc", layer)) if !convolutions.is_empty() => hidden.push(width(layer)?),
                _ => {
                    let known = "linear, cosine, softmax, ovr, mean, mlp:512, mlp:512,256, conv:256, conv:256x1,fc:128";
                    return Err(format!("{part:?} is no head; heads are such as {known}"));
                }
            }
        }
        Ok(Head::Layers { convolutions, hidden })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Head::Linear => f.write_str("linear"),
            Head::Softmax => f.write_str("softmax"),
            Head::Ovr => f.write_str("ovr"),
            Head::Mean => f.write_str("mean"),
            Head::Cosine => f.write_str("cosine"),
            Head::Layers { convolutions, hidden } if convolutions.is_empty() => {
                let widths: Vec<String> = hidden.iter().map(ToString::to_string).collect();
                write!(f, "mlp:{}", widths.join(","))
            }
            Head::Layers { convolutions, hidden } => {
                let convolutions = convolutions.iter().map(|conv| match conv.kernel_size {
                    3 => format!("conv:{}", conv.out_channels),
                    kernel => format!("conv:{}x{kernel}", conv.out_channels),
                });
                let hidden = hidden.iter().map(|width| format!("fc:{width}"));
                f.write_str(&convolutions.chain(hidden).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl TryFrom<String> for Head {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Head> for String {
    fn from(head: Head) -> Self {
        head.to_string()
    }
}

impl Settings {
    /// A backbone's network with the new head for `classes`.
    ///
    /// # Errors
    /// [`Error::Graph`](crate::Error::Graph) if the head cannot be grafted there.
    pub(crate) fn graft_on(&self, backbone: &Graph, classes: usize) -> Result<Grafted> {
        let dropout = if self.mode.probes() { 0.0 } else { self.head_dropout as f32 };
        let layers = match &self.head {
            Head::Layers { convolutions, hidden } => {
                HeadLayers { convolutions: convolutions.clone(), hidden: hidden.clone(), dropout, cosine: false }
            }
            Head::Cosine => HeadLayers { dropout, cosine: true, ..HeadLayers::default() },
            _ => HeadLayers { dropout, ..HeadLayers::default() },
        };
        // A probe fits a fully connected layer.
        let probed = self.mode.probes() || self.init_head == InitHead::Probe;
        let own = !probed && self.cut.is_none() && layers == HeadLayers::default();
        let grafted = match own {
            true => backbone.with_own_head(classes)?,
            false => backbone.graft(self.cut.as_deref(), &layers, classes)?,
        };
        Ok(grafted)
    }

    /// [`graft_on`](Self::graft_on) with the tensors: the backbone's own, those of the head drawn from the seed.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn graft(&self, backbone: &Pretrained, classes: usize) -> Result<(Grafted, StateDict)> {
        let grafted = self.graft_on(&backbone.graph, classes)?;
        let graph = &grafted.graph;
        let mut state = StateDict::new();
        for spec in graph.parameters().into_iter().filter(|spec| spec.node < grafted.first) {
            let tensor = backbone.state.get(&spec.name).expect("a backbone has all tensors below its head");
            state.insert(spec.name, tensor.clone());
        }
        (grafted.first..graph.nodes().len()).for_each(|node| state.extend(init::new_layer(graph, node, self.seed)));
        Ok((grafted, state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    #[test]
    fn head_text_round_trips() {
        for text in [
            "linear",
            "softmax",
            "ovr",
            "mean",
            "cosine",
            "mlp:512",
            "mlp:512,256",
            "conv:256",
            "conv:256x1,conv:64,fc:128,fc:8",
        ] {
            let head: Head = text.parse().unwrap();
            assert_eq!(head.to_string(), text);
            assert_eq!(serde_json::from_str::<Head>(&serde_json::to_string(&head).unwrap()).unwrap(), head);
        }
        assert_eq!("conv:256x3".parse::<Head>(), "conv:256".parse());
    }

    #[test]
    fn head_parse_names_the_wrong_part() {
        for (text, expected) in [
            ("", "\"\" is no head"),
            ("mpl:512", "\"mpl:512\" is no head; heads are such as linear"),
            ("mlp:", "\"\" is no width"),
            ("mlp:512,", "\"\" is no width"),
            ("mlp:0", "\"0\" is no width: a whole number from 1 to 65536"),
            ("conv:256x2", "\"2\" is no filter size: an odd number"),
            ("conv:256,fc:9,conv:1", "\"conv:1\" comes after a fully connected layer"),
            ("fc:128", "\"fc:128\" is no head"),
            ("conv:99999999999999999999", "is no width"),
            ("linear,fc:8", "\"linear\" is no head"),
        ] {
            let error = text.parse::<Head>().unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn graft_adds_only_the_new_head() {
        let backbone = Pretrained::load(&"squeezenet1_1".into(), &crate::Source::Random, 224, 3).unwrap();
        let settings = |change: fn(&mut Settings)| {
            let mut settings = Settings::tutorial("photos".into(), "squeezenet1_1".into());
            change(&mut settings);
            settings
        };
        for settings in [
            settings(|_| ()),
            settings(|c| c.mode = Mode::Probe),
            settings(|c| c.head = "conv:16,fc:8".parse().unwrap()),
            settings(|c| c.cut = Some("features.7".into())),
            settings(|c| c.head = Head::Cosine),
        ] {
            let (Grafted { graph, first, .. }, state) = settings.graft(&backbone, 5).unwrap();
            let specs = graph.parameters();
            assert_eq!(specs.len(), state.len());
            for spec in &specs {
                assert_eq!(state[&spec.name].shape(), spec.shape, "{}", spec.name);
                assert_eq!(backbone.state.get(&spec.name) == Some(&state[&spec.name]), spec.node < first);
            }
        }
    }
}
