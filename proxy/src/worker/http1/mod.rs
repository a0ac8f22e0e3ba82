//! One strict HTTP/1.1, used towards the public and towards upstreams.
//!
//! It accepts what RFC 9112 allows and nothing that two readers could take for two things: what is
//! ambiguous is refused, never repaired and never forwarded.

pub mod body;
pub mod head;
pub mod io;
pub mod server;
