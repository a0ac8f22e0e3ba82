//! Latencies in logarithmic buckets: constant size, one addition per request, 1 % exact.

use std::time::Duration;

/// Buckets in each power of two.
const FRACTION_BITS: u32 = 7;
const FRACTIONS: usize = 1 << FRACTION_BITS;
/// Powers of two, in microseconds: the last bucket begins beyond an hour.
const POWERS: usize = 33;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; POWERS * FRACTIONS], max: Duration::ZERO }
    }
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.counts[index(micros)] += 1;
        self.max = self.max.max(value);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn max(&self) -> Duration {
        self.max
    }

    /// The value that `share` (0 to 1) of all values do not exceed, rounded up to its bucket's end.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper_bound(bucket)).min(self.max);
            }
        }
        self.max
    }
}

fn index(micros: u64) -> usize {
    if micros < FRACTIONS as u64 {
        return micros as usize;
    }
    let power = u64::BITS - 1 - micros.leading_zeros();
    let fraction = (micros >> (power - FRACTION_BITS)) as usize & (FRACTIONS - 1);
    let bucket = (power - FRACTION_BITS + 1) as usize * FRACTIONS + fraction;
    bucket.min(POWERS * FRACTIONS - 1)
}

/// Largest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    if bucket < FRACTIONS {
        return bucket as u64;
    }
    let shift = (bucket / FRACTIONS - 1) as u32;
    let fraction = (bucket % FRACTIONS) as u64;
    ((FRACTIONS as u64 + fraction + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_its_bucket() {
        for micros in (0..5000).chain([1 << 20, (1 << 20) + 1, 3_599_999_999]) {
            let upper = upper_bound(index(micros));
            assert!(upper >= micros, "{micros} is above {upper}");
            assert!(upper <= micros + micros / FRACTIONS as u64, "{micros} is far below {upper}");
        }
    }

    #[test]
    fn quantiles_of_a_hundred_values() {
        let mut histogram = Histogram::default();
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let near = |share: f64, millis: u64| {
            let got = histogram.quantile(share).as_micros() as u64;
            assert!((millis * 1000..=millis * 1008).contains(&got), "{share}: {got}");
        };
        near(0.5, 50);
        near(0.99, 99);
        assert_eq!(histogram.quantile(1.0), Duration::from_millis(100));
        assert_eq!(histogram.max(), Duration::from_millis(100));
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
    }
}
