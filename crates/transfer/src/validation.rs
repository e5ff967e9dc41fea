//! Measuring the network on the validation photos after every epoch.

use regraft_learn::linear::{HeadKind, Truth};
use regraft_learn::metrics::Tally;

use crate::features::labels_u32;
use crate::inputs::Inputs;
use crate::network::Network;
use crate::{Context, Result};

/// Loss and accuracy of the network as it is now.
///
/// # Errors
/// Those of loading and inferring, [`crate::Error::Interrupted`].
pub(crate) fn validate(photos: &mut Inputs, network: &mut Network, classes: usize, context: &Context) -> Result<Tally> {
    let mut tally = Tally::new(HeadKind::Softmax, classes);
    let mut done = 0;
    let n = photos.num_photos();
    let mut steps = photos.epoch(0, 0, network, context)?;
    context.reporter.begin("validating", "img", n as u64);
    while let Some(step) = steps.next(network)? {
        tally.add(&network.top.infer(step.values)?, Truth::Classes(&labels_u32(step.labels)))?;
        done += step.labels.len();
        context.reporter.advance(done as u64, "");
        context.go_on()?;
    }
    context.reporter.end();
    Ok(tally)
}
