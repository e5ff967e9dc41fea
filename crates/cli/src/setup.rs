//! What every command needs before it starts: threads and Ctrl-C.

use std::process;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use regraft::Cancel;
use regraft_engine::Engine;
use regraft_kernels::simd::Level;

use crate::args::Common;

/// The number of threads asked for, or that of the physical cores this process may use.
pub fn threads(common: &Common) -> usize {
    let available = available_parallelism().map_or(1, usize::from);
    common.threads.map_or_else(|| num_cpus::get_physical().clamp(1, available), usize::from)
}

/// The engine of the device asked for, with the same number of threads for everything else that is parallel.
///
/// # Errors
/// A wrong setting of `REGRAFT_CPU`, a device that is not there, or threads that the system refuses.
pub fn engine(common: &Common, threads: usize) -> Result<Box<dyn Engine>> {
    Level::choose().map_err(regraft::Error::Environment)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .with_context(|| format!("cannot start {threads} threads; give a smaller --threads"))?;
    Ok(regraft::engine(common.device, threads)?)
}

/// A wish to stop that the first Ctrl-C (or SIGTERM) expresses; the second ends the process at once.
pub fn cancel_on_interrupt() -> Result<Cancel> {
    let cancel = Cancel::new();
    let shared = cancel.clone();
    ctrlc::set_handler(move || {
        if shared.cancel() {
            process::exit(i32::from(crate::INTERRUPTED));
        }
        eprintln!("\nstopping after this step (press Ctrl-C again to stop at once)");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(cancel)
}
