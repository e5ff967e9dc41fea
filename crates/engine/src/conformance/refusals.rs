//! Batches that do not fit.

use regraft_graph::Trainable;

use super::Tolerances;
use super::common::{CLASSES, Network, Samples, accumulate, assert_same_state};
use crate::{
    Batch, BatchNormMode, Engine, Error, Labels, Outputs, Session, SessionOptions, StepOptions, Targets, Want,
};

/// Batches that do not fit are refused with a message that says how, and nothing is moved then.
pub fn refusals(engine: &dyn Engine, _: &Tolerances) {
    let mut network = Network::new("squeezenet1_1");
    let samples = Samples::new(2);
    let mut session = network.compile(engine, network.all(BatchNormMode::Train));
    let before = session.state().unwrap();
    let Samples { images, keys, classes } = &samples;
    let labels = |labels| Targets { labels, label_smoothing: 0.0, class_weights: None };
    let classes_of = |classes| labels(Labels::Classes(classes));
    let weighted = |weights| Targets { class_weights: Some(weights), ..classes_of(classes) };
    let numbers = [0.25; 9];
    for (images, keys, targets, words) in [
        (&images[1..], &keys[..], classes_of(classes), "3x32x32"),
        (&[], &[], classes_of(&[]), "whole number"),
        (images, &keys[1..], classes_of(classes), "2 samples come with 1 keys"),
        (images, keys, classes_of(&classes[1..]), "2 samples come with 1 labels"),
        (images, keys, classes_of(&[0, CLASSES]), "label 4 is not among the network's 4 classes"),
        (
            images,
            keys,
            labels(Labels::Probabilities(&numbers[..4])),
            "2 samples of 4 classes come with 4 probabilities",
        ),
        (images, keys, labels(Labels::Binary(&numbers[..7])), "2 samples of 4 labels come with 7 answers"),
        (images, keys, labels(Labels::Values(&numbers)), "2 samples of 4 outputs come with 9 values"),
        (images, keys, weighted(&numbers[..3]), "3 class weights are given for 4 classes"),
    ] {
        let error = session.accumulate(Batch { input: images.into(), sample_keys: keys }, targets, Want::Losses);
        let error = error.expect_err(words);
        assert!(matches!(error, Error::Batch(_)), "{error:?}");
        assert!(error.to_string().contains(words), "{words:?} is not in {error}");
    }
    assert_same_state("after refusals", &session.state().unwrap(), &before);
    accumulate(session.as_mut(), &samples);
    without_training(engine, &network, &samples);
    without_variance(engine);
    network.state.remove("features.3.squeeze.bias");
    for options in [network.all(BatchNormMode::Train), SessionOptions::inference(&network.graph)] {
        let error = engine.compile(&network.graph, &network.state, options).err().expect("a tensor is missing");
        assert!(matches!(&error, Error::Tensor { name, .. } if name == "features.3.squeeze.bias"), "{error}");
    }
}

fn without_training(engine: &dyn Engine, network: &Network, samples: &Samples) {
    for outputs in [Outputs::Final, Outputs::Any] {
        let options = SessionOptions { outputs, ..SessionOptions::inference(&network.graph) };
        let mut idle = network.compile(engine, options);
        let refused = idle.accumulate(samples.batch(), samples.targets(), Want::Losses);
        assert!(matches!(refused, Err(Error::NothingToTrain)), "{refused:?}");
        let refused = idle.step(&StepOptions::default());
        assert!(matches!(refused, Err(Error::NothingToTrain)), "{refused:?}");
        assert!(idle.weights().unwrap().is_empty() && idle.layer_times().is_empty());
    }
}

/// A training batch norm is not given a single value per channel.
fn without_variance(engine: &dyn Engine) {
    // At 32 pixels the maps of layer4 have one pixel.
    let network = Network::new("resnet18");
    let sample = Samples::new(1);
    let refused = |session: &mut dyn Session| {
        let before = session.state().unwrap();
        let error = session.accumulate(sample.batch(), sample.targets(), Want::Losses).unwrap_err();
        assert!(matches!(error, Error::Batch(_)), "{error:?}");
        // The layers before it have not moved either.
        assert_same_state("a single value per channel", &session.state().unwrap(), &before);
        error.to_string()
    };
    let mut session = network.compile(engine, network.all(BatchNormMode::Train));
    let message = refused(session.as_mut());
    for word in ["\"layer4.0.bn1\"", "single value per channel", "`batch_size`", "`imgsz`", "`bn`"] {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    accumulate(session.as_mut(), &Samples::new(2));
    // A new layer has no statistics to freeze.
    let trainable = Trainable::all(&network.graph).with_new(network.node("layer4.1.conv1"));
    let options = SessionOptions { trainable, ..network.all(BatchNormMode::Frozen) };
    let message = refused(network.compile(engine, options).as_mut());
    assert!(message.contains("\"layer4.1.bn1\"") && !message.contains("`bn`"), "{message}");
    for options in [network.all(BatchNormMode::Frozen), network.options("fc", BatchNormMode::Train)] {
        accumulate(network.compile(engine, options).as_mut(), &sample);
    }
}
