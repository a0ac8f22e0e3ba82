//! Keeps what is wanted: places orders when they are due, some at a time, and writes down what became
//! of them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::accounts::Accounts;
use super::board::Board;
use super::client::Client;
use super::desired::{Desired, Wishes};
use super::failures::{Blame, Failure};
use super::order::{Errand, Experience, OrderError, Outcome, Shop};
use super::plan::{Step, next_step};
use super::proof::Proof;
use super::record::{Issued, Record};
use super::renewal;
use super::shelf::Shelf;
use super::{Progress, Stock};
use crate::config::{self, ChallengeKind, Directory};

/// Orders under way at a time.
const MOST_ORDERS: usize = 8;
/// Between two looks at the clock, which may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Between two warnings about one certificate that ends soon.
const WARNING_PAUSE: time::Duration = time::Duration::days(1);

pub struct Keeper {
    shelf: Arc<Shelf>,
    records: BTreeMap<String, Record>,
    board: Board,
    wishes: watch::Receiver<Arc<Wishes>>,
    shop: Option<Arc<Shop>>,
    /// What the shop was made with.
    ca_file: Option<PathBuf>,
    proof: config::Proof,
    /// Why there is no shop.
    no_shop: Option<String>,
    orders: JoinSet<(String, Directory, Outcome)>,
    /// By id.
    under_way: HashMap<String, AbortHandle>,
    /// When a certificate that ends soon was last warned of.
    warned: HashMap<String, OffsetDateTime>,
}

