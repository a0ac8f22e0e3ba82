//! Whose turn it is: smooth weighted round robin (nginx's), or the least loaded.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use tokio::time::Instant;

use super::{Member, Pool};
use crate::protocol::settings::Balance;

/// Members of a pool that one request has tried, by index.
#[derive(Debug, Default)]
pub struct Tried(Vec<usize>);

impl Tried {
    pub fn add(&mut self, index: usize) {
        self.0.push(index);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Pool {
    /// The member for the next attempt of a request: one that is not left out where there is one,
    /// else the one that comes back soonest. `None` when all were tried. `usual` is how pools take turns
    /// that say nothing else; `client` is asked for where it matters.
    pub fn pick(
        &self,
        usual: Balance,
        tried: &Tried,
        now: Instant,
        client: impl FnOnce() -> IpAddr,
    ) -> Option<usize> {
        let open = |index: &usize| !tried.0.contains(index);
        let healthy: Vec<usize> = (0..self.members.len())
            .filter(open)
            .filter(|&index| !self.members[index].upstream.is_ejected(now))
            .collect();
        match (healthy.as_slice(), self.balance.unwrap_or(usual)) {
            ([], _) => (0..self.members.len())
                .filter(open)
                .min_by_key(|&index| self.members[index].upstream.ejected_until()),
            ([only], _) => Some(*only),
            (several, Balance::RoundRobin) => self.next_turn(several),
            (several, Balance::LeastLoaded) => self.least_loaded(several),
            (several, Balance::ClientAddress) => self.for_client(several, client()),
        }
    }

    /// Each candidate gains its weight, the one in front pays the sum: turns are spread evenly.
    fn next_turn(&self, candidates: &[usize]) -> Option<usize> {
        let members = || candidates.iter().map(|&index| (index, &self.members[index]));
        let sum: i64 = members().map(|(_, member)| i64::from(member.weight)).sum();
        members()
            .for_each(|(_, member)| member.turn.set(member.turn.get() + i64::from(member.weight)));
        // The first of equals, so that the order is that of the pool.
        let (index, member) = members()
            .max_by_key(|&(index, member)| (member.turn.get(), std::cmp::Reverse(index)))?;
        member.turn.set(member.turn.get() - sum);
        Some(index)
    }

    /// Rendezvous hashing (Thaler and Ravishankar 1998), weighted: each candidate draws a number for this
    /// client, and the highest one wins. Who goes or comes moves its own clients alone. The same in every
    /// process of one build: nothing of it is random.
    fn for_client(&self, candidates: &[usize], client: IpAddr) -> Option<usize> {
        let score = |&index: &usize| {
            let member = &self.members[index];
            let mut hasher = DefaultHasher::new();
            (client, member.upstream.address).hash(&mut hasher);
            // From 0 to 1, neither included.
            let drawn = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON / 4.0;
            -f64::from(member.weight) / drawn.ln()
        };
        candidates.iter().copied().max_by(|one, other| score(one).total_cmp(&score(other)))
    }

    fn least_loaded(&self, candidates: &[usize]) -> Option<usize> {
        // Equal loads take turns, else the first member would get every request of a quiet pool.
        let load = |member: &Member| {
            f64::from(member.upstream.active.get() + 1) / f64::from(member.weight)
        };
        let least =
            candidates.iter().map(|&index| load(&self.members[index])).min_by(f64::total_cmp)?;
        let equal: Vec<usize> = candidates
            .iter()
            .copied()
            .filter(|&index| load(&self.members[index]) <= least)
            .collect();
        self.next_turn(&equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::snapshot::{self, Host, Route, Snapshot};
    use crate::worker::host_book::HostBook;
    use crate::worker::table::Table;
    use crate::worker::upstream::Pools;

    fn pools(weights: &[u32]) -> Pools {
        let upstreams = weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| snapshot::Upstream {
                name: index.to_string(),
                address: ([127, 0, 0, 1], index as u16 + 1).into(),
                protocol: Default::default(),
                weight,
            })
            .collect();
        let path = crate::protocol::pattern::PathPattern::Prefix("/".into());
        let options = Default::default();
        let route = Route { path, replace_prefix: None, options, upstreams, hold: false };
        let host = Host::new("a", vec![route]);
        let snapshot = Snapshot { version: 1, hosts: vec![host], ..Snapshot::default() };
        Pools::new(&Table::compile(snapshot, &mut HostBook::new(1)).0, None)
    }

    fn turns(pool: &Pool, count: usize, balance: Balance) -> Vec<usize> {
        let nobody = || unreachable!("nobody asks for the client");
        let pick =
            || pool.pick(balance, &Tried::default(), Instant::now(), nobody).expect("a member");
        (0..count).map(|_| pick()).collect()
    }

    #[test]
    fn turns_follow_weights_and_are_spread() {
        for (weights, want) in [
            (&[1, 1, 1][..], vec![0, 1, 2, 0, 1, 2]),
            (&[5, 1, 1], vec![0, 0, 1, 0, 2, 0, 0]),
            (&[1], vec![0, 0]),
        ] {
            let pools = pools(weights);
            assert_eq!(turns(pools.pool(0), want.len(), Balance::RoundRobin), want, "{weights:?}");
        }
    }

    #[test]
    fn the_least_loaded_is_next() {
        let pools = pools(&[1, 1]);
        let pool = pools.pool(0);
        assert_eq!(turns(pool, 4, Balance::LeastLoaded), [0, 1, 0, 1]);
        pool.members[0].upstream.active.set(3);
        assert_eq!(turns(pool, 3, Balance::LeastLoaded), [1, 1, 1]);
    }

    #[test]
    fn a_client_keeps_its_upstream_and_weights_count() {
        let chosen = |pools: &Pools, number: u32, tried: &Tried| {
            let client = || std::net::Ipv4Addr::from(number).into();
            let pool = pools.pool(0);
            pool.pick(Balance::ClientAddress, tried, Instant::now(), client).expect("a member")
        };
        let pools = pools(&[1, 1, 2]);
        let mut counts = [0; 3];
        for number in 0..4000 {
            let first = chosen(&pools, number, &Tried::default());
            assert_eq!(chosen(&pools, number, &Tried::default()), first);
            counts[first] += 1;
            // Of one that goes, the clients move, and no others.
            let mut without = Tried::default();
            without.add(1);
            assert_eq!(chosen(&pools, number, &without) != first, first == 1, "{number}");
        }
        for (count, want) in counts.into_iter().zip([1000, 1000, 2000]) {
            assert!((want - 150..want + 150).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn tried_and_ejected_members_are_passed_over() {
        let pools = pools(&[1, 1, 1]);
        let (pool, now) = (pools.pool(0), Instant::now());
        let mut tried = Tried::default();
        tried.add(0);
        pool.members[1].upstream.failed(now, true);
        let nobody = || unreachable!("nobody asks for the client");
        let pick = |tried: &Tried| pool.pick(Balance::RoundRobin, tried, now, nobody);
        assert_eq!(pick(&tried), Some(2));
        tried.add(2);
        assert_eq!(pick(&tried), Some(1), "an ejected one is better than none");
        tried.add(1);
        assert_eq!(pick(&tried), None);
    }
}
