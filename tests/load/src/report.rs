//! What was felt, by kind of client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Cause, Failure};
use crate::histogram::Histogram;
use crate::load::Kind;

/// Failures whose text is kept, of each kind.
const FIRST_FAILURES: usize = 8;

#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Since the start of the load.
    pub elapsed: Duration,
    pub kinds: BTreeMap<Kind, KindReport>,
}

#[derive(Debug, Clone, Default)]
pub struct KindReport {
    /// Attempts that ended, well or badly. A WebSocket message and its echo are one.
    pub requests: u64,
    pub failures: BTreeMap<Cause, u64>,
    /// The first few, in order.
    pub first_failures: Vec<FirstFailure>,
    /// Of those that succeeded, connecting included where a connection was needed.
    pub latency: Histogram,
    /// Connections opened, TLS included.
    pub connections: u64,
    /// Connections that the server ended between two requests (`Connection: close`, GOAWAY, end of
    /// stream while idle). Nobody feels it, so that it is not a failure.
    pub closed_between: u64,
    /// Who answered, by the name that the upstream gives itself.
    pub answered_by: BTreeMap<String, u64>,
}

#[derive(Debug, Clone)]
pub struct FirstFailure {
    /// Since the start of the load.
    pub at: Duration,
    pub failure: Failure,
}

impl KindReport {
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Connections torn: resets and ends of stream.
    pub fn torn(&self) -> u64 {
        [Cause::Reset, Cause::Eof].iter().filter_map(|cause| self.failures.get(cause)).sum()
    }
}

impl Report {
    pub fn requests(&self) -> u64 {
        self.kinds.values().map(|kind| kind.requests).sum()
    }

    pub fn failed(&self) -> u64 {
        self.kinds.values().map(KindReport::failed).sum()
    }

    /// For programs: all kinds together, latencies in microseconds.
    pub fn to_json(&self) -> Value {
        let mut latency = Histogram::default();
        let mut failures = BTreeMap::<String, u64>::new();
        for report in self.kinds.values() {
            latency.merge(&report.latency);
            for (cause, count) in &report.failures {
                *failures.entry(cause.to_string()).or_default() += count;
            }
        }
        let micros = |share| latency.quantile(share).as_micros() as u64;
        json!({
            "requests": self.requests(),
            "failed": self.failed(),
            "failures": failures,
            "seconds": self.elapsed.as_secs_f64(),
            "p50": micros(0.5),
            "p99": micros(0.99),
            "p999": micros(0.999),
            "max": micros(1.0),
        })
    }

    /// Answers of the upstream of that name, over all kinds.
    pub fn answered_by(&self, name: &str) -> u64 {
        self.kinds.values().filter_map(|kind| kind.answered_by.get(name)).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, report) in &self.kinds {
            writeln!(
                f,
                "{kind}: {} requests, {} failed, p50 {:?}, p99 {:?}, max {:?}",
                report.requests,
                report.failed(),
                report.latency.quantile(0.5),
                report.latency.quantile(0.99),
                report.latency.max(),
            )?;
            for (cause, count) in &report.failures {
                writeln!(f, "  {cause}: {count}")?;
            }
            for first in &report.first_failures {
                writeln!(f, "  at {:.3} s: {}", first.at.as_secs_f64(), first.failure)?;
            }
        }
        Ok(())
    }
}

/// Where the clients of one kind count.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    report: Mutex<KindReport>,
}

impl Tally {
    pub(crate) fn new(began: Instant) -> Self {
        Tally { began, report: Mutex::default() }
    }

    pub(crate) fn snapshot(&self) -> KindReport {
        self.lock().clone()
    }

    pub(crate) fn connected(&self) {
        self.lock().connections += 1;
    }

    pub(crate) fn closed_between(&self) {
        self.lock().closed_between += 1;
    }

    /// One attempt that ended: who answered, or why nobody did.
    pub(crate) fn count(&self, took: Duration, outcome: Result<String, Failure>) {
        let at = self.began.elapsed();
        let mut report = self.lock();
        report.requests += 1;
        match outcome {
            Ok(name) => {
                report.latency.record(took);
                *report.answered_by.entry(name).or_default() += 1;
            }
            Err(failure) => {
                *report.failures.entry(failure.cause).or_default() += 1;
                if report.first_failures.len() < FIRST_FAILURES {
                    report.first_failures.push(FirstFailure { at, failure });
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, KindReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
