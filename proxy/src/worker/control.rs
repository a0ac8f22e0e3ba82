//! The worker's control thread: hears the controller, swaps snapshots, starts and ends the threads
//! that serve. It reads no byte that the public sent.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::access_log;
use super::challenges;
use super::descriptors;
use super::drain::Phase;
use super::files::Roots;
use super::host_book::HostBook;
use super::memory;
use super::route_options::Limiter;
use super::sandbox::{self, Incomplete, Layers};
use super::stats::ThreadStats;
use super::table::Table;
use super::thread::{self, Event, Order, Parts};
use super::tls;
use crate::protocol::channel::{ChannelError, MAX_DESCRIPTORS, Receiver, Sender, channel};
use crate::protocol::fault::Fault;
use crate::protocol::frame::{FromWorker, ListenerSlot, ToWorker, WorkerStats};
use crate::protocol::settings::{ListenerKind, WorkerSettings};
use crate::protocol::snapshot::Snapshot;
use crate::protocol::stats::{HostStats, UNKNOWN_HOST};
use crate::{log, protocol};

/// For tunnels to say goodbye at their limit, and for their clients to answer.
const GOODBYE: Duration = Duration::from_secs(1);
/// Between two tries to accept the next controller.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    #[error("{0}")]
    Sandbox(#[from] Incomplete),
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
        let mut controller = Controller::over(socket);
        let (identity, mut settings) = hello(&mut controller).await?;
        match fault {
            Some(Fault::CrashAtStart) => return Err(WorkerError::Fault),
            Some(Fault::HangAtStart) => {
                // Until nobody is left who could end it.
                while controller.receiver.receive().await.is_ok() {}
                return Err(WorkerError::Fault);
            }
            _ => {}
        }
        log::start(&settings.log_level);
        descriptors::fit(&mut settings.limits);
        // Before any other thread, and before a stranger has said a word.
        let roots = Roots::open(&settings.static_roots);
        let (short_of_memory, is_short) = watch::channel(false);
        let gauge = memory::Gauge::open();
        let layers = sandbox::enter(settings.sandbox, &roots)?;
        let Layers { active, missing } = layers;
        controller.sender.send(&FromWorker::Sandboxed { active, missing }).await?;
        let (writer, writing) = access_log::start().map_err(WorkerError::Start)?;
        if let Some(gauge) = gauge {
            tokio::spawn(memory::watch(gauge, short_of_memory));
        }
        let shared = Shared { writer, roots: Arc::new(roots), is_short };
        let worker = Worker::start(identity, settings, fault, &shared)?;
        // Each thread has its own; the log ends with the last of them.
        drop(shared);
        worker.serve(controller).await?;
        // The last lines of the log.
        let _ = writing.join();
        Ok(())
    })
}

/// What threads have that began before them.
struct Shared {
    writer: access_log::Writer,
    roots: Arc<Roots>,
    /// Whether memory is.
    is_short: watch::Receiver<bool>,
}

/// The channel to whoever controls this worker.
struct Controller {
    sender: Sender<FromWorker>,
    receiver: Receiver<ToWorker>,
}

impl Controller {
    fn over(socket: UnixStream) -> Self {
        let (sender, receiver) = channel(socket);
        Controller { sender, receiver }
    }
}

/// Who this worker is: what it tells to a controller that did not start it.
#[derive(Debug, Clone, Copy)]
struct Identity {
    generation: u64,
    steered: bool,
}

async fn hello(controller: &mut Controller) -> Result<(Identity, WorkerSettings), WorkerError> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    controller.sender.send(&FromWorker::Hello { protocol: protocol::VERSION, version }).await?;
    match controller.receiver.receive().await?.0 {
        ToWorker::Hello { protocol, generation, steered, settings }
            if protocol == protocol::VERSION =>
        {
            Ok((Identity { generation, steered }, *settings))
        }
        ToWorker::Hello { protocol, .. } => Err(WorkerError::Protocol(protocol)),
        _ => Err(WorkerError::Order("another frame")),
    }
}

