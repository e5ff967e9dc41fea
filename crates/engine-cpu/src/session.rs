//! A network on the CPU: its parameters and the programs that use them.

use std::sync::Arc;

use rayon::prelude::*;
use regraft_engine::plan::{Mode, Region};
use regraft_engine::{
    Activation, Batch, Error, Images, Input, LayerTime, Losses, Outputs, Session, SessionOptions, SessionState,
    StepOptions, StepReport, Targets, Trunk, Want,
};
use regraft_graph::{Graph, NodeId, Shape, StateDict, Tensor, Trainable};
use regraft_kernels::Memory;
use regraft_kernels::elementwise::transpose;
use regraft_kernels::loss::Criterion;

use crate::convert;
use crate::features::Features;
use crate::parameters::Parameters;
use crate::program::{Evaluation, Program, Samples, Wanted};

pub struct CpuSession {
    pool: Arc<rayon::ThreadPool>,
    graph: Graph,
    shapes: Vec<Shape>,
    parameters: Parameters,
    trainable: Trainable,
    /// The trunk's last node; 0, the network's input, if there is no trunk.
    boundary: NodeId,
    /// The programs for evaluation: first the trunk's, if there is one, and that from the boundary to the output.
    evaluation: Evaluation,
    /// The training step from the boundary on; absent if nothing learns.
    training: Option<Program>,
    features: Features,
    /// Where inputs are put together that are not given as the network reads them.
    staging: Memory,
    outputs: Outputs,
    seed: u64,
}

/// The programs that a request runs, by index.
struct Stages {
    trunk: Option<usize>,
    head: Option<usize>,
}

impl CpuSession {
    pub fn new(
        graph: &Graph,
        state: &StateDict,
        options: SessionOptions,
        pool: Arc<rayon::ThreadPool>,
    ) -> Result<Self, Error> {
        let SessionOptions { trainable, batch_norm, update, seed, precision, infer_precision, outputs } = options;
        let (precision, infer_precision) = (convert::precision(precision)?, convert::precision(infer_precision)?);
        let shapes = graph.shapes()?;
        let mut parameters = Parameters::new(graph, state, &trainable, batch_norm, update)?;
        let trunk = trainable.boundary(graph);
        let boundary = trunk.unwrap_or(0);
        let wanted = |input, output| Wanted { input, outputs: vec![output], gradient: false };
        let always = trunk.map(|end| wanted(0, end)).into_iter().chain([wanted(boundary, graph.output())]).collect();
        let mut evaluation = Evaluation::new(graph, always, infer_precision, &parameters)?;
        let mut training = None;
        if !trainable.is_empty() {
            let region = Region { input: boundary, outputs: &[graph.output()] };
            let mode = Mode::Training(&trainable, batch_norm);
            let mut program = Program::new(graph, region, mode, precision, &parameters)?;
            program.prepare_frozen(&parameters, &trainable);
            // Layers that the output does not depend on have nothing to learn from it.
            training = Some(program).filter(|program| program.plan().grad_output.is_some());
        }
        for program in evaluation.iter_mut().filter(|program| program.is_fixed()) {
            program.prepare(&parameters);
            if outputs == Outputs::Final {
                program.free_raw_weights(&mut parameters);
            }
        }
        Ok(Self {
            pool,
            graph: graph.clone(),
            features: Features::new(shapes[boundary].len()),
            shapes,
            parameters,
            trainable,
            boundary,
            evaluation,
            training,
            staging: Memory::default(),
            outputs,
            seed,
        })
    }

    fn has_trunk(&self) -> bool {
        self.boundary != 0
    }

    /// The trunk's program, if there is one.
    fn trunk_stage(&self) -> Option<usize> {
        self.has_trunk().then_some(0)
    }

    /// Checks that an input is a whole number of samples that the session has; returns their number.
    fn samples(&self, input: &Input) -> Result<usize, Error> {
        let images = match input {
            Input::Cached([]) => return Err(Error::Batch("there are no samples".into())),
            Input::Cached(keys) => {
                return match self.features.missing(keys) {
                    Some(key) => Err(Error::Batch(format!("no features are cached for key {key}"))),
                    None => Ok(keys.len()),
                };
            }
            Input::Images(images) => images,
        };
        let shape = self.graph.input_shape();
        if matches!(images, Images::Bytes { .. }) && !matches!(shape, Shape::Map { channels: 3, .. }) {
            return Err(Error::Batch(format!("bytes are RGB images, but a sample is {shape}")));
        }
        let n = images.len() / shape.len();
        if n == 0 || n * shape.len() != images.len() {
            let values = images.len();
            return Err(Error::Batch(format!("{values} values are not a whole number of samples of {shape}")));
        }
        Ok(n)
    }

