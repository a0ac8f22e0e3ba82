//! The public half: accept, TLS, HTTP, routing, upstreams, tunnels, drain.
//!
//! A connection is followed from top to bottom: [`control`] (what the controller says), [`thread`],
//! [`accept`], [`http1`] or [`http2`], [`request`], [`relay`], [`upstream`], [`tunnel`].

pub mod accept;
pub mod access_log;
pub mod challenges;
mod client_auth;
pub mod control;
pub mod descriptors;
pub mod drain;
pub mod error_pages;
pub mod fields;
pub mod files;
mod find;
pub mod hold;
pub mod host_book;
pub mod http1;
pub mod http2;
pub mod leaving;
pub mod linger;
pub mod local;
pub mod memory;
pub mod message;
pub mod page;
mod passthrough;
pub mod proxy_protocol;
pub mod record;
pub mod relay;
pub mod request;
pub mod route_options;
pub mod sandbox;
pub mod stats;
pub mod table;
pub(crate) mod target;
pub mod thread;
pub mod tickets;
pub mod tls;
pub mod transport;
pub mod tunnel;
pub mod upstream;
pub mod websocket;

pub use control::{WorkerError, run};
