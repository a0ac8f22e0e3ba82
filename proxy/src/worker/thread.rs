//! One worker thread: a runtime, a listener of each address, upstream connections, and nothing
//! shared on the request path but the snapshot.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::spawn_local;

use super::accept::Accept;
use super::access_log::{AccessLog, Writer};
use super::drain::Phase;
use super::local::{Local, Peer};
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
    pub tls: Arc<ServerConfig>,
    pub stats: Arc<ThreadStats>,
    pub log: Writer,
    pub orders: UnboundedReceiver<Order>,
}

/// What the control thread tells a worker thread.
#[derive(Debug)]
pub enum Order {
    Listen(TcpListener, ListenerKind),
    /// A connection that the controller handed over.
    Connection(UnixStream, ListenerKind),
    Drain(Phase),
}

/// Runs until a drain is complete.
///
/// # Errors
/// When the runtime cannot be built.
pub fn run(parts: Parts) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(serve(parts));
    Ok(())
}

async fn serve(mut parts: Parts) {
    let log = AccessLog::new(parts.settings.access_log, parts.log, parts.stats.clone());
    let local = Local::new(parts.settings, parts.table, parts.stats, log);
    let accept = Accept { local: local.clone(), tls: parts.tls };
    spawn_local(write_log(local.clone()));
    spawn_local(sweep(local.clone()));
    let mut listeners = Vec::new();
    let mut draining = false;
    loop {
        let order = tokio::select! {
            biased;
            order = parts.orders.recv() => order,
            () = local.all_closed(), if draining => break,
        };
        match order {
            None => break,
            Some(Order::Listen(listener, kind)) => {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listeners.push(spawn_local(accept.clone().run(listener, kind))),
                    Err(error) => tracing::error!(%error, "listener"),
                }
            }
            Some(Order::Connection(socket, kind)) => hand_over(&accept, socket, kind).await,
            Some(Order::Drain(Phase::CloseAll)) => break,
            Some(Order::Drain(phase)) => {
                local.drain.advance(phase);
                for listener in listeners.drain(..) {
                    // An accept loop that panicked has closed its listener, too.
                    let _ = listener.await;
                }
                draining = true;
            }
        }
    }
    local.drain.advance(Phase::CloseAll);
    local.log.hand_over();
}

async fn hand_over(accept: &Accept, socket: UnixStream, kind: ListenerKind) {
    let socket = match tokio::net::UnixStream::from_std(socket) {
        Ok(socket) => Socket::Unix(socket),
        Err(error) => return tracing::error!(%error, "connection from the controller"),
    };
    let slot = accept.local.slot().await;
    let peer =
        Peer { address: ([127, 0, 0, 1], 0).into(), local_port: 0, tls: None, is_controller: true };
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
