//! The forward pass: runs a plan's steps over its buffers.

use std::time::Instant;

use regraft_engine::plan::{Kind, Plan, Step, ValueId};
use regraft_kernels::batch_norm::Gather;
use regraft_kernels::conv::{self, Algorithm, Epilogue, Filter, Ready, Use};
use regraft_kernels::{Memory, Precision, activation, batch_norm, cosine, elementwise, gate, layer_norm, linear, pool};
use regraft_random::{Purpose, keyed, unit_f32};

use crate::bands::{self, Chain};
use crate::convert::{self, conv_shape};
use crate::parameters::Parameters;
use crate::times::{Part, Times, kernel};

/// What a step leaves for its backward pass besides values.
#[derive(Clone, Default)]
pub struct Saved {
    /// Places of the maxima.
    pub winners: Vec<u8>,
    /// Statistics of a convolution's result, gathered on the way.
    pub gathered: Option<batch_norm::Statistics>,
    /// Statistics of the batch.
    pub statistics: batch_norm::Statistics,
    /// The map that a batch norm was with these.
    pub affine: batch_norm::Affine,
}

/// The memory of a plan. Buffers grow to the largest batch seen.
pub struct Workspace {
    pub buffers: Vec<Memory>,
    pub saved: Vec<Saved>,
    /// The convolutions whose weight does not change from step to step, ready to run.
    pub prepared: Vec<Option<Prepared>>,
    /// Where the weights of the others are prepared, one after the other.
    filter: Filter,
    pub precision: Precision,
    /// The memory of bands.
    pub bands: bands::Scratch,
    /// How long each step takes, if somebody asks.
    pub times: Option<Times>,
}

/// A convolution whose weight stays, with its batch norm folded in, if it has one.
#[derive(Clone)]
pub struct Prepared {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    forward: Filters,
    backward: Filters,
}

impl Prepared {
    /// The filter and the bias for the forward pass.
    pub fn forward(&mut self, shape: &conv::Shape, precision: Precision) -> (&Filter, Option<&[f32]>) {
        (self.forward.get(shape, &self.weight, precision, Filter::for_forward), self.bias.as_deref())
    }
}

/// A weight in the form of each algorithm that has been asked for: batches of other sizes may want another.
#[derive(Clone, Default)]
struct Filters(Vec<Filter>);

impl Filters {
    fn get(
        &mut self,
        shape: &conv::Shape,
        weight: &[f32],
        precision: Precision,
        prepare: fn(&conv::Shape, &[f32], Precision) -> Filter,
    ) -> &Filter {
        let algorithm = Algorithm::choose(shape, Use::Often, precision);
        let at = self.0.iter().position(|filter| filter.algorithm() == algorithm).unwrap_or_else(|| {
            self.0.push(prepare(shape, weight, precision));
            self.0.len() - 1
        });
        &self.0[at]
    }
}

/// What a pass over a batch knows.
pub struct Pass<'a> {
    pub plan: &'a Plan,
    /// Steps that may run band by band.
    pub chains: &'a [Chain],
    /// Samples in the batch.
    pub n: usize,
    pub inputs: &'a [f32],
    /// One key a sample, for random masks.
    pub keys: &'a [u64],
    /// Seed of random masks.
    pub seed: u64,
}

impl Workspace {
    pub fn new(plan: &Plan, precision: Precision) -> Self {
        Self {
            buffers: vec![Memory::default(); plan.buffers.len()],
            saved: vec![Saved::default(); plan.steps.len()],
            prepared: vec![None; plan.steps.len()],
            filter: Filter::new(precision),
            precision,
            bands: bands::Scratch::default(),
            times: None,
        }
    }

    /// Prepares the convolutions of those nodes that are `constant`, batch norms folded in.
    pub fn prepare(&mut self, plan: &Plan, parameters: &Parameters, constant: impl Fn(usize) -> bool) {
        for (index, step) in plan.steps.iter().enumerate() {
            let Kind::Conv { conv, folded, .. } = &step.kind else { continue };
            if !constant(step.node) {
                continue;
            }
            let (weight, bias) = match folded {
                Some(bn) => {
                    let folded = parameters.fold(step.node, conv, &parameters.affine(bn.node, bn.eps));
                    (folded.weight, Some(folded.bias))
                }
                None => {
                    let bias = parameters.get(step.node, "bias").map(<[f32]>::to_vec);
                    (parameters.expect(step.node, "weight").to_vec(), bias)
                }
            };
            let (forward, backward) = (Filters::default(), Filters::default());
            self.prepared[index] = Some(Prepared { weight, bias, forward, backward });
        }
    }

