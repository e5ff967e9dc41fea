//! Which samples are held out together.

use regraft_random::{Purpose, keyed, shuffle};

use super::{Samples, Targets};
use crate::Error;

/// The fold of each sample, `[samples]`: samples that are alike are shuffled and dealt out evenly.
///
/// Alike are those of one class; of those that have labels, the ones whose rarest label is the same, and the ones without
/// any; of those that have a number, neighbours in the order of these numbers, so that each fold spans their range.
///
/// There are `folds` folds, or as many as the smallest class, or everything where there are no classes, has samples.
///
/// # Errors
/// [`Error::TooFewSamples`] if a class has one sample, [`Error::NoSamples`] if there is one alone that has a number,
/// [`Error::Setting`] if `folds` is below 2.
pub fn stratified_folds(samples: Samples, folds: usize, seed: u64) -> Result<Vec<u32>, Error> {
    if folds < 2 {
        return Err(Error::Setting { name: "number of folds", value: folds.to_string(), allowed: "at least 2" });
    }
    let mut folds = folds.min(samples.len());
    let mut groups = match samples.targets() {
        Targets::Classes(_) => {
            samples.require_per_class(2, "cross-validation (without it, give a value for C)")?;
            let groups = grouped(samples, samples.classes(), |i| samples.label(i));
            folds = groups.iter().map(Vec::len).fold(folds, usize::min);
            groups
        }
        Targets::Labels(_) => by_rarest_label(samples),
        Targets::Values(_) if samples.len() < 2 => return Err(Error::NoSamples),
        Targets::Values(values) => {
            let mut order: Vec<usize> = (0..samples.len()).collect();
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
            order.chunks(folds).map(<[usize]>::to_vec).collect()
        }
    };
    let mut rng = keyed(seed, Purpose::Folds, 0, 0);
    let mut fold_of = vec![0; samples.len()];
    // Going on where the last group ended keeps the folds' sizes within one of each other.
    let mut dealt = 0;
    for group in &mut groups {
        shuffle(group, &mut rng);
        for &i in &*group {
            fold_of[i] = (dealt % folds) as u32;
            dealt += 1;
        }
    }
    Ok(fold_of)
}

/// The samples of each of `count` groups.
fn grouped(samples: Samples, count: usize, group: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let mut groups = vec![Vec::new(); count];
    (0..samples.len()).for_each(|i| groups[group(i)].push(i));
    groups
}

/// The samples by the rarest label that each has, the last group being those without any.
fn by_rarest_label(samples: Samples) -> Vec<Vec<usize>> {
    let counts = samples.counts(0..samples.len());
    let rarest = |i| (0..counts.len()).filter(|&k| samples.has(i, k)).min_by_key(|&k| counts[k]);
    grouped(samples, counts.len() + 1, |i| rarest(i).unwrap_or(counts.len()))
}
