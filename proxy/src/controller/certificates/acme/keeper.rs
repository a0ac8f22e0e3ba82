//! Keeps what is wanted: places orders when they are due, some at a time, and writes down what became
//! of them. What people ask for beside the schedule is in `requests.rs`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep};

use super::accounts::Accounts;
use super::board::Board;
use super::client::Client;
use super::desired::{Desired, Wishes};
use super::desk::{Answer, Reply, Request};
use super::failures::{Blame, Failure};
use super::gate::Gate;
use super::order::{Errand, Experience, OrderError, Outcome, Shop};
use super::plan::{Step, next_step};
use super::proof::Proof;
use super::record::{Issued, Pending, Record};
use super::renewal::{self, Window};
use super::shelf::Shelf;
use super::{Progress, Stock};
use crate::config::{self, ChallengeKind, Directory};
use crate::controller::metrics::Tally;

/// Orders under way at a time.
const MOST_ORDERS: usize = 8;
/// Errands beside orders at a time: looks at what CAs suggest, revocations.
const MOST_CHORES: usize = 8;
/// Between two attempts to write down a certificate that the disk did not take.
const STORE_PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at the clock, which may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Between two warnings about one certificate that ends soon.
const WARNING_PAUSE: time::Duration = time::Duration::days(1);

pub struct Keeper {
    pub(super) shelf: Arc<Shelf>,
    pub(super) records: BTreeMap<String, Record>,
    board: Board,
    pub(super) wishes: watch::Receiver<Arc<Wishes>>,
    gate: Gate,
    pub(super) shop: Option<Arc<Shop>>,
    /// What the shop was made with.
    ca_file: Option<PathBuf>,
    proof: config::Proof,
    /// Why there is no shop.
    pub(super) no_shop: Option<String>,
    orders: JoinSet<(String, Directory, Outcome)>,
    /// By id.
    pub(super) under_way: HashMap<String, AbortHandle>,
    /// Who wants to know what becomes of an order, by id.
    pub(super) waiting: HashMap<String, Vec<Reply>>,
    pub(super) chores: JoinSet<Chore>,
    /// When a CA is next asked for its wishes, where it has told none: by id.
    looks: HashMap<String, OffsetDateTime>,
    /// Certificates that the disk did not take, and when it is asked again: by id.
    unstored: HashMap<String, Instant>,
    /// When a certificate that ends soon was last warned of.
    warned: HashMap<String, OffsetDateTime>,
    tally: Tally,
}

/// What was done beside orders, for the certificate of this id.
pub(super) enum Chore {
    Looked { id: String, window: Result<Option<Window>, OrderError> },
    Revoked { id: String, done: Result<(), OrderError>, reply: Reply },
}