    /// Lets `work` have the filter and the bias of a convolution for the forward pass.
    fn with_forward<R>(
        &mut self,
        parameters: &Parameters,
        index: usize,
        node: usize,
        shape: &conv::Shape,
        work: impl FnOnce(&Self, Ready, Option<&[f32]>) -> R,
    ) -> R {
        // Taken out for the time of the work, which reads the rest.
        if let Some(mut prepared) = self.prepared[index].take() {
            let (filter, bias) = prepared.forward(shape, self.precision);
            let result = work(self, filter.into(), bias);
            self.prepared[index] = Some(prepared);
            return result;
        }
        let mut filter = std::mem::replace(&mut self.filter, Filter::new(self.precision));
        let ready = filter.once_forward(shape, parameters.expect(node, "weight"));
        let result = work(self, ready, parameters.get(node, "bias"));
        self.filter = filter;
        result
    }

    /// Lets `work` have the filter of a convolution for the gradient of its input.
    pub fn with_backward<R>(
        &mut self,
        parameters: &Parameters,
        index: usize,
        node: usize,
        shape: &conv::Shape,
        work: impl FnOnce(&mut Self, Ready) -> R,
    ) -> R {
        if let Some(mut prepared) = self.prepared[index].take() {
            let filter = prepared.backward.get(shape, &prepared.weight, self.precision, Filter::for_backward);
            let result = work(self, filter.into());
            self.prepared[index] = Some(prepared);
            return result;
        }
        let mut filter = std::mem::replace(&mut self.filter, Filter::new(self.precision));
        let ready = filter.once_backward(shape, parameters.expect(node, "weight"));
        let result = work(self, ready);
        self.filter = filter;
        result
    }

    /// Notes the time since `start` for a part of a step.
    pub fn took(&mut self, step: usize, part: Part, kernel: &'static str, n: usize, start: Instant) {
        if let Some(times) = &mut self.times {
            times.add(step, part, kernel, n, start);
        }
    }

    /// Takes the buffer of a value out, large enough to write it.
    pub fn take(&mut self, pass: &Pass, value: ValueId) -> Memory {
        let value = pass.plan.values[value];
        let mut buffer = std::mem::take(&mut self.buffers[value.buffer]);
        if buffer.len() < value.len * pass.n {
            buffer.reserve(pass.plan.buffers[value.buffer] * pass.n);
        }
        buffer
    }

    /// Puts a buffer back where [`take`](Self::take) found it.
    pub fn put(&mut self, pass: &Pass, value: ValueId, buffer: Memory) {
        self.buffers[pass.plan.values[value].buffer] = buffer;
    }

    /// A value that has been written.
    pub fn read<'a>(&'a self, pass: &Pass<'a>, value: ValueId) -> &'a [f32] {
        if value == 0 {
            return pass.inputs;
        }
        let place = pass.plan.values[value];
        &self.buffers[place.buffer][..place.len * pass.n]
    }
}

/// Factors of a dropout: keyed by sample and layer, so that the backward pass can draw them again.
pub fn dropout_factors<'a>(pass: &'a Pass, step: &Step, p: f32) -> impl Fn(usize, &mut [f32]) + Sync + 'a {
    let layer = pass.plan.mask_layer(step);
    move |sample, factors| {
        let mut rng = keyed(pass.seed, Purpose::Dropout, pass.keys[sample], layer);
        for factor in factors {
            *factor = if unit_f32(&mut rng) < p { 0.0 } else { 1.0 / (1.0 - p) };
        }
    }
}

/// Draws the one factor of a stochastic depth for a sample.
pub fn sample_factors<'a>(pass: &'a Pass, step: &Step, p: f32) -> impl Fn(usize, &mut [f32]) + Sync + 'a {
    let factor = dropout_factors(pass, step, p);
    move |sample, factors| {
        let mut drawn = [0.0];
        factor(sample, &mut drawn);
        factors.fill(drawn[0]);
    }
}

/// Runs all steps; the results lie in the plan's output values afterwards.
pub fn run(pass: &Pass, parameters: &mut Parameters, workspace: &mut Workspace) {
    let mut done = 0;
    for (index, step) in pass.plan.steps.iter().enumerate() {
        let chain = pass.chains.iter().find(|chain| chain.steps.start == index && chain.pays(pass.n));
        if let (Some(chain), Precision::F32) = (chain, workspace.precision) {
            bands::run(pass, chain, workspace);
            done = chain.steps.end;
        }
        if index < done {
            continue;
        }
        let start = Instant::now();
        let mut buffer = workspace.take(pass, step.output);
        let mut saved = std::mem::take(&mut workspace.saved[index]);
        let output = &mut buffer[..pass.plan.values[step.output].len * pass.n];
        let kernel = run_step(pass, index, step, parameters, workspace, &mut saved, output);
        workspace.saved[index] = saved;
        workspace.put(pass, step.output, buffer);
        workspace.took(index, Part::Forward, kernel, pass.n, start);
    }
}

