//! Kinds of faults.

/// What kind of fault an error is, for exit codes and for callers that react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is out of range or contradicts another one.
    Setting,
    /// The caller asked to stop.
    Cancelled,
    /// Something that was given (a photo, a file of weights, a model) cannot be used.
    Input,
    /// A file could not be written.
    Write,
    /// A device failed.
    Device,
    /// Anything else.
    Other,
}
