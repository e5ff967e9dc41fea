//! The CPU engine: our own kernels, planned for one graph and one frozen/trainable split.
//!
//! [`plan`] lowers the graph to fused steps and decides what must be kept; [`memory`] packs the values
//! into few buffers; [`parameters`] holds the tensors in the kernels' layouts; [`forward`] and
//! [`backward`] run the steps, [`bands`] some of them depth first; [`times`] measures them; [`session`] puts them
//! together.

mod backward;
mod bands;
mod forward;
#[cfg(test)]
mod golden;
mod memory;
mod parameters;
mod plan;
mod session;
mod times;

use std::sync::Arc;

use regraft_graph::{Graph, StateDict};
use regraft_kernels::simd;

use regraft_engine::{Engine, Error, Precision, Session, SessionOptions};
use session::CpuSession;

/// The engine that runs on this machine's processor.
#[derive(Clone)]
pub struct CpuEngine {
    pool: Arc<rayon::ThreadPool>,
}

impl CpuEngine {
    /// An engine with a pool of `threads` threads. Their number changes the time, never the result.
    ///
    /// # Errors
    /// [`Error::Threads`] if the system refuses them, or for 0.
    pub fn new(threads: usize) -> Result<Self, Error> {
        let refused = |reason: String| Error::Threads { threads, reason };
        if threads == 0 {
            return Err(refused("at least one is needed".into()));
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        Ok(Self { pool: Arc::new(pool.map_err(|e| refused(e.to_string()))?) })
    }
}

impl Engine for CpuEngine {
    fn describe(&self) -> String {
        format!("cpu, {}, {} thread(s)", simd::Level::current().name(), self.pool.current_num_threads())
    }

    fn supports(&self, precision: Precision) -> Result<(), Error> {
        session::available(precision).map(|_| ())
    }

    fn compile(&self, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Box<dyn Session>, Error> {
        let session = self.pool.install(|| CpuSession::new(graph, state, options, self.pool.clone()))?;
        Ok(Box::new(session))
    }
}
