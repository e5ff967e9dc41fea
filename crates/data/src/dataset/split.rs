//! Setting photos aside for validation.

use regraft_random::{Purpose, hash_name, keyed, shuffle};

use super::SplitOptions;

/// For each of a class's `n` photos: whether it goes to validation. Depends on nothing but the seed, the
/// class's name and `n`.
pub(super) fn validation_mask(class: &str, n: usize, options: &SplitOptions) -> Vec<bool> {
    let n_val = if n < 2 { 0 } else { ((n as f64 * options.val_fraction).round() as usize).clamp(1, n - 1) };
    let mut mask: Vec<bool> = (0..n).map(|i| i < n_val).collect();
    shuffle(&mut mask, &mut keyed(options.seed, Purpose::Split, hash_name(class), 0));
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_get_a_photo_where_there_are_two() {
        for (n, fraction, expected) in
            [(0, 0.5, 0), (1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (124, 0.2, 25), (3, 0.999, 2)]
        {
            let options = SplitOptions { val_fraction: fraction, seed: 1 };
            let mask = validation_mask("ants", n, &options);
            assert_eq!(mask.iter().filter(|&&val| val).count(), expected, "{n} photos, fraction {fraction}");
        }
    }

    #[test]
    fn the_draw_depends_on_seed_and_class_alone() {
        let mask = |class, seed| validation_mask(class, 40, &SplitOptions { val_fraction: 0.5, seed });
        assert_eq!(mask("ants", 7), mask("ants", 7));
        assert_ne!(mask("ants", 7), mask("ants", 8));
        assert_ne!(mask("ants", 7), mask("bees", 7));
    }
}