    /// The error for a node whose value cannot be had.
    fn no_output(&self, node: NodeId, reason: impl Into<String>) -> Error {
        let node = self.graph.nodes().get(node).map_or_else(|| node.to_string(), |node| node.name.clone());
        Error::Output { node, reason: reason.into() }
    }

    /// Checks that the session can be asked about a node.
    fn check_node(&self, node: NodeId) -> Result<(), Error> {
        let nodes = self.graph.nodes().len();
        if node >= nodes {
            return Err(self.no_output(node, format!("the network has {nodes} nodes")));
        }
        if self.outputs == Outputs::Final && node != self.graph.output() {
            return Err(self.no_output(node, "the session was compiled for the network's output alone"));
        }
        Ok(())
    }

    /// Checks all that a training step needs of a batch but its input.
    fn check_batch(&self, training: &Program, n: usize, batch: &Batch, targets: &Targets) -> Result<(), Error> {
        let output = self.shapes[self.graph.output()];
        if batch.sample_keys.len() != n {
            return Err(Error::Batch(format!("{n} samples come with {} keys", batch.sample_keys.len())));
        }
        if output.len() != output.channels() {
            return Err(Error::Batch(format!(
                "the output is a map of {output}; a loss needs a vector (add a Flatten)"
            )));
        }
        targets.check(n, output.len())?;
        training.check_memory(n)?;
        let Some(node) = training.plan().without_variance(n) else { return Ok(()) };
        let layer = &self.graph.nodes()[node].name;
        // Those of a new layer have no statistics to freeze.
        let frozen = if self.trainable.is_new(node) { "" } else { ", or freeze the batch norms (`bn`)" };
        Err(Error::Batch(format!(
            "batch norm {layer:?} gets a single value per channel from a batch of {n}, and that has no variance; give a \
             larger `batch_size`, which also leaves more than {n} for an epoch's last batch, or a larger `imgsz`{frozen}"
        )))
    }

    /// The programs that compute some nodes of an input.
    fn stages(&mut self, input: &Input, outputs: &[NodeId]) -> Result<Stages, Error> {
        let mut wanted = outputs.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let (mut below, above): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|&node| self.has_trunk() && node <= self.boundary);
        if let Input::Cached(_) = input {
            if let Some(&node) = below.iter().find(|&&node| node != self.boundary) {
                return Err(self.no_output(node, "it lies within the trunk, of which only the result is cached"));
            }
            below.clear();
        } else if self.has_trunk() && !above.is_empty() && below.last() != Some(&self.boundary) {
            below.push(self.boundary);
        }
        let stage =
            |input, outputs: Vec<NodeId>| (!outputs.is_empty()).then_some(Wanted { input, outputs, gradient: false });
        let stages = [stage(0, below), stage(self.boundary, above)];
        let [trunk, head] = self.evaluation.find(&self.graph, stages, &self.parameters)?;
        Ok(Stages { trunk, head })
    }
}

/// Bytes that one thread normalises at a time.
const PIECE: usize = 3 << 14;

/// The values of an input as a network reads them: as they are given, or put together in `staging`.
fn load<'a>(input: Input<'a>, features: &Features, row: usize, staging: &'a mut Memory) -> &'a [f32] {
    match input {
        Input::Images(Images::Floats(values)) => values,
        Input::Images(Images::Bytes { pixels, normalization }) => {
            staging.reserve(pixels.len());
            let values = &mut staging[..pixels.len()];
            let pieces = values.par_chunks_mut(PIECE).zip(pixels.par_chunks(PIECE));
            pieces.for_each(|(values, pixels)| normalization.apply(pixels, values));
            values
        }
        Input::Cached(keys) => {
            staging.reserve(keys.len() * row);
            let values = &mut staging[..keys.len() * row];
            features.gather(keys, values);
            values
        }
    }
}

/// The values of `n` samples in PyTorch's layout, from the kernels'.
fn channels_first(n: usize, shape: Shape, values: &[f32]) -> Vec<f32> {
    match shape {
        Shape::Map { channels, height, width } if channels > 1 && height * width > 1 => {
            let mut planes = vec![0.0; n * shape.len()];
            transpose(values, height * width, channels, false, &mut planes);
            planes
        }
        _ => values.to_vec(),
    }
}

