//! Narrowing: weights for a network from those of a wider one with the same layers.
//!
//! Structured pruning by magnitude ("Pruning Filters for Efficient ConvNets", Li et al. 2017): where the narrow network has
//! fewer channels, the most important ones stay, and whatever reads them follows.

use crate::{Error, Graph, NodeId, Op, Shape, StateDict, Tensor};

/// Weights below the head of `graph` from those of a wider network whose layers have the same names.
///
/// Of a convolution with more filters than the narrow one has, those stay whose length, times the lengths of the weights
/// that they pass through up to the next full convolution, is largest. What has the same shape in both is taken as it is.
///
/// # Errors
/// [`Error::Narrow`] naming the layer if a tensor is missing, smaller than needed, or of another kind of shape, or if
/// channels would go that something else needs: those of a sum or a concatenation.
pub fn narrow(graph: &Graph, wide: &StateDict) -> Result<StateDict, Error> {
    let narrowing = Narrowing { graph, wide, shapes: graph.shapes()? };
    let head = graph.head()?;
    let mut state = StateDict::new();
    // For each node the wide network's channels that its value has; `None` if all.
    let mut kept: Vec<Option<Vec<usize>>> = Vec::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let inputs: Vec<_> = node.inputs.iter().map(|&input| kept[input].clone()).collect();
        let from = inputs.first().cloned().flatten();
        let now = if id == head {
            None
        } else if node.op.parameters().is_empty() {
            narrowing.passes(id, &inputs)?
        } else {
            let (tensors, now) = match &node.op {
                Op::Conv2d(_) => narrowing.convolution(id, from.as_deref())?,
                _ => (narrowing.channelwise(id, from.as_deref())?, from),
            };
            state.extend(tensors);
            now
        };
        kept.push(now);
    }
    Ok(state)
}

struct Narrowing<'a> {
    graph: &'a Graph,
    wide: &'a StateDict,
    shapes: Vec<Shape>,
}

