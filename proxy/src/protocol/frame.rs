//! The frames, one enum for each direction.

use serde::{Deserialize, Serialize};

use super::settings::{ListenerKind, WorkerSettings};
use super::snapshot::Snapshot;
pub use super::stats::WorkerStats;
use std::net::SocketAddr;

/// Controller to worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum ToWorker {
    /// First frame: who speaks and how to serve.
    Hello {
        protocol: u32,
        generation: u64,
        /// The selector sends connections to its sockets.
        #[serde(default)]
        steered: bool,
        settings: Box<WorkerSettings>,
    },
    /// Listener sockets, one descriptor for each slot, in the same order. May come several times:
    /// one message carries at most [`super::channel::MAX_DESCRIPTORS`].
    Listeners { slots: Vec<ListenerSlot> },
    /// The whole of what the worker routes by; replaces the snapshot before it.
    Snapshot(Box<Snapshot>),
    /// Start to accept. Sent once, after the listeners, the first snapshot, and a request that was
    /// answered through [`ToWorker::Connection`]. The descriptor that comes with it is a listening unix socket: when this channel ends unasked, the worker serves on,
    /// and waits there for the next controller, which hears [`FromWorker::Orphan`].
    Serve,
    /// Serve HTTP/1.1 on the one descriptor that comes with this frame, as if it had been accepted
    /// from a listener of `kind`. The controller asks a real request through it before it calls a
    /// worker ready.
    Connection { kind: ListenerKind },
    /// Answer with [`FromWorker::Stats`] carrying the same number.
    Stats { id: u64 },
    /// Accept once from every listener although nothing woke us: connections that migrate to a listener do
    /// not wake epoll where a fix of spring 2026 is missing (in Linux 6.1.170; 6.1.176 and 6.12.95 have it).
    Sweep,
    /// Write what the access log says of this host, in lower case, into the one socket that comes with
    /// this frame, too, until it is closed or this channel ends.
    Follow { host: String },
    /// Stop accepting, finish what is in progress, then exit 0. Each limit counts from now. A second
    /// one replaces the limits of the first.
    Drain {
        /// Listeners close when nobody has connected to them for so long; 0 is at once.
        #[serde(default)]
        quiet_ms: u64,
        /// Requests in progress are cut.
        limit_ms: u64,
        /// Idle HTTP/1.1 connections are closed. In a handoff as long as `limit_ms`, because a
        /// request may be on the wire; short when nothing will serve that client any more.
        idle_limit_ms: u64,
        /// Tunnels are cut.
        tunnel_limit_ms: u64,
    },
}

/// Worker to controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum FromWorker {
    /// First frame.
    Hello {
        protocol: u32,
        version: String,
    },
    /// What stands between the worker and the host, and what could not be had.
    Sandboxed {
        active: Vec<String>,
        missing: Vec<String>,
    },
    /// Every request that starts from now on sees this snapshot or a later one.
    Applied {
        snapshot: u64,
    },
    /// Every thread accepts.
    Serving,
    Stats {
        id: u64,
        stats: Box<WorkerStats>,
    },
    /// A drain has begun, and every listener is closed here.
    Quiesced,
    /// Nothing is in progress any more; the worker exits next.
    Drained {
        /// Its last counters; a worker of an older version leaves them out.
        #[serde(default)]
        stats: Option<Box<WorkerStats>>,
    },
    /// First frame to another controller than the one that started it.
    Orphan {
        protocol: u32,
        generation: u64,
        /// As its first controller said.
        steered: bool,
        draining: bool,
        quiesced: bool,
        /// How many listener sockets it hands over, in frames that follow; none when it drains.
        listeners: usize,
    },
    /// The descriptors of these sockets, in the same order.
    Listeners {
        slots: Vec<ListenerSlot>,
    },
}

/// Which socket of which thread a descriptor is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
pub struct ListenerSlot {
    /// As the configuration has it: the port may be 0.
    pub wanted: SocketAddr,
    /// As it is bound.
    pub address: SocketAddr,
    pub kind: ListenerKind,
    /// Worker thread, from 0.
    pub thread: usize,
}
