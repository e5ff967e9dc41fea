//! What can be wrong with a network.

use crate::Shape;

/// An error in building, cutting or reading a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer cannot take the shape it is given.
    #[error("layer {layer} ({op}) cannot take an input of {found}: {reason}")]
    Shape {
        /// Name of the layer.
        layer: String,
        /// Its operation.
        op: &'static str,
        /// Shape of the offending input.
        found: Shape,
        /// What the layer needs.
        reason: String,
    },
    /// No layer has the name asked for.
    #[error("the network has no layer {name:?}; {near} {}", known.join(", "))]
    NoSuchLayer {
        /// The name asked for.
        name: String,
        /// Which layers `known` names.
        near: String,
        /// What could be meant.
        known: Vec<String>,
    },
    /// No architecture has the name asked for.
    #[error("there is no backbone {name:?}; the known ones are {}", known.join(", "))]
    NoSuchArchitecture {
        /// The name asked for.
        name: String,
        /// The known names.
        known: Vec<&'static str>,
    },
    /// The network's last layer is not one that can be replaced.
    #[error(
        "the network ends in layer {layer} ({op}), with no Linear, CosineLinear or 1x1 Conv2d as its head to replace"
    )]
    NoHead {
        /// Name of the last layer.
        layer: String,
        /// Its operation.
        op: &'static str,
    },
    /// A head cannot be grafted where it was asked for.
    #[error("{head} cannot be grafted on layer {layer}, whose value is {value}: {reason}")]
    Graft {
        /// What was to be grafted.
        head: &'static str,
        /// Name of the last layer that stays.
        layer: String,
        /// Shape of its value.
        value: Shape,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The weights of a wider network cannot be narrowed to this one.
    #[error("layer {layer} cannot start from a wider network's weights: {reason}")]
    Narrow {
        /// Name of the layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// A stored graph breaks an invariant.
    #[error("the stored network is not valid at layer {layer:?}: {reason}")]
    Invalid {
        /// Name of the layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the network needs is absent or has another shape.
    #[error("tensor {name:?} of the network {reason}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}
