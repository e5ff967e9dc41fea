//! Depth-first inference: some steps one after the other on a band of a map's lines, then on the next band.
//!
//! Convolutions with few operations to a byte, such as those of an inverted residual block, are bound by the memory that
//! lies between them if each writes its whole map before the next one reads it. A few lines at a time, what lies between
//! stays in the second-level cache. The lines that a band shares with the one before are kept, not computed again
//! (Alwani et al., "Fused-Layer CNN Accelerators", 2016).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;
use regraft_engine::plan::{Kind, Plan, Step, ValueId};
use regraft_kernels::conv::{self, Algorithm, Epilogue, Filter};
use regraft_kernels::{Memory, Precision, pool};

use crate::convert::{self, conv_shape};
use crate::forward::{self, Pass, Workspace};
use crate::times::{Part, kernel};

/// Elements that lie between the steps of a chain, at most, while a band is worked on: a part of a second-level cache,
/// where the weights need room, too.
const BUDGET: usize = 96 << 10;

/// Images of a batch from which on a chain pays: an image is one thread's work.
const IMAGES: usize = 8;

/// Steps of which each alone reads what the one before wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    pub steps: Range<usize>,
    /// Lines of the last step's result that a band has.
    lines: usize,
}

impl Chain {
    /// Whether a batch of so many images is faster in bands.
    pub fn pays(&self, images: usize) -> bool {
        images >= IMAGES
    }
}

/// Which lines of its input a step reads.
#[derive(Clone, Copy)]
struct Reads {
    stride: usize,
    padding: usize,
    /// Lines from the first to behind the last that a line of the result reads.
    extent: usize,
    height: usize,
}

impl Reads {
    /// Of a step that can work on a band. Winograd's algorithm can't: its filters are too large to be read for each. Nor
    /// can one with lines that read nothing but padding.
    fn of(step: &Step) -> Option<Self> {
        let reads = match step.kind {
            Kind::Conv { conv, input, output, .. } => {
                let shape = conv_shape(&conv, 1, input, output);
                let fits = Algorithm::fitting(&shape).all(|algorithm| algorithm != Algorithm::Winograd);
                fits.then_some(Self {
                    stride: conv.stride[0],
                    padding: conv.padding[0],
                    extent: conv.dilation[0] * (conv.kernel_size[0] - 1) + 1,
                    height: input[0],
                })
            }
            Kind::MaxPool { window, input, .. } => Some(Self {
                stride: window.stride,
                padding: window.padding,
                extent: window.kernel_size,
                height: input[0],
            }),
            _ => None,
        };
        reads.filter(|reads| reads.padding < reads.extent)
    }

    /// The lines that some lines of the result read.
    fn lines(self, result: Range<usize>) -> Range<usize> {
        let start = (result.start * self.stride).saturating_sub(self.padding).min(self.height);
        let end = ((result.end - 1) * self.stride + self.extent).saturating_sub(self.padding).min(self.height);
        start..end.max(start)
    }
}

/// Height and elements of a line of a step's result.
fn result_lines(step: &Step) -> (usize, usize) {
    match step.kind {
        Kind::Conv { output, .. } | Kind::MaxPool { output, .. } => (output[0], output[1] * step.channels),
        _ => unreachable!("other steps are in no chain"),
    }
}

/// The chains of a plan for inference.
pub fn chains(plan: &Plan) -> Vec<Chain> {
    let steps = &plan.steps[..];
    let readers = |value: ValueId| {
        let read = steps.iter().flat_map(|step| step.inputs.iter().chain(&step.residual)).chain(&plan.outputs);
        read.filter(|&&read| read == value).count()
    };
    // Where a weight is larger than the map, reading it again for every image costs more than the map.
    let weight = |step: &Step| match step.kind {
        Kind::Conv { conv, input, output, .. } => conv_shape(&conv, 1, input, output).weight_len(),
        _ => 0,
    };
    let links = |a: &Step, b: &Step| {
        let between = plan.values[a.output].len;
        let heavy = weight(a).max(weight(b)) > between;
        b.inputs == [a.output] && readers(a.output) == 1 && !heavy && Reads::of(a).is_some() && Reads::of(b).is_some()
    };
    let mut chains = Vec::new();
    let mut start = 0;
    for end in 1..=steps.len() {
        if end < steps.len() && links(&steps[end - 1], &steps[end]) {
            continue;
        }
        if end - start > 1 {
            chains.push(Chain { steps: start..end, lines: lines_per_band(&steps[start..end]) });
        }
        start = end;
    }
    chains
}