impl Keeper {
    pub fn new(
        shelf: Arc<Shelf>,
        records: BTreeMap<String, Record>,
        board: Board,
        wishes: watch::Receiver<Arc<Wishes>>,
        gate: Gate,
        tally: Tally,
    ) -> Self {
        Keeper {
            shelf,
            records,
            board,
            wishes,
            gate,
            shop: None,
            ca_file: None,
            proof: config::Proof::default(),
            no_shop: None,
            orders: JoinSet::new(),
            under_way: HashMap::new(),
            waiting: HashMap::new(),
            chores: JoinSet::new(),
            looks: HashMap::new(),
            unstored: HashMap::new(),
            warned: HashMap::new(),
            tally,
        }
    }

    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut stop: oneshot::Receiver<()>,
    ) {
        loop {
            let pause = self.see_to_all(OffsetDateTime::now_utc());
            tokio::select! {
                _ = &mut stop => break,
                Ok(()) = self.wishes.changed() => {}
                Some(request) = requests.recv() => self.serve(request),
                Some(done) = self.orders.join_next() => match done {
                    Ok((id, directory, outcome)) => self.note(&id, &directory, outcome),
                    Err(error) => self.lost(&error),
                },
                Some(done) = self.chores.join_next() => match done {
                    Ok(chore) => self.note_chore(chore),
                    Err(error) => tracing::error!("certificates: {error}"),
                },
                () = sleep(pause) => {}
            }
        }
        let _closed = self.gate.close().await;
    }

    fn lost(&mut self, error: &JoinError) {
        tracing::error!("an order: {error}");
        self.under_way.retain(|_, order| !order.is_finished());
        // Whoever waited learns that nothing came of it.
        self.waiting.retain(|id, _| self.under_way.contains_key(id));
    }

    /// Begins what is due; how long nothing else is.
    fn see_to_all(&mut self, now: OffsetDateTime) -> Duration {
        let wishes = self.wishes.borrow_and_update().clone();
        self.open_shop(&wishes);
        self.store_again();
        let mut next = now + LONGEST_SLEEP;
        for desired in &wishes.certificates {
            self.warn_if_late(desired, now);
            self.look_if_outdated(desired, now);
            match self.step(desired, now) {
                Step::Order(directory) if self.has_room() => self.begin(desired, directory),
                Step::Wait(until) => next = next.min(until),
                // One that ends makes room.
                Step::Order(_) | Step::Idle => {}
            }
        }
        self.publish(&wishes, now);
        let pause = (next - now).try_into().unwrap_or_default();
        if self.unstored.is_empty() { pause } else { STORE_PAUSE.min(pause) }
    }

    pub(super) fn has_room(&self) -> bool {
        self.orders.len() < MOST_ORDERS
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
            accounts: Accounts::new(client, self.shelf.clone(), self.gate.clone()),
            shelf: self.shelf.clone(),
            proof: Proof::new(&wishes.proof, self.board.clone()),
            gate: self.gate.clone(),
        })
    }

    pub(super) fn begin(&mut self, desired: &Desired, directory: Directory) {
        let Some(shop) = self.shop.clone() else { return };
        let id = desired.id().to_owned();
        let record = self.records.entry(id.clone()).or_default();
        let errand = errand(desired, &directory, record);
        let name = id.clone();
        let order = async move {
            let outcome = shop.run(errand).await;
            (name, directory, outcome)
        };
        self.under_way.insert(id, self.orders.spawn(order));
    }

    fn note(&mut self, id: &str, directory: &Directory, outcome: Outcome) {
        self.under_way.remove(id);
        self.tally.order_ended(outcome.result.is_ok());
        let record = self.records.entry(id.to_owned()).or_default();
        record.pending = outcome.pending;
        let answer = match outcome.result {
            Ok(issued) => {
                let text = format!("certificate {id}: issued by {}", describe(&issued));
                tracing::info!("{text}");
                record.issued = Some(issued);
                record.failures.clear();
                self.warned.remove(id);
                self.looks.remove(id);
                self.store(id);
                Ok(text)
            }
            Err(error) => {
                let failure = failure(record, directory, &error, outcome.challenge);
                let next = super::super::rfc3339(failure.next_try);
                let text =
                    format!("certificate {id}: {}: {error}; next try at {next}", directory.url);
                tracing::error!("{text}");
                record.failures.insert(directory.url.clone(), failure);
                Err(text)
            }
        };
        self.write_down(id);
        self.tell_waiting(id, &answer);
    }

    fn tell_waiting(&mut self, id: &str, answer: &Answer) {
        for reply in self.waiting.remove(id).into_iter().flatten() {
            // Whoever asked may have gone.
            let _ = reply.send(answer.clone());
        }
    }

    /// Serves it from memory where the disk does not take it.
    fn store(&mut self, id: &str) {
        let Some(issued) = self.records.get(id).and_then(|record| record.issued.as_ref()) else {
            self.unstored.remove(id);
            return;
        };
        match self.shelf.put_issued(id, issued) {
            Ok(()) => {
                if self.unstored.remove(id).is_some() {
                    tracing::info!("certificate {id}: it is on disk now");
                }
            }
            Err(error) => {
                if self.unstored.insert(id.to_owned(), Instant::now()).is_none() {
                    tracing::error!(
                        "certificate {id}: {error}; it is served from memory, and written again \
                        every {} s",
                        STORE_PAUSE.as_secs()
                    );
                }
            }
        }
    }

    fn store_again(&mut self) {
        let is_due = |(_, at): &(&String, &Instant)| at.elapsed() >= STORE_PAUSE;
        let due: Vec<String> =
            self.unstored.iter().filter(is_due).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.store(&id);
            self.write_down(&id);
        }
    }

    /// What cannot be written is known at least until the next start. The order of a certificate that
    /// is not on disk stays there: it leads to the certificate.
    fn write_down(&self, id: &str) {
        let Some(record) = self.records.get(id) else { return };
        let pending = match &record.pending {
            Some(pending) => self.shelf.put_pending(id, pending),
            None if self.unstored.contains_key(id) => Ok(()),
            None => self.shelf.remove_pending(id),
        };
        for written in [pending, self.shelf.put_failures(id, &record.failures)] {
            if let Err(error) = written {
                tracing::error!("certificate {id}: {error}");
            }
        }
    }

    /// Asks the CA when it would have the certificate renewed, where it was not asked for long.
    fn look_if_outdated(&mut self, desired: &Desired, now: OffsetDateTime) {
        let id = desired.id();
        let Some(issued) = self.records.get(id).and_then(|record| record.issued.as_ref()) else {
            return;
        };
        let from = issued.origin.directory.as_ref();
        let directory =
            desired.directories.iter().find(|directory| Some(&directory.url) == from).cloned();
        let (Some(directory), Some(shop)) = (directory, self.shop.clone()) else { return };
        if !self.is_look_due(id, issued, now) || self.chores.len() >= MOST_CHORES {
            return;
        }
        let (desired, issued) = (desired.clone(), issued.clone());
        // Until it has come back.
        self.looks.insert(id.to_owned(), now + renewal::FAILED_PAUSE);
        self.chores.spawn(async move {
            let window = shop.look(&desired, &directory, &issued).await;
            Chore::Looked { id: desired.id().to_owned(), window }
        });
    }

    fn is_look_due(&self, id: &str, issued: &Issued, now: OffsetDateTime) -> bool {
        let is_over = |at: &OffsetDateTime| now >= *at || *at - now > renewal::LONGEST_PAUSE;
        self.looks.get(id).is_none_or(is_over)
            && issued.window().is_none_or(|window| window.is_outdated(now))
    }

    fn note_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Looked { id, window } => self.note_look(&id, window),
            Chore::Revoked { id, done, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.note_revoked(&id, done));
            }
        }
    }

    fn note_look(&mut self, id: &str, window: Result<Option<Window>, OrderError>) {
        let now = OffsetDateTime::now_utc();
        let issued = self.records.get_mut(id).and_then(|record| record.issued.as_mut());
        match (window, issued) {
            (Ok(Some(window)), Some(issued)) => {
                self.looks.remove(id);
                issued.origin.window = Some(window);
                if let Err(error) = self.shelf.put_origin(id, &issued.origin) {
                    tracing::error!("certificate {id}: {error}");
                }
            }
            (Ok(_), _) => {
                self.looks.insert(id.to_owned(), now + renewal::LONGEST_PAUSE);
            }
            (Err(error), _) => {
                let pause = error.retry_after().and_then(|pause| pause.try_into().ok());
                let pause = pause.unwrap_or(renewal::FAILED_PAUSE);
                let pause = pause.clamp(renewal::FAILED_PAUSE, renewal::LONGEST_PAUSE);
                self.looks.insert(id.to_owned(), now + pause);
                tracing::warn!("certificate {id}: when to renew it: {error}");
            }
        }
    }

    fn warn_if_late(&mut self, desired: &Desired, now: OffsetDateTime) {
        let id = desired.id();
        let Some(issued) = self.records.get(id).and_then(|record| record.issued.as_ref()) else {
            return;
        };
        let is_told =
            self.warned.get(id).is_some_and(|at| (*at..*at + WARNING_PAUSE).contains(&now));
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
            next_renewal: record
                .and_then(|record| record.issued.as_ref())
                .map(|issued| issued.renewal(now)),
            last_error: last
                .map(|failure| failure.error.clone())
                .or_else(|| record.and_then(revoked))
                .or_else(|| self.no_shop.clone()),
            next_try,
        }
    }
}

fn errand(desired: &Desired, directory: &Directory, record: &Record) -> Errand {
    let failure = record.failures.get(&directory.url);
    let is_there =
        |order: &&Pending| order.directory == directory.url && order.names == desired.names;
    let before = record.issued.as_ref();
    let worked = before.and_then(|issued| issued.origin.challenge);
    let failed = failure.filter(|failure| failure.blame == Blame::Name);
    // A CA that has suggested a time wants to know which certificate goes. One that then refused the
    // order (it may have been replaced already) is asked without it.
    let says_before = failure.is_none()
        && before.is_some_and(|issued| {
            issued.window().is_some() && issued.origin.directory.as_ref() == Some(&directory.url)
        });
    Errand {
        pending: record.pending.as_ref().filter(is_there).cloned(),
        experience: Experience { worked, failed: failed.and_then(|failure| failure.challenge) },
        challenge: worked,
        is_first: before.is_none(),
        before: before.cloned(),
        says_before,
        desired: desired.clone(),
        directory: directory.clone(),
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

fn revoked(record: &Record) -> Option<String> {
    let at = super::super::rfc3339(record.revoked?);
    Some(format!("revoked at {at}: `baton certs --renew NAME` orders another one"))
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
