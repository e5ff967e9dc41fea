//! The choice of an engine.

use std::thread::available_parallelism;

use regraft_engine::Engine;
use regraft_engine_cpu::CpuEngine;

use crate::{Error, Result};

/// Which device to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest there is.
    #[default]
    Auto,
    /// This machine's processor.
    Cpu,
    /// A GPU or another accelerator.
    Gpu,
}

/// The engine of a device, with `threads` threads on the CPU. Their number changes the time, never the result.
///
/// # Errors
/// [`Error::Setting`] for a device that this version has no engine for, [`Error::Engine`] if the system refuses the threads.
pub fn engine(device: DeviceChoice, threads: usize) -> Result<Box<dyn Engine>> {
    match device {
        DeviceChoice::Auto | DeviceChoice::Cpu => Ok(Box::new(CpuEngine::new(threads)?)),
        DeviceChoice::Gpu => Err(Error::Setting {
            field: "device",
            value: "gpu".into(),
            allowed: "this version runs on CPUs only: use cpu or auto".into(),
        }),
    }
}

/// As many threads as this process may use.
pub fn default_threads() -> usize {
    available_parallelism().map_or(1, usize::from)
}
