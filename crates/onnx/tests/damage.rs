//! Files come from strangers: whatever is wrong with one, reading it ends in a message or a network.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use prost::Message;
use regraft_onnx::messages::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use regraft_onnx::{Error, Network};
use regraft_random::{Purpose, Rng, keyed};
use regraft_testing::fixture;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Held by tests that look at the memory in use: what another of them takes must not count.
static MEASURING: Mutex<()> = Mutex::new(());

fn parse(bytes: &[u8]) -> Result<Network, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.onnx");
    std::fs::write(&path, bytes).unwrap();
    regraft_onnx::read(&path, 32)
}

#[track_caller]
fn refused(model: &ModelProto, reason: &str) -> Error {
    let Err(error) = parse(&model.encode_to_vec()) else { panic!("it was taken for a network") };
    assert!(error.to_string().contains(reason), "{error} does not say {reason:?}");
    error
}

fn dims(sizes: &[i64]) -> TensorShapeProto {
    let dim = sizes.iter().map(|&n| DimensionProto { dim_value: Some(n), dim_param: None }).collect();
    TensorShapeProto { dim }
}

fn value(name: &str, elem_type: i32, sizes: &[i64]) -> ValueInfoProto {
    let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(dims(sizes)) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        name: format!("{op}_{output}"),
        ..NodeProto::default()
    }
}

fn attribute(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: ints.to_vec(), r#type: 7, ..AttributeProto::default() }
}

fn floats(name: &str, sizes: &[i64]) -> TensorProto {
    let len = sizes.iter().product::<i64>() as usize;
    TensorProto {
        name: name.into(),
        dims: sizes.to_vec(),
        data_type: 1,
        float_data: vec![0.5; len],
        ..TensorProto::default()
    }
}

