//! The network of a run in two: the layers whose values training never changes, and the rest.

use regraft_data::Batch;
use regraft_engine::{BatchNormMode, Engine, Precision, Session, SessionOptions};
use regraft_graph::{Grafted, Graph, StateDict, Trainable};

use crate::photos::prepare::Photos;
use crate::trainer::probe;
use crate::{Config, Context, InitHead, Pretrained, Result};

/// A network that trains.
pub(crate) struct Network {
    /// The frozen layers below everything that learns, in evaluation mode; absent if there are none.
    body: Option<Body>,
    /// The layers from there on, some of which learn: all that a training step runs.
    pub top: Box<dyn Session>,
}

/// Frozen layers. What they make of a photo is the same whenever it is asked for.
pub(crate) struct Body {
    pub session: Box<dyn Session>,
    /// Name of the last layer.
    pub layer: String,
    /// Values of one photo there.
    pub values: usize,
}

impl Network {
    /// Compiles `graph` as [`Trainable::divide`](regraft_graph::Trainable::divide) divides it.
    ///
    /// # Errors
    /// Those of [`Engine::compile`].
    pub fn new(engine: &dyn Engine, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Self> {
        let Some((below, rest, trainable)) = options.trainable.divide(graph)? else {
            return Ok(Self { body: None, top: engine.compile(graph, state, options)? });
        };
        let top = engine.compile(&rest, state, SessionOptions { trainable, ..options })?;
        let session = engine.compile(&below, state, SessionOptions::inference(&below))?;
        let layer = below.nodes()[below.output()].name.clone();
        Ok(Self { body: Some(Body { session, layer, values: rest.input_shape().len() }), top })
    }

    /// The frozen layers, if there are any.
    pub fn body(&mut self) -> Option<&mut Body> {
        self.body.as_mut()
    }

    /// Puts what the layers that learn see of photos in their place: what the frozen layers make of them, if there
    /// are any.
    ///
    /// # Errors
    /// Those of [`Session::infer`].
    pub fn below(&mut self, mut batch: Batch) -> Result<Batch> {
        if let Some(body) = &mut self.body {
            batch.images = body.session.infer(&batch.images)?;
        }
        Ok(batch)
    }

    /// The whole network's output in evaluation mode.
    ///
    /// # Errors
    /// Those of [`Session::infer`].
    pub fn infer(&mut self, images: &[f32]) -> Result<Vec<f32>> {
        Ok(match &mut self.body {
            Some(body) => self.top.infer(&body.session.infer(images)?)?,
            None => self.top.infer(images)?,
        })
    }
}

/// Gives the head what it starts from, if that is a probe's solution: `head`, where it is known already.
///
/// # Errors
/// Those of the probe.
pub(crate) fn initialise(
    config: &Config,
    grafted: &Grafted,
    state: &mut StateDict,
    head: Option<&StateDict>,
    photos: &Photos,
    context: &Context,
) -> Result<()> {
    match (config.init_head, head) {
        (InitHead::Random, _) => Ok(()),
        (InitHead::Probe, Some(head)) => {
            state.extend(head.clone());
            Ok(())
        }
        (InitHead::Probe, None) => probe::initialise(config, grafted, state, photos, context),
    }
}

/// The network as a run begins with it. `head` as for [`initialise`].
///
/// # Errors
/// Those of the probe, where the head starts from one, and of compiling.
pub(crate) fn first(
    config: &Config,
    backbone: &Pretrained,
    head: Option<&StateDict>,
    photos: &Photos,
    context: &Context,
) -> Result<Network> {
    let (grafted, mut state) = config.graft(backbone, photos.dataset.classes.len())?;
    initialise(config, &grafted, &mut state, head, photos, context)?;
    let trainable = config.trainable(&grafted, 0)?;
    let batch_norm = config.batch_norm_mode(backbone);
    Ok(compile(config, batch_norm, &grafted.graph, &trainable, state, context)?.0)
}

/// The network with these layers learning, and the tensors of the others.
pub(crate) fn compile(
    config: &Config,
    batch_norm: BatchNormMode,
    graph: &Graph,
    trainable: &Trainable,
    mut state: StateDict,
    context: &Context,
) -> Result<(Network, StateDict)> {
    let options = SessionOptions {
        trainable: trainable.clone(),
        batch_norm,
        update: config.optimizer,
        seed: config.seed,
        precision: config.precision,
        // What is measured and shipped is the network as others will run it.
        infer_precision: Precision::F32,
    };
    let network = Network::new(context.engine, graph, &state, options)?;
    for name in network.top.trained_state().keys() {
        state.remove(name);
    }
    Ok((network, state))
}

/// Gives a session the optimiser's past of another, of the same network with fewer layers that learn; the others begin
/// without one.
///
/// # Errors
/// [`crate::Error::Engine`] if they are not of the same network.
pub(crate) fn take_over(session: &mut dyn Session, from: &dyn Session) -> Result<()> {
    let mut optimizer = session.optimizer_state();
    optimizer.extend(from.optimizer_state());
    Ok(session.restore_optimizer(&optimizer)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use regraft_engine::{Batch as Samples, BatchNormMode, Labels, Precision, Targets, UpdateRule};
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::{Shape, Trainable, init, zoo};
    use regraft_testing::{assert_close_to_scale, pattern};

    const SIDE: usize = 64;

    fn options(trainable: Trainable) -> SessionOptions {
        let update = UpdateRule::Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: false };
        SessionOptions {
            trainable,
            batch_norm: BatchNormMode::Train,
            update,
            seed: 1,
            precision: Precision::F32,
            infer_precision: Precision::F32,
        }
    }

    fn graph(name: &str) -> Graph {
        zoo::build(name, 3).unwrap().with_input_shape(Shape::rgb(SIDE)).unwrap()
    }

    fn photos(n: usize) -> Vec<f32> {
        pattern::values("photos", n * SIDE * SIDE * 3)
    }

    #[test]
    fn the_frozen_layers_make_the_same_of_a_photo_whatever_is_beside_it() {
        let engine = CpuEngine::new(2).unwrap();
        for (name, layer) in [("resnet18", "fc"), ("mobilenet_v2", "classifier.1"), ("squeezenet1_1", "classifier.1")] {
            let graph = graph(name);
            let trainable = Trainable::from_layer(&graph, layer).unwrap();
            let mut network = Network::new(&engine, &graph, &init::random(&graph, 0), options(trainable)).unwrap();
            let body = network.body().unwrap();
            let images = photos(33);
            let whole = body.session.infer(&images).unwrap();
            assert!(body.session.infer(&images).unwrap() == whole, "{name}: the same batch again");
            for together in [4, 32] {
                let parts: Vec<f32> = images
                    .chunks(together * SIDE * SIDE * 3)
                    .flat_map(|images| body.session.infer(images).unwrap())
                    .collect();
                // For another number of photos the engine may take another algorithm, whose rounding is its own: 1e-5 of
                // the scale a convolution.
                assert_close_to_scale(&format!("{name} in batches of {together}"), &parts, &whole, 1e-4);
            }
        }
    }

    #[test]
    fn training_above_the_boundary_is_training_the_whole_network() {
        let (engine, graph, n) = (CpuEngine::new(2).unwrap(), graph("resnet18"), 4);
        let state = init::random(&graph, 0);
        // The last of these begins within a block, whose input is the boundary then.
        for layer in ["fc", "layer4", "layer4.1.conv2"] {
            let trainable = Trainable::from_layer(&graph, layer).unwrap();
            let mut whole = engine.compile(&graph, &state, options(trainable.clone())).unwrap();
            let mut divided = Network::new(&engine, &graph, &state, options(trainable)).unwrap();
            let (images, labels, keys) = (photos(n), [0, 1, 2, 0], [0, 1, 2, 3]);
            let batch = Batch { images: images.clone(), sample_keys: keys.to_vec(), n };
            let below = divided.below(batch).unwrap();
            for _ in 0..3 {
                let targets = Targets { labels: Labels::Classes(&labels), label_smoothing: 0.1, class_weights: None };
                let expected = whole.gradients(Samples { inputs: &images, keys: &keys }, targets).unwrap();
                let found = divided.top.gradients(Samples { inputs: &below.images, keys: &keys }, targets).unwrap();
                assert_eq!(found, expected, "{layer}");
                whole.update(0.01);
                divided.top.update(0.01);
            }
            assert!(divided.top.trained_state() == whole.trained_state(), "{layer}");
            assert!(divided.top.optimizer_state() == whole.optimizer_state(), "{layer}");
            assert!(divided.infer(&images).unwrap() == whole.infer(&images).unwrap(), "{layer}");
        }
    }
}