/// The shape of one sample's value in PyTorch's layout.
fn dimensions(shape: Shape) -> Vec<usize> {
    match shape {
        Shape::Map { channels, height, width } => vec![channels, height, width],
        Shape::Features(features) => vec![features],
    }
}

impl Session for CpuSession {
    fn infer(&mut self, input: Input, outputs: &[NodeId]) -> Result<Vec<Tensor>, Error> {
        outputs.iter().try_for_each(|&node| self.check_node(node))?;
        let n = self.samples(&input)?;
        let Stages { trunk, head } = self.stages(&input, outputs)?;
        for stage in [trunk, head].into_iter().flatten() {
            self.evaluation.get(stage).1.check_memory(n)?;
        }
        let pool = self.pool.clone();
        pool.install(|| {
            let Self { evaluation, parameters, features, staging, shapes, boundary, .. } = self;
            let given = Samples::evaluated(n, load(input, features, shapes[*boundary].len(), staging));
            match (trunk, head) {
                (Some(trunk), Some(head)) => {
                    let [trunk, head] = evaluation.get_two([trunk, head]);
                    trunk.evaluate(given, parameters);
                    head.evaluate(Samples::evaluated(n, trunk.last_output(given)), parameters);
                }
                (Some(only), None) | (None, Some(only)) => evaluation.get_mut(only).evaluate(given, parameters),
                (None, None) => {}
            }
            let value = |node| {
                let of_stage = |stage: usize| {
                    let (wanted, program) = evaluation.get(stage);
                    let index = wanted.outputs.iter().position(|&output| output == node)?;
                    Some(program.output(given, index))
                };
                // What no program computes are the cached features.
                [trunk, head].into_iter().flatten().find_map(of_stage).unwrap_or(given.values)
            };
            let tensor = |&node: &NodeId| {
                let dimensions = [vec![n], dimensions(shapes[node])].concat();
                Tensor::new(dimensions, channels_first(n, shapes[node], value(node)))
            };
            Ok(outputs.iter().map(tensor).collect())
        })
    }

    fn accumulate(&mut self, batch: Batch, targets: Targets, want: Want) -> Result<Losses, Error> {
        let training = self.training.as_ref().ok_or(Error::NothingToTrain)?;
        if self.parameters.average_in_use() {
            return Err(Error::AverageInUse);
        }
        let n = self.samples(&batch.input)?;
        let trunk = self.trunk_stage().filter(|_| matches!(batch.input, Input::Images(_)));
        self.check_batch(training, n, &batch, &targets)?;
        trunk.map_or(Ok(()), |trunk| self.evaluation.get(trunk).1.check_memory(n))?;
        let outputs = self.shapes[self.graph.output()].len();
        let pool = self.pool.clone();
        pool.install(|| {
            let Self { evaluation, parameters, training, features, staging, shapes, boundary, seed, .. } = self;
            let training = training.as_mut().ok_or(Error::NothingToTrain)?;
            let given = load(batch.input, features, shapes[*boundary].len(), staging);
            let mut samples = Samples { n, values: given, keys: batch.sample_keys, seed: *seed };
            if let Some(trunk) = trunk {
                let (trunk, images) = (evaluation.get_mut(trunk), Samples::evaluated(n, given));
                trunk.evaluate(images, parameters);
                samples.values = trunk.last_output(images);
            }
            parameters.begin_batch();
            training.forward(samples, parameters);
            let Targets { labels, label_smoothing, class_weights } = targets;
            let criterion = Criterion { label_smoothing, class_weights };
            let losses = training.backward(samples, parameters, |logits, grad| {
                let loss = criterion.evaluate(logits, outputs, convert::labels(labels), Some(grad));
                Losses {
                    sum: loss.sum,
                    weight: loss.weight,
                    correct: labels.count_correct(logits, outputs),
                    logits: (want == Want::Logits).then(|| logits.to_vec()),
                }
            });
            parameters.end_batch(losses.weight);
            Ok(losses)
        })
    }

    fn step(&mut self, options: &StepOptions) -> Result<StepReport, Error> {
        if self.training.is_none() {
            return Err(Error::NothingToTrain);
        }
        if self.parameters.average_in_use() {
            return Err(Error::AverageInUse);
        }
        let (pool, parameters) = (self.pool.clone(), &mut self.parameters);
        match options.collective.filter(|group| group.size() > 1) {
            Some(group) => parameters.reduce(group, &pool)?,
            None if parameters.waiting().batches == 0 => return Err(Error::NothingAccumulated),
            None => pool.install(|| parameters.mean_gradients()),
        }
        pool.install(|| {
            let grad_norm = options.max_grad_norm.map(|max_norm| parameters.clip_gradients(max_norm));
            parameters.update(options.lr);
            if let Some(average) = options.average {
                parameters.update_average(average);
            }
            Ok(StepReport { grad_norm })
        })
    }

