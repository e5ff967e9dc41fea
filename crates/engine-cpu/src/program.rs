//! A plan with its memory, and the programs that evaluate a network.

use regraft_engine::plan::{Kind, Mode, Plan, Region, ValueId};
use regraft_engine::{Error, LayerTime};
use regraft_graph::{Graph, NodeId, Trainable};
use regraft_kernels::{Precision, pool};

use crate::backward;
use crate::bands::{self, Chain};
use crate::forward::{self, Pass, Workspace};
use crate::parameters::Parameters;
use crate::times::Times;

/// Most elements that the values of a batch may hold together: 64 GiB of `f32`. A network from a stranger's file must
/// not be able to ask for more.
const MAX_ELEMENTS: usize = 1 << 34;

/// Samples as a program reads them.
#[derive(Clone, Copy)]
pub struct Samples<'a> {
    pub n: usize,
    /// `[n, ...]`, row-major, channels last.
    pub values: &'a [f32],
    /// One key a sample, for random masks; none in evaluation.
    pub keys: &'a [u64],
    /// Seed of random masks.
    pub seed: u64,
}

impl<'a> Samples<'a> {
    /// Samples for evaluation, where nothing is random.
    pub fn evaluated(n: usize, values: &'a [f32]) -> Self {
        Self { n, values, keys: &[], seed: 0 }
    }
}

/// A plan with its memory.
pub struct Program {
    plan: Plan,
    /// Steps that may run band by band.
    pub chains: Vec<Chain>,
    workspace: Workspace,
    /// Whether nothing that it reads ever changes.
    fixed: bool,
    /// The version of the parameters that its prepared weights come from.
    prepared: Option<u64>,
}

impl Program {
    /// Plans a region.
    ///
    /// # Errors
    /// Errors of [`Plan::new`], and [`Error::Unsupported`] for a setting without a kernel.
    pub fn new(
        graph: &Graph,
        region: Region,
        mode: Mode,
        precision: Precision,
        parameters: &Parameters,
    ) -> Result<Self, Error> {
        let mut chains = Vec::new();
        let plan = Plan::interleaving(graph, region, mode, |plan| {
            if matches!(mode, Mode::Inference) {
                chains = bands::chains(plan);
            }
            chains.iter().map(|chain| chain.steps.clone()).collect()
        })?;
        check_limits(graph, &plan)?;
        let folded = |kind: &Kind| if let Kind::Conv { folded, .. } = kind { folded.map(|bn| bn.node) } else { None };
        let fixed = |node| !parameters.changes(node);
        let fixed = plan.steps.iter().all(|step| fixed(step.node) && folded(&step.kind).is_none_or(fixed));
        Ok(Self { workspace: Workspace::new(&plan, precision), plan, chains, fixed, prepared: None })
    }

    /// What it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether nothing that it reads ever changes.
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Checks that the memory for `n` samples is not absurd.
    ///
    /// # Errors
    /// [`Error::Batch`].
    pub fn check_memory(&self, n: usize) -> Result<(), Error> {
        let sum = |sum: usize, &len: &usize| sum.checked_add(len.checked_mul(n)?);
        let elements = self.plan.buffers.iter().try_fold(0usize, sum);
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            let gib = (MAX_ELEMENTS * size_of::<f32>()) >> 30;
            return Err(Error::Batch(format!("{n} samples at once need more than {gib} GiB; give fewer")));
        }
        Ok(())
    }

    /// Prepares the convolutions of frozen layers, for training.
    pub fn prepare_frozen(&mut self, parameters: &Parameters, trainable: &Trainable) {
        self.workspace.prepare(&self.plan, parameters, |node| !trainable.contains(node));
    }

    /// Prepares all convolutions, for evaluation, unless they are up to date.
    pub fn prepare(&mut self, parameters: &Parameters) {
        let current = match self.prepared {
            Some(version) => self.fixed || version == parameters.version(),
            None => false,
        };
        if !current {
            self.workspace.prepare(&self.plan, parameters, |_| true);
            self.prepared = Some(parameters.version());
        }
    }

    /// Frees those tensors of a fixed program that it only uses in prepared form.
    pub fn free_raw_weights(&self, parameters: &mut Parameters) {
        for step in &self.plan.steps {
            if let Kind::Conv { .. } = step.kind {
                parameters.drop_values(step.node);
            }
        }
    }

    fn pass<'a>(plan: &'a Plan, chains: &'a [Chain], samples: Samples<'a>) -> Pass<'a> {
        let Samples { n, values, keys, seed } = samples;
        Pass { plan, chains, n, inputs: values, keys, seed }
    }

    /// Runs the forward steps.
    pub fn forward(&mut self, samples: Samples, parameters: &mut Parameters) {
        forward::run(&Self::pass(&self.plan, &self.chains, samples), parameters, &mut self.workspace);
    }

    /// Prepares stale weights and runs the forward steps, for evaluation.
    pub fn evaluate(&mut self, samples: Samples, parameters: &mut Parameters) {
        self.prepare(parameters);
        self.forward(samples, parameters);
    }

    /// Lets `write` set the gradient of the first output, given that output, and runs the backward steps.
    ///
    /// # Panics
    /// If the program is for inference alone.
    pub fn backward<R>(
        &mut self,
        samples: Samples,
        parameters: &mut Parameters,
        write: impl FnOnce(&[f32], &mut [f32]) -> R,
    ) -> R {
        let Self { plan, chains, workspace, .. } = self;
        let value = plan.grad_output.expect("the program has a backward pass");
        let pass = Self::pass(plan, chains, samples);
        let mut grad = workspace.take(&pass, value);
        let result = write(workspace.read(&pass, plan.outputs[0]), &mut grad[..plan.values[value].len * samples.n]);
        workspace.put(&pass, value, grad);
        backward::run(&pass, parameters, workspace);
        result
    }

    /// A value that the last pass, over these samples, has left.
    pub fn value<'a>(&'a self, samples: Samples<'a>, value: ValueId) -> &'a [f32] {
        self.workspace.read(&Self::pass(&self.plan, &self.chains, samples), value)
    }

    /// The value of an output, by its index among the outputs.
    pub fn output<'a>(&'a self, samples: Samples<'a>, index: usize) -> &'a [f32] {
        self.value(samples, self.plan.outputs[index])
    }

    /// The value of the last output.
    pub fn last_output<'a>(&'a self, samples: Samples<'a>) -> &'a [f32] {
        self.output(samples, self.plan.outputs.len() - 1)
    }

    /// Starts to measure how long each step takes, from zero.
    pub fn measure(&mut self) {
        self.workspace.times = Some(Times::default());
    }

    /// What has been measured.
    pub fn times(&self, graph: &Graph) -> Vec<LayerTime> {
        self.workspace.times.as_ref().map_or_else(Vec::new, |times| times.layers(graph, &self.plan))
    }
}

