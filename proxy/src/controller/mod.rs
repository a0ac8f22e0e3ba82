//! The private half: Docker, certificates, routes, workers, the admin socket. It holds every
//! privilege and secret and never reads a byte that the public sent.

pub mod admin;
pub mod canary;
pub mod certificates;
mod changes;
pub mod check;
pub mod child;
mod control_loop;
pub mod docker;
pub mod environment;
pub mod generations;
pub mod htpasswd;
pub mod interventions;
mod journal;
pub mod listeners;
pub mod metrics;
mod orphans;
mod port_holder;
pub mod probe;
mod publisher;
mod reload;
mod rendezvous;
mod respawn;
pub mod routes;
pub mod run;
pub mod selector;
mod signals;
pub mod steering;
pub mod store;
mod supervisor;
mod ticket_keys;
mod trial;
mod unix_http;
pub mod upgrade;
mod vacancies;
mod view;
pub mod worker_process;
