//! The worker's control thread: hears the controller, swaps snapshots, starts and ends the threads
//! that serve. It reads no byte that the public sent.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::access_log;
use super::drain::Phase;
use super::stats::ThreadStats;
use super::table::Table;
use super::thread::{self, Order, Parts};
use super::tls;
use crate::protocol::channel::{ChannelError, Receiver, Sender, channel};
use crate::protocol::frame::{FromWorker, ListenerSlot, ToWorker, WorkerStats};
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;
use crate::{log, protocol};

/// A worker whose controller is gone serves what it has begun for this long, and then ends.
const ORPHAN_LIMIT: Duration = Duration::from_secs(600);
/// Idle connections of an orphan are not kept: nobody tells it of new routes.
const ORPHAN_IDLE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("control channel: {0}")]
    Channel(#[from] ChannelError),
    #[error("control channel: {0}")]
    Socket(std::io::Error),
    #[error("controller speaks protocol {0}, this worker {ours}", ours = protocol::VERSION)]
    Protocol(u32),
    #[error("controller sent {0} before hello")]
    Order(&'static str),
    #[error("cannot start: {0}")]
    Start(std::io::Error),
}

/// Serves until the controller says to drain. `control` is the worker's end of the channel.
///
/// # Errors
/// When the channel breaks before the worker serves, or the process cannot have what it needs.
pub fn run(control: OwnedFd) -> Result<(), WorkerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WorkerError::Start)?;
    runtime.block_on(async {
        let socket = std::os::unix::net::UnixStream::from(control);
        socket.set_nonblocking(true).map_err(WorkerError::Socket)?;
        let socket = UnixStream::from_std(socket).map_err(WorkerError::Socket)?;
        let (mut sender, mut receiver) = channel::<FromWorker, ToWorker>(socket);
        let settings = hello(&mut sender, &mut receiver).await?;
        log::start(&settings.log_level);
        let (writer, writing) = access_log::start().map_err(WorkerError::Start)?;
        let worker = Worker::start(settings, &writer)?;
        // Each thread has its own; the log ends with the last of them.
        drop(writer);
        worker.serve(&mut sender, &mut receiver).await?;
        // The last lines of the log.
        let _ = writing.join();
        Ok(())
    })
}

async fn hello(
    sender: &mut Sender<FromWorker>,
    receiver: &mut Receiver<ToWorker>,
) -> Result<WorkerSettings, WorkerError> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    sender.send(&FromWorker::Hello { protocol: protocol::VERSION, version }).await?;
    match receiver.receive().await? {
        (ToWorker::Hello { protocol, settings, .. }, _) if protocol == protocol::VERSION => {
            Ok(*settings)
        }
        (ToWorker::Hello { protocol, .. }, _) => Err(WorkerError::Protocol(protocol)),
        _ => Err(WorkerError::Order("another frame")),
    }
}

/// The threads, and what they share with this one.
struct Worker {
    threads: Vec<Thread>,
    table: Arc<ArcSwap<Table>>,
    listeners: Vec<(ListenerSlot, OwnedFd)>,
    done: UnboundedReceiver<()>,
}

struct Thread {
    orders: UnboundedSender<Order>,
    stats: Arc<ThreadStats>,
}

/// Why the worker stops serving.
enum Stop {
    Asked { limit: Duration, idle_limit: Duration, tunnel_limit: Duration },
    Orphaned,
}

