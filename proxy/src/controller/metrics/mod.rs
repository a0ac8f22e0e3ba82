//! Metrics: what is counted here and by the workers, added up over every process that there was, and
//! an HTTP listener that tells it to Prometheus.

mod exposition;
mod families;
mod listener;
mod server;
mod tally;

pub use listener::{Bound, Metrics, exposed};
pub use server::Sources;
pub use tally::{Load, Tally, Totals};
