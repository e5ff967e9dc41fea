//! What goes into a network: images, targets, and how a miss is counted.

use crate::{Error, Labels};

/// How bytes become the values that a network reads: `(byte / 255 - mean) / std` for each channel, in `f32`, bit for
/// bit `torchvision.transforms.Normalize` after `ToTensor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Mean of red, green and blue, for values of 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

impl Normalization {
    /// The value of every byte of every channel.
    pub fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|level| (level as f32 / 255.0 - self.mean[channel]) / self.std[channel])
        })
    }

    /// Writes the values of `pixels`, `[n, height, width, 3]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn apply(&self, pixels: &[u8], values: &mut [f32]) {
        assert_eq!(pixels.len(), values.len(), "one value for every byte");
        let table = self.table();
        for (value, pixel) in values.as_chunks_mut::<3>().0.iter_mut().zip(pixels.as_chunks::<3>().0) {
            *value = std::array::from_fn(|channel| table[channel][usize::from(pixel[channel])]);
        }
    }
}

/// Images, in the channels-last order in which they are decoded.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// RGB bytes `[n, height, width, 3]`, which the engine normalises: a quarter of the floats' traffic to a device.
    Bytes {
        /// The bytes, row-major.
        pixels: &'a [u8],
        /// How they are normalised.
        normalization: Normalization,
    },
    /// Values as the network reads them: `[n, height, width, channels]`, or `[n, features]`, row-major.
    Floats(&'a [f32]),
}

impl Images<'_> {
    /// Number of values of all samples.
    pub fn len(&self) -> usize {
        match self {
            Images::Bytes { pixels, .. } => pixels.len(),
            Images::Floats(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a session computes on.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Images.
    Images(Images<'a>),
    /// Features that [`Session::cache_features`](crate::Session::cache_features) has kept, by their keys.
    Cached(&'a [u64]),
}

impl<'a> From<Images<'a>> for Input<'a> {
    fn from(images: Images<'a>) -> Self {
        Input::Images(images)
    }
}

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(values: &'a [f32]) -> Self {
        Input::Images(Images::Floats(values))
    }
}

/// Samples to train on.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The samples.
    pub input: Input<'a>,
    /// A key for each sample, different for each sample and epoch: random masks are keyed by it, so that they don't
    /// depend on how samples are dealt to batches, threads or machines.
    pub sample_keys: &'a [u64],
}

/// What a batch should have given, and how a miss is counted.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The targets. Their kind decides the loss.
    pub labels: Labels<'a>,
    /// Share of the target spread evenly over all classes, of a yes/no question's over both answers; ignored for
    /// numbers.
    pub label_smoothing: f64,
    /// Weight of each class, or of the yes to each question; all 1 if absent. Ignored for numbers.
    pub class_weights: Option<&'a [f32]>,
}

impl Targets<'_> {
    /// Checks that there is a target for each output of `samples` samples.
    ///
    /// # Errors
    /// [`Error::Batch`] if the number of labels or class weights is another, or a class does not exist.
    pub fn check(&self, samples: usize, outputs: usize) -> Result<(), Error> {
        let elements = |name: (&str, &str), found: usize| match found == samples * outputs {
            true => Ok(()),
            false => Err(format!("{samples} samples of {outputs} {} come with {found} {}", name.0, name.1)),
        };
        let fits = match self.labels {
            Labels::Classes(classes) if classes.len() != samples => {
                Err(format!("{samples} samples come with {} labels", classes.len()))
            }
            Labels::Classes(classes) => match classes.iter().find(|&&class| class >= outputs) {
                Some(class) => Err(format!("label {class} is not among the network's {outputs} classes")),
                None => Ok(()),
            },
            Labels::Probabilities(shares) => elements(("classes", "probabilities"), shares.len()),
            Labels::Binary(answers) => elements(("labels", "answers"), answers.len()),
            Labels::Values(values) => elements(("outputs", "values"), values.len()),
        };
        let weights = self.class_weights.map_or(outputs, <[f32]>::len);
        fits.and(match weights == outputs {
            true => Ok(()),
            false => Err(format!("{weights} class weights are given for {outputs} classes")),
        })
        .map_err(Error::Batch)
    }
}

/// What [`Session::accumulate`](crate::Session::accumulate) returns besides the losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Nothing: nothing large has to leave the device.
    #[default]
    Losses,
    /// The logits.
    Logits,
}

/// The outcome of a batch's forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// Sum of the samples' weighted losses; divided by `weight` it is the mean loss.
    pub sum: f64,
    /// Sum of the weights of the samples' classes; without class weights, or where labels are not classes, the number
    /// of samples.
    pub weight: f64,
    /// Right answers: samples whose largest logit is that of their class (of shares, of the largest share); of yes/no
    /// questions, decisions on the right side; of numbers, 0.
    pub correct: u64,
    /// `[n, outputs]`, row-major, if wanted.
    pub logits: Option<Vec<f32>>,
}
