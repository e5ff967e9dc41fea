//! The architectures: each family one short file of builder calls with torchvision's layer names.

mod builder;
mod convnext;
mod densenet;
mod efficientnet;
mod googlenet;
mod inception_resnet_v1;
mod inception_v3;
mod inverted_bottleneck;
mod mnasnet;
mod mobilenet_v2;
mod mobilenet_v3;
mod regnet;
mod resnet;
mod rootstock;
mod shufflenet_v2;
mod squeezenet;
mod vgg;

use crate::{Error, Graph};

/// Side of the square images that these networks were trained on, in pixels.
pub const IMAGE_SIZE: usize = 224;

/// The names that [`build`] knows: the project's own compact network, torchvision's, and facenet-pytorch's for faces.
pub const NAMES: &[&str] = &[
    "rootstock",
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
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "densenet121",
    "densenet169",
    "googlenet",
    "inception_v3",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "convnext_tiny",
    "convnext_small",
    "inception_resnet_v1",
];

/// The name that a tensor of a published file has in the network here; `None` for those of auxiliary heads, which only
/// torchvision's training uses. The files of DenseNet are older than its present names.
pub fn present_name(name: &str, tensor: &str) -> Option<String> {
    let is_auxiliary = match name {
        "googlenet" => tensor.starts_with("aux1.") || tensor.starts_with("aux2."),
        "inception_v3" => tensor.starts_with("AuxLogits."),
        _ => false,
    };
    if is_auxiliary {
        return None;
    }
    if name.starts_with("densenet")
        && let Some((path, rest)) = tensor.split_once(".denselayer")
    {
        let rest = rest.replacen("norm.", "norm", 1).replacen("conv.", "conv", 1);
        return Some(format!("{path}.denselayer{rest}"));
    }
    Some(tensor.into())
}

/// The network `torchvision.models.<name>(num_classes=classes)`, for 224x224 RGB images, without auxiliary heads;
/// `inception_resnet_v1` is that of facenet-pytorch, `rootstock` the project's own, for 128x128 ones.
///
/// # Errors
/// [`Error::NoSuchArchitecture`], listing the known names.
pub fn build(name: &str, classes: usize) -> Result<Graph, Error> {
    use resnet::Block::{Basic, Bottleneck};
    use resnet::Groups;
    Ok(match name {
        "rootstock" => rootstock::rootstock(classes),
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
        "wide_resnet50_2" => resnet::grouped(Bottleneck, [3, 4, 6, 3], Groups { count: 1, width: 128 }, classes),
        "wide_resnet101_2" => resnet::grouped(Bottleneck, [3, 4, 23, 3], Groups { count: 1, width: 128 }, classes),
        "resnext50_32x4d" => resnet::grouped(Bottleneck, [3, 4, 6, 3], Groups { count: 32, width: 4 }, classes),
        "resnext101_32x8d" => resnet::grouped(Bottleneck, [3, 4, 23, 3], Groups { count: 32, width: 8 }, classes),
        "resnext101_64x4d" => resnet::grouped(Bottleneck, [3, 4, 23, 3], Groups { count: 64, width: 4 }, classes),
        "mobilenet_v3_small" => mobilenet_v3::mobilenet_v3_small(classes),
        "mobilenet_v3_large" => mobilenet_v3::mobilenet_v3_large(classes),
        "efficientnet_b0" => efficientnet::efficientnet(1.0, 1.0, 0.2, classes),
        "efficientnet_b1" => efficientnet::efficientnet(1.0, 1.1, 0.2, classes),
        "efficientnet_b2" => efficientnet::efficientnet(1.1, 1.2, 0.3, classes),
        "efficientnet_b3" => efficientnet::efficientnet(1.2, 1.4, 0.3, classes),
        "efficientnet_b4" => efficientnet::efficientnet(1.4, 1.8, 0.4, classes),
        "densenet121" => densenet::densenet([6, 12, 24, 16], classes),
        "densenet169" => densenet::densenet([6, 12, 32, 32], classes),
        "googlenet" => googlenet::googlenet(classes),
        "inception_v3" => inception_v3::inception_v3(classes),
        "shufflenet_v2_x0_5" => shufflenet_v2::shufflenet_v2([48, 96, 192], 1024, classes),
        "shufflenet_v2_x1_0" => shufflenet_v2::shufflenet_v2([116, 232, 464], 1024, classes),
        "shufflenet_v2_x1_5" => shufflenet_v2::shufflenet_v2([176, 352, 704], 1024, classes),
        "shufflenet_v2_x2_0" => shufflenet_v2::shufflenet_v2([244, 488, 976], 2048, classes),
        "mnasnet0_5" => mnasnet::mnasnet(0.5, classes),
        "mnasnet0_75" => mnasnet::mnasnet(0.75, classes),
        "mnasnet1_0" => mnasnet::mnasnet(1.0, classes),
        "mnasnet1_3" => mnasnet::mnasnet(1.3, classes),
        "regnet_x_400mf" => regnet::regnet_x([1, 2, 7, 12], [32, 64, 160, 400], 16, classes),
        "regnet_x_800mf" => regnet::regnet_x([1, 3, 7, 5], [64, 128, 288, 672], 16, classes),
        "regnet_x_1_6gf" => regnet::regnet_x([2, 4, 10, 2], [72, 168, 408, 912], 24, classes),
        "regnet_x_3_2gf" => regnet::regnet_x([2, 6, 15, 2], [96, 192, 432, 1008], 48, classes),
        "regnet_y_400mf" => regnet::regnet_y([1, 3, 6, 6], [48, 104, 208, 440], 8, classes),
        "regnet_y_800mf" => regnet::regnet_y([1, 3, 8, 2], [64, 144, 320, 784], 16, classes),
        "regnet_y_1_6gf" => regnet::regnet_y([2, 6, 17, 2], [48, 120, 336, 888], 24, classes),
        "regnet_y_3_2gf" => regnet::regnet_y([2, 5, 13, 1], [72, 216, 576, 1512], 24, classes),
        "convnext_tiny" => convnext::convnext([3, 3, 9, 3], 0.1, classes),
        "inception_resnet_v1" => inception_resnet_v1::inception_resnet_v1(classes),
        "convnext_small" => convnext::convnext([3, 3, 27, 3], 0.4, classes),
        _ => return Err(Error::NoSuchArchitecture { name: name.into(), known: NAMES.to_vec() }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_names_become_present_ones() {
        let old = "features.denseblock4.denselayer16.norm.2.running_mean";
        let new = "features.denseblock4.denselayer16.norm2.running_mean";
        assert_eq!(present_name("densenet121", old).as_deref(), Some(new));
        assert_eq!(present_name("densenet121", new).as_deref(), Some(new));
        assert_eq!(present_name("densenet121", "features.conv0.weight").as_deref(), Some("features.conv0.weight"));
        assert_eq!(present_name("inception_v3", "AuxLogits.fc.weight"), None);
        assert_eq!(present_name("googlenet", "aux2.conv.bn.bias"), None);
        assert_eq!(present_name("resnet18", "aux1.weight").as_deref(), Some("aux1.weight"));
    }
}
