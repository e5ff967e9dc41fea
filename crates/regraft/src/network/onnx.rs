//! User-supplied networks: ONNX import.

use std::path::Path;

use regraft_graph::{Graph, Op, Shape};
use regraft_onnx::Network;

use crate::{Error, Pretrained, Result};

/// Side of the images in pixels where a file leaves it open.
const USUAL_SIZE: usize = 224;

/// Side of the images in pixels that the file at `path` fixes, else the usual one.
///
/// # Errors
/// [`Error::Onnx`].
pub fn image_size(path: &Path) -> Result<u32> {
    let size = regraft_onnx::image_size(path)?.unwrap_or(USUAL_SIZE);
    u32::try_from(size).map_err(|_| Error::Setting {
        field: "imgsz",
        value: size.to_string(),
        allowed: "images of that size are too large".into(),
    })
}

/// The network in the file at `path`, for images of `size` pixels.
///
/// # Errors
/// [`Error::Onnx`], [`Error::Setting`] for a size that the network cannot take.
pub(crate) fn network(path: &Path, size: Option<u32>) -> Result<Network> {
    let mut network = regraft_onnx::read(path, size.map_or(USUAL_SIZE, |size| size as usize))?;
    if let Some(size) = size {
        let fitting = network.graph.with_input_shape(Shape::rgb(size as usize));
        network.graph = fitting.map_err(|error| Error::Setting {
            field: "imgsz",
            value: size.to_string(),
            allowed: format!("it does not go with {}: {error}", path.display()),
        })?;
    }
    Ok(network)
}

/// The network in the file at `path` and the weights below its head.
///
/// # Errors
/// Errors of [`Pretrained::load`].
pub(crate) fn load(path: &Path, size: u32) -> Result<Pretrained> {
    let Network { mut graph, mut state, notes, files, .. } = network(path, Some(size))?;
    check_head(&graph).map_err(|reason| Error::Headless { path: path.to_owned(), reason })?;
    let head = graph.head()?;
    for spec in graph.parameters().iter().filter(|spec| spec.node == head) {
        state.remove(&spec.name);
    }
    // Exporters leave out a bias of zeros; the new head learns one.
    match graph.op_mut(head) {
        Op::Linear(linear) => linear.bias = true,
        Op::Conv2d(conv) => conv.bias = true,
        _ => unreachable!("a head is a Linear or a Conv2d"),
    }
    let hashes = files.iter().map(|file| regraft_io::sha256_file(file)).collect::<Result<Vec<_>, _>>()?;
    // Weights may lie in files of their own.
    let weights_sha256 = Some(match &hashes[..] {
        [only] => only.clone(),
        several => regraft_io::sha256(several.concat().as_bytes()),
    });
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(Pretrained { name, graph, state, weights_sha256, notes })
}

/// Checks that the network gives one number a class, with any number of classes.
fn check_head(graph: &Graph) -> Result<(), String> {
    let advice = "export the whole classifier, from images to one number for each class";
    let output = *graph.shapes().map_err(|e| e.to_string())?.last().expect("a graph has its input");
    if let Shape::Map { .. } = output {
        return Err(format!("its output is a map of {output}; {advice}"));
    }
    let mut other = graph.clone();
    let classes = output.len() + 1;
    let head = other.replace_head(classes).map_err(|error| format!("{error}; {advice}"))?;
    match other.shapes() {
        Ok(shapes) if shapes.last() == Some(&Shape::Features(classes)) => Ok(()),
        _ => {
            let name = &graph.nodes()[head].name;
            Err(format!("what follows its last layer, {name}, does not go with another number of classes; {advice}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::{Mode, Pretrained, Settings};
    use regraft_graph::{AvgPool2d, Conv2d, Grafted, Linear};
    use regraft_testing::fixture;

    use super::*;

    fn path(name: &str) -> PathBuf {
        fixture::path(&format!("onnx/{name}.onnx"))
    }

    #[test]
    fn a_new_head_is_all_that_is_added_to_a_network_from_a_file() {
        for name in ["resnet", "squeezenet", "mobilenet_v2", "shufflenet", "convnext"] {
            let path = path(name);
            let backbone = Pretrained::load(&path.to_str().unwrap().into(), &crate::Source::Random, 64, 3).unwrap();
            assert_eq!(backbone.name, format!("{name}.onnx"));
            assert_eq!(backbone.weights_sha256, Some(regraft_io::sha256_file(&path).unwrap()));
            for mode in [Mode::Frozen, Mode::Probe] {
                let settings = Settings { mode, ..Settings::tutorial("photos".into(), name.into()) };
                let (Grafted { graph, first, .. }, state) = settings.graft(&backbone, 5).unwrap();
                assert_eq!(*graph.shapes().unwrap().last().unwrap(), Shape::Features(5), "{name}");
                let specs = graph.parameters();
                assert_eq!(specs.len(), state.len(), "{name}");
                for spec in &specs {
                    assert_eq!(state[&spec.name].shape(), spec.shape, "{name}: {}", spec.name);
                    assert_eq!(backbone.state.contains_key(&spec.name), spec.node < first, "{name}: {}", spec.name);
                }
            }
        }
    }

    #[test]
    fn a_size_that_the_network_cannot_take_is_an_error() {
        let name = path("vgg");
        let message =
            Pretrained::load(&name.to_str().unwrap().into(), &crate::Source::Random, 64, 0).err().unwrap().to_string();
        assert!(message.contains("`imgsz` is 64"), "{message}");
        assert_eq!(image_size(&name).unwrap(), 32);
        assert_eq!(image_size(&path("resnet")).unwrap(), 224);
    }

    #[test]
    fn weights_do_not_go_with_a_file_that_has_its_own() {
        let (name, weights) = (path("resnet"), Path::new("resnet18.pth"));
        let message = Pretrained::load(&name.to_str().unwrap().into(), &crate::Source::File(weights.into()), 32, 0)
            .err()
            .unwrap()
            .to_string();
        assert!(message.contains("`weights`"), "{message}");
    }

    #[test]
    fn a_network_without_a_head_is_refused_with_what_to_do() {
        let mut graph = Graph::new(Shape::rgb(8));
        let map = graph.push("conv", Op::Conv2d(Conv2d::new(3, 4, 3)), &[0]);
        assert!(check_head(&graph).unwrap_err().contains("a map of 4x6x6; export the whole classifier"));
        let pool = AvgPool2d { kernel_size: 6, stride: 6, padding: 0 };
        let pooled = graph.push("pool", Op::AvgPool2d(pool), &[map]);
        let vector = graph.push("flatten", Op::Flatten, &[pooled]);
        assert!(check_head(&graph).unwrap_err().contains("conv"));
        let linear = Linear { in_features: 4, out_features: 4, bias: true };
        let fc = graph.push("fc", Op::Linear(linear), &[vector]);
        check_head(&graph).unwrap();
        graph.push("add", Op::Add, &[fc, vector]);
        assert!(check_head(&graph).unwrap_err().contains("what follows its last layer, fc,"));
    }
}
