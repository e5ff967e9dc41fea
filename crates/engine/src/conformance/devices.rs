//! What an engine says of its device.

use super::Tolerances;
use super::common::{Network, PLAIN};
use crate::{Engine, Error, Precision, SessionOptions};

/// The device has a name, its precisions are those that are supported, and one that it lacks is refused when a network
/// is compiled.
pub fn devices(engine: &dyn Engine, _: &Tolerances) {
    let device = engine.device();
    assert!(!device.name.is_empty());
    assert!(device.to_string().ends_with(&device.name), "{device}");
    assert!(engine.supports(Precision::F32).is_ok(), "single precision is everywhere");
    let network = Network::new("squeezenet1_1");
    for precision in [Precision::F32, Precision::Bf16] {
        let supported = engine.supports(precision).is_ok();
        assert_eq!(device.precisions.contains(&precision), supported, "{precision}");
        let training =
            SessionOptions { precision, update: PLAIN, ..network.options("features", crate::BatchNormMode::Train) };
        let inference = SessionOptions { infer_precision: precision, ..SessionOptions::inference(&network.graph) };
        for options in [training, inference] {
            match engine.compile(&network.graph, &network.state, options) {
                Ok(_) => assert!(supported, "{precision} is refused by `supports` alone"),
                Err(Error::Precision { .. }) => assert!(!supported, "{precision} is supported, but refused"),
                Err(error) => panic!("{precision}: {error}"),
            }
        }
    }
    let [single, half] = [Precision::F32, Precision::Bf16].map(|precision| engine.tolerance(precision));
    assert!(0.0 < single && single <= half && half < 1.0, "tolerances of {single} and {half}");
}
