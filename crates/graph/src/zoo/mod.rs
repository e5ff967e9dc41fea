//! The architectures: each family one short file of builder calls with torchvision's layer names.

mod builder;
mod mobilenet_v2;
mod resnet;
mod squeezenet;
mod vgg;

use crate::{Error, Graph};

/// Side of the square images that these networks were trained on, in pixels.
pub const IMAGE_SIZE: usize = 224;

/// The names that [`build`] knows: torchvision's.
pub const NAMES: &[&str] = &[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "squeezenet1_0",
    "squeezenet1_1",
    "mobilenet_v2",
];

/// The network `torchvision.models.<name>(num_classes=classes)`, for 224x224 RGB images.
///
/// # Errors
/// [`Error::NoSuchArchitecture`], listing the known names.
pub fn build(name: &str, classes: usize) -> Result<Graph, Error> {
    use resnet::Block::{Basic, Bottleneck};
    Ok(match name {
        "resnet18" => resnet::resnet(Basic, [2, 2, 2, 2], classes),
        "resnet34" => resnet::resnet(Basic, [3, 4, 6, 3], classes),
        "resnet50" => resnet::resnet(Bottleneck, [3, 4, 6, 3], classes),
        "resnet101" => resnet::resnet(Bottleneck, [3, 4, 23, 3], classes),
        "resnet152" => resnet::resnet(Bottleneck, [3, 8, 36, 3], classes),
        "vgg11" => vgg::vgg([1, 1, 2, 2, 2], false, classes),
        "vgg11_bn" => vgg::vgg([1, 1, 2, 2, 2], true, classes),
        "vgg13" => vgg::vgg([2, 2, 2, 2, 2], false, classes),
        "vgg13_bn" => vgg::vgg([2, 2, 2, 2, 2], true, classes),
        "vgg16" => vgg::vgg([2, 2, 3, 3, 3], false, classes),
        "vgg16_bn" => vgg::vgg([2, 2, 3, 3, 3], true, classes),
        "vgg19" => vgg::vgg([2, 2, 4, 4, 4], false, classes),
        "vgg19_bn" => vgg::vgg([2, 2, 4, 4, 4], true, classes),
        "squeezenet1_0" => squeezenet::squeezenet1_0(classes),
        "squeezenet1_1" => squeezenet::squeezenet1_1(classes),
        "mobilenet_v2" => mobilenet_v2::mobilenet_v2(classes),
        _ => return Err(Error::NoSuchArchitecture { name: name.into(), known: NAMES.to_vec() }),
    })
}
