//! Measuring the network on the validation photos after every epoch.

use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::Tally;

use crate::network::divided::Network;
use crate::photos::targets;
use crate::trainer::inputs::Inputs;
use crate::{Context, Result};

/// Loss and score of the network as it is now, whose `outputs` mean what `kind` says; numbers in the unit they are learned
/// in.
///
/// # Errors
/// Those of loading and inferring, [`crate::Error::Interrupted`].
pub(crate) fn validate(
    photos: &mut Inputs,
    network: &mut Network,
    kind: HeadKind,
    outputs: usize,
    context: &Context,
) -> Result<Tally> {
    let mut tally = Tally::new(kind, outputs);
    let mut done = 0;
    let n = photos.num_photos();
    let mut steps = photos.epoch(0, 0, network, context)?;
    context.progress.begin("validating", "img", n as u64);
    while let Some(step) = steps.next(network)? {
        targets::add(&mut tally, &network.top.infer(step.values)?, step.labels)?;
        done += step.samples.len();
        context.progress.advance(done as u64, "");
        context.check_cancelled()?;
    }
    context.progress.end();
    Ok(tally)
}