impl Narrowing<'_> {
    fn wrong<T>(&self, id: NodeId, reason: String) -> Result<T, Error> {
        Err(Error::Narrow { layer: self.graph.nodes()[id].name.clone(), reason })
    }

    /// A tensor of a layer in the wide network.
    fn tensor(&self, id: NodeId, suffix: &str) -> Result<&Tensor, Error> {
        let name = format!("{}.{suffix}", self.graph.nodes()[id].name);
        let found = self.wide.get(&name).ok_or_else(|| format!("there is no tensor {name}"));
        found.or_else(|reason| self.wrong(id, reason))
    }

    /// The channels behind an operation without parameters.
    fn passes(&self, id: NodeId, inputs: &[Option<Vec<usize>>]) -> Result<Option<Vec<usize>>, Error> {
        let node = &self.graph.nodes()[id];
        let Some(first) = inputs.first() else { return Ok(None) };
        let fits = match node.op {
            Op::Concat => inputs.iter().all(Option::is_none),
            // Which channels these take follows from all that the wider network had.
            Op::Narrow { .. } | Op::ChannelShuffle { .. } => first.is_none(),
            // Of a map each pixel would have to be followed.
            Op::Flatten => {
                first.is_none() || self.shapes[node.inputs[0]].len() == self.shapes[node.inputs[0]].channels()
            }
            _ => inputs.iter().all(|kept| kept == first),
        };
        match fits {
            true => Ok(first.clone()),
            false => self.wrong(id, "its inputs have fewer channels than in the wider network".into()),
        }
    }

    /// The tensors of a convolution, and which of the wide one's filters they are.
    fn convolution(&self, id: NodeId, from: Option<&[usize]>) -> Result<(StateDict, Option<Vec<usize>>), Error> {
        let node = &self.graph.nodes()[id];
        let Op::Conv2d(conv) = &node.op else { unreachable!("only convolutions come here") };
        let weight = self.tensor(id, "weight")?;
        let wanted = conv.weight_shape();
        let (shape, narrow) = (weight.shape(), wanted.as_slice());
        if shape.len() != 4 || shape[2..] != narrow[2..] || shape[0] < narrow[0] {
            return self.wrong(id, format!("its weight is {narrow:?}, the wider network's {shape:?}"));
        }
        let depthwise = conv.groups > 1 && conv.groups == conv.in_channels && conv.groups == conv.out_channels;
        let inputs: Option<&[usize]> = if depthwise { None } else { from };
        let rows = match (depthwise, from) {
            (true, from) => from.map(<[usize]>::to_vec),
            (false, Some(_)) if conv.groups > 1 => {
                return self.wrong(id, "it is grouped, and its input is narrower".into());
            }
            _ if shape[0] == narrow[0] => None,
            _ => Some(self.most_important(id, narrow[0])?),
        };
        let (columns, window) = (shape[1], shape[2] * shape[3]);
        let all_rows: Vec<usize> = rows.clone().unwrap_or_else(|| (0..shape[0]).collect());
        let all_columns: Vec<usize> = inputs.map_or_else(|| (0..columns).collect(), <[usize]>::to_vec);
        let inside = |list: &[usize], len: usize| list.iter().all(|&at| at < len);
        let as_many = (all_rows.len(), all_columns.len()) == (narrow[0], narrow[1]);
        // A file's layers need not fit together: this one may have fewer channels than the one before it kept.
        if !as_many || !inside(&all_rows, shape[0]) || !inside(&all_columns, columns) {
            return self.wrong(id, format!("its weight is {narrow:?}, the wider network's {shape:?}"));
        }
        let mut data = Vec::with_capacity(narrow.iter().product());
        for &row in &all_rows {
            for &column in &all_columns {
                data.extend_from_slice(&weight.data()[(row * columns + column) * window..][..window]);
            }
        }
        let mut tensors = StateDict::from([(format!("{}.weight", node.name), Tensor::new(wanted, data))]);
        if conv.bias {
            tensors.insert(format!("{}.bias", node.name), self.select(id, "bias", rows.as_deref(), narrow[0])?);
        }
        Ok((tensors, rows))
    }

    /// The tensors of a layer with a number for each channel, or one whose input has all its channels.
    fn channelwise(&self, id: NodeId, from: Option<&[usize]>) -> Result<StateDict, Error> {
        let node = &self.graph.nodes()[id];
        let mut tensors = StateDict::new();
        for (suffix, shape, _) in node.op.parameters() {
            let tensor = match shape.as_slice() {
                &[len] => self.select(id, suffix, from, len)?,
                shape => {
                    let tensor = self.tensor(id, suffix)?;
                    if from.is_some() || tensor.shape() != shape {
                        let reason = format!("its {suffix} is {shape:?}, the wider network's {:?}", tensor.shape());
                        return self.wrong(id, reason);
                    }
                    tensor.clone()
                }
            };
            tensors.insert(format!("{}.{suffix}", node.name), tensor);
        }
        Ok(tensors)
    }

    /// The elements of a vector that belong to some channels.
    fn select(&self, id: NodeId, suffix: &str, channels: Option<&[usize]>, len: usize) -> Result<Tensor, Error> {
        let tensor = self.tensor(id, suffix)?;
        let data: Option<Vec<f32>> = match channels {
            None => Some(tensor.data().to_vec()),
            Some(channels) => channels.iter().map(|&c| tensor.data().get(c).copied()).collect(),
        };
        match data.filter(|data| data.len() == len && tensor.shape().len() == 1) {
            Some(data) => Ok(Tensor::new([len], data)),
            None => {
                self.wrong(id, format!("its {suffix} has {len} elements, the wider network's {:?}", tensor.shape()))
            }
        }
    }

    /// The `n` filters of a convolution that matter most, in their order.
    fn most_important(&self, id: NodeId, n: usize) -> Result<Vec<usize>, Error> {
        let mut importance = rows(self.tensor(id, "weight")?);
        let mut at = id;
        // As long as the value has one reader, and each of its channels stays apart.
        while let Some(reader) = self.only_reader(at) {
            let node = &self.graph.nodes()[reader];
            let factors = match &node.op {
                Op::BatchNorm2d(bn) => {
                    let (weight, var) = (self.tensor(reader, "weight")?, self.tensor(reader, "running_var")?);
                    let scale = |(w, v): (&f32, &f32)| f64::from(w.abs()) / f64::from(v + bn.eps).sqrt();
                    weight.data().iter().zip(var.data()).map(scale).collect()
                }
                Op::Conv2d(conv) if conv.groups == 1 => columns(self.tensor(reader, "weight")?),
                Op::Conv2d(_) => rows(self.tensor(reader, "weight")?),
                // That of a published file, if it is there.
                Op::Linear(_) => match self.tensor(reader, "weight") {
                    Ok(weight) => columns(weight),
                    Err(_) => break,
                },
                op if op.parameters().is_empty() && node.inputs.len() == 1 => vec![1.0; importance.len()],
                _ => break,
            };
            if factors.len() != importance.len() {
                break;
            }
            importance.iter_mut().zip(&factors).for_each(|(i, f)| *i *= f);
            if matches!(&node.op, Op::Linear(_)) || matches!(&node.op, Op::Conv2d(conv) if conv.groups == 1) {
                break;
            }
            at = reader;
        }
        let mut order: Vec<usize> = (0..importance.len()).collect();
        order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
        order.truncate(n);
        order.sort_unstable();
        Ok(order)
    }

    fn only_reader(&self, id: NodeId) -> Option<NodeId> {
        let nodes = self.graph.nodes().iter().enumerate();
        let mut readers = nodes.filter(|(_, node)| node.inputs.contains(&id)).map(|(reader, _)| reader);
        readers.next().filter(|_| readers.next().is_none())
    }
}