/// As many lines of the last step's result as the budget allows, at least one.
fn lines_per_band(steps: &[Step]) -> usize {
    let (height, _) = result_lines(&steps[steps.len() - 1]);
    let fits = |lines: usize| {
        let (mut between, mut needed) = (0, lines);
        for pair in steps.windows(2).rev() {
            let reads = Reads::of(&pair[1]).expect("a step of a chain");
            needed = ((needed - 1) * reads.stride + reads.extent).min(reads.height);
            between += needed * result_lines(&pair[0]).1;
        }
        between <= BUDGET
    };
    (2..=height).take_while(|&lines| fits(lines)).last().unwrap_or(1)
}

/// Memory for bands, as many as threads have worked on at once.
#[derive(Default)]
pub struct Scratch(Mutex<Vec<Vec<Window>>>);

/// The lines of a step's result that are there.
#[derive(Clone, Default)]
struct Window {
    lines: Range<usize>,
    data: Memory,
}

impl Window {
    /// Makes room for `lines` lines of `len` elements, and keeps those from `first` on that are there.
    fn slide(&mut self, first: usize, lines: usize, len: usize) {
        let kept = first.min(self.lines.end).max(self.lines.start)..self.lines.end;
        if self.data.len() < lines * len {
            let mut data = Memory::default();
            data.reserve(lines * len);
            let from = (kept.start - self.lines.start) * len;
            data[..kept.len() * len].copy_from_slice(&self.data[from..from + kept.len() * len]);
            self.data = data;
        } else {
            let from = (kept.start - self.lines.start) * len;
            self.data.copy_within(from..from + kept.len() * len, 0);
        }
        self.lines = if kept.is_empty() { first..first } else { kept };
    }
}

/// A step with what it needs, the same for all images.
struct Prepared<'a> {
    step: &'a Step,
    reads: Reads,
    filter: Option<(&'a Filter, Option<&'a [f32]>)>,
    /// What is added to the result, of the whole batch.
    residual: Option<&'a [f32]>,
    nanoseconds: AtomicU64,
}

