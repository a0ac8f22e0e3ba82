//! What is kept from one table to the next: the counters of every host and the gates of upstreams. A
//! table resolves them once, when it is compiled, and a request finds them there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::stats::HostCounts;
use super::upstream::gate::Gates;
use crate::protocol::pattern::HostPattern;
use crate::protocol::stats::HostStats;

/// One for each worker thread, by its number.
pub type PerThread = Arc<[HostCounts]>;

#[derive(Debug)]
pub struct HostBook {
    threads: usize,
    hosts: BTreeMap<HostPattern, Page>,
    pub gates: Gates,
}

#[derive(Debug)]
struct Page {
    counts: PerThread,
    /// Nobody can count on it any more, and the controller has its last counts.
    is_told: bool,
}

impl HostBook {
    pub fn new(threads: usize) -> Self {
        HostBook { threads, hosts: BTreeMap::new(), gates: Gates::default() }
    }

    pub fn of(&mut self, host: &HostPattern) -> PerThread {
        if let Some(page) = self.hosts.get(host) {
            return page.counts.clone();
        }
        let counts: PerThread = (0..self.threads).map(|_| HostCounts::default()).collect();
        let page = Page { counts: counts.clone(), is_told: false };
        self.hosts.insert(host.clone(), page);
        counts
    }

    /// What is to be told of every host that was asked for. One that is in no table any more is told
    /// once more, and forgotten the next time: whoever adds up the differences sees it end before it
    /// can begin anew.
    pub fn tell(&mut self) -> BTreeMap<String, HostStats> {
        self.hosts.retain(|_, page| !(page.is_told && page.is_idle()));
        let mut told = BTreeMap::new();
        for (host, page) in &mut self.hosts {
            page.is_told = page.is_idle();
            let mut sum = HostStats::default();
            page.counts.iter().for_each(|counts| counts.add_to(&mut sum));
            if !sum.is_empty() {
                told.insert(host.to_string(), sum);
            }
        }
        told
    }
}

impl Page {
    /// No table has it, and no request that began with one.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.counts) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::stats::RequestKind;
    use http::{Method, StatusCode};

    fn told(book: &mut HostBook) -> Vec<(String, u64)> {
        let sum = |stats: &HostStats| stats.requests().map(|(_, count)| count).sum();
        book.tell().iter().map(|(host, stats)| (host.clone(), sum(stats))).collect()
    }

    #[test]
    fn a_host_keeps_its_counts_and_goes_once_they_are_told() {
        let mut book = HostBook::new(2);
        let host = "a.test".parse().expect("a host");
        let first = book.of(&host);
        assert_eq!(told(&mut book), []);
        let kind = RequestKind::new(false, &Method::GET, Some(StatusCode::OK));
        first[0].count(kind);
        // The next table.
        let second = book.of(&host);
        second[1].count(kind);
        let want = [("a.test".to_owned(), 2)];
        assert_eq!(told(&mut book), want);
        drop((first, second));
        assert_eq!(told(&mut book), want);
        // It came back in time.
        let third = book.of(&host);
        third[1].count(kind);
        let want = [("a.test".to_owned(), 3)];
        assert_eq!(told(&mut book), want);
        drop(third);
        assert_eq!(told(&mut book), want);
        assert_eq!(told(&mut book), []);
    }
}
