//! A network on an engine, ready to infer.

use regraft_engine::{Engine, Images, Input, Outputs, Session, SessionOptions};
use regraft_graph::{Graph, NodeId, StateDict};

use crate::Result;

/// A compiled network whose output is asked for.
pub(crate) struct Network {
    session: Box<dyn Session>,
    output: NodeId,
}

impl Network {
    /// Compiles `graph` for inference.
    ///
    /// # Errors
    /// Errors of [`Engine::compile`].
    pub fn new(engine: &dyn Engine, graph: &Graph, state: &StateDict) -> Result<Self> {
        Self::with_outputs(engine, graph, state, Outputs::Final)
    }

    /// Compiles `graph` for inference, so that any of its nodes can be asked for.
    ///
    /// # Errors
    /// Errors of [`Engine::compile`].
    pub fn inspected(engine: &dyn Engine, graph: &Graph, state: &StateDict) -> Result<Self> {
        Self::with_outputs(engine, graph, state, Outputs::Any)
    }

    fn with_outputs(engine: &dyn Engine, graph: &Graph, state: &StateDict, outputs: Outputs) -> Result<Self> {
        let options = SessionOptions { outputs, ..SessionOptions::inference(graph) };
        Ok(Self { session: engine.compile(graph, state, options)?, output: graph.output() })
    }

    /// The output for some images: `[n, outputs]`, row-major.
    ///
    /// # Errors
    /// Errors of [`Session::infer`].
    pub fn infer(&mut self, images: Images) -> Result<Vec<f32>> {
        infer(self.session.as_mut(), images.into(), self.output)
    }

    /// The output for images, or features, as values.
    ///
    /// # Errors
    /// Errors of [`Session::infer`].
    pub fn infer_values(&mut self, values: &[f32]) -> Result<Vec<f32>> {
        self.infer(Images::Floats(values))
    }

    /// The values of some nodes of a network that was compiled by [`inspected`](Self::inspected), in the order of
    /// `nodes`.
    ///
    /// # Errors
    /// Errors of [`Session::infer`].
    pub fn infer_nodes(&mut self, images: Images, nodes: &[NodeId]) -> Result<Vec<regraft_graph::Tensor>> {
        Ok(self.session.infer(images.into(), nodes)?)
    }
}

/// The value of one node: `[n, ...]`, row-major.
///
/// # Errors
/// Errors of [`Session::infer`].
pub(crate) fn infer(session: &mut dyn Session, input: Input, node: NodeId) -> Result<Vec<f32>> {
    let mut values = session.infer(input, &[node])?;
    Ok(values.pop().expect("one node was asked for").into_data())
}
