//! The worker's control thread: hears the controller, swaps snapshots, starts and ends the threads
//! that serve. It reads no byte that the public sent.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::access_log;
use super::drain::Phase;
use super::stats::ThreadStats;
use super::table::Table;
use super::thread::{self, Event, Order, Parts};
use super::tls;
use crate::protocol::channel::{ChannelError, Receiver, Sender, channel};
use crate::protocol::fault::Fault;
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
    #[error("it was told to fail")]
    Fault,
}

/// Serves until the controller says to drain. `control` is the worker's end of the channel, `fault`
/// what it is to do wrong on purpose.
///
/// # Errors
/// When the channel breaks before the worker serves, or the process cannot have what it needs.
pub fn run(control: OwnedFd, fault: Option<Fault>) -> Result<(), WorkerError> {
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
        match fault {
            Some(Fault::CrashAtStart) => return Err(WorkerError::Fault),
            Some(Fault::HangAtStart) => std::future::pending().await,
            _ => {}
        }
        log::start(&settings.log_level);
        let (writer, writing) = access_log::start().map_err(WorkerError::Start)?;
        let worker = Worker::start(settings, fault, &writer)?;
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
    events: UnboundedReceiver<Event>,
    drain: Option<Timetable>,
    /// Threads whose listeners are closed.
    quiesced: usize,
    /// Threads that are over.
    ended: usize,
    fault: Option<Fault>,
}

struct Thread {
    orders: UnboundedSender<Order>,
    stats: Arc<ThreadStats>,
}

/// When a drain comes to which phase.
#[derive(Debug)]
struct Timetable(Vec<(Instant, Phase)>);

impl Timetable {
    fn new(start: Instant, idle_limit: Duration, limit: Duration, tunnel_limit: Duration) -> Self {
        let mut phases = vec![
            (start + idle_limit, Phase::CloseIdle),
            (start + limit, Phase::CloseRequests),
            (start + limit.max(tunnel_limit), Phase::CloseAll),
        ];
        // Last first, to be taken off the end.
        phases.sort_by_key(|&phase| std::cmp::Reverse(phase));
        Timetable(phases)
    }

    /// The next phase, at its time. Cancel safe.
    async fn next(&mut self) -> Phase {
        match self.0.last() {
            Some(&(at, phase)) => {
                sleep_until(at).await;
                self.0.pop();
                phase
            }
            None => std::future::pending().await,
        }
    }
}

impl Worker {
    fn start(
        settings: WorkerSettings,
        fault: Option<Fault>,
        writer: &access_log::Writer,
    ) -> Result<Self, WorkerError> {
        let settings = Arc::new(settings);
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let server_config = tls::server_config(&settings.tls, table.clone());
        let (events_sender, events) = unbounded_channel();
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
                events: events_sender.clone(),
            };
            std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    if let Err(error) = thread::run(parts) {
                        tracing::error!(%error, "worker thread");
                    }
                })
                .map_err(WorkerError::Start)?;
            threads.push(Thread { orders, stats });
        }
        let listeners = Vec::new();
        let (drain, quiesced, ended) = (None, 0, 0);
        Ok(Worker { threads, table, listeners, events, drain, quiesced, ended, fault })
    }

    /// Obeys until the last thread is over.
    async fn serve(
        mut self,
        sender: &mut Sender<FromWorker>,
        receiver: &mut Receiver<ToWorker>,
    ) -> Result<(), WorkerError> {
        let mut orphaned = false;
        while self.ended < self.threads.len() {
            tokio::select! {
                frame = receiver.receive(), if !orphaned => match frame {
                    Ok((frame, descriptors)) => self.obey(frame, descriptors, sender).await?,
                    Err(ChannelError::Closed) => {
                        orphaned = true;
                        self.orphaned();
                    }
                    Err(error) => return Err(error.into()),
                },
                Some(event) = self.events.recv() => self.note(event, sender).await?,
                phase = next_phase(&mut self.drain) => self.order_all(|| Order::Phase(phase)),
            }
        }
        // An orphan has nobody to tell.
        let _ = sender.send(&FromWorker::Drained).await;
        Ok(())
    }

    async fn obey(
        &mut self,
        frame: ToWorker,
        mut descriptors: Vec<OwnedFd>,
        sender: &mut Sender<FromWorker>,
    ) -> Result<(), WorkerError> {
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
                if self.fault == Some(Fault::CrashInService) && stats.accepted > 0 {
                    return Err(WorkerError::Fault);
                }
                sender.send(&FromWorker::Stats { id, stats }).await?;
            }
            ToWorker::Sweep => self.order_all(|| Order::Sweep),
            ToWorker::Drain { quiet_ms, limit_ms, idle_limit_ms, tunnel_limit_ms } => {
                let limits = [idle_limit_ms, limit_ms, tunnel_limit_ms].map(Duration::from_millis);
                self.begin_drain(Duration::from_millis(quiet_ms), limits);
            }
        }
        Ok(())
    }

    async fn note(
        &mut self,
        event: Event,
        sender: &mut Sender<FromWorker>,
    ) -> Result<(), WorkerError> {
        match event {
            Event::Quiesced => {
                self.quiesced += 1;
                if self.quiesced == self.threads.len() {
                    // An orphan has nobody to tell.
                    let _ = sender.send(&FromWorker::Quiesced).await;
                }
                Ok(())
            }
            Event::Ended if self.drain.is_some() => {
                self.ended += 1;
                Ok(())
            }
            // The controller starts a new worker, which is better than one that leaves a queue
            // unserved.
            Event::Ended => Err(WorkerError::Start(std::io::Error::other("a worker thread died"))),
        }
    }

    fn apply(&self, mut snapshot: Snapshot) {
        if self.fault == Some(Fault::Errors) {
            let routes = snapshot.hosts.iter_mut().flat_map(|host| &mut host.routes);
            routes.for_each(|route| route.upstreams.clear());
        }
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
        let mut socket = std::os::unix::net::UnixStream::from(descriptor);
        if self.fault == Some(Fault::WrongAnswer) {
            let answer = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            return socket.write_all(answer).map_err(WorkerError::Socket);
        }
        socket.set_nonblocking(true).map_err(WorkerError::Socket)?;
        self.threads[0].order(Order::Connection(socket, kind));
        Ok(())
    }

    fn stats(&self) -> WorkerStats {
        let mut sum = WorkerStats::default();
        self.threads.iter().for_each(|thread| thread.stats.add_to(&mut sum));
        sum
    }

    fn orphaned(&mut self) {
        if self.drain.is_none() {
            tracing::warn!("the controller is gone; finishing what is in progress");
            self.begin_drain(Duration::ZERO, [ORPHAN_IDLE, ORPHAN_LIMIT, ORPHAN_LIMIT]);
        }
    }

    /// `limits` of idle connections, requests and tunnels.
    fn begin_drain(&mut self, quiet: Duration, [idle, requests, tunnels]: [Duration; 3]) {
        self.drain = Some(Timetable::new(Instant::now(), idle, requests, tunnels));
        self.order_all(|| Order::Drain { quiet });
    }

    fn order_all(&self, order: impl Fn() -> Order) {
        self.threads.iter().for_each(|thread| thread.order(order()));
    }
}

async fn next_phase(drain: &mut Option<Timetable>) -> Phase {
    match drain {
        Some(timetable) => timetable.next().await,
        None => std::future::pending().await,
    }
}

impl Thread {
    fn order(&self, order: Order) {
        // A thread that is over has said so, and needs to hear nothing.
        let _ = self.orders.send(order);
    }
}
