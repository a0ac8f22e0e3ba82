//! The public half: accept, TLS, HTTP, routing, upstreams, tunnels, drain.
