//! What a process holds, over time: whether it grows.

use std::time::{Duration, Instant};

use baton_tests::{descriptors, proportional};

const MIB: f64 = (1 << 20) as f64;
/// What a line through the samples may rise over all of them, beside a tenth of what there was: in bytes.
const GROWTH: f64 = 2.0 * MIB;
/// Fewer samples than this say nothing.
const FEWEST: usize = 6;
/// The first part of the samples, one in so many, is a process that fills its caches.
const WARM_UP: usize = 4;

#[derive(Debug)]
pub struct Samples {
    what: &'static str,
    began: Instant,
    taken: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Seconds since the first.
    at: f64,
    /// PSS, in bytes.
    memory: f64,
    descriptors: usize,
}

impl Samples {
    pub fn of(what: &'static str) -> Self {
        Samples { what, began: Instant::now(), taken: Vec::new() }
    }

    pub fn take(&mut self, pid: i32) {
        let at = self.began.elapsed().as_secs_f64();
        let memory = proportional(pid) as f64;
        self.taken.push(Sample { at, memory, descriptors: descriptors(pid) });
    }

    /// Prints a line of the table; whether it grew.
    pub fn judge(&self) -> bool {
        let steady = &self.taken[self.taken.len() / WARM_UP..];
        let (Some(first), Some(last)) = (steady.first(), steady.last()) else { return false };
        let slope = slope(steady);
        let over = Duration::from_secs_f64(last.at - first.at);
        let grown = slope * over.as_secs_f64();
        let leaks = steady.len() >= FEWEST && grown > GROWTH + first.memory / 10.0;
        let loses = steady.len() >= FEWEST && descriptors_only_rise(steady);
        println!(
            "{:<24} {:>7} {:>7.1} MiB {:>7.1} MiB {:>+8.3} MiB/min {:>5} {:>5}  {}",
            self.what,
            steady.len(),
            first.memory / MIB,
            last.memory / MIB,
            slope * 60.0 / MIB,
            first.descriptors,
            last.descriptors,
            verdict(leaks, loses),
        );
        leaks || loses
    }

    pub fn print_head() {
        println!(
            "{:<24} {:>7} {:>11} {:>11} {:>16} {:>11}",
            "memory (PSS)", "samples", "first", "last", "slope", "descriptors"
        );
    }
}

fn verdict(leaks: bool, loses: bool) -> &'static str {
    match (leaks, loses) {
        (false, false) => "flat",
        (true, false) => "MEMORY GROWS",
        (false, true) => "DESCRIPTORS GROW",
        (true, true) => "BOTH GROW",
    }
}

/// Of the line of least squares, in bytes a second.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, memory) = (mean(|sample| sample.at), mean(|sample| sample.memory));
    let together: f64 = samples.iter().map(|s| (s.at - at) * (s.memory - memory)).sum();
    let alone: f64 = samples.iter().map(|s| (s.at - at).powi(2)).sum();
    if alone > 0.0 { together / alone } else { 0.0 }
}

/// Connections come and go: a leak is where the fewest of the last third are more than the most of the
/// first.
fn descriptors_only_rise(samples: &[Sample]) -> bool {
    let third = samples.len() / 3;
    let most = samples[..third].iter().map(|sample| sample.descriptors).max();
    let fewest = samples[samples.len() - third..].iter().map(|sample| sample.descriptors).min();
    most < fewest
}