/// Runs one step; returns what computed it.
fn run_step(
    pass: &Pass,
    index: usize,
    step: &Step,
    parameters: &mut Parameters,
    workspace: &mut Workspace,
    saved: &mut Saved,
    output: &mut [f32],
) -> &'static str {
    let (n, activation) = (pass.n, convert::activation(step.activation));
    if let Kind::Conv { conv, input, output: to, gathers, .. } = &step.kind {
        let shape = conv_shape(conv, n, *input, *to);
        return workspace.with_forward(parameters, index, step.node, &shape, |workspace, filter, bias| {
            let residual = step.residual.map(|value| workspace.read(pass, value));
            let gather = gathers.map(|bn| Gather::new(parameters.expect(bn, "running_mean")));
            let epilogue = Epilogue { bias, residual, activation, gather: gather.as_ref() };
            conv::forward(&shape, workspace.read(pass, step.inputs[0]), filter, epilogue, output);
            saved.gathered = gather.and_then(|gather| gather.statistics(shape.output_pixels()));
            filter.algorithm().name()
        });
    }
    let input = workspace.read(pass, step.inputs[0]);
    let residual = step.residual.map(|value| workspace.read(pass, value));
    let pool_shape = |input, output| pool::Shape { n, input, output, channels: step.channels };
    match &step.kind {
        Kind::Conv { .. } => unreachable!("handled above"),
        Kind::BatchNorm { batch_statistics: true, eps, momentum, from } => {
            let gathered = from.and_then(|conv| workspace.saved[conv].gathered.clone());
            saved.statistics = gathered.unwrap_or_else(|| batch_norm::Statistics::of(input, step.channels));
            let [mean, var] = parameters.running_mut(step.node);
            saved.statistics.update_running(input.len() / step.channels, *momentum, mean, var);
            let (weight, bias) = (parameters.expect(step.node, "weight"), parameters.expect(step.node, "bias"));
            saved.affine = batch_norm::Affine::new(weight, bias, &saved.statistics.mean, &saved.statistics.var, *eps);
            batch_norm::forward(&saved.affine, input, residual, activation, output);
        }
        Kind::BatchNorm { batch_statistics: false, eps, .. } => {
            batch_norm::forward(&parameters.affine(step.node, *eps), input, residual, activation, output);
        }
        Kind::Linear => {
            let (weight, bias) = (parameters.expect(step.node, "weight"), parameters.get(step.node, "bias"));
            let epilogue = Epilogue { bias, residual, activation, gather: None };
            linear::forward(n, input, weight, epilogue, output);
        }
        Kind::Cosine => {
            let (weight, scale) = (parameters.expect(step.node, "weight"), parameters.expect(step.node, "scale")[0]);
            cosine::forward(n, input, weight, scale, output);
        }
        Kind::MaxPool { window, input: from, output: to } => {
            saved.winners.resize(output.len(), 0);
            pool::max_forward(&pool_shape(*from, *to), convert::window(*window), input, output, &mut saved.winners);
        }
        Kind::AvgPool { average, input: from, output: to } => {
            pool::avg_forward(&pool_shape(*from, *to), convert::average(*average), input, output);
        }
        Kind::LayerNorm { eps } => {
            let [weight, bias] = ["weight", "bias"].map(|suffix| parameters.expect(step.node, suffix));
            layer_norm::forward(weight, bias, *eps, input, output);
        }
        Kind::ScaleChannels { factor } => {
            let scale = parameters.channel_factors(step.node, *factor, step.channels);
            let affine = batch_norm::Affine { scale, shift: vec![0.0; step.channels] };
            batch_norm::forward(&affine, input, residual, activation, output);
        }
        Kind::Gate { pixels } => {
            gate::forward(*pixels, step.channels, input, workspace.read(pass, step.inputs[1]), false, output);
        }
        Kind::Narrow { start, of } => elementwise::take_columns(input, step.channels, *of, *start, false, output),
        Kind::Shuffle { groups } => elementwise::shuffle_columns(input, step.channels, *groups, false, output),
        Kind::Concat { channels } => {
            let mut offset = 0;
            for (&value, &width) in step.inputs.iter().zip(channels) {
                elementwise::put_columns(workspace.read(pass, value), width, step.channels, offset, output);
                offset += width;
            }
        }
        Kind::Dropout { p } => {
            let factors = dropout_factors(pass, step, *p);
            elementwise::mask(input, output.len() / n, factors, false, output);
        }
        Kind::StochasticDepth { p } => {
            elementwise::mask(input, output.len() / n, sample_factors(pass, step, *p), false, output);
        }
        Kind::Activation(function) => activation::forward(convert::activation(*function), input, output),
        Kind::Flatten { pixels } => {
            elementwise::transpose(input, *pixels, output.len() / n / pixels, false, output);
        }
        Kind::Identity => match residual {
            None => activation::forward(activation, input, output),
            Some(residual) => {
                let same = batch_norm::Affine { scale: vec![1.0; step.channels], shift: vec![0.0; step.channels] };
                batch_norm::forward(&same, input, Some(residual), activation, output);
            }
        },
    }
    kernel(step)
}