/// Lengths of a weight's filters: its slices along the first dimension.
fn rows(weight: &Tensor) -> Vec<f64> {
    let len = weight.data().len() / weight.shape().first().copied().unwrap_or(1).max(1);
    weight.data().chunks_exact(len.max(1)).map(length).collect()
}

/// Lengths of what a weight has for each input: its slices along the second dimension; none if it has no such.
fn columns(weight: &Tensor) -> Vec<f64> {
    let n = weight.shape().get(1).copied().unwrap_or(0);
    if n == 0 {
        return Vec::new();
    }
    let window = weight.shape().iter().skip(2).product::<usize>().max(1);
    let mut squares = vec![0.0; n];
    for (i, slice) in weight.data().chunks_exact(window).enumerate() {
        squares[i % n] += length(slice).powi(2);
    }
    squares.into_iter().map(f64::sqrt).collect()
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, Linear, init, zoo};

    fn wide() -> StateDict {
        init::random(&zoo::build("mobilenet_v2", 1000).unwrap(), 0)
    }

    #[test]
    fn a_network_of_the_same_widths_keeps_everything() {
        let graph = zoo::build("mobilenet_v2", 3).unwrap();
        let mut expected = wide();
        expected.retain(|name, _| !name.starts_with("classifier."));
        assert_eq!(narrow(&graph, &wide()).unwrap(), expected);
    }

    #[test]
    fn what_nothing_reads_goes_and_all_that_belongs_to_the_rest_stays_together() {
        let mut state = wide();
        // Every third hidden channel of a block is not read any more.
        let project = state.get_mut("features.2.conv.2.weight").unwrap();
        project.data_mut().iter_mut().enumerate().filter(|(i, _)| i % 96 % 3 == 0).for_each(|(_, w)| *w = 0.0);
        let narrowed = narrow(&zoo::build("rootstock", 3).unwrap(), &state).unwrap();
        let stays: Vec<usize> = (0..96).filter(|c| c % 3 != 0).collect();
        for (name, len) in [("features.2.conv.0.0", 16), ("features.2.conv.1.0", 9)] {
            let name = format!("{name}.weight");
            let expected: Vec<f32> =
                stays.iter().flat_map(|c| state[&name].data()[c * len..][..len].to_vec()).collect();
            assert_eq!(narrowed[&name].data(), expected, "{name}");
        }
        let project = &narrowed["features.2.conv.2.weight"];
        assert_eq!(project.shape(), [24, 64, 1, 1]);
        assert!(project.data().iter().all(|&w| w != 0.0));
        assert_eq!(narrowed["features.2.conv.1.1.running_var"].shape(), [64]);
        assert_eq!(narrowed["features.18.0.weight"].shape(), [1024, 320, 1, 1]);
    }

    #[test]
    fn every_layer_of_the_narrow_network_is_given() {
        let graph = zoo::build("rootstock", 3).unwrap();
        let narrowed = narrow(&graph, &wide()).unwrap();
        for spec in graph.parameters().iter().filter(|spec| !spec.name.starts_with("classifier.")) {
            assert_eq!(narrowed[&spec.name].shape(), spec.shape, "{}", spec.name);
        }
    }

    #[test]
    fn networks_that_do_not_belong_together_are_refused_by_layer() {
        let narrow_to =
            |name: &str, state: &StateDict| narrow(&zoo::build(name, 3).unwrap(), state).unwrap_err().to_string();
        let message = narrow_to("resnet18", &wide());
        assert!(message.contains("conv1") && message.contains("no tensor"), "{message}");
        let mut state = wide();
        state.insert("features.4.conv.0.0.weight".into(), Tensor::full([12, 24, 1, 1], 1.0));
        let message = narrow_to("rootstock", &state);
        assert!(message.contains("features.4.conv.0.0") && message.contains("[12, 24, 1, 1]"), "{message}");
        // The channels that blocks are added up over cannot go one by one.
        let state = init::random(&zoo::build("wide_resnet50_2", 10).unwrap(), 0);
        assert!(narrow(&zoo::build("resnet50", 3).unwrap(), &state).is_ok(), "bottlenecks within may");
        let state = init::random(&zoo::build("vgg13_bn", 10).unwrap(), 0);
        assert!(narrow(&zoo::build("vgg11_bn", 3).unwrap(), &state).is_err());
    }

    #[test]
    fn a_depthwise_layer_of_fewer_channels_than_were_kept_is_refused() {
        let mut state = wide();
        // As many as the narrow network has, but those that are kept are any of 96.
        let narrower = zoo::build("rootstock", 3).unwrap();
        let name = "features.2.conv.1.0.weight";
        let shape = narrower.parameters().into_iter().find(|spec| spec.name == name).unwrap().shape;
        state.insert(name.into(), Tensor::full(shape, 1.0));
        let message = narrow(&narrower, &state).unwrap_err().to_string();
        assert!(message.contains("layer features.2.conv.1.0 ") && message.contains("[64, 1, 3, 3]"), "{message}");
    }

    #[test]
    fn a_weight_without_a_second_dimension_is_refused() {
        let mut state = wide();
        state.insert("features.2.conv.2.weight".into(), Tensor::full([96], 1.0));
        let message = narrow(&zoo::build("rootstock", 3).unwrap(), &state).unwrap_err().to_string();
        assert!(message.contains("layer features.2.conv.2 ") && message.contains("[96]"), "{message}");
    }

    #[test]
    fn channels_that_are_taken_or_moved_by_number_must_all_be_there() {
        for op in [Op::Narrow { start: 0, length: 2 }, Op::ChannelShuffle { groups: 2 }] {
            let network = |channels: usize| {
                let mut graph = Graph::new(Shape::rgb(8));
                let mut node = graph.push("conv", Op::Conv2d(Conv2d::new(3, channels, 1)), &[0]);
                node = graph.push("moves", op.clone(), &[node]);
                node = graph.push("avgpool", Op::AdaptiveAvgPool2d { output_size: 1 }, &[node]);
                node = graph.push("flatten", Op::Flatten, &[node]);
                let in_features = if let Op::Narrow { length, .. } = op { length } else { channels };
                graph.push("fc", Op::Linear(Linear { in_features, out_features: 3, bias: true }), &[node]);
                graph
            };
            let state = init::random(&network(8), 0);
            assert!(narrow(&network(8), &state).is_ok(), "{op:?}");
            let message = narrow(&network(4), &state).unwrap_err().to_string();
            assert!(message.contains("layer moves ") && message.contains("fewer channels"), "{message}");
        }
    }
}
