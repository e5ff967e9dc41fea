//! The CPU engine: our own kernels, running the [plan](regraft_engine::plan) of a network.
//!
//! [`session`] is a network with its trained state. Its [`parameters`] are the tensors in the kernels' layouts; its
//! [`program`]s are plans with their memory: [`forward`] and [`backward`] run their steps, [`bands`] some of them depth
//! first, [`times`] measures them. [`features`] keeps what the frozen layers make of images.

mod backward;
mod bands;
mod convert;
mod features;
mod forward;
mod parameters;
mod program;
mod session;
mod times;

use std::sync::Arc;

use regraft_engine::{Device, DeviceKind, Engine, Error, Precision, Session, SessionOptions};
use regraft_graph::{Graph, StateDict};
use regraft_kernels::simd;

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
    fn device(&self) -> Device {
        let threads = self.pool.current_num_threads();
        let plural = if threads == 1 { "" } else { "s" };
        let precisions = [Precision::F32, Precision::Bf16];
        Device {
            kind: DeviceKind::Cpu,
            name: format!("{}, {threads} thread{plural}", simd::Level::current().name()),
            memory_bytes: None,
            precisions: precisions.into_iter().filter(|&precision| self.supports(precision).is_ok()).collect(),
        }
    }

    fn supports(&self, precision: Precision) -> Result<(), Error> {
        convert::precision(precision).map(|_| ())
    }

    fn tolerance(&self, precision: Precision) -> f32 {
        match precision {
            // Winograd's algorithm rounds to 1e-5 of a convolution's scale, and networks have up to 200 of them whose
            // errors add up as random ones do. Seen at most: 1e-5 over a whole network of the zoo.
            Precision::F32 => 1e-3,
            // bfloat16 keeps 8 bits: each product is off by up to 2^-8, and sums of many of them by a few times less.
            Precision::Bf16 => 3e-2,
        }
    }

    fn compile(&self, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Box<dyn Session>, Error> {
        let session = self.pool.install(|| CpuSession::new(graph, state, options, self.pool.clone()))?;
        Ok(Box::new(session))
    }
}
