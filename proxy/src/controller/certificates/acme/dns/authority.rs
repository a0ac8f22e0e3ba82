//! Whether a record is everywhere: a CA may ask any of a zone's authoritative servers, and asks from
//! several places.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::names::Names;
use super::{DnsError, Record, text};

/// RFC 1035 section 4.2.
const PORT: u16 = 53;
/// Between two rounds of questions: first soon, because somebody waits.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Who is asked whether a record is there.
pub struct Authority<'a> {
    names: &'a Names,
    /// In place of those that the DNS names, where not empty.
    configured: &'a [SocketAddr],
}

/// A server, or one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    name: String,
    address: SocketAddr,
}

/// What one server says of one record.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Has,
    HasNot,
    Silent,
}

impl<'a> Authority<'a> {
    pub fn new(names: &'a Names, configured: &'a [SocketAddr]) -> Self {
        Authority { names, configured }
    }

    /// Asks again and again, until all servers have all records.
    pub async fn wait_for(&self, records: &[Record], limit: Duration) -> Result<(), DnsError> {
        let deadline = Instant::now() + limit;
        for record in records {
            let servers = self.servers(&record.name).await?;
            wait_for_one(record, servers, deadline, limit).await?;
        }
        Ok(())
    }

    async fn servers(&self, name: &Name) -> Result<BTreeSet<Server>, DnsError> {
        if !self.configured.is_empty() {
            let server =
                |address: &SocketAddr| Server { name: address.to_string(), address: *address };
            return Ok(self.configured.iter().map(server).collect());
        }
        let zone = self.names.zone(name).await?;
        let named = self.names.servers(&zone).await?;
        if named.iter().all(|(_, addresses)| addresses.is_empty()) {
            return Err(DnsError::NoServer(text(&zone)));
        }
        let server = |name: &Name, ip: IpAddr| Server {
            name: text(name),
            address: SocketAddr::from((ip, PORT)),
        };
        let all = named.iter().flat_map(|(name, ips)| ips.iter().map(|ip| server(name, *ip)));
        Ok(all.collect())
    }
}

async fn wait_for_one(
    record: &Record,
    mut left: BTreeSet<Server>,
    deadline: Instant,
    limit: Duration,
) -> Result<(), DnsError> {
    let mut pause = FIRST_PAUSE;
    let mut seen = BTreeSet::new();
    loop {
        let said = ask_all(record, &left, deadline).await;
        seen.extend(said.iter().filter(|(_, a)| *a == Answer::Has).map(|(s, _)| s.name.clone()));
        left.retain(|server| !said.contains(&(server.clone(), Answer::Has)));
        // A server that has several addresses may have one that this host cannot reach (IPv6).
        let silent = |server: &Server| said.contains(&(server.clone(), Answer::Silent));
        if left.iter().all(|server| silent(server) && seen.contains(&server.name)) {
            return Ok(());
        }
        if Instant::now() + pause >= deadline {
            sleep_until(deadline).await;
            let missing = missing(&left, silent);
            return Err(DnsError::NotVisible { name: text(&record.name), limit, missing });
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn ask_all(
    record: &Record,
    servers: &BTreeSet<Server>,
    deadline: Instant,
) -> Vec<(Server, Answer)> {
    let asked = servers.iter().map(|server| async move {
        let answer = timeout_at(deadline, ask(record, server.address)).await;
        (server.clone(), answer.unwrap_or(Answer::Silent))
    });
    futures_util::future::join_all(asked).await
}

async fn ask(record: &Record, server: SocketAddr) -> Answer {
    match Names::at(server).texts(&record.name).await {
        Ok(texts) if texts.contains(&record.value) => Answer::Has,
        Ok(_) => Answer::HasNot,
        Err(_) => Answer::Silent,
    }
}

fn missing(left: &BTreeSet<Server>, silent: impl Fn(&Server) -> bool) -> String {
    let said = left.iter().map(|server| {
        let what = if silent(server) { "does not answer" } else { "does not have it" };
        match server.name == server.address.to_string() {
            true => format!("{} {what}", server.name),
            false => format!("{} ({}) {what}", server.name, server.address.ip()),
        }
    });
    said.collect::<Vec<_>>().join(", ")
}
