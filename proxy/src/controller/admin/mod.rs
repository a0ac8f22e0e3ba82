//! The admin socket: what `baton status`, `routes` and `reload` ask.
