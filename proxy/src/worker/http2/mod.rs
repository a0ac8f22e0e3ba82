//! HTTP/2 towards the public, on the h2 crate: one task for a connection, which polls its streams.

pub mod body;
mod budget;
pub mod coalesce;
pub mod server;
pub mod turns;
mod urgency;

/// Flow control and buffers of an HTTP/2 connection, in bytes.
pub mod windows {
    /// What a peer may send of one stream before it was read.
    pub const STREAM: u32 = 256 * 1024;
    /// What a peer may send on all streams. At least four stream windows: with equal ones a single
    /// stream that nobody reads stops all others.
    pub const CONNECTION: u32 = 4 * STREAM;
    /// What h2 holds of a stream's outgoing data, in place of 400 KiB.
    pub const SEND_BUFFER: usize = 64 * 1024;
}
