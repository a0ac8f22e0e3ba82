//! The middle of several measurements, and how far they are apart.

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Median {
    pub middle: f64,
    /// Largest distance from it, as a share of it.
    pub spread: f64,
}

impl Median {
    /// None of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let middle = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[half - 1], sorted[half]),
            _ => sorted[half],
        };
        let distance = (last - middle).max(middle - first);
        let spread = if middle == 0.0 { 0.0 } else { distance / middle.abs() };
        Some(Median { middle, spread })
    }
}

/// The value that a share of all does not exceed (nearest rank).
pub fn percentile(sorted: &[u64], share: f64) -> Option<u64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check = |values: &[f64], expected| {
            let median = Median::of(values.iter().copied());
            assert_eq!(median.map(|m| (m.middle, m.spread)), expected, "{values:?}");
        };
        check(&[], None);
        check(&[4.0], Some((4.0, 0.0)));
        check(&[3.0, 1.0, 2.0], Some((2.0, 0.5)));
        check(&[1.0, 2.0, 4.0, 5.0], Some((3.0, 2.0 / 3.0)));
        check(&[0.0, 0.0], Some((0.0, 0.0)));
    }

    #[test]
    fn percentiles() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 0.5), Some(50));
        assert_eq!(percentile(&hundred, 0.99), Some(99));
        assert_eq!(percentile(&[7], 0.01), Some(7));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