impl Prepared<'_> {
    fn kernel(&self) -> &'static str {
        self.filter.map_or(kernel(self.step), |(filter, _)| filter.algorithm().name())
    }

    /// Computes some lines of an image's result from `input`, which begins with line `above` of the image's map.
    fn compute(&self, image: usize, lines: Range<usize>, above: usize, input: &[f32], out: &mut [f32]) {
        let start = Instant::now();
        let needed = self.reads.lines(lines.clone());
        match self.step.kind {
            Kind::Conv { conv, input: size, output: result, .. } => {
                let Reads { stride, padding, .. } = self.reads;
                let mut shape = conv_shape(&conv, 1, [needed.len(), size[1]], [lines.len(), result[1]]);
                shape.padding[0] = needed.start + padding - lines.start * stride;
                let row = size[1] * conv.in_channels;
                let input = &input[(needed.start - above) * row..][..needed.len() * row];
                let (filter, bias) = self.filter.expect("a convolution has a filter");
                let (height, row) = result_lines(self.step);
                let residual = self.residual.map(|all| &all[(image * height + lines.start) * row..][..out.len()]);
                let activation = convert::activation(self.step.activation);
                let epilogue = Epilogue { bias, residual, activation, gather: None };
                conv::forward_alone(&shape, input, filter, epilogue, out);
            }
            Kind::MaxPool { window, input: size, output } => {
                let shape = pool::Shape { n: 1, input: size, output, channels: self.step.channels };
                pool::max_forward_alone(&shape, convert::window(window), lines, above, input, out);
            }
            _ => unreachable!("other steps are in no chain"),
        }
        self.nanoseconds.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

/// Runs the steps of a chain; the last one's result lies in its value afterwards.
pub fn run(pass: &Pass, chain: &Chain, workspace: &mut Workspace) {
    let start = Instant::now();
    let steps = &pass.plan.steps[chain.steps.clone()];
    let (first, last) = (&steps[0], &steps[steps.len() - 1]);
    let mut buffer = workspace.take(pass, last.output);
    let output_len = pass.plan.values[last.output].len;
    let mut filters = std::mem::take(&mut workspace.prepared);
    let both = steps.iter().zip(&mut filters[chain.steps.clone()]);
    let prepared: Vec<_> = both.map(|(step, filter)| prepare(pass, workspace, step, filter)).collect();
    let input = workspace.read(pass, first.inputs[0]);
    let image_len = input.len() / pass.n;
    let images = buffer[..output_len * pass.n].par_chunks_mut(output_len).zip(input.par_chunks(image_len));
    images.enumerate().for_each(|(image, (out, input))| {
        let mut windows = workspace.bands.take(steps.len() - 1);
        run_image(chain, &prepared, image, input, &mut windows[..steps.len() - 1], out);
        workspace.bands.put(windows);
    });
    let all: u64 = prepared.iter().map(|step| step.nanoseconds.load(Ordering::Relaxed)).sum();
    let seconds = start.elapsed().as_secs_f64();
    // The time that went by, divided as that of the threads.
    let times: Vec<_> = prepared.iter().map(|step| (step.kernel(), step.nanoseconds.load(Ordering::Relaxed))).collect();
    workspace.prepared = filters;
    workspace.put(pass, last.output, buffer);
    if let Some(measured) = &mut workspace.times {
        for (step, (kernel, nanoseconds)) in chain.steps.clone().zip(times) {
            let share = nanoseconds as f64 / all.max(1) as f64;
            measured.add_seconds(step, Part::Forward, kernel, pass.n, share * seconds);
        }
    }
}

fn prepare<'a>(
    pass: &'a Pass,
    workspace: &'a Workspace,
    step: &'a Step,
    filter: &'a mut Option<forward::Prepared>,
) -> Prepared<'a> {
    let filter = match step.kind {
        Kind::Conv { conv, input, output, .. } => {
            let prepared = filter.as_mut().expect("convolutions are prepared for inference");
            Some(prepared.forward(&conv_shape(&conv, pass.n, input, output), Precision::F32))
        }
        _ => None,
    };
    let reads = Reads::of(step).expect("a step of a chain");
    let residual = step.residual.map(|value| workspace.read(pass, value));
    Prepared { step, reads, filter, residual, nanoseconds: AtomicU64::new(0) }
}

/// Runs the steps on one image, band by band.
fn run_image(
    chain: &Chain,
    steps: &[Prepared],
    image: usize,
    input: &[f32],
    windows: &mut [Window],
    output: &mut [f32],
) {
    let (height, row) = result_lines(steps[steps.len() - 1].step);
    windows.iter_mut().for_each(|window| window.lines = 0..0);
    for (band, out) in output.chunks_mut(chain.lines * row).enumerate() {
        let lines = band * chain.lines..((band + 1) * chain.lines).min(height);
        // What each step must have computed for this band.
        let mut needed = vec![lines; steps.len()];
        for i in (1..steps.len()).rev() {
            needed[i - 1] = steps[i].reads.lines(needed[i].clone());
        }
        for (i, step) in steps.iter().enumerate() {
            let (before, after) = windows.split_at_mut(i);
            let (above, input) = match before.last() {
                Some(window) => (window.lines.start, &*window.data),
                None => (0, input),
            };
            let Some(window) = after.first_mut() else {
                step.compute(image, needed[i].clone(), above, input, out);
                continue;
            };
            let Range { start, end } = needed[i];
            let (_, len) = result_lines(step.step);
            window.slide(start, end - start, len);
            let new = window.lines.end..end;
            if !new.is_empty() {
                let place = (new.start - window.lines.start) * len..(end - window.lines.start) * len;
                step.compute(image, new, above, input, &mut window.data[place]);
                window.lines.end = end;
            }
        }
    }
}

impl Scratch {
    fn take(&self, windows: usize) -> Vec<Window> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        taken.resize(taken.len().max(windows), Window::default());
        taken
    }

    fn put(&self, windows: Vec<Window>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(windows);
    }
}

#[cfg(test)]
mod tests {
    use regraft_graph::{Conv2d, Graph, Op, Shape, Trainable, zoo};
    use regraft_testing::{assert_close_to_scale, pattern};