impl Keeper {
    pub fn new(
        shelf: Arc<Shelf>,
        records: BTreeMap<String, Record>,
        board: Board,
        wishes: watch::Receiver<Arc<Wishes>>,
    ) -> Self {
        Keeper {
            shelf,
            records,
            board,
            wishes,
            shop: None,
            ca_file: None,
            proof: config::Proof::default(),
            no_shop: None,
            orders: JoinSet::new(),
            under_way: HashMap::new(),
            warned: HashMap::new(),
        }
    }

    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            let pause = self.see_to_all(OffsetDateTime::now_utc());
            tokio::select! {
                _ = &mut stop => return,
                Ok(()) = self.wishes.changed() => {}
                Some(done) = self.orders.join_next() => match done {
                    Ok((id, directory, outcome)) => self.note(&id, &directory, outcome),
                    Err(error) => {
                        tracing::error!("an order: {error}");
                        self.under_way.retain(|_, order| !order.is_finished());
                    }
                },
                () = sleep(pause) => {}
            }
        }
    }

    /// Begins what is due; how long nothing else is.
    fn see_to_all(&mut self, now: OffsetDateTime) -> Duration {
        let wishes = self.wishes.borrow_and_update().clone();
        self.open_shop(&wishes);
        let mut next = now + LONGEST_SLEEP;
        for desired in &wishes.certificates {
            self.warn_if_late(desired, now);
            match self.step(desired, now) {
                Step::Order(directory) if self.orders.len() < MOST_ORDERS => {
                    self.begin(desired, directory);
                }
                Step::Wait(until) => next = next.min(until),
                // One that ends makes room.
                Step::Order(_) | Step::Idle => {}
            }
        }
        self.publish(&wishes, now);
        (next - now).try_into().unwrap_or_default()
    }

    fn step(&self, desired: &Desired, now: OffsetDateTime) -> Step {
        if self.shop.is_none() || self.under_way.contains_key(desired.id()) {
            return Step::Idle;
        }
        match self.records.get(desired.id()) {
            Some(record) => next_step(desired, record, now),
            None => next_step(desired, &Record::default(), now),
        }
    }

    fn open_shop(&mut self, wishes: &Wishes) {
        let is_same = self.ca_file == wishes.ca_file && self.proof == wishes.proof;
        if wishes.certificates.is_empty() || (self.shop.is_some() && is_same) {
            return;
        }
        match self.new_shop(wishes) {
            Ok(shop) => {
                self.shop = Some(Arc::new(shop));
                self.ca_file.clone_from(&wishes.ca_file);
                self.proof.clone_from(&wishes.proof);
                self.no_shop = None;
            }
            Err(error) => {
                if self.no_shop.as_ref() != Some(&error) {
                    tracing::error!("{error}");
                }
                self.no_shop = Some(error);
            }
        }
    }

    fn new_shop(&self, wishes: &Wishes) -> Result<Shop, String> {
        let client = Client::new(wishes.ca_file.as_deref());
        let client = client.map_err(|error| format!("acme.ca_file: {error}"))?;
        Ok(Shop {
            accounts: Accounts::new(client, self.shelf.clone()),
            shelf: self.shelf.clone(),
            proof: Proof::new(&wishes.proof, self.board.clone()),
        })
    }

    fn begin(&mut self, desired: &Desired, directory: Directory) {
        let Some(shop) = self.shop.clone() else { return };
        let id = desired.id().to_owned();
        let record = self.records.entry(id.clone()).or_default();
        let failure = record.failures.get(&directory.url);
        let is_there = |order: &&super::record::Pending| {
            order.directory == directory.url && order.names == desired.names
        };
        let errand = Errand {
            is_first: record.issued.is_none(),
            pending: record.pending.as_ref().filter(is_there).cloned(),
            experience: Experience {
                worked: record.issued.as_ref().and_then(|issued| issued.origin.challenge),
                failed: failure
                    .filter(|failure| failure.blame == Blame::Name)
                    .and_then(|failure| failure.challenge),
            },
            desired: desired.clone(),
            directory: directory.clone(),
        };
        let name = id.clone();
        let order = async move {
            let outcome = shop.run(errand).await;
            (name, directory, outcome)
        };
        self.under_way.insert(id, self.orders.spawn(order));
    }

    fn note(&mut self, id: &str, directory: &Directory, outcome: Outcome) {
        self.under_way.remove(id);
        let record = self.records.entry(id.to_owned()).or_default();
        record.pending = outcome.pending;
        match outcome.result {
            Ok(issued) => {
                tracing::info!("certificate {id}: issued by {}", describe(&issued));
                record.issued = Some(issued);
                record.failures.clear();
                self.warned.remove(id);
            }
            Err(error) => {
                let failure = failure(record, directory, &error, outcome.challenge);
                tracing::error!(
                    "certificate {id}: {}: {error}; next try at {}",
                    directory.url,
                    super::super::rfc3339(failure.next_try)
                );
                record.failures.insert(directory.url.clone(), failure);
            }
        }
        self.write_down(id);
    }

    /// What cannot be written is known at least until the next start.
    fn write_down(&self, id: &str) {
        let Some(record) = self.records.get(id) else { return };
        let pending = match &record.pending {
            Some(pending) => self.shelf.put_pending(id, pending),
            None => self.shelf.remove_pending(id),
        };
        for written in [pending, self.shelf.put_failures(id, &record.failures)] {
            if let Err(error) = written {
                tracing::error!("certificate {id}: {error}");
            }
        }
    }

    fn warn_if_late(&mut self, desired: &Desired, now: OffsetDateTime) {
        let id = desired.id();
        let Some(issued) = self.records.get(id).and_then(|record| record.issued.as_ref()) else {
            return;
        };
        let is_told = self.warned.get(id).is_some_and(|at| now < *at + WARNING_PAUSE);
        if renewal::is_late(issued.life(), now) && !is_told {
            let ends = super::super::rfc3339(issued.pair.not_after);
            tracing::warn!("certificate {id}: ends at {ends} and was not renewed yet");
            self.warned.insert(id.to_owned(), now);
        }
    }

    fn publish(&self, wishes: &Wishes, now: OffsetDateTime) {
        let issued = self
            .records
            .iter()
            .filter_map(|(id, record)| record.issued.clone().map(|issued| (id.clone(), issued)));
        let issued: BTreeMap<String, Issued> = issued.collect();
        let progress: BTreeMap<String, Progress> = wishes
            .certificates
            .iter()
            .map(|desired| (desired.id().to_owned(), self.progress(desired, now)))
            .collect();
        self.board.stock.send_if_modified(|stock| {
            let same = stock.progress == progress && has_same(&stock.issued, &issued);
            if !same {
                let challenges = stock.challenges.clone();
                *stock = Arc::new(Stock { issued, challenges, progress });
            }
            !same
        });
    }

    fn progress(&self, desired: &Desired, now: OffsetDateTime) -> Progress {
        let record = self.records.get(desired.id());
        let last =
            record.and_then(|record| record.failures.values().max_by_key(|failure| failure.at));
        let is_ordering = self.under_way.contains_key(desired.id());
        let next_try = match self.step(desired, now) {
            Step::Wait(until) if last.is_some() => Some(until),
            _ => None,
        };
        Progress {
            is_ordering,
            next_renewal: record.and_then(|record| record.issued.as_ref()).map(Issued::renewal),
            last_error: last.map(|failure| failure.error.clone()).or_else(|| self.no_shop.clone()),
            next_try,
        }
    }
}

fn failure(
    record: &Record,
    directory: &Directory,
    error: &OrderError,
    challenge: Option<ChallengeKind>,
) -> Failure {
    let before = record.failures.get(&directory.url);
    let retry_after = error.retry_after().and_then(|wait| wait.try_into().ok());
    let now = OffsetDateTime::now_utc();
    let failure = Failure::after(before, error.blame(), error.to_string(), retry_after, now);
    Failure { challenge, ..failure }
}

fn describe(issued: &Issued) -> String {
    let ends = super::super::rfc3339(issued.pair.not_after);
    format!("{} until {ends}", issued.pair.issuer)
}

/// By what they are of: a certificate is never changed in place.
fn has_same(old: &BTreeMap<String, Issued>, new: &BTreeMap<String, Issued>) -> bool {
    old.len() == new.len()
        && old.iter().zip(new).all(|((old_id, old), (new_id, new))| {
            old_id == new_id && Arc::ptr_eq(&old.pair, &new.pair) && old.origin == new.origin
        })
}
