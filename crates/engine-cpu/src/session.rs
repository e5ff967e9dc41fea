//! A network on the CPU: parameters, a plan for inference and one for training.

use std::sync::Arc;

use regraft_graph::{Graph, Op, StateDict, Trainable};
use regraft_kernels::Precision;
use regraft_kernels::loss::{self, Criterion};
use regraft_kernels::simd::Level;

use super::parameters::Parameters;
use super::plan::{Kind, Mode, Plan};
use super::times::Times;
use super::{backward, forward};
use forward::{Pass, Workspace};
use regraft_engine::{Batch, Error, Labels, LayerTime, Losses, Session, SessionOptions, Targets};

/// A plan with its memory.
struct Program {
    plan: Plan,
    workspace: Workspace,
}

impl Program {
    fn new(plan: Plan, precision: Precision) -> Self {
        Self { workspace: Workspace::new(&plan, precision), plan }
    }
}

pub(super) struct CpuSession {
    pool: Arc<rayon::ThreadPool>,
    graph: Graph,
    parameters: Parameters,
    inference: Program,
    /// Absent if nothing learns.
    training: Option<Program>,
    trainable: Trainable,
    /// The version of the parameters that the inference program's prepared weights come from.
    prepared_version: Option<u64>,
    seed: u64,
    sample_len: usize,
    outputs: usize,
}

impl CpuSession {
    pub fn new(
        graph: &Graph,
        state: &StateDict,
        options: SessionOptions,
        pool: Arc<rayon::ThreadPool>,
    ) -> Result<Self, Error> {
        let SessionOptions { trainable, batch_norm, update, seed, precision, infer_precision } = options;
        let (precision, infer_precision) = (available(precision)?, available(infer_precision)?);
        let inference = Program::new(Plan::new(graph, Mode::Inference)?, infer_precision);
        let training = if trainable.is_empty() {
            None
        } else {
            Some(Program::new(Plan::new(graph, Mode::Training(&trainable, batch_norm))?, precision))
        };
        let parameters = Parameters::new(graph, state, &trainable, batch_norm, update)?;
        let shapes = graph.shapes()?;
        let mut session = Self {
            pool,
            graph: graph.clone(),
            parameters,
            inference,
            training,
            trainable,
            prepared_version: None,
            seed,
            sample_len: shapes[0].len(),
            outputs: shapes[graph.output()].len(),
        };
        session.prepare_frozen();
        Ok(session)
    }

    /// Prepares what never changes, once, and frees the weights that are only used prepared.
    fn prepare_frozen(&mut self) {
        let Some(training) = &mut self.training else {
            self.prepare_inference();
            for step in &self.inference.plan.steps {
                if let Kind::Conv { .. } = step.kind {
                    self.parameters.drop_values(step.node);
                }
            }
            return;
        };
        let frozen = |node| !self.trainable.contains(node);
        training.workspace.prepare(&training.plan, &self.parameters, eps_of(&self.graph), frozen);
    }

    /// Brings the inference program's prepared weights up to date.
    fn prepare_inference(&mut self) {
        // Without training nothing changes, and the weights that were prepared are gone.
        let frozen = self.training.is_none() && self.prepared_version.is_some();
        if frozen || self.prepared_version == Some(self.parameters.version()) {
            return;
        }
        self.inference.workspace.prepare(&self.inference.plan, &self.parameters, eps_of(&self.graph), |_| true);
        self.prepared_version = Some(self.parameters.version());
    }

    /// The number of samples in `inputs`, if a plan has the memory for so many.
    fn samples(&self, inputs: &[f32], plan: &Plan) -> Result<usize, Error> {
        let n = inputs.len() / self.sample_len;
        if n == 0 || n * self.sample_len != inputs.len() {
            let shape = self.graph.input_shape();
            return Err(Error::Batch(format!("{} values are not a whole number of samples of {shape}", inputs.len())));
        }
        let elements = plan.buffers.iter().try_fold(0usize, |sum, &len| sum.checked_add(len.checked_mul(n)?));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            let shape = self.graph.input_shape();
            let gib = (MAX_ELEMENTS * size_of::<f32>()) >> 30;
            return Err(Error::Batch(format!("{n} samples of {shape} at once need more than {gib} GiB; give fewer")));
        }
        Ok(n)
    }
}

/// The kernels' form of labels.
fn kernel_labels(labels: Labels) -> loss::Labels {
    match labels {
        Labels::Classes(classes) => loss::Labels::Classes(classes),
        Labels::Probabilities(shares) => loss::Labels::Probabilities(shares),
        Labels::Binary(answers) => loss::Labels::Binary(answers),
        Labels::Values(values) => loss::Labels::Values(values),
    }
}

/// The kernels' name of a precision, if this CPU has it.
pub(super) fn available(precision: regraft_engine::Precision) -> Result<Precision, Error> {
    let precision = match precision {
        regraft_engine::Precision::F32 => Precision::F32,
        regraft_engine::Precision::Bf16 => Precision::Bf16,
    };
    if precision.is_available() {
        return Ok(precision);
    }
    let level = Level::current().name();
    let reason = format!("it takes a CPU with AVX-512 BF16, used at level avx512, and the level in use is {level}");
    Err(Error::Precision { engine: "cpu", reason })
}

/// Most elements that the values of a batch may hold together: 64 GiB of `f32`. A network from a stranger's file
/// must not be able to ask for more.
const MAX_ELEMENTS: usize = 1 << 34;

