//! One worker thread: a runtime, a listener of each address, upstream connections, and nothing
//! shared on the request path but the snapshot.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};

use super::accept::Accept;
use super::access_log::{AccessLog, Writer};
use super::drain::Phase;
use super::files::Roots;
use super::local::{Local, Peer};
use super::route_options::Limiter;
use super::stats::ThreadStats;
use super::table::Table;
use super::transport::Socket;
use crate::protocol::settings::{ListenerKind, WorkerSettings};

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// What a thread is made of.
pub struct Parts {
    pub settings: Arc<WorkerSettings>,
    pub table: Arc<ArcSwap<Table>>,
    /// Version of the table, said once it is there.
    pub published: watch::Receiver<u64>,
    pub tls: Arc<ServerConfig>,
    pub challenges: Arc<ServerConfig>,
    pub stats: Arc<ThreadStats>,
    /// Of the worker.
    pub generation: u64,
    pub log: Writer,
    pub limiter: Arc<Limiter>,
    pub roots: Arc<Roots>,
    /// Whether memory is.
    pub is_short: watch::Receiver<bool>,
    pub orders: UnboundedReceiver<Order>,
    pub events: UnboundedSender<Event>,
}

/// What the control thread tells a worker thread.
#[derive(Debug)]
pub enum Order {
    Listen(TcpListener, ListenerKind),
    /// A connection that the controller handed over.
    Connection(UnixStream, ListenerKind),
    Sweep,
    /// How long nobody must have connected before a listener closes.
    Drain {
        quiet: Duration,
    },
    /// The drain goes on.
    Phase(Phase),
}

/// What a worker thread tells the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its listeners are closed.
    Quiesced,
    /// It is over, however that came.
    Ended,
}

/// Says [`Event::Ended`], even of a thread that panics.
struct Ending(UnboundedSender<Event>);

impl Drop for Ending {
    fn drop(&mut self) {
        // Nobody listens when the whole worker ends.
        let _ = self.0.send(Event::Ended);
    }
}

/// Runs until a drain is complete.
///
/// # Errors
/// When the runtime cannot be built.
pub fn run(parts: Parts) -> io::Result<()> {
    let _ending = Ending(parts.events.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(serve(parts));
    Ok(())
}

async fn serve(mut parts: Parts) {
    let wish = &parts.settings.access_log;
    let log = AccessLog::new(wish, parts.generation, parts.log, parts.stats.clone());
    let tables = (parts.table, parts.published);
    let shared = (parts.limiter, parts.roots, parts.is_short);
    let local = Local::new(parts.settings, tables, parts.stats, log, shared);
    let accept = Accept { local: local.clone(), tls: parts.tls, challenges: parts.challenges };
    spawn_local(write_log(local.clone()));
    spawn_local(sweep(local.clone()));
    let mut accepting = JoinSet::new();
    let mut draining = false;
    let mut quiesced = false;
    loop {
        let order = tokio::select! {
            biased;
            order = parts.orders.recv() => order,
            // An accept loop that panicked has closed its listener, too.
            joined = accepting.join_next(), if draining && !quiesced => {
                if joined.is_none() {
                    quiesced = true;
                    let _ = parts.events.send(Event::Quiesced);
                }
                continue;
            }
            () = local.all_closed(), if quiesced => break,
        };
        match order {
            None | Some(Order::Phase(Phase::CloseAll)) => break,
            Some(Order::Listen(listener, kind)) => {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(accepting.spawn_local(accept.clone().run(listener, kind))),
                    Err(error) => tracing::error!(%error, "listener"),
                }
            }
            Some(Order::Connection(socket, kind)) => hand_over(&accept, socket, kind),
            Some(Order::Sweep) => local.sweeps.send_modify(|sweeps| *sweeps += 1),
            Some(Order::Drain { quiet }) => {
                local.drain.set_quiet(quiet);
                local.drain.advance(Phase::Drain);
                draining = true;
            }
            Some(Order::Phase(phase)) => local.drain.advance(phase),
        }
    }
    local.drain.advance(Phase::CloseAll);
    local.log.hand_over();
}

fn hand_over(accept: &Accept, socket: UnixStream, kind: ListenerKind) {
    let socket = match tokio::net::UnixStream::from_std(socket) {
        Ok(socket) => Socket::Unix(socket),
        Err(error) => return tracing::error!(%error, "connection from the controller"),
    };
    let slot = accept.local.slot_now();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let local_ip = address.ip();
    let peer = Peer { address, local_ip, local_port: 0, tls: None, is_controller: true };
    accept.connection(socket, peer, kind, slot);
}

async fn write_log(local: Rc<Local>) {
    local.log.run().await;
}

async fn sweep(local: Rc<Local>) {
    let mut interval = tokio::time::interval(SWEEP);
    loop {
        interval.tick().await;
        local.routing().pools.sweep(tokio::time::Instant::now());
    }
}
