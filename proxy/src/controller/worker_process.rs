//! One worker process: spawn, hand over sockets, check, supervise.
