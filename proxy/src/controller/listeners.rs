//! Binds the public sockets; only the controller does, so that all have the same owner.
