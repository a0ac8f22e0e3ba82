//! Certificates from a CA, by ACME (RFC 8555): ordered where a route wants one, kept, renewed. One
//! task does all of it, beside the controller's loop; what it has is published to the loop, and what
//! it needs (which names, and where workers are) it follows.

mod accounts;
mod aftercare;
mod board;
pub(crate) mod chains;
pub(crate) mod client;
mod desired;
mod desk;
mod dns;
pub(crate) mod failures;
mod gate;
mod keeper;
mod order;
mod plan;
mod policy;
mod preflight;
mod proof;
pub(crate) mod record;
mod renewal;
mod requests;
mod shelf;
mod stranger;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::board::Board;
use self::keeper::Keeper;
use self::record::Record;
use self::shelf::Shelf;
use super::Problem;
use crate::controller::generations::Fleet;
use crate::controller::metrics::Tally;
use crate::controller::store::StoreError;
use crate::protocol::snapshot::{Challenges, Snapshot};

pub use self::desired::{Desired, Wishes};
pub use self::desk::{Answer, Desk, Wish};
pub use self::gate::{Closed, Gate};
pub use self::policy::{is_address, is_local, permits};
pub use self::proof::{challenges_for, challenges_for_all};
pub use self::record::Issued;

/// What there is: certificates, answers to challenges, and how each order stands. Replaced whole.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    /// By id; wanted or not.
    pub issued: BTreeMap<String, Issued>,
    pub challenges: Challenges,
    /// Of those that are wanted, by id.
    pub progress: BTreeMap<String, Progress>,
}

/// How it stands with one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// An order is under way at this moment.
    pub is_ordering: bool,
    pub next_renewal: Option<OffsetDateTime>,
    pub last_error: Option<String>,
    /// Of an order that failed.
    pub next_try: Option<OffsetDateTime>,
}

/// What the task follows.
pub struct Surroundings {
    pub wishes: watch::Receiver<Arc<Wishes>>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub fleet: watch::Receiver<Arc<Fleet>>,
    pub tally: Tally,
}

/// What is on disk, before anything is done about it.
pub struct Opened {
    shelf: Arc<Shelf>,
    records: BTreeMap<String, Record>,
    stock: watch::Sender<Arc<Stock>>,
    pub problems: Vec<Problem>,
}

/// Reads what is on disk. Answers of orders under way hang at once: the CA may be looking.
///
/// # Errors
/// When the state directory cannot be used.
pub fn open(state_dir: &Path) -> Result<Opened, StoreError> {
    let shelf = Arc::new(Shelf::open(state_dir)?);
    let mut problems = Vec::new();
    let records = shelf.load(&mut problems)?;
    let mut stock = Stock::default();
    for (id, record) in &records {
        stock.issued.extend(record.issued.clone().map(|issued| (id.clone(), issued)));
        for answer in record.pending.iter().flat_map(|pending| &pending.answers) {
            if let Err(error) = board::put(answer, &mut stock.challenges) {
                problems.push(Problem { thing: id.clone(), reason: error.to_string() });
            }
        }
    }
    Ok(Opened { shelf, records, stock: watch::Sender::new(Arc::new(stock)), problems })
}

impl Opened {
    pub fn stock(&self) -> watch::Receiver<Arc<Stock>> {
        self.stock.subscribe()
    }

    /// Begins to see to what is wanted.
    pub fn start(self, around: Surroundings) -> Acme {
        let Surroundings { wishes, snapshots, fleet, tally } = around;
        let board = Board { stock: self.stock, snapshots, fleet };
        let gate = Gate::default();
        let (desk, requests) = Desk::open();
        let keeper = Keeper::new(self.shelf, self.records, board, wishes, gate.clone(), tally);
        let (stop, stopped) = oneshot::channel();
        Acme { stop, gate, desk, task: tokio::spawn(keeper.run(requests, stopped)) }
    }
}

/// The running task.
#[derive(Debug)]
pub struct Acme {
    stop: oneshot::Sender<()>,
    gate: Gate,
    desk: Desk,
    task: JoinHandle<()>,
}

impl Acme {
    /// To be closed before this process becomes another program.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// Orders under way are left where they stand: whoever comes next goes on with them.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!("certificates: {error}");
        }
    }
}
