//! The private half: Docker, certificates, routes, workers, the admin socket. It holds every
//! privilege and secret and never reads a byte that the public sent.

pub mod admin;
pub mod certificates;
pub mod docker;
pub mod listeners;
pub mod port_holder;
pub mod probe;
pub mod respawn;
pub mod routes;
pub mod run;
pub mod unix_http;
pub mod worker_process;