/// Checks that the kernels can run every step.
fn check_limits(graph: &Graph, plan: &Plan) -> Result<(), Error> {
    for step in &plan.steps {
        let Kind::MaxPool { window, .. } = step.kind else { continue };
        if window.kernel_size > pool::MAX_WINDOW {
            return Err(Error::Unsupported {
                engine: "cpu",
                layer: graph.nodes()[step.node].name.clone(),
                op: "MaxPool2d",
                reason: format!("kernel_size {} is above {}", window.kernel_size, pool::MAX_WINDOW),
            });
        }
    }
    Ok(())
}

/// What an evaluation program computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The node whose value is given.
    pub input: NodeId,
    /// The nodes whose values are wanted, each once.
    pub outputs: Vec<NodeId>,
    /// Whether the gradient of the first output with respect to the last one's value is wanted, too.
    pub gradient: bool,
}

/// Most programs that are kept besides those of the network's output. Each holds all weights in prepared form.
const MAX_FURTHER: usize = 4;

/// The programs that evaluate a network: those of its output, and those of other values as they are asked for.
pub struct Evaluation {
    programs: Vec<(Wanted, Program)>,
    /// How many of the first ones are never dropped.
    kept: usize,
    precision: Precision,
    measures: bool,
}

impl Evaluation {
    /// Plans programs that are always kept.
    ///
    /// # Errors
    /// Errors of [`Program::new`].
    pub fn new(
        graph: &Graph,
        always: Vec<Wanted>,
        precision: Precision,
        parameters: &Parameters,
    ) -> Result<Self, Error> {
        let mut it = Self { programs: Vec::new(), kept: always.len(), precision, measures: false };
        always.into_iter().try_for_each(|wanted| it.add(graph, wanted, parameters))?;
        Ok(it)
    }

    fn add(&mut self, graph: &Graph, wanted: Wanted, parameters: &Parameters) -> Result<(), Error> {
        let region = Region { input: wanted.input, outputs: &wanted.outputs };
        let (mode, precision) = match wanted.gradient {
            // Derivatives are of single precision.
            true => (Mode::Gradient, Precision::F32),
            false => (Mode::Inference, self.precision),
        };
        let mut program = Program::new(graph, region, mode, precision, parameters)?;
        if self.measures {
            program.measure();
        }
        self.programs.push((wanted, program));
        Ok(())
    }

    /// Programs by their index.
    pub fn get(&self, index: usize) -> (&Wanted, &Program) {
        let (wanted, program) = &self.programs[index];
        (wanted, program)
    }

    /// A program by its index, to run.
    pub fn get_mut(&mut self, index: usize) -> &mut Program {
        &mut self.programs[index].1
    }

    /// Two programs by their indices, to run one after the other.
    ///
    /// # Panics
    /// If they are the same.
    pub fn get_two(&mut self, indices: [usize; 2]) -> [&mut Program; 2] {
        self.programs.get_disjoint_mut(indices).expect("two programs").map(|(_, program)| program)
    }

    /// The indices of the programs for what is wanted, planned now if there are none yet. They hold until the next call.
    ///
    /// # Errors
    /// Errors of [`Program::new`].
    pub fn find<const N: usize>(
        &mut self,
        graph: &Graph,
        wanted: [Option<Wanted>; N],
        parameters: &Parameters,
    ) -> Result<[Option<usize>; N], Error> {
        for wanted in wanted.iter().flatten() {
            if self.programs.iter().all(|(other, _)| other != wanted) {
                self.add(graph, wanted.clone(), parameters)?;
            }
        }
        while self.programs.len() > self.kept + MAX_FURTHER {
            let unused = |(other, _): &(Wanted, Program)| wanted.iter().flatten().all(|wanted| wanted != other);
            match self.programs[self.kept..].iter().position(unused) {
                Some(oldest) => self.programs.remove(self.kept + oldest),
                None => break,
            };
        }
        let index = |wanted: Wanted| self.programs.iter().position(|(other, _)| *other == wanted);
        Ok(wanted.map(|wanted| wanted.and_then(index)))
    }

    /// All programs, to prepare and measure.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Program> {
        self.programs.iter_mut().map(|(_, program)| program)
    }

    /// Starts to measure how long each step takes, from zero, in later programs, too.
    pub fn measure(&mut self) {
        self.measures = true;
        self.iter_mut().for_each(Program::measure);
    }

    /// All programs in the order in which they were planned.
    pub fn programs(&self) -> &[(Wanted, Program)] {
        &self.programs
    }
}
