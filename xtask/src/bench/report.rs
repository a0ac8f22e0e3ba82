//! What a load has felt, whichever program it was.

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub requests: u64,
    pub failed: u64,
    pub per_second: f64,
    /// Microseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub max: Option<f64>,
}

impl Report {
    /// Itself, where every request was answered well, and there was one.
    pub fn unless_failed(self) -> anyhow::Result<Self> {
        match (self.requests, self.failed) {
            (0, _) => anyhow::bail!("no request was answered"),
            (_, 0) => Ok(self),
            (requests, failed) => anyhow::bail!("{failed} of {requests} requests failed"),
        }
    }
}