/// The epsilon of each batch norm of a graph.
pub(super) fn eps_of(graph: &Graph) -> impl Fn(usize) -> f32 {
    |node| match &graph.nodes()[node].op {
        Op::BatchNorm2d(bn) => bn.eps,
        _ => unreachable!("only batch norms are folded"),
    }
}

impl Session for CpuSession {
    fn infer(&mut self, inputs: &[f32]) -> Result<Vec<f32>, Error> {
        let n = self.samples(inputs, &self.inference.plan)?;
        let pool = self.pool.clone();
        pool.install(|| {
            self.prepare_inference();
            let Program { plan, workspace } = &mut self.inference;
            let pass = Pass { plan, n, inputs, keys: &[], seed: self.seed };
            forward::run(&pass, &mut self.parameters, workspace);
            Ok(workspace.read(&pass, plan.output).to_vec())
        })
    }

    fn gradients(&mut self, batch: Batch, targets: Targets) -> Result<Losses, Error> {
        let training = self.training.as_ref().ok_or(Error::NothingToTrain)?;
        let n = self.samples(batch.inputs, &training.plan)?;
        let classes = self.outputs;
        if batch.keys.len() != n {
            return Err(Error::Batch(format!("{n} samples come with {} keys", batch.keys.len())));
        }
        let labels = targets.labels;
        match labels {
            Labels::Classes(labels) if labels.len() != n => {
                return Err(Error::Batch(format!("{n} samples come with {} labels", labels.len())));
            }
            Labels::Classes(labels) => {
                if let Some(&label) = labels.iter().find(|&&label| label >= classes) {
                    return Err(Error::Batch(format!("label {label} is not among the network's {classes} classes")));
                }
            }
            Labels::Probabilities(targets) | Labels::Binary(targets) | Labels::Values(targets) => {
                if targets.len() != n * classes {
                    let (outputs, given) = match labels {
                        Labels::Values(_) => ("outputs", "values"),
                        Labels::Binary(_) => ("labels", "answers"),
                        _ => ("classes", "probabilities"),
                    };
                    let found = targets.len();
                    return Err(Error::Batch(format!("{n} samples of {classes} {outputs} come with {found} {given}")));
                }
            }
        }
        if targets.class_weights.is_some_and(|weights| weights.len() != classes) {
            return Err(Error::Batch(format!("there must be one class weight for each of the {classes} classes")));
        }
        if let Some(node) = training.plan.without_variance(n) {
            let layer = &self.graph.nodes()[node].name;
            // Those of a new head have no statistics to freeze.
            let frozen = if self.trainable.is_new(node) { "" } else { ", or --bn frozen" };
            return Err(Error::Batch(format!(
                "batch norm {layer:?} gets a single value per channel from a batch of {n}, and that has no variance; \
                 give a larger --batch-size, which also leaves more than {n} for an epoch's last batch, or a larger \
                 --imgsz{frozen}"
            )));
        }
        let pool = self.pool.clone();
        pool.install(|| {
            let Program { plan, workspace } = self.training.as_mut().ok_or(Error::NothingToTrain)?;
            let pass = Pass { plan, n, inputs: batch.inputs, keys: batch.keys, seed: self.seed };
            forward::run(&pass, &mut self.parameters, workspace);
            let logits = workspace.read(&pass, plan.output).to_vec();
            let grad_value = plan.grad_output.ok_or(Error::NothingToTrain)?;
            let mut grad = workspace.take(&pass, grad_value);
            let loss = Criterion { label_smoothing: targets.label_smoothing, class_weights: targets.class_weights };
            let loss = loss.evaluate(&logits, classes, kernel_labels(targets.labels), Some(&mut grad[..n * classes]));
            workspace.put(&pass, grad_value, grad);
            backward::run(&pass, &mut self.parameters, workspace);
            self.parameters.touch();
            Ok(Losses { sum: loss.sum, weight: loss.weight, logits })
        })
    }

    fn visit_gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        self.parameters.visit_gradients(visit);
    }

    fn update(&mut self, lr: f64) {
        let pool = self.pool.clone();
        pool.install(|| self.parameters.update(lr));
    }

    fn trained_state(&self) -> StateDict {
        self.pool.install(|| self.parameters.trained_state())
    }

    fn visit_trained(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        self.parameters.visit_trained(visit);
    }

    fn optimizer_state(&self) -> StateDict {
        self.pool.install(|| self.parameters.optimizer_state())
    }

    fn restore_trained(&mut self, state: &StateDict) -> Result<(), Error> {
        let pool = self.pool.clone();
        pool.install(|| self.parameters.restore_trained(state))
    }

    fn restore_optimizer(&mut self, state: &StateDict) -> Result<(), Error> {
        let pool = self.pool.clone();
        pool.install(|| self.parameters.restore_optimizer(state))
    }

    fn measure_layers(&mut self) {
        for program in self.training.iter_mut().chain([&mut self.inference]) {
            program.workspace.times = Some(Times::default());
        }
    }

    fn layer_times(&self) -> Vec<LayerTime> {
        let programs = self.training.iter().chain([&self.inference]);
        let times = programs.filter_map(|program| Some((program.workspace.times.as_ref()?, &program.plan)));
        times.flat_map(|(times, plan)| times.layers(&self.graph, plan)).collect()
    }
}
