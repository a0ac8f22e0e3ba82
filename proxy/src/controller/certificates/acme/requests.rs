//! What people ask the keeper for beside its schedule: a renewal, another try, a revocation.

use time::OffsetDateTime;

use super::desired::Desired;
use super::desk::{Answer, Reply, Request, Wish};
use super::keeper::{Chore, Keeper};
use super::order::OrderError;
use super::plan::at_once;

impl Keeper {
    /// Begins what is asked for; whoever asked hears what becomes of it, or at once why nothing does.
    pub(super) fn serve(&mut self, request: Request) {
        let Request { wish, name, reply } = request;
        let wishes = self.wishes.borrow().clone();
        let desired = wishes.certificates.iter().find(|desired| desired.names.contains(&name));
        let Some(desired) = desired else {
            return refuse(
                reply,
                format!("no certificate of a CA is wanted for {name}: see `baton certs`"),
            );
        };
        match wish {
            Wish::Renew => self.renew(desired, reply),
            Wish::Retry => self.retry(desired, reply),
            Wish::Revoke => self.revoke(desired, reply),
        }
    }

    fn renew(&mut self, desired: &Desired, reply: Reply) {
        let record = self.records.entry(desired.id().to_owned()).or_default();
        if record.revoked.take().is_some()
            && let Err(error) = self.shelf.remove_revoked(desired.id())
        {
            tracing::error!("certificate {}: {error}", desired.id());
        }
        self.order_at_once(desired, reply);
    }

    fn retry(&mut self, desired: &Desired, reply: Reply) {
        let id = desired.id();
        let record = self.records.get(id);
        if record.is_none_or(|record| record.failures.is_empty()) {
            let text = format!("certificate {id}: no order has failed: --renew orders another one");
            return refuse(reply, text);
        }
        self.order_at_once(desired, reply);
    }

    fn order_at_once(&mut self, desired: &Desired, reply: Reply) {
        let id = desired.id();
        if let Some(error) = &self.no_shop {
            return refuse(reply, error.clone());
        }
        if !self.under_way.contains_key(id) {
            if !self.has_room() {
                let text = "too many orders are under way: try again when some are over";
                return refuse(reply, text.to_owned());
            }
            let record = self.records.entry(id.to_owned()).or_default();
            let Some(directory) = at_once(desired, record).cloned() else {
                return refuse(reply, format!("certificate {id}: acme.directory names no CA"));
            };
            self.begin(desired, directory);
        }
        self.waiting.entry(id.to_owned()).or_default().push(reply);
    }

    fn revoke(&mut self, desired: &Desired, reply: Reply) {
        let id = desired.id();
        if self.under_way.contains_key(id) {
            let text = format!("certificate {id}: an order is under way: revoke it afterwards");
            return refuse(reply, text);
        }
        let Some(issued) = self.records.get(id).and_then(|record| record.issued.clone()) else {
            return refuse(reply, format!("certificate {id}: there is none to revoke"));
        };
        let from = issued.origin.directory.as_ref();
        let directory = desired.directories.iter().find(|known| Some(&known.url) == from).cloned();
        let (Some(directory), Some(shop)) = (directory, self.shop.clone()) else {
            let text =
                format!("certificate {id}: the CA that issued it is not named by acme.directory");
            return refuse(reply, text);
        };
        let desired = desired.clone();
        self.chores.spawn(async move {
            let done = shop.revoke(&desired, &directory, &issued).await;
            Chore::Revoked { id: desired.id().to_owned(), done, reply }
        });
    }

    /// Takes it out of service.
    pub(super) fn note_revoked(&mut self, id: &str, done: Result<(), OrderError>) -> Answer {
        done.map_err(|error| format!("certificate {id}: not revoked: {error}"))?;
        let now = OffsetDateTime::now_utc();
        let record = self.records.entry(id.to_owned()).or_default();
        record.issued = None;
        record.revoked = Some(now);
        if let Err(error) = self.shelf.put_revoked(id, now) {
            tracing::error!("certificate {id}: {error}");
        }
        let text = format!("certificate {id}: revoked, and out of service; --renew orders another");
        tracing::info!("{text}");
        Ok(text)
    }
}

fn refuse(reply: Reply, text: String) {
    // Whoever asked may have gone.
    let _ = reply.send(Err(text));
}
