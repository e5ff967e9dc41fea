//! What can go wrong in this crate.

/// An error of learning or evaluating.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two sizes that belong together do not agree.
    #[error("{what}: {found} where {expected} was expected")]
    Shape {
        /// Which size.
        what: &'static str,
        /// The size that the other arguments demand.
        expected: usize,
        /// The size given.
        found: usize,
    },
    /// A feature is NaN or infinite.
    #[error(
        "feature {feature} of sample {sample} is {value}; features must be finite, so look at that photo and at the backbone's weights"
    )]
    NonFinite {
        /// Index of the sample.
        sample: usize,
        /// Index of the feature.
        feature: usize,
        /// The value found.
        value: f32,
    },
    /// A label is not a class index.
    #[error("sample {sample} has label {label}, but there are {classes} classes")]
    Label {
        /// Index of the sample.
        sample: usize,
        /// The label found.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// A label's answer is neither no nor yes.
    #[error("label {label} of sample {sample} is {value}; it must be 0 or 1")]
    Answer {
        /// Index of the sample.
        sample: usize,
        /// Index of the label.
        label: usize,
        /// The value found.
        value: f32,
    },
    /// A label that all samples have, or none, can't be learnt.
    #[error("{} sample has label {label}; it needs at least one with it and one without", if *always { "every" } else { "no" })]
    OneSided {
        /// Index of the label.
        label: usize,
        /// Whether all samples have it.
        always: bool,
    },
    /// The number that a sample should give is NaN or infinite.
    #[error("the value of sample {sample} is {value}; it must be finite")]
    Value {
        /// Index of the sample.
        sample: usize,
        /// The value found.
        value: f32,
    },
    /// What samples have is not what a head gives.
    #[error("samples have {found} where {expected} were expected")]
    Kind {
        /// What the head, or the method, goes by.
        expected: &'static str,
        /// What there is.
        found: &'static str,
    },
    /// Class weights for a number.
    #[error("class weights mean nothing where the output is a number; leave them out")]
    ClassWeights,
    /// A class has too few samples for what was asked.
    #[error("class {class} has {found} samples; {purpose} needs at least {needed}")]
    TooFewSamples {
        /// Index of the class.
        class: usize,
        /// The samples it has.
        found: usize,
        /// The samples it needs.
        needed: usize,
        /// What needs them.
        purpose: &'static str,
    },
    /// A setting lies outside its range.
    #[error("{name} is {value}; it must be {allowed}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The value given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Loss or gradient overflowed.
    #[error("the loss of the linear head is not finite; the features are too large, so scale them down")]
    Overflow,
    /// A network's output is NaN or infinite.
    #[error(
        "output {class} of sample {sample} is {value}; the network has diverged, so lower the learning rate or look at its weights"
    )]
    Diverged {
        /// Index of the sample among those evaluated so far.
        sample: usize,
        /// Index of the output.
        class: usize,
        /// The value found.
        value: f32,
    },
    /// There is nothing to evaluate.
    #[error("no sample to evaluate")]
    NoSamples,
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
}
