//! Which of several choices lie on the frontier of size and error.

/// Which points, each a size and an error, no other point beats: one beats another if it is as good in both and better in
/// one. Equal points stand or fall together.
pub(crate) fn frontier(points: &[(u64, f64)]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a].0.cmp(&points[b].0).then(points[a].1.total_cmp(&points[b].1)));
    let mut on = vec![false; points.len()];
    let mut best = None; // the last point that was found to be on the frontier
    for ix in order {
        // Smaller ones came before, and of its own size the better ones.
        on[ix] = best.is_none_or(|best: (u64, f64)| points[ix].1 < best.1 || points[ix] == best);
        if on[ix] {
            best = Some(points[ix]);
        }
    }
    on
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word.
    fn by_definition(points: &[(u64, f64)]) -> Vec<bool> {
        let beats = |a: (u64, f64), b: (u64, f64)| a.0 <= b.0 && a.1 <= b.1 && (a.0 < b.0 || a.1 < b.1);
        points.iter().map(|&point| !points.iter().any(|&other| beats(other, point))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        /// Few different numbers, so that there are ties of all kinds.
        #[test]
        fn it_is_what_the_definition_says(points in proptest::collection::vec((0_u64..6, 0_u8..6), 0..12)) {
            let points: Vec<_> = points.iter().map(|&(size, error)| (size, f64::from(error))).collect();
            prop_assert_eq!(frontier(&points), by_definition(&points));
        }

        #[test]
        fn so_it_is_for_any_numbers(points in proptest::collection::vec((any::<u64>(), 0.0_f64..1.0), 0..40)) {
            prop_assert_eq!(frontier(&points), by_definition(&points));
        }
    }

    #[test]
    fn small_cases() {
        assert_eq!(frontier(&[]), [false; 0]);
        assert_eq!(frontier(&[(4, 0.5), (8, 0.1), (8, 0.2), (4, 0.5), (9, 0.1)]), [true, true, false, true, false]);
    }
}
