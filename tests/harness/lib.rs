//! The vocabulary of the black-box tests: a test reads as prose, and what it takes to run a baton,
//! a Docker or a curl is here.
//!
//! Nothing here is a stand-in: baton is the built binary, Docker a daemon, curl the program. Waiting
//! is always for a condition, with a limit.

mod baton;
mod binaries;
mod browser;
mod ca_proxy;
mod config;
mod curl;
mod disks;
mod docker;
mod dockerd;
pub mod frames;
mod kills;
mod knot;
mod link;
mod memory;
mod memory_group;
mod namespace;
mod openssl;
mod pebble;
mod ports;
mod process;
mod raw;
mod scrape;

mod tun;
mod wait;

pub use baton::Baton;
pub use binaries::{baton_binary, upstream_binary};
pub use browser::Browser;
pub use ca_proxy::{CaProxy, Endpoint, Held, Moment, Reply};
pub use config::Config;
pub use curl::{Answer, Curl};
pub use disks::{SlowDisk, SmallDisk};
pub use docker::{Container, Docker, IMAGE, Network};
pub use dockerd::Dockerd;
pub use frames::FrameClient;
pub use kills::{Deaths, Kills};
pub use knot::Knot;
pub use link::Link;
pub use memory::{descriptors, peak, proportional, reset_peak, resident};
pub use memory_group::MemoryGroup;
pub use namespace::Namespace;
pub use openssl::{ClientCa, common_name, self_signed, self_signed_rsa, shown_serial};
pub use pebble::{Pebble, PebbleOptions};
pub use ports::free_addresses;
pub use process::hang;
pub use raw::{Recorder, exchange, exchange_within};
pub use scrape::Scrape;
pub use wait::until;
