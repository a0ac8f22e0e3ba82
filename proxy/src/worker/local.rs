//! What the connections of one worker thread share: nothing in here is touched by another thread
//! but the table it is made from and the counters that the control thread reads.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::Cache;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::access_log::AccessLog;
use super::client_auth::ClientAuth;
use super::descriptors::Complaint;
use super::drain::Drain;
use super::fields::Client;
use super::files::{Files, Roots};
use super::route_options::{Limiter, Verifier};
use super::stats::ThreadStats;
use super::table::Table;
use super::upstream::Pools;
use super::upstream::connect::Connector;
use crate::protocol::settings::WorkerSettings;
use crate::sys;

/// While memory is short.
const BETWEEN_COLLECTIONS: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Local {
    pub settings: Arc<WorkerSettings>,
    pub stats: Arc<ThreadStats>,
    pub drain: Rc<Drain>,
    pub log: AccessLog,
    /// Grows by one each time that listeners shall be swept.
    pub sweeps: watch::Sender<u64>,
    pub connector: Connector,
    /// That there is no descriptor left.
    pub complaint: Complaint,
    pub verifier: Verifier,
    /// Bodies that are being compressed.
    pub encoders: Cell<usize>,
    /// One for all threads.
    pub limiter: Arc<Limiter>,
    pub files: Files,
    table: RefCell<Cache<Arc<ArcSwap<Table>>, Arc<Table>>>,
    routing: RefCell<Rc<Routing>>,
    /// Version of the table.
    published: watch::Receiver<u64>,
    /// Whether memory is.
    is_short: watch::Receiver<bool>,
    /// Connections that this thread may have more; below zero in a drain.
    slots: Cell<isize>,
    slot_freed: Notify,
}

/// One snapshot with this thread's pools for it. A request keeps the one that it began with.
#[derive(Debug)]
pub struct Routing {
    pub table: Arc<Table>,
    pub pools: Pools,
}

impl Local {
    pub fn new(
        settings: Arc<WorkerSettings>,
        (table, published): (Arc<ArcSwap<Table>>, watch::Receiver<u64>),
        stats: Arc<ThreadStats>,
        log: AccessLog,
        (limiter, roots, is_short): (Arc<Limiter>, Arc<Roots>, watch::Receiver<bool>),
    ) -> Rc<Self> {
        let first = table.load_full();
        let pools = Pools::new(&first, None);
        // The limit is the worker's; each thread has its share, at least one.
        let slots = (settings.limits.connections / settings.threads.max(1)).max(1);
        let slots = isize::try_from(slots).unwrap_or(isize::MAX);
        Rc::new(Local {
            connector: Connector::default(),
            complaint: Complaint::default(),
            verifier: Verifier::default(),
            encoders: Cell::new(0),
            limiter,
            files: Files::new(roots),
            settings,
            stats,
            drain: Drain::new(),
            log,
            sweeps: watch::Sender::new(0),
            table: RefCell::new(Cache::new(table)),
            routing: RefCell::new(Rc::new(Routing { table: first, pools })),
            published,
            is_short,
            slots: Cell::new(slots),
            slot_freed: Notify::new(),
        })
    }

    /// The current snapshot. Pools are made anew when it has changed; upstreams that are in both
    /// keep their connections and their history.
    pub fn routing(&self) -> Rc<Routing> {
        let mut cache = self.table.borrow_mut();
        let table = cache.load();
        let mut routing = self.routing.borrow_mut();
        if !Arc::ptr_eq(table, &routing.table) {
            let pools = Pools::new(table, Some(&routing.pools));
            *routing = Rc::new(Routing { table: table.clone(), pools });
        }
        routing.clone()
    }

    /// Hears of each table after now.
    pub fn news(&self) -> watch::Receiver<u64> {
        let mut news = self.published.clone();
        news.mark_unchanged();
        news
    }

    /// Waits until this thread may have another connection.
    pub async fn room(&self) {
        loop {
            if self.is_short_of_memory() {
                // What this thread has freed, the allocator gives back to nobody but when it is asked.
                sys::give_back_memory();
                let _ = timeout(BETWEEN_COLLECTIONS, self.until_short(false)).await;
            } else if self.slots.get() <= 0 {
                self.slot_freed.notified().await;
            } else {
                return;
            }
        }
    }

    /// Waits until memory is short.
    pub async fn shortage(&self) {
        self.until_short(true).await;
    }

    async fn until_short(&self, wanted: bool) {
        if self.is_short.clone().wait_for(|is_short| *is_short == wanted).await.is_err() {
            // Nobody watches: it stays as it is.
            std::future::pending::<()>().await;
        }
    }

    /// New work is refused.
    pub fn is_short_of_memory(&self) -> bool {
        *self.is_short.borrow()
    }

    /// For a connection that is there, whether there was room or not: those in the queue of a listener
    /// that closes cannot wait, nor can the controller's own.
    pub fn slot_now(self: &Rc<Self>) -> Slot {
        self.slots.set(self.slots.get() - 1);
        Slot { local: self.clone(), is_open: false }
    }

    /// Waits until no connection is open. For the one task that ends the thread.
    pub async fn all_closed(&self) {
        while self.stats.connections.get() > 0 {
            self.slot_freed.notified().await;
        }
    }
}

/// The right to have one connection.
#[derive(Debug)]
pub struct Slot {
    local: Rc<Local>,
    is_open: bool,
}

impl Slot {
    /// The connection is there.
    pub fn open(mut self) -> Self {
        self.local.stats.connections.add(1);
        self.is_open = true;
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.local.slots.set(self.local.slots.get() + 1);
        if self.is_open {
            self.local.stats.connections.sub(1);
        }
        self.local.slot_freed.notify_waiters();
    }
}

/// Who is at the other end of a public connection, and how it came in.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Where it has connected to.
    pub local_ip: IpAddr,
    pub local_port: u16,
    /// `None` without TLS.
    pub tls: Option<Tls>,
    /// The controller asks through this connection whether the worker is ready.
    pub is_controller: bool,
}

impl Peer {
    /// `None` without TLS.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.tls.as_ref().map(|tls| tls.version)
    }

    /// As upstreams, and options of routes, are told of it.
    pub fn client<'a>(&self, local: &'a Local) -> Client<'a> {
        Client {
            address: self.address.ip(),
            local_port: self.local_port,
            tls: self.tls.is_some(),
            trusted_proxies: &local.settings.trusted_proxies,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Tls {
    /// Server name of the handshake, lower case.
    pub server_name: Option<Box<str>>,
    /// How the client was verified; `None`: not at all.
    pub client_auth: Option<Arc<ClientAuth>>,
    /// As nginx writes it.
    pub version: &'static str,
}