    fn use_average(&mut self, on: bool) -> Result<(), Error> {
        self.parameters.use_average(on);
        Ok(())
    }

    fn gradient_at(&mut self, image: Images, node: NodeId, output: usize) -> Result<Activation, Error> {
        let last = self.graph.output();
        if self.outputs == Outputs::Final {
            return Err(self.no_output(node, "the session was compiled for the network's output alone"));
        }
        self.check_node(node)?;
        if output >= self.shapes[last].len() {
            return Err(self.no_output(last, format!("it has {} elements, and no {output}", self.shapes[last].len())));
        }
        let n = self.samples(&Input::Images(image))?;
        if n != 1 {
            return Err(Error::Batch(format!("a gradient is of one image, not of {n}")));
        }
        let wanted = Some(Wanted { input: 0, outputs: vec![last, node], gradient: true });
        let [program] = self.evaluation.find(&self.graph, [wanted], &self.parameters)?;
        let program = program.expect("it has been planned");
        let plan = self.evaluation.get(program).1.plan();
        let Some(gradient) = plan.gradient else {
            return Err(self.no_output(node, "the network's output does not depend on it"));
        };
        self.evaluation.get(program).1.check_memory(n)?;
        let output = match self.shapes[last] {
            // From PyTorch's numbering of a map's elements to the kernels'.
            Shape::Map { channels, height, width } => output % (height * width) * channels + output / (height * width),
            Shape::Features(_) => output,
        };
        let pool = self.pool.clone();
        pool.install(|| {
            let Self { evaluation, parameters, features, staging, shapes, .. } = self;
            let samples = Samples::evaluated(n, load(Input::Images(image), features, 0, staging));
            let program = evaluation.get_mut(program);
            program.evaluate(samples, parameters);
            program.backward(samples, parameters, |_, grad| {
                grad.fill(0.0);
                grad[output] = 1.0;
            });
            let shape = shapes[node];
            let tensor = |values| Tensor::new(dimensions(shape), channels_first(n, shape, values));
            Ok(Activation {
                values: tensor(program.output(samples, 1)),
                gradients: tensor(program.value(samples, gradient)),
            })
        })
    }

    fn weights(&self) -> Result<StateDict, Error> {
        Ok(self.pool.install(|| self.parameters.weights()))
    }

    fn state(&self) -> Result<SessionState, Error> {
        Ok(self.pool.install(|| self.parameters.state()))
    }

    fn restore(&mut self, state: &SessionState) -> Result<(), Error> {
        let pool = self.pool.clone();
        pool.install(|| self.parameters.restore(state))
    }

    fn trunk(&self) -> Option<Trunk> {
        self.has_trunk().then(|| Trunk { node: self.boundary, len: self.shapes[self.boundary].len() })
    }

    fn cache_features(&mut self, images: Images, keys: &[u64]) -> Result<(), Error> {
        let trunk = self.trunk_stage().ok_or(Error::NoTrunk)?;
        let n = self.samples(&Input::Images(images))?;
        if keys.len() != n {
            return Err(Error::Batch(format!("{n} images come with {} keys", keys.len())));
        }
        self.evaluation.get(trunk).1.check_memory(n)?;
        let pool = self.pool.clone();
        pool.install(|| {
            let Self { evaluation, parameters, features, staging, .. } = self;
            let samples = Samples::evaluated(n, load(Input::Images(images), features, 0, staging));
            let trunk = evaluation.get_mut(trunk);
            trunk.evaluate(samples, parameters);
            features.insert(keys, trunk.last_output(samples));
            Ok(())
        })
    }

    fn forget_features(&mut self) {
        self.features.clear();
    }

    fn measure_layers(&mut self) {
        self.evaluation.measure();
        self.training.iter_mut().for_each(Program::measure);
    }

    fn layer_times(&self) -> Vec<LayerTime> {
        let (trunk, others) = self.evaluation.programs().split_at(usize::from(self.has_trunk()));
        let others = others.iter().map(|(_, program)| program);
        let programs = trunk.iter().map(|(_, program)| program).chain(&self.training).chain(others);
        programs.flat_map(|program| program.times(&self.graph)).collect()
    }
}
