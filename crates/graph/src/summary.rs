//! A printed summary of a network, one line a layer.

use std::fmt::Write;

use crate::{Error, Graph, Op, ParameterKind, Trainable};

/// Numbers about one layer, as the summary shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSummary {
    /// Name of the layer.
    pub name: String,
    /// Its operation.
    pub op: &'static str,
    /// Shape of its value for one sample.
    pub shape: String,
    /// Number of learnable elements.
    pub parameters: usize,
    /// Whether they learn.
    pub trainable: bool,
}

impl Graph {
    /// One entry a layer, in order.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layers don't fit together.
    pub fn layers(&self, trainable: &Trainable) -> Result<Vec<LayerSummary>, Error> {
        let shapes = self.shapes()?;
        let layer = |(id, node): (usize, &crate::Node)| LayerSummary {
            name: node.name.clone(),
            op: node.op.name(),
            shape: shapes[id].to_string(),
            parameters: learnable(&node.op),
            trainable: trainable.contains(id),
        };
        Ok(self.nodes().iter().enumerate().map(layer).collect())
    }

    /// The summary as a table, with totals below.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layers don't fit together.
    pub fn summary(&self, trainable: &Trainable) -> Result<String, Error> {
        let layers = self.layers(trainable)?;
        let widest = layers.iter().map(|layer| layer.name.len()).max().unwrap_or(0).max("layer".len());
        let mut text = format!("{:widest$}  {:17}  {:>12}  {:>11}  trainable\n", "layer", "op", "output", "parameters");
        for layer in &layers {
            let trains = match (layer.parameters, layer.trainable) {
                (0, _) => "",
                (_, true) => "yes",
                (_, false) => "frozen",
            };
            let count = if layer.parameters == 0 { String::new() } else { thousands(layer.parameters) };
            let line = format!("{:widest$}  {:17}  {:>12}  {count:>11}  {trains}", layer.name, layer.op, layer.shape);
            writeln!(text, "{}", line.trim_end()).expect("writing to a string cannot fail");
        }
        let total: usize = layers.iter().map(|layer| layer.parameters).sum();
        let learning: usize = layers.iter().filter(|layer| layer.trainable).map(|layer| layer.parameters).sum();
        let (total, learning) = (thousands(total), thousands(learning));
        writeln!(text, "{total} parameters, {learning} of them trainable").expect("writing to a string cannot fail");
        Ok(text)
    }

    /// Multiply-adds of the convolutions and fully connected layers for one sample: what torchvision publishes as a
    /// network's GFLOPS, in units of 1e9.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layers don't fit together.
    pub fn multiply_adds(&self) -> Result<u64, Error> {
        let shapes = self.shapes()?;
        let products = |(id, node): (usize, &crate::Node)| match &node.op {
            Op::Conv2d(conv) => shapes[id].len() * conv.weight_shape()[1..].iter().product::<usize>(),
            Op::Linear(linear) => shapes[id].len() * linear.in_features,
            Op::CosineLinear(linear) => linear.in_features * linear.out_features,
            _ => 0,
        };
        Ok(self.nodes().iter().enumerate().map(products).sum::<usize>() as u64)
    }

    /// Number of learnable elements in the whole network.
    pub fn parameter_count(&self) -> usize {
        self.nodes().iter().map(|node| learnable(&node.op)).sum()
    }
}

fn learnable(op: &Op) -> usize {
    let learned = op.parameters().into_iter().filter(|(_, _, kind)| *kind == ParameterKind::Parameter);
    learned.map(|(_, shape, _)| shape.iter().product::<usize>()).sum()
}

/// `11689512` as `11,689,512`.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn parameter_counts_are_torchvisions() {
        // `num_params` of each network's weights in torchvision.models
        for (name, count) in [
            ("resnet18", 11_689_512),
            ("resnet34", 21_797_672),
            ("resnet50", 25_557_032),
            ("resnet101", 44_549_160),
            ("resnet152", 60_192_808),
            ("vgg11", 132_863_336),
            ("vgg11_bn", 132_868_840),
            ("vgg13", 133_047_848),
            ("vgg13_bn", 133_053_736),
            ("vgg16", 138_357_544),
            ("vgg16_bn", 138_365_992),
            ("vgg19", 143_667_240),
            ("vgg19_bn", 143_678_248),
            ("squeezenet1_0", 1_248_424),
            ("squeezenet1_1", 1_235_496),
            ("mobilenet_v2", 3_504_872),
            ("wide_resnet50_2", 68_883_240),
            ("wide_resnet101_2", 126_886_696),
            ("resnext50_32x4d", 25_028_904),
            ("resnext101_32x8d", 88_791_336),
            ("resnext101_64x4d", 83_455_272),
            ("mobilenet_v3_small", 2_542_856),
            ("mobilenet_v3_large", 5_483_032),
            ("efficientnet_b0", 5_288_548),
            ("efficientnet_b1", 7_794_184),
            ("efficientnet_b2", 9_109_994),
            ("efficientnet_b3", 12_233_232),
            ("efficientnet_b4", 19_341_616),
            ("densenet121", 7_978_856),
            ("densenet169", 14_149_480),
            // Without the auxiliary heads.
            ("googlenet", 6_624_904),
            ("inception_v3", 23_834_568),
            ("shufflenet_v2_x0_5", 1_366_792),
            ("shufflenet_v2_x1_0", 2_278_604),
            ("shufflenet_v2_x1_5", 3_503_624),
            ("shufflenet_v2_x2_0", 7_393_996),
            ("mnasnet0_5", 2_218_512),
            ("mnasnet0_75", 3_170_208),
            ("mnasnet1_0", 4_383_312),
            ("mnasnet1_3", 6_282_256),
            ("regnet_x_400mf", 5_495_976),
            ("regnet_x_800mf", 7_259_656),
            ("regnet_x_1_6gf", 9_190_136),
            ("regnet_x_3_2gf", 15_296_552),
            ("regnet_y_400mf", 4_344_144),
            ("regnet_y_800mf", 6_432_512),
            ("regnet_y_1_6gf", 11_202_430),
            ("regnet_y_3_2gf", 19_436_338),
            ("rootstock", 3_014_440),
            ("convnext_tiny", 28_589_128),
            ("convnext_small", 50_223_688),
        ] {
            assert_eq!(zoo::build(name, 1000).unwrap().parameter_count(), count, "{name}");
        }
    }

    #[test]
    fn multiply_adds_are_those_of_the_layers() {
        // 7x7x3 taps for each of 64x112x112 values, and so on; torchvision publishes 1.814 and 0.349 (1e9).
        for (name, count) in [("resnet18", 1_814_073_344), ("squeezenet1_1", 349_151_936)] {
            assert_eq!(zoo::build(name, 1000).unwrap().multiply_adds().unwrap(), count, "{name}");
        }
    }

    #[test]
    fn the_table_shows_shape_size_and_what_trains() {
        let graph = zoo::build("resnet18", 2).unwrap();
        let text = graph.summary(&Trainable::from_layer(&graph, "fc").unwrap()).unwrap();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert!(line("conv1 ").ends_with("64x112x112        9,408  frozen"), "{text}");
        assert!(line("fc ").ends_with("2        1,026  yes"), "{text}");
        assert!(text.ends_with("11,177,538 parameters, 1,026 of them trainable\n"), "{text}");
    }
}
