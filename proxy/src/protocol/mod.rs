//! What controller and worker say to each other: the only thing that both know.
//!
//! Frames are length-delimited JSON. Unknown fields are ignored and new ones have defaults, because
//! after an upgrade a new controller still talks to an old worker.

pub mod access_log;
pub mod channel;
pub mod default_root;
pub mod fault;
pub mod frame;
pub mod options;
pub mod pattern;
pub mod settings;
pub mod snapshot;
pub mod stats;
pub mod upstream_tls;

/// Version of the frames. Raised when an old peer could misread a new one.
pub const VERSION: u32 = 1;

/// What a worker's process is called in ps and top; at most 15 bytes (proc(5), comm).
pub const WORKER_NAME: &str = "baton-worker";

/// What the controller asks on a connection that it handed over: see
/// [`frame::ToWorker::Connection`]. It means nothing on a public connection.
pub const READY_PATH: &str = "/.well-known/baton/ready";