/// The threads, and what they share with this one.
struct Worker {
    identity: Identity,
    threads: Vec<Thread>,
    table: Arc<ArcSwap<Table>>,
    /// Its version, for requests that wait for another one.
    published: watch::Sender<u64>,
    hosts: HostBook,
    /// For the next controller, should this one die. Given up when a drain begins: whoever closes a
    /// socket last is who ends it.
    listeners: Vec<(ListenerSlot, OwnedFd)>,
    /// Where the next controller comes to.
    rendezvous: Option<UnixListener>,
    events: UnboundedReceiver<Event>,
    drain: Option<Timetable>,
    followers: access_log::Followers,
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
        let end = start + limit.max(tunnel_limit);
        let mut phases = vec![
            (start + idle_limit, Phase::CloseIdle),
            (start + limit, Phase::CloseRequests),
            (end, Phase::CloseTunnels),
            (end + GOODBYE, Phase::CloseAll),
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
        identity: Identity,
        settings: WorkerSettings,
        fault: Option<Fault>,
        shared: &Shared,
    ) -> Result<Self, WorkerError> {
        let settings = Arc::new(settings);
        let table = Arc::new(ArcSwap::from_pointee(Table::default()));
        let server_config = tls::server_config(&settings.tls, table.clone());
        let challenges = challenges::server_config(table.clone());
        let limiter = Arc::new(Limiter::default());
        let (events_sender, events) = unbounded_channel();
        let published = watch::Sender::new(0);
        let mut threads = Vec::new();
        let count = settings.threads.max(1);
        for number in 0..count {
            let (orders, receiver) = unbounded_channel();
            let stats = Arc::new(ThreadStats::new(number));
            let parts = Parts {
                settings: settings.clone(),
                table: table.clone(),
                published: published.subscribe(),
                tls: server_config.clone(),
                challenges: challenges.clone(),
                stats: stats.clone(),
                generation: identity.generation,
                log: shared.writer.clone(),
                limiter: limiter.clone(),
                roots: shared.roots.clone(),
                is_short: shared.is_short.clone(),
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
        Ok(Worker {
            identity,
            threads,
            table,
            published,
            hosts: HostBook::new(count),
            listeners: Vec::new(),
            rendezvous: None,
            events,
            drain: None,
            followers: shared.writer.followers.clone(),
            quiesced: 0,
            ended: 0,
            fault,
        })
    }

    /// Obeys until the last thread is over.
    async fn serve(mut self, controller: Controller) -> Result<(), WorkerError> {
        let mut controller = Some(controller);
        while self.ended < self.threads.len() {
            tokio::select! {
                frame = heard(&mut controller) => match frame {
                    Ok((frame, descriptors)) => {
                        self.obey(frame, descriptors, &mut controller).await?;
                    }
                    Err(ChannelError::Closed) if self.rendezvous.is_some() => {
                        tracing::warn!("the controller is gone: serving on until the next one comes");
                        controller = None;
                        // They ask the next one.
                        self.followers.clear();
                    }
                    Err(error) => return Err(error.into()),
                },
                next = met(&mut self.rendezvous), if controller.is_none() => {
                    controller = self.introduce(next).await;
                }
                Some(event) = self.events.recv() => self.note(event, &mut controller).await?,
                phase = next_phase(&mut self.drain) => self.order_all(|| Order::Phase(phase)),
            }
        }
        let stats = Some(Box::new(self.stats()));
        tell(&mut controller, &FromWorker::Drained { stats }).await;
        Ok(())
    }

    /// Tells another controller who this is, with everything that it needs to go on. None when it is
    /// gone again.
    async fn introduce(&self, socket: UnixStream) -> Option<Controller> {
        let mut controller = Controller::over(socket);
        let Identity { generation, steered } = self.identity;
        let orphan = FromWorker::Orphan {
            protocol: protocol::VERSION,
            generation,
            steered,
            draining: self.drain.is_some(),
            quiesced: self.quiesced == self.threads.len(),
            listeners: self.listeners.len(),
        };
        controller.sender.send(&orphan).await.ok()?;
        for chunk in self.listeners.chunks(MAX_DESCRIPTORS) {
            let (slots, sockets): (Vec<_>, Vec<_>) =
                chunk.iter().map(|(slot, socket)| (*slot, socket.as_fd())).unzip();
            let frame = FromWorker::Listeners { slots };
            controller.sender.send_with(&frame, &sockets).await.ok()?;
        }
        tracing::info!("another controller has come");
        Some(controller)
    }

    async fn obey(
        &mut self,
        frame: ToWorker,
        mut descriptors: Vec<OwnedFd>,
        controller: &mut Option<Controller>,
    ) -> Result<(), WorkerError> {
        match frame {
            ToWorker::Hello { .. } => return Err(WorkerError::Order("a second hello")),
            ToWorker::Listeners { slots } => {
                self.listeners.extend(slots.into_iter().zip(descriptors));
            }
            ToWorker::Snapshot(snapshot) => {
                let version = snapshot.version;
                self.apply(*snapshot);
                tell(controller, &FromWorker::Applied { snapshot: version }).await;
            }
            ToWorker::Serve => {
                self.listen(descriptors.pop())?;
                tell(controller, &FromWorker::Serving).await;
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
                tell(controller, &FromWorker::Stats { id, stats }).await;
            }
            ToWorker::Follow { host } => {
                if let Some(socket) = descriptors.pop() {
                    self.followers.add(host, socket).map_err(WorkerError::Socket)?;
                }
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
        controller: &mut Option<Controller>,
    ) -> Result<(), WorkerError> {
        match event {
            Event::Quiesced => {
                self.quiesced += 1;
                if self.quiesced == self.threads.len() {
                    tell(controller, &FromWorker::Quiesced).await;
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

    fn apply(&mut self, mut snapshot: Snapshot) {
        if self.fault == Some(Fault::Errors) {
            let routes = snapshot.hosts.iter_mut().flat_map(|host| &mut host.routes);
            routes.for_each(|route| route.upstreams.clear());
        }
        let (table, problems) = Table::compile(snapshot, &mut self.hosts);
        for problem in problems {
            tracing::error!("snapshot {}: {problem}", table.version);
        }
        let version = table.version;
        self.table.store(Arc::new(table));
        self.published.send_replace(version);
    }

    fn listen(&mut self, rendezvous: Option<OwnedFd>) -> Result<(), WorkerError> {
        let rendezvous = rendezvous.ok_or(WorkerError::Order("serve without a rendezvous"))?;
        let rendezvous = std::os::unix::net::UnixListener::from(rendezvous);
        self.rendezvous = Some(UnixListener::from_std(rendezvous).map_err(WorkerError::Socket)?);
        for (slot, descriptor) in &self.listeners {
            let listener = descriptor.try_clone().map_err(WorkerError::Start)?.into();
            let thread = &self.threads[slot.thread % self.threads.len()];
            thread.order(Order::Listen(listener, slot.kind));
        }
        Ok(())
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

    fn stats(&mut self) -> WorkerStats {
        let mut sum = WorkerStats { hosts: self.hosts.tell(), ..WorkerStats::default() };
        let mut unknown = HostStats::default();
        for Thread { stats, .. } in &self.threads {
            stats.add_to(&mut sum);
            stats.unknown.add_to(&mut unknown);
        }
        if !unknown.is_empty() {
            sum.hosts.insert(UNKNOWN_HOST.to_owned(), unknown);
        }
        sum
    }

    /// `limits` of idle connections, requests and tunnels.
    fn begin_drain(&mut self, quiet: Duration, [idle, requests, tunnels]: [Duration; 3]) {
        self.listeners.clear();
        self.drain = Some(Timetable::new(Instant::now(), idle, requests, tunnels));
        self.order_all(|| Order::Drain { quiet });
    }

    fn order_all(&self, order: impl Fn() -> Order) {
        self.threads.iter().for_each(|thread| thread.order(order()));
    }
}

async fn heard(
    controller: &mut Option<Controller>,
) -> Result<(ToWorker, Vec<OwnedFd>), ChannelError> {
    match controller {
        Some(controller) => controller.receiver.receive().await,
        None => std::future::pending().await,
    }
}

/// The next controller. Cancel safe.
async fn met(rendezvous: &mut Option<UnixListener>) -> UnixStream {
    loop {
        match rendezvous {
            Some(listener) => match listener.accept().await {
                Ok((socket, _)) => return socket,
                // Out of descriptors: the next accept would fail at once too.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            None => std::future::pending().await,
        }
    }
}

/// Says something to the controller. That it is gone is heard where it is listened to.
async fn tell(controller: &mut Option<Controller>, frame: &FromWorker) {
    if let Some(controller) = controller {
        let _ = controller.sender.send(frame).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_limits_each_phase_comes_once_and_at_its_time() {
        let lengths = [0, 1, 30, 3600].map(Duration::from_secs);
        let start = Instant::now();
        for n in 0..4_usize.pow(3) {
            let [idle, limit, tunnels] = [n / 16, n / 4 % 4, n % 4].map(|at| lengths[at]);
            let Timetable(mut phases) = Timetable::new(start, idle, limit, tunnels);
            phases.reverse();
            assert!(phases.is_sorted_by_key(|(at, _)| *at), "{phases:?}");
            // A controller asks for nothing else; a phase that comes too late changes nothing.
            if idle <= limit {
                assert!(phases.is_sorted_by_key(|(_, phase)| *phase), "{phases:?}");
            }
            let end = limit.max(tunnels);
            let expected = [
                (start + idle, Phase::CloseIdle),
                (start + limit, Phase::CloseRequests),
                (start + end, Phase::CloseTunnels),
                (start + end + GOODBYE, Phase::CloseAll),
            ];
            assert_eq!(phases.len(), expected.len());
            assert!(expected.iter().all(|phase| phases.contains(phase)), "{phases:?}");
        }
    }
}
