//! Whole runs, with an engine or a listener that does what the program cannot be made to do.

mod common;
mod distilled;
mod diverged;
mod interrupted;
mod watched;
