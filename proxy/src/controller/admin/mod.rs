//! The admin socket: what `baton status`, `routes`, `certs` and `reload` ask. HTTP/1.1 with JSON, so
//! that `curl --unix-socket` works too.

pub mod answers;
pub mod client;
pub mod control_socket;
pub mod known;
pub mod logs;
pub mod server;
pub mod tables;
pub mod terminal;
pub mod why;