    use regraft_engine::plan::{Mode, Region};
    use regraft_engine::{BatchNormMode, UpdateRule};

    use super::*;
    use crate::parameters::Parameters;
    use crate::program::{Program, Samples};

    /// The program for the whole network's inference, and its parameters.
    fn program(graph: &Graph) -> (Program, Parameters) {
        let rule = UpdateRule::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };
        let (state, none) = (pattern::state(graph), Trainable::none(graph));
        let parameters = Parameters::new(graph, &state, &none, BatchNormMode::Frozen, rule).unwrap();
        let region = Region { input: 0, outputs: &[graph.output()] };
        (Program::new(graph, region, Mode::Inference, Precision::F32, &parameters).unwrap(), parameters)
    }

    /// The layers of each chain.
    fn layers(name: &str) -> Vec<Vec<String>> {
        let graph = zoo::build(name, 10).unwrap();
        let program = program(&graph).0;
        let name = |step: &Step| graph.nodes()[step.node].name.clone();
        program
            .chains
            .iter()
            .map(|chain| program.plan().steps[chain.steps.clone()].iter().map(name).collect())
            .collect()
    }

    #[test]
    fn chains_are_what_memory_would_bound() {
        assert_eq!(layers("resnet18"), [["conv1", "maxpool"]]);
        assert_eq!(layers("vgg11"), Vec::<Vec<String>>::new(), "3x3 convolutions with stride 1 are Winograd's");
        let mobilenet = layers("mobilenet_v2");
        assert_eq!(mobilenet[0][..3], ["features.0.0", "features.1.conv.0.0", "features.1.conv.1"]);
        // A block's result is read twice where the next one adds it: a chain ends there.
        assert_eq!(mobilenet[0].last().unwrap(), "features.2.conv.2");
        assert!(mobilenet.concat().iter().all(|layer| layer != "features.18.0"), "its weight is larger than its map");
    }

    #[test]
    fn the_lines_that_are_read_lie_within_the_map() {
        let pooling = Reads { stride: 2, padding: 1, extent: 3, height: 7 };
        assert_eq!([0..1, 1..3, 3..4].map(|lines| pooling.lines(lines)), [0..2, 1..6, 5..7]);
        let pointwise = Reads { stride: 2, padding: 0, extent: 1, height: 8 };
        assert_eq!(pointwise.lines(1..3), 2..5);
    }

    fn infer(graph: &Graph, in_bands: bool, n: usize, inputs: &[f32]) -> Vec<f32> {
        let (mut program, mut parameters) = program(graph);
        if !in_bands {
            program.chains.clear();
        }
        let samples = Samples::evaluated(n, inputs);
        // Twice: the second time the windows hold what the first one left.
        program.evaluate(samples, &mut parameters);
        program.evaluate(samples, &mut parameters);
        program.output(samples, 0).to_vec()
    }

    #[test]
    fn lines_of_nothing_but_padding_are_in_no_chain() {
        let mut graph = Graph::new(Shape::rgb(8));
        let mut node = 0;
        for (name, padding) in [("a", 0), ("b", 2), ("c", 0)] {
            node = graph.push(name, Op::Conv2d(Conv2d::new(3, 3, 1).padding(padding)), &[node]);
        }
        assert_eq!(program(&graph).0.chains, []);
        let inputs = pattern::values("input", IMAGES * 8 * 8 * 3);
        assert_eq!(infer(&graph, true, IMAGES, &inputs), infer(&graph, false, IMAGES, &inputs));
    }

    #[test]
    fn bands_give_what_whole_maps_give() {
        for (name, side) in [("resnet18", 150), ("mobilenet_v2", 160), ("squeezenet1_1", 97)] {
            let graph = zoo::build(name, 10).unwrap().with_input_shape(Shape::rgb(side)).unwrap();
            let inputs = pattern::values("input", IMAGES * side * side * 3);
            let (bands, whole) = (infer(&graph, true, IMAGES, &inputs), infer(&graph, false, IMAGES, &inputs));
            // Few pixels with a large weight are summed in another order than whole maps.
            assert_close_to_scale(name, &bands, &whole, 1e-5);
        }
    }
}
