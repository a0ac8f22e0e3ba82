//! What is measured of a proxy in a row, and how it is told.

use std::collections::BTreeMap;

use super::row::Work;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// CPU time of the proxy for each request, in microseconds.
    Cpu,
    PerSecond,
    /// CPU time of the proxy, as a share of the time that passed.
    Busy,
    /// Microseconds.
    P50,
    P99,
    P999,
    Max,
    Failed,
    /// Of each idle connection, in KiB.
    PerConnection,
    /// From exec to the first answer, in milliseconds.
    Start,
    /// CPU time until then, in milliseconds.
    StartCpu,
    /// Of all processes of the proxy, in KiB.
    Memory,
    /// Of the program's file, in KiB.
    Program,
}

impl Column {
    /// Those of a kind of work, in the order of the table.
    pub fn of(work: Work) -> &'static [Column] {
        use Column::*;
        match work {
            Work::Idle { .. } => &[PerConnection, Memory],
            Work::Start => &[Start, StartCpu, Memory, Program],
            Work::Paced { .. } => &[P50, P99, P999, Cpu, Busy],
            Work::Reloads { .. } => &[Failed, PerSecond, P50, P99, Max, Memory],
            _ => &[Cpu, PerSecond, Busy, P50, P99, Memory],
        }
    }

    /// In tables: what it is called there, by how much it is divided, and digits after the point.
    pub fn shown(self) -> (&'static str, f64, usize) {
        match self {
            Column::Cpu => ("CPU µs per request", 1.0, 1),
            Column::PerSecond => ("requests/s", 1.0, 0),
            Column::Busy => ("core busy", 0.01, 0),
            Column::P50 => ("p50, ms", 1000.0, 2),
            Column::P99 => ("p99, ms", 1000.0, 2),
            Column::P999 => ("p99.9, ms", 1000.0, 2),
            Column::Max => ("max, ms", 1000.0, 1),
            Column::Failed => ("failed requests", 1.0, 0),
            Column::PerConnection => ("KiB per connection", 1.0, 1),
            Column::Start => ("start, ms", 1.0, 0),
            Column::StartCpu => ("CPU of it, ms", 1.0, 0),
            Column::Memory => ("memory, MiB", 1024.0, 1),
            Column::Program => ("program, MiB", 1024.0, 1),
        }
    }

    pub fn json_key(self) -> &'static str {
        match self {
            Column::Cpu => "cpu_us_per_request",
            Column::PerSecond => "requests_per_second",
            Column::Busy => "core_busy",
            Column::P50 => "p50_us",
            Column::P99 => "p99_us",
            Column::P999 => "p999_us",
            Column::Max => "max_us",
            Column::Failed => "failed_requests",
            Column::PerConnection => "kib_per_connection",
            Column::Start => "start_ms",
            Column::StartCpu => "start_cpu_ms",
            Column::Memory => "memory_kib",
            Column::Program => "program_kib",
        }
    }
}

/// What one measurement gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures(BTreeMap<Column, f64>);

impl Figures {
    /// With one more, if there is one.
    #[must_use]
    pub fn with(mut self, column: Column, value: impl Into<Option<f64>>) -> Self {
        self.0.extend(value.into().map(|value| (column, value)));
        self
    }

    pub fn get(&self, column: Column) -> Option<f64> {
        self.0.get(&column).copied()
    }

    pub fn all(&self) -> impl Iterator<Item = (Column, f64)> {
        self.0.iter().map(|(column, value)| (*column, *value))
    }
}