impl Worker {
    fn start(settings: WorkerSettings, writer: &access_log::Writer) -> Result<Self, WorkerError> {
        let settings = Arc::new(settings);
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let server_config = tls::server_config(&settings.tls, table.clone());
        let (done_sender, done) = unbounded_channel();
        let mut threads = Vec::new();
        for number in 0..settings.threads.max(1) {
            let (orders, receiver) = unbounded_channel();
            let stats = Arc::new(ThreadStats::default());
            let parts = Parts {
                settings: settings.clone(),
                table: table.clone(),
                tls: server_config.clone(),
                stats: stats.clone(),
                log: writer.clone(),
                orders: receiver,
            };
            let done = Done(done_sender.clone());
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    let _done = done;
                    if let Err(error) = thread::run(parts) {
                        tracing::error!(%error, "worker thread");
                    }
                })
                .map_err(WorkerError::Start)?;
            threads.push(Thread { orders, stats });
        }
        Ok(Worker { threads, table, listeners: Vec::new(), done })
    }

    async fn serve(
        mut self,
        sender: &mut Sender<FromWorker>,
        receiver: &mut Receiver<ToWorker>,
    ) -> Result<(), WorkerError> {
        let stop = loop {
            let frame = tokio::select! {
                frame = receiver.receive() => frame,
                // A thread ends unasked only when it panicked. The controller starts a new worker,
                // which is better than one that leaves a queue unserved.
                _ = self.done.recv() => {
                    return Err(WorkerError::Start(std::io::Error::other("a worker thread died")));
                }
            };
            match frame {
                Ok((frame, descriptors)) => {
                    if let Some(stop) = self.obey(frame, descriptors, sender).await? {
                        break stop;
                    }
                }
                Err(ChannelError::Closed) => break Stop::Orphaned,
                Err(error) => return Err(error.into()),
            }
        };
        self.drain(stop).await;
        // An orphan has nobody to tell.
        let _ = sender.send(&FromWorker::Drained).await;
        Ok(())
    }

    async fn obey(
        &mut self,
        frame: ToWorker,
        mut descriptors: Vec<OwnedFd>,
        sender: &mut Sender<FromWorker>,
    ) -> Result<Option<Stop>, WorkerError> {
        match frame {
            ToWorker::Hello { .. } => return Err(WorkerError::Order("a second hello")),
            ToWorker::Listeners { slots } => {
                self.listeners.extend(slots.into_iter().zip(descriptors));
            }
            ToWorker::Snapshot(snapshot) => {
                let version = snapshot.version;
                self.apply(*snapshot);
                sender.send(&FromWorker::Applied { snapshot: version }).await?;
            }
            ToWorker::Serve => {
                self.listen();
                sender.send(&FromWorker::Serving).await?;
            }
            ToWorker::Connection { kind } => {
                if let Some(descriptor) = descriptors.pop() {
                    self.connection(descriptor, kind)?;
                }
            }
            ToWorker::Stats { id } => {
                let stats = Box::new(self.stats());
                sender.send(&FromWorker::Stats { id, stats }).await?;
            }
            ToWorker::Drain { limit_ms, idle_limit_ms, tunnel_limit_ms } => {
                return Ok(Some(Stop::Asked {
                    limit: Duration::from_millis(limit_ms),
                    idle_limit: Duration::from_millis(idle_limit_ms),
                    tunnel_limit: Duration::from_millis(tunnel_limit_ms),
                }));
            }
        }
        Ok(None)
    }

    fn apply(&self, snapshot: Snapshot) {
        let (table, problems) = Table::compile(snapshot);
        for problem in problems {
            tracing::error!("snapshot {}: {problem}", table.version);
        }
        self.table.store(Arc::new(table));
    }

    fn listen(&mut self) {
        for (slot, descriptor) in self.listeners.drain(..) {
            let listener = std::net::TcpListener::from(descriptor);
            let thread = &self.threads[slot.thread % self.threads.len()];
            thread.order(Order::Listen(listener, slot.kind));
        }
    }

    fn connection(&self, descriptor: OwnedFd, kind: ListenerKind) -> Result<(), WorkerError> {
        let socket = std::os::unix::net::UnixStream::from(descriptor);
        socket.set_nonblocking(true).map_err(WorkerError::Socket)?;
        self.threads[0].order(Order::Connection(socket, kind));
        Ok(())
    }

    fn stats(&self) -> WorkerStats {
        let mut sum = WorkerStats::default();
        self.threads.iter().for_each(|thread| thread.stats.add_to(&mut sum));
        sum
    }

    /// From the last accepted connection to the end of the last one, or of its time.
    async fn drain(&mut self, stop: Stop) {
        let (limit, idle_limit, tunnel_limit) = match stop {
            Stop::Asked { limit, idle_limit, tunnel_limit } => (limit, idle_limit, tunnel_limit),
            Stop::Orphaned => {
                tracing::warn!("the controller is gone; finishing what is in progress");
                (ORPHAN_LIMIT, ORPHAN_IDLE, ORPHAN_LIMIT)
            }
        };
        let mut phases = [
            (Duration::ZERO, Phase::Drain),
            (idle_limit, Phase::CloseIdle),
            (limit, Phase::CloseRequests),
            (limit.max(tunnel_limit), Phase::CloseAll),
        ];
        phases.sort_by_key(|&(after, phase)| (after, phase));
        let orders: Vec<_> = self.threads.iter().map(|thread| thread.orders.clone()).collect();
        let timetable = async {
            let mut elapsed = Duration::ZERO;
            for (after, phase) in phases {
                sleep(after - elapsed).await;
                elapsed = after;
                for orders in &orders {
                    // A thread that has ended hears nothing, and needs not.
                    let _ = orders.send(Order::Drain(phase));
                }
            }
            std::future::pending::<()>().await;
        };
        let ended = async {
            for _ in 0..orders.len() {
                self.done.recv().await;
            }
        };
        tokio::select! {
            () = timetable => {}
            () = ended => {}
        }
        self.threads.clear();
    }
}

impl Thread {
    fn order(&self, order: Order) {
        // A thread that is gone has been reported by its `Done`.
        let _ = self.orders.send(order);
    }
}

/// Tells the control thread that a thread has ended, however it did.
struct Done(UnboundedSender<()>);

impl Drop for Done {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
