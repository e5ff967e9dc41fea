//! Cached features, and images as bytes.

use regraft_graph::{Shape, Trainable};
use regraft_testing::assert_close_to_scale;

use super::Tolerances;
use super::common::{Network, SIDE, Samples, assert_same_state, infer, step};
use crate::{
    Batch, BatchNormMode, Engine, Error, Images, Input, Normalization, Outputs, Session, SessionOptions, Trunk, Want,
};

/// Training and inference on cached features give what the images give.
pub fn features(engine: &dyn Engine, tolerances: &Tolerances) {
    for (name, layer, end) in [
        ("resnet18", "fc", "flatten"),
        ("resnet18", "layer4", "layer3.1.relu"),
        ("mobilenet_v2", "classifier", "flatten"),
    ] {
        let network = Network::new(name);
        let output = network.graph.output();
        let options = SessionOptions { outputs: Outputs::Any, ..network.options(layer, BatchNormMode::Train) };
        let compile = || network.compile(engine, options.clone());
        let (mut images, mut cached) = (compile(), compile());
        let node = network.node(end);
        let len = network.graph.shapes().expect("the network fits together")[node].len();
        assert_eq!(cached.trunk(), Some(Trunk { node, len }), "{name} from {layer}");
        let samples = Samples::new(4);
        let keys = [40, 41, 42, 43];
        // What is cached last under a key counts.
        cached.cache_features(Images::Floats(&samples.pick(&[2, 3]).images), &[40, 50]).unwrap();
        cached.cache_features(Images::Floats(&samples.images), &keys).unwrap();
        let features = cached.infer(Input::Cached(&keys), &[node]).unwrap().remove(0);
        assert!(features.data() == infer(cached.as_mut(), &samples.images, node), "{name} from {layer}: features");
        for _ in 0..2 {
            let batch = Batch { input: Input::Cached(&keys), sample_keys: &samples.keys };
            let found = cached.accumulate(batch, samples.targets(), Want::Logits).unwrap();
            let expected = images.accumulate(samples.batch(), samples.targets(), Want::Logits).unwrap();
            assert_eq!(found, expected, "{name} from {layer}");
            [&mut images, &mut cached].into_iter().for_each(|session| step(session.as_mut(), 0.01));
        }
        let what = format!("{name} from {layer}");
        assert_same_state(&what, &cached.state().unwrap(), &images.state().unwrap());
        let expected = network.infer(images.as_mut(), &samples.images);
        let logits = cached.infer(Input::Cached(&keys), &[output]).unwrap().remove(0);
        assert!(logits.data() == expected, "{name} from {layer}: logits of cached features");
        // In another order and number.
        let some = cached.infer(Input::Cached(&[43, 41, 43]), &[output]).unwrap().remove(0);
        let rows: Vec<f32> = [3, 1, 3].iter().flat_map(|i| &expected[i * 4..][..4]).copied().collect();
        assert_close_to_scale(name, some.data(), &rows, tolerances.order);
        refusals(cached.as_mut(), &network, &samples);
    }
    without_trunk(engine);
}

fn refusals(session: &mut dyn Session, network: &Network, samples: &Samples) {
    let trunk = session.trunk().expect("the session has one").node;
    let error = session.infer(Input::Cached(&[40]), &[trunk - 1]).unwrap_err();
    assert!(matches!(error, Error::Output { .. }), "{error}");
    for keys in [&[40, 999][..], &[]] {
        let error = session.infer(Input::Cached(keys), &[network.graph.output()]).unwrap_err();
        assert!(matches!(error, Error::Batch(_)), "{error}");
    }
    let error = session.cache_features(Images::Floats(&samples.images), &[1, 2]).unwrap_err();
    assert!(matches!(error, Error::Batch(_)), "{error}");
    session.forget_features();
    let error = session.infer(Input::Cached(&[40]), &[network.graph.output()]).unwrap_err();
    assert!(error.to_string().contains("40"), "{error}");
}

/// Where the first layer learns or none, there is no trunk.
fn without_trunk(engine: &dyn Engine) {
    let network = Network::new("squeezenet1_1");
    let samples = Samples::new(1);
    for trainable in [Trainable::all(&network.graph), Trainable::none(&network.graph)] {
        let options = SessionOptions { trainable, ..network.all(BatchNormMode::Train) };
        let mut session = network.compile(engine, options);
        assert_eq!(session.trunk(), None);
        let error = session.cache_features(Images::Floats(&samples.images), &[1]).unwrap_err();
        assert!(matches!(error, Error::NoTrunk), "{error}");
        let error = session.infer(Input::Cached(&[1]), &[network.graph.output()]).unwrap_err();
        assert!(matches!(error, Error::Batch(_)), "{error}");
        session.forget_features();
    }
}

/// Bytes are normalised as torchvision does it: training and inference on them give what those floats give.
pub fn bytes(engine: &dyn Engine, _: &Tolerances) {
    let network = Network::new("resnet18");
    let normalization = Normalization { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    let mut samples = Samples::new(4);
    let pixels: Vec<u8> = (0..samples.images.len()).map(|i| (i * 89 % 256) as u8).collect();
    normalization.apply(&pixels, &mut samples.images);
    let bytes = Images::Bytes { pixels: &pixels, normalization };
    for layer in ["conv1", "layer4"] {
        let [mut floats, mut from_bytes] =
            [(); 2].map(|()| network.compile(engine, network.options(layer, BatchNormMode::Train)));
        let expected = floats.accumulate(samples.batch(), samples.targets(), Want::Logits).unwrap();
        let batch = Batch { input: bytes.into(), sample_keys: &samples.keys };
        assert_eq!(from_bytes.accumulate(batch, samples.targets(), Want::Logits).unwrap(), expected, "from {layer}");
        [&mut floats, &mut from_bytes].into_iter().for_each(|session| step(session.as_mut(), 0.01));
        assert_same_state(layer, &from_bytes.state().unwrap(), &floats.state().unwrap());
        let logits = from_bytes.infer(bytes.into(), &[network.graph.output()]).unwrap().remove(0);
        assert!(logits.data() == network.infer(floats.as_mut(), &samples.images), "from {layer}");
        let short = Images::Bytes { pixels: &pixels[1..], normalization };
        let error = from_bytes.infer(short.into(), &[network.graph.output()]).unwrap_err();
        assert!(matches!(error, Error::Batch(_)), "{error}");
    }
    // Bytes are colours.
    let (_, head) = network.graph.split(network.node("flatten")).expect("it fits").expect("nothing goes past");
    assert_eq!(head.input_shape(), Shape::Features(512));
    let mut session = engine.compile(&head, &network.state, SessionOptions::inference(&head)).unwrap();
    let bytes = Images::Bytes { pixels: &pixels[..512], normalization };
    let error = session.infer(bytes.into(), &[head.output()]).unwrap_err();
    assert!(error.to_string().contains("RGB"), "{error} at {SIDE} pixels");
}
