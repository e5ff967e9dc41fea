//! The forward pass: runs a plan's steps over its buffers.

use regraft_graph::Conv2d;
use regraft_kernels::conv::{self, Epilogue};
use regraft_kernels::{activation, batch_norm, elementwise, linear, pool};
use regraft_random::{Purpose, keyed, unit_f32};

use super::parameters::{Folded, Parameters};
use super::plan::{Kind, Plan, Step, ValueId};

/// What a step leaves for its backward pass besides values.
#[derive(Clone, Default)]
pub(super) struct Saved {
    /// Places of the maxima.
    pub winners: Vec<u8>,
    /// Statistics of the batch.
    pub statistics: batch_norm::Statistics,
}

/// The memory of a plan. Buffers grow to the largest batch seen.
pub(super) struct Workspace {
    pub buffers: Vec<Vec<f32>>,
    pub saved: Vec<Saved>,
    /// Weights with batch norms folded in, for the steps that have one.
    pub folded: Vec<Option<Folded>>,
}

/// What a pass over a batch knows.
pub(super) struct Pass<'a> {
    pub plan: &'a Plan,
    /// Samples in the batch.
    pub n: usize,
    pub inputs: &'a [f32],
    /// One key a sample, for random masks.
    pub keys: &'a [u64],
    /// Seed of random masks.
    pub seed: u64,
}

impl Workspace {
    pub fn new(plan: &Plan) -> Self {
        Self {
            buffers: vec![Vec::new(); plan.buffers.len()],
            saved: vec![Saved::default(); plan.steps.len()],
            folded: vec![None; plan.steps.len()],
        }
    }

    /// Folds batch norms into the convolutions of those steps that have one.
    pub fn fold(&mut self, plan: &Plan, parameters: &Parameters, eps_of: impl Fn(usize) -> f32) {
        for (step, folded) in plan.steps.iter().zip(&mut self.folded) {
            if let Kind::Conv { conv, folded: Some(bn), .. } = &step.kind {
                let affine = parameters.affine(*bn, eps_of(*bn));
                *folded = Some(parameters.fold(step.node, conv, &affine));
            }
        }
    }

    /// Takes the buffer of a value out, large enough to write it.
    pub fn take(&mut self, pass: &Pass, value: ValueId) -> Vec<f32> {
        let value = pass.plan.values[value];
        let mut buffer = std::mem::take(&mut self.buffers[value.buffer]);
        let needed = value.len * pass.n;
        if buffer.len() < needed {
            buffer.resize(pass.plan.buffers[value.buffer] * pass.n, 0.0);
        }
        buffer
    }

    /// Puts a buffer back where [`take`](Self::take) found it.
    pub fn put(&mut self, pass: &Pass, value: ValueId, buffer: Vec<f32>) {
        self.buffers[pass.plan.values[value].buffer] = buffer;
    }

    /// A value that has been written.
    pub fn read<'a>(&'a self, pass: &'a Pass, value: ValueId) -> &'a [f32] {
        if value == 0 {
            return pass.inputs;
        }
        let place = pass.plan.values[value];
        &self.buffers[place.buffer][..place.len * pass.n]
    }

    /// The weight and bias that a convolution or fully connected step uses.
    pub fn weights<'a>(
        &'a self,
        parameters: &'a Parameters,
        index: usize,
        step: &Step,
    ) -> (&'a [f32], Option<&'a [f32]>) {
        match &self.folded[index] {
            Some(folded) => (&folded.weight, Some(&folded.bias)),
            None => (parameters.expect(step.node, "weight"), parameters.get(step.node, "bias")),
        }
    }
}

/// The shape of a convolution of a batch.
pub(super) fn conv_shape(conv: &Conv2d, n: usize, input: [usize; 2], output: [usize; 2]) -> conv::Shape {
    conv::Shape {
        n,
        input,
        output,
        in_channels: conv.in_channels,
        out_channels: conv.out_channels,
        kernel: conv.kernel_size,
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
        groups: conv.groups,
    }
}

