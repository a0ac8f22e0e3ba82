//! The load client of the whole project, and the upstreams that it talks to through baton.
//!
//! The client is an independent witness. It stands directly on sockets, rustls, h2, httparse and
//! tungstenite, has no pool that could hide an error, and never retries: whatever a client could
//! feel is counted, by cause. The upstream writes HTTP/1.1 itself for the same reason: what it sends
//! and what it received is what was on the wire.

mod client;
mod failure;
mod histogram;
mod load;
pub mod pattern;
pub mod random;
mod report;
mod schedule;
mod sessions;
mod target;
mod transfer;
mod upstream;
mod wire;

pub use failure::{Cause, Failure};
pub use histogram::Histogram;
pub use load::{Kind, Load, Running};
pub use report::{FirstFailure, KindReport, Report};
pub use target::{Stream, Target, roots_from_pem};
pub use transfer::{Pace, Protocol, Transferred, download, upload};
pub use upstream::{Upstream, UpstreamOptions};
