//! How well a number ranks the samples that have a label before those that don't.

/// Samples by falling logit of one label.
pub(super) struct Ranking {
    /// Sample, whether it has the label, and whether it is the last with its logit.
    places: Vec<(u32, bool, bool)>,
}

impl Ranking {
    /// The ranking of finite `logits`, of which those of samples that have the label are marked.
    pub fn new(samples: &[(f64, bool)]) -> Self {
        let mut order: Vec<u32> = (0..samples.len() as u32).collect();
        order.sort_by(|&a, &b| samples[b as usize].0.total_cmp(&samples[a as usize].0));
        let last = |place: usize| {
            let logit = |place: usize| order.get(place).map(|&i| samples[i as usize].0);
            logit(place) != logit(place + 1)
        };
        let places = order.iter().enumerate().map(|(place, &i)| (i, samples[i as usize].1, last(place))).collect();
        Self { places }
    }

    /// The average precision as scikit-learn's `average_precision_score`, sample `i` counting `count(i)` times: the sum over
    /// all thresholds of the precision there times what the recall gains, samples with the same logit passing together.
    /// `None` if no sample has the label.
    pub fn average_precision(&self, count: impl Fn(usize) -> u32) -> Option<f64> {
        let (mut hits, mut passed, mut before) = (0u64, 0u64, 0u64);
        let mut area = 0.0;
        for &(i, has, last) in &self.places {
            let count = u64::from(count(i as usize));
            passed += count;
            hits += if has { count } else { 0 };
            if last && hits > before {
                area += (hits - before) as f64 * (hits as f64 / passed as f64);
                before = hits;
            }
        }
        (hits > 0).then(|| area / hits as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::Ranking;

    #[test]
    fn equal_logits_pass_together_and_counts_are_repetitions() {
        let samples = [(2.0, true), (1.0, false), (1.0, true), (1.0, false), (-1.0, true)];
        let precision =
            |samples: &[(f64, bool)], counts: &[u32]| Ranking::new(samples).average_precision(|i| counts[i]);
        // Precision 1, 2/4 and 3/5 where the recall gains a third.
        assert_eq!(precision(&samples, &[1; 5]), Some((1.0 + 0.5 + 0.6) / 3.0));
        let repeated = [samples[0], samples[1], samples[1], samples[4], samples[4]];
        assert_eq!(precision(&samples, &[1, 2, 0, 0, 2]), precision(&repeated, &[1; 5]));
        assert_eq!(precision(&samples, &[0, 1, 0, 1, 0]), None);
    }
}