/// Factors of a dropout: keyed by sample and layer, so that the backward pass can draw them again.
pub(super) fn dropout_factors<'a>(pass: &'a Pass, node: usize, p: f32) -> impl Fn(usize, &mut [f32]) + Sync + 'a {
    move |sample, factors| {
        let mut rng = keyed(pass.seed, Purpose::Dropout, pass.keys[sample], node as u64);
        for factor in factors {
            *factor = if unit_f32(&mut rng) < p { 0.0 } else { 1.0 / (1.0 - p) };
        }
    }
}

/// Runs all steps; the result lies in the plan's output value afterwards.
pub(super) fn run(pass: &Pass, parameters: &mut Parameters, workspace: &mut Workspace) {
    for (index, step) in pass.plan.steps.iter().enumerate() {
        let mut buffer = workspace.take(pass, step.output);
        let mut saved = std::mem::take(&mut workspace.saved[index]);
        let output = &mut buffer[..pass.plan.values[step.output].len * pass.n];
        run_step(pass, index, step, parameters, workspace, &mut saved, output);
        workspace.saved[index] = saved;
        workspace.put(pass, step.output, buffer);
    }
}

fn run_step(
    pass: &Pass,
    index: usize,
    step: &Step,
    parameters: &mut Parameters,
    workspace: &Workspace,
    saved: &mut Saved,
    output: &mut [f32],
) {
    let n = pass.n;
    let input = workspace.read(pass, step.inputs[0]);
    let residual = step.residual.map(|value| workspace.read(pass, value));
    let pool_shape = |input, output| pool::Shape { n, input, output, channels: step.channels };
    match &step.kind {
        Kind::Conv { conv, input: from, output: to, .. } => {
            let (weight, bias) = workspace.weights(parameters, index, step);
            let epilogue = Epilogue { bias, residual, activation: step.activation };
            conv::forward(&conv_shape(conv, n, *from, *to), input, weight, epilogue, output);
        }
        Kind::BatchNorm { batch_statistics: true, eps, momentum } => {
            saved.statistics = batch_norm::Statistics::of(input, step.channels);
            let [mean, var] = parameters.running_mut(step.node);
            saved.statistics.update_running(input.len() / step.channels, *momentum, mean, var);
            let (weight, bias) = (parameters.expect(step.node, "weight"), parameters.expect(step.node, "bias"));
            let affine = batch_norm::Affine::new(weight, bias, &saved.statistics.mean, &saved.statistics.var, *eps);
            batch_norm::forward(&affine, input, residual, step.activation, output);
        }
        Kind::BatchNorm { batch_statistics: false, eps, .. } => {
            batch_norm::forward(&parameters.affine(step.node, *eps), input, residual, step.activation, output);
        }
        Kind::Linear => {
            let (weight, bias) = workspace.weights(parameters, index, step);
            let epilogue = Epilogue { bias, residual, activation: step.activation };
            linear::forward(n, input, weight, epilogue, output);
        }
        Kind::MaxPool { window, input: from, output: to } => {
            saved.winners.resize(output.len(), 0);
            pool::max_forward(&pool_shape(*from, *to), *window, input, output, &mut saved.winners);
        }
        Kind::AvgPool { input: from, output: to } => pool::avg_forward(&pool_shape(*from, *to), input, output),
        Kind::Concat { channels } => {
            let mut offset = 0;
            for (&value, &width) in step.inputs.iter().zip(channels) {
                elementwise::put_columns(workspace.read(pass, value), width, step.channels, offset, output);
                offset += width;
            }
        }
        Kind::Dropout { p } => {
            let factors = dropout_factors(pass, step.node, *p);
            elementwise::mask(input, output.len() / n, factors, false, output);
        }
        Kind::Flatten { pixels } => {
            elementwise::transpose(input, *pixels, output.len() / n / pixels, false, output);
        }
        Kind::Identity => match residual {
            None => activation::forward(step.activation, input, output),
            Some(residual) => {
                let same = batch_norm::Affine { scale: vec![1.0; step.channels], shift: vec![0.0; step.channels] };
                batch_norm::forward(&same, input, Some(residual), step.activation, output);
            }
        },
    }
}