/// A convolution of pictures of 8 by 8 pixels, its mean, and a head.
fn small() -> ModelProto {
    let graph = GraphProto {
        node: vec![
            node("Conv", &["x", "conv.weight"], "a"),
            node("GlobalAveragePool", &["a"], "b"),
            node("Flatten", &["b"], "c"),
            NodeProto {
                attribute: vec![AttributeProto { name: "transB".into(), i: 1, r#type: 2, ..AttributeProto::default() }],
                ..node("Gemm", &["c", "fc.weight", "fc.bias"], "y")
            },
        ],
        name: "small".into(),
        initializer: vec![floats("conv.weight", &[4, 3, 3, 3]), floats("fc.weight", &[2, 4]), floats("fc.bias", &[2])],
        input: vec![value("x", 1, &[1, 3, 8, 8])],
        output: vec![value("y", 1, &[1, 2])],
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() }
}

/// The same with one thing changed.
fn with(change: impl FnOnce(&mut GraphProto)) -> ModelProto {
    let mut model = small();
    change(model.graph.as_mut().unwrap());
    model
}

#[test]
fn the_small_network_is_read() {
    let network = parse(&small().encode_to_vec()).unwrap();
    let names: Vec<&String> = network.state.keys().collect();
    assert_eq!(names, ["conv.weight", "fc.bias", "fc.weight"]);
    assert_eq!(network.image_size, Some(8));
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused_or_read_without_a_panic() {
    let small = small().encode_to_vec();
    for len in 0..small.len() {
        // A cut between two fields leaves a file without opset, graph or output: nothing of this can be used.
        assert!(parse(&small[..len]).is_err(), "{len} of {} bytes", small.len());
    }
    for name in ["mobilenet_v3_dynamo", "shufflenet"] {
        let bytes = std::fs::read(fixture::path(&format!("onnx/{name}.onnx"))).unwrap();
        for len in (0..bytes.len()).step_by(bytes.len() / 60) {
            assert!(parse(&bytes[..len]).is_err(), "{name}: {len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn thousands_of_changed_bytes_never_panic_nor_fill_the_memory() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let files = ["small", "resnet_unfolded_11", "vgg", "mobilenet_v3_13", "shufflenet_dynamo", "convnext", "densenet"];
    let mut kinds = BTreeSet::new();
    for (number, name) in files.into_iter().enumerate() {
        let bytes = match name {
            "small" => small().encode_to_vec(),
            name => std::fs::read(fixture::path(&format!("onnx/{name}.onnx"))).unwrap(),
        };
        // Most bytes of a file are weights, any of which is as good as another; the others are what matters.
        let vital: Vec<usize> = match name {
            "small" => (0..bytes.len()).collect(),
            _ => (0..bytes.len())
                .filter(|&at| bytes[at.saturating_sub(8)..(at + 8).min(bytes.len())].is_ascii())
                .collect(),
        };
        let mut rng = keyed(1, Purpose::Init, number as u64, 0);
        for _ in 0..700 {
            let mut changed = bytes.clone();
            for _ in 0..1 + rng.next_u32() % 3 {
                let at = vital[rng.next_u32() as usize % vital.len()];
                changed[at] = match rng.next_u32() % 4 {
                    0 => 0xff,
                    1 => 0,
                    2 => changed[at] ^ 1 << (rng.next_u32() % 8),
                    _ => rng.next_u32() as u8,
                };
            }
            ALLOCATED.reset_peak_usage();
            let before = ALLOCATED.current_usage();
            if let Err(error) = parse(&changed) {
                kinds.insert(kind(&error));
                assert!(error.to_string().contains("network.onnx"), "{error}");
            }
            let used = ALLOCATED.peak_usage() - before;
            // The file, its decoded copy and the weights, with the margin that `Budget` gives.
            assert!(used < 20 * bytes.len() + (80 << 20), "{used} bytes for {} of {name}", bytes.len());
        }
    }
    assert_eq!(kinds, BTreeSet::from(["malformed", "refused", "unsupported"]));
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Read { .. } => "read",
        Error::Malformed { .. } => "malformed",
        Error::Refused { .. } => "refused",
        Error::Unsupported { .. } => "unsupported",
    }
}

#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_reserved() {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    // Field 7, the graph, of so many bytes.
    for length in [[0xff, 0xff, 0xff, 0xff, 0x0f].as_slice(), &[0xff; 9], &[0xff, 0xff, 0x03]] {
        let mut bytes = vec![0x3a];
        bytes.extend(length);
        bytes.push(0x01);
        assert!(matches!(parse(&bytes), Err(Error::Malformed { .. })), "{length:?}");
    }
    let huge = |sizes: &[i64]| with(|graph| graph.initializer[0].dims = sizes.to_vec());
    refused(&huge(&[1 << 40, 1 << 40, 3, 3]), "impossible");
    refused(&huge(&[1 << 30, 1 << 20, 3, 3]), "conv.weight");
    refused(&huge(&[-4, 3, 3, 3]), "impossible");
    refused(&huge(&[1; 9]), "9 dimensions");
    refused(&huge(&[4, 3, 3, 2]), "needs 72");
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    // A hundred million empty nodes would fit into as many bytes, and not into the memory.
    let many = [0x0a, 0x00].repeat(1 << 20);
    let mut bytes = vec![0x3a];
    prost::encoding::encode_varint(many.len() as u64, &mut bytes);
    bytes.extend(many);
    assert!(parse(&bytes).err().unwrap().to_string().contains("more than"));
    assert!(ALLOCATED.peak_usage() - before < 16 << 20);
}

#[test]
fn what_is_no_onnx_file_is_called_so() {
    for bytes in [b"".as_slice(), b"<!DOCTYPE html><html>", b"PK\x03\x04", &[0; 64]] {
        assert!(matches!(parse(bytes), Err(Error::Malformed { .. })), "{bytes:?}");
    }
    assert!(matches!(regraft_onnx::read(Path::new("absent.onnx"), 32), Err(Error::Read { .. })));
    assert!(matches!(regraft_onnx::read(Path::new("."), 32), Err(Error::Read { .. })));
}

#[test]
fn cycles_missing_inputs_and_double_names_are_refused() {
    refused(&with(|graph| graph.node[0].input[0] = "c".into()), "\"c\", which no node before it writes");
    refused(&with(|graph| graph.node[1].input[0] = "b".into()), "which no node before it writes");
    refused(&with(|graph| graph.node[0].input[1] = "nowhere".into()), "\"nowhere\"");
    refused(&with(|graph| graph.node[0].input.clear()), "lacks input 0");
    refused(&with(|graph| graph.node[0].input.truncate(1)), "lacks input 1");
    refused(&with(|graph| graph.node[2].output[0] = "b".into()), "which no node before it writes");
    refused(&with(|graph| graph.node[1].output.push("a".into())), "two nodes write \"a\"");
    refused(&with(|graph| graph.output[0].name = "z".into()), "no node writes its output \"z\"");
    refused(&with(|graph| graph.output[0].name = "x".into()), "no layers");
    refused(&with(|graph| graph.output[0].name = "fc.bias".into()), "does not depend on the pictures");
    refused(&with(|graph| graph.output.clear()), "no output");
    refused(&ModelProto { graph: None, ..small() }, "no graph");
}

#[test]
fn wrong_types_and_inputs_are_refused_by_name() {
    refused(&with(|graph| graph.initializer[0].data_type = 7), "conv.weight");
    refused(&with(|graph| graph.initializer[0].data_type = 8), "conv.weight");
    refused(&with(|graph| graph.input[0] = value("x", 7, &[1, 3, 8, 8])), "type 7");
    refused(&with(|graph| graph.input[0] = value("x", 1, &[1, 1, 8, 8])), "1 channels");
    refused(&with(|graph| graph.input[0] = value("x", 1, &[1, 3, 8])), "3 dimensions");
    refused(&with(|graph| graph.input[0] = value("x", 1, &[1, 3, 8, 9])), "8x9");
    refused(&with(|graph| graph.input[0] = value("x", 1, &[1, 3, 1 << 40, 1 << 40])), "pixels wide");
    refused(&with(|graph| graph.input[0].r#type = None), "no tensor");
    refused(&with(|graph| graph.input.clear()), "0 inputs");
    refused(&with(|graph| graph.input.push(value("mask", 1, &[1]))), "2 inputs (x, mask)");
    for version in [10, 22, -1] {
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version }];
        refused(&ModelProto { opset_import, ..small() }, &format!("opset {version}"));
    }
    refused(&ModelProto { opset_import: Vec::new(), ..small() }, "which version");
}

#[test]
fn sizes_of_zero_and_windows_larger_than_anything_are_refused() {
    refused(&with(|graph| graph.initializer[0] = floats("conv.weight", &[0, 3, 3, 3])), "conv.weight");
    refused(&with(|graph| graph.initializer[0] = floats("conv.weight", &[4, 0, 3, 3])), "channels");
    refused(&with(|graph| graph.initializer[0] = floats("conv.weight", &[4, 3, 0, 3])), "Conv");
    refused(&with(|graph| graph.initializer[1] = floats("fc.weight", &[0, 4])), "fc");
    for (name, ints) in [
        ("strides", [0, 0].as_slice()),
        ("strides", &[i64::MAX, 1]),
        ("strides", &[1, 1, 1]),
        ("strides", &[-1, 1]),
        ("dilations", &[0, 1]),
        ("dilations", &[i64::MAX, i64::MAX]),
        ("pads", &[-1, -1, -1, -1]),
        ("pads", &[i64::MAX; 4]),
        ("pads", &[1, 0, 0, 1]),
        ("kernel_shape", &[5, 5]),
    ] {
        let error = with(|graph| graph.node[0].attribute.push(attribute(name, ints)));
        match parse(&error.encode_to_vec()) {
            // A stride beyond the picture leaves one window.
            Ok(_) => assert_eq!((name, ints[0]), ("strides", i64::MAX)),
            Err(error) => assert!(matches!(error, Error::Unsupported { .. }), "{name} {ints:?}: {error}"),
        }
    }
    for op in ["MaxPool", "AveragePool"] {
        for kernel in [[0, 0], [9, 9], [i64::MAX, i64::MAX], [2, 3]] {
            let model = with(|graph| {
                graph.node[1] =
                    NodeProto { attribute: vec![attribute("kernel_shape", &kernel)], ..node(op, &["a"], "b") };
            });
            refused(&model, op);
        }
    }
}

#[test]
fn a_sum_along_the_width_is_not_taken_for_a_bias() {
    let model = |back: bool| {
        with(|graph| {
            let transpose = |perm: &[i64], input: &str, output: &str| NodeProto {
                attribute: vec![attribute("perm", perm)],
                ..node("Transpose", &[input], output)
            };
            // Maps of 6x6 pixels, of which a vector of 6 fits the width as well as the channels.
            let mut nodes = vec![
                transpose(&[0, 2, 3, 1], "a", "last"),
                node("MatMul", &["last", "mix.weight"], "mixed"),
                node("Add", &[if back { "first" } else { "mixed" }, "mix.bias"], if back { "summed" } else { "sum" }),
            ];
            match back {
                true => nodes.insert(2, transpose(&[0, 3, 1, 2], "mixed", "first")),
                false => nodes.push(transpose(&[0, 3, 1, 2], "sum", "summed")),
            }
            graph.node[1].input[0] = "summed".into();
            graph.node.splice(1..1, nodes);
            graph.initializer.extend([floats("mix.weight", &[4, 6]), floats("mix.bias", &[6])]);
            graph.initializer[1] = floats("fc.weight", &[2, 6]);
        })
    };
    let network = parse(&model(false).encode_to_vec()).unwrap();
    assert_eq!(network.state["mix.bias"].shape(), [6]);
    refused(&model(true), "its constant is [6]");
}

#[test]
fn a_cast_that_would_change_numbers_is_refused() {
    let model = |to: Option<i64>| {
        with(|graph| {
            let to = to.map(|i| AttributeProto { name: "to".into(), i, r#type: 2, ..AttributeProto::default() });
            let cast = NodeProto { attribute: to.into_iter().collect(), ..node("Cast", &["a"], "cast") };
            graph.node[1].input[0] = "cast".into();
            graph.node.insert(1, cast);
        })
    };
    // FLOAT, FLOAT16, DOUBLE and BFLOAT16; then UINT8, INT32, INT64, BOOL and one of 8 bits.
    for to in [1, 10, 11, 16] {
        assert!(parse(&model(Some(to)).encode_to_vec()).is_ok(), "{to}");
    }
    for to in [2, 6, 7, 9, 17] {
        refused(&model(Some(to)), &format!("1 x Cast (Cast_cast): it casts to type {to} "));
    }
    refused(&model(None), "to which type");
}

#[test]
fn all_nodes_without_a_counterpart_are_listed_at_once() {
    let model = with(|graph| {
        graph.node[1] = node("Einsum", &["a"], "b0");
        graph.node.insert(2, node("GlobalAveragePool", &["b0"], "b"));
        graph.node.insert(1, node("Celu", &["a"], "left out"));
        graph.node.insert(1, node("Mish", &["a0"], "a"));
        graph.node[0].output[0] = "a0".into();
    });
    let Error::Unsupported { nodes, .. } = refused(&model, "supported operators: Add, AveragePool") else { panic!() };
    // What nobody reads is not looked at, and the pooling after an unknown value is not to blame.
    assert_eq!(nodes.iter().map(|node| node.op.as_str()).collect::<Vec<_>>(), ["Mish", "Einsum"]);
    let model = with(|graph| {
        graph.node.insert(1, node("Add", &["m", "e"], "a"));
        graph.node.insert(1, node("Mish", &["a0"], "m"));
        graph.node.insert(1, node("Elu", &["a0"], "e"));
        graph.node[0].output[0] = "a0".into();
    });
    let error = refused(&model, "2 node(s)").to_string();
    assert!(error.contains("1 x Mish (Mish_m)") && error.contains("1 x Elu (Elu_e)"), "{error}");
}

#[test]
fn text_from_a_file_cannot_forge_what_a_terminal_shows() {
    let error = refused(&with(|graph| graph.node[0].op_type = "Conv\x1b[2J\n".into()), "Conv?[2J?");
    assert!(!error.to_string().contains('\x1b'));
}

#[test]
fn values_beside_the_model_are_read_only_from_its_folder() {
    let outside = |location: &str| {
        with(|graph| {
            let tensor = &mut graph.initializer[0];
            tensor.float_data.clear();
            tensor.data_location = 1;
            tensor.external_data = vec![StringStringEntryProto { key: "location".into(), value: location.into() }];
        })
    };
    for location in ["/etc/passwd", "../other.data", "a/../../b", ""] {
        refused(&outside(location), "outside the model's folder");
    }
    refused(&outside("absent.data"), "absent.data");
    let folder = tempfile::tempdir().unwrap();
    let (path, data) = (folder.path().join("network.onnx"), folder.path().join("weights.data"));
    std::fs::write(&path, outside("weights.data").encode_to_vec()).unwrap();
    std::fs::write(&data, [0u8; 4 * 107]).unwrap();
    let error = regraft_onnx::read(&path, 32).err().unwrap().to_string();
    assert!(error.contains("do not fit into the 428 bytes"), "{error}");
    std::fs::write(&data, 2.0f32.to_le_bytes().repeat(108)).unwrap();
    assert_eq!(regraft_onnx::read(&path, 32).unwrap().state["conv.weight"].data(), [2.0; 108]);
}
