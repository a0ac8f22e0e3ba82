//! Whose turn it is: smooth weighted round robin (nginx's), the least loaded, or whom a client or its
//! cookie belongs to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use http::HeaderValue;
use tokio::time::Instant;

use super::exchange::Request;
use super::{Member, Pool};
use crate::protocol::settings::Balance;
use crate::worker::message::Fields;

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

/// Who asks a pool for a member.
#[derive(Debug, Clone, Copy)]
pub enum Asker<'a> {
    Request(&'a Request<'a>),
    /// Of which nothing is known but where it comes from.
    Connection(IpAddr),
}

impl<'a> Asker<'a> {
    fn client(&self) -> IpAddr {
        match self {
            Asker::Request(request) => request.client.origin(request.head),
            Asker::Connection(address) => address.to_canonical(),
        }
    }

    fn fields(&self) -> Option<&'a Fields> {
        match self {
            Asker::Request(request) => Some(&request.head.fields),
            Asker::Connection(_) => None,
        }
    }
}

impl Pool {
    /// The member for the next attempt of a request: one that is not left out where there is one,
    /// else the one that comes back soonest. `None` when all were tried. `usual` is how pools take turns
    /// that say nothing else.
    pub fn pick(
        &self,
        usual: Balance,
        tried: &Tried,
        now: Instant,
        who: &Asker<'_>,
    ) -> Option<usize> {
        let open = |index: &usize| !tried.0.contains(index);
        let healthy: Vec<usize> = (0..self.members.len())
            .filter(open)
            .filter(|&index| !self.members[index].upstream.is_ejected(now))
            .collect();
        let mine = self.sticky.as_ref().and_then(|sticky| sticky.named(who.fields()?));
        if let Some(mine) = mine.filter(|mine| healthy.contains(mine)) {
            return Some(mine);
        }
        let healthy = if self.queue.is_some() { self.with_room(healthy) } else { healthy };
        let client = || who.client();
        match (healthy.as_slice(), self.balance.unwrap_or(usual)) {
            ([], _) => (0..self.members.len())
                .filter(open)
                .min_by_key(|&index| self.members[index].upstream.ejected_until()),
            ([only], _) => Some(*only),
            (several, _) if self.balance_header.is_some() => {
                let field = self.balance_header.as_ref().and_then(|n| who.fields()?.get(n));
                field.map_or_else(
                    || self.owner(several, now, client()),
                    |field| self.owner(several, now, field),
                )
            }
            (several, Balance::RoundRobin) => self.next_turn(several, now),
            (several, Balance::LeastLoaded) => self.least_loaded(several, now),
            (several, Balance::ClientAddress) => self.owner(several, now, client()),
        }
    }

    /// Those that may have another request, else the one before which the fewest wait.
    fn with_room(&self, candidates: Vec<usize>) -> Vec<usize> {
        let gate = |index: &usize| self.members[*index].gate.as_ref();
        let (room, full): (Vec<usize>, Vec<usize>) =
            candidates.into_iter().partition(|index| gate(index).is_none_or(|g| g.has_room()));
        if !room.is_empty() {
            return room;
        }
        let least = full.into_iter().min_by_key(|index| gate(index).map_or(0, |g| g.waiting()));
        Vec::from_iter(least)
    }

    /// What a client is to keep, so that it comes back to this member; `None` where it has it, or shall
    /// not come back.
    pub fn cookie(&self, index: usize, request: &Request<'_>) -> Option<HeaderValue> {
        let sticky = self.sticky.as_ref()?;
        if sticky.named(&request.head.fields) == Some(index) {
            return None;
        }
        sticky.cookie(index, request.client.scheme(request.head) == b"https")
    }

    /// The share of a member that has its weight, and in a slow start less.
    fn share(&self, member: &Member, now: Instant) -> u32 {
        let Some(whole) = self.slow_start else { return member.weight };
        member.weight.saturating_mul(member.upstream.warmth(whole, now))
    }

    /// Each candidate gains its share, the one in front pays the sum: turns are spread evenly.
    fn next_turn(&self, candidates: &[usize], now: Instant) -> Option<usize> {
        let members = || candidates.iter().map(|&index| (index, &self.members[index]));
        let mut sum = 0;
        for (_, member) in members() {
            let share = i64::from(self.share(member, now));
            member.turn.set(member.turn.get() + share);
            sum += share;
        }
        // The first of equals, so that the order is that of the pool.
        let (index, member) = members()
            .max_by_key(|&(index, member)| (member.turn.get(), std::cmp::Reverse(index)))?;
        member.turn.set(member.turn.get() - sum);
        Some(index)
    }

    /// Rendezvous hashing (Thaler and Ravishankar 1998), weighted: each candidate draws a number for this
    /// key, and the highest one wins. Who goes or comes moves its own keys alone. The same in every
    /// process of one build: nothing of it is random.
    fn owner(&self, candidates: &[usize], now: Instant, key: impl Hash) -> Option<usize> {
        let score = |&index: &usize| {
            let member = &self.members[index];
            let mut hasher = DefaultHasher::new();
            (&key, member.upstream.address).hash(&mut hasher);
            // From 0 to 1, neither included.
            let drawn = (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON / 4.0;
            -f64::from(self.share(member, now)) / drawn.ln()
        };
        candidates.iter().copied().max_by(|one, other| score(one).total_cmp(&score(other)))
    }

    fn least_loaded(&self, candidates: &[usize], now: Instant) -> Option<usize> {
        // Equal loads take turns, else the first member would get every request of a quiet pool.
        let load = |member: &Member| {
            f64::from(member.upstream.active.get() + 1) / f64::from(self.share(member, now))
        };
        let least =
            candidates.iter().map(|&index| load(&self.members[index])).min_by(f64::total_cmp)?;
        let equal: Vec<usize> = candidates
            .iter()
            .copied()
            .filter(|&index| load(&self.members[index]) <= least)
            .collect();
        self.next_turn(&equal, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use http::{HeaderName, Method};

    use super::*;
    use crate::protocol::options::Options;
    use crate::protocol::options::sticky::Sticky;
    use crate::protocol::settings::Timeouts;
    use crate::protocol::snapshot::{self, Host, Route, Snapshot, StickyKey};
    use crate::worker::fields::Client;
    use crate::worker::host_book::HostBook;
    use crate::worker::message::RequestHead;
    use crate::worker::table::Table;
    use crate::worker::upstream::Pools;

    fn pools(weights: &[u32]) -> Pools {
        pools_with(weights, Options::default())
    }

    fn pools_with(weights: &[u32], options: Options) -> Pools {
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
        let route = Route { path, replace_prefix: None, options, upstreams, hold: false };
        let host = Host::new("a", vec![route]);
        let sticky_key = Some(StickyKey { secret: [1; 32] });
        let snapshot = Snapshot { sticky_key, hosts: vec![host], ..Snapshot::default() };
        Pools::new(&Table::compile(snapshot, &mut HostBook::new(1)).0, None)
    }

    /// Of a client that is known by its address, or by this field.
    fn pick_for(
        pool: &Pool,
        balance: Balance,
        tried: &Tried,
        now: Instant,
        (address, field): (u32, Option<(&'static str, &str)>),
    ) -> Option<usize> {
        let mut head = RequestHead::new(Method::GET, "/");
        let field = field.map(|(name, value)| (name, HeaderValue::from_str(value)));
        let fields =
            field.map(|(name, value)| (HeaderName::from_static(name), value.expect("one")));
        head.fields = Fields::Map(fields.into_iter().collect());
        let client = Client {
            address: Ipv4Addr::from(address).into(),
            local_port: 80,
            tls: false,
            trusted_proxies: &[],
        };
        let request = Request {
            head: &head,
            client: &client,
            target: b"/",
            authority: b"a",
            more: &[],
            timeouts: &Timeouts::default(),
            preamble: None,
            drain: None,
        };
        pool.pick(balance, tried, now, &Asker::Request(&request))
    }

    fn pick(pool: &Pool, balance: Balance, tried: &Tried, now: Instant) -> Option<usize> {
        pick_for(pool, balance, tried, now, (0, None))
    }

    fn turns(pool: &Pool, count: usize, balance: Balance) -> Vec<usize> {
        let pick = || pick(pool, balance, &Tried::default(), Instant::now()).expect("a member");
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
        let by_header = Options { balance_header: Some("x-user".to_owned()), ..Options::default() };
        let usual = Options::default();
        for (options, balance) in
            [(usual, Balance::ClientAddress), (by_header, Balance::RoundRobin)]
        {
            let pools = pools_with(&[1, 1, 2], options.clone());
            let chosen = |number: u32, tried: &Tried| {
                let name = number.to_string();
                let who = match &options.balance_header {
                    Some(_) => (0, Some(("x-user", name.as_str()))),
                    None => (number, None),
                };
                let pool = pools.pool(0);
                pick_for(pool, balance, tried, Instant::now(), who).expect("a member")
            };
            let mut counts = [0; 3];
            for number in 0..4000 {
                let first = chosen(number, &Tried::default());
                assert_eq!(chosen(number, &Tried::default()), first);
                counts[first] += 1;
                // Of one that goes, the clients move, and no others.
                let mut without = Tried::default();
                without.add(1);
                assert_eq!(chosen(number, &without) != first, first == 1, "{number}");
            }
            for (count, want) in counts.into_iter().zip([1000, 1000, 2000]) {
                assert!((want - 150..want + 150).contains(&count), "{counts:?}");
            }
        }
    }

    #[test]
    fn without_the_field_the_address_decides() {
        let options = Options { balance_header: Some("x-user".to_owned()), ..Options::default() };
        let pools = pools_with(&[1, 1, 1], options);
        let chosen = |number: u32| {
            let (tried, now) = (Tried::default(), Instant::now());
            pick_for(pools.pool(0), Balance::RoundRobin, &tried, now, (number, None))
        };
        let all: std::collections::BTreeSet<_> = (0..50).map(chosen).collect();
        assert_eq!((all.len(), chosen(7)), (3, chosen(7)));
    }

    #[test]
    fn a_cookie_stands_before_turns_and_not_before_health() {
        let sticky = Some(Sticky { cookie: "srv".to_owned() });
        let pools = pools_with(&[1, 1, 1], Options { sticky, ..Options::default() });
        let (pool, now) = (pools.pool(0), Instant::now());
        let cookie = pool.sticky.as_ref().and_then(|sticky| sticky.cookie(1, false));
        let cookie = cookie.expect("a cookie");
        let (cookie, _) = cookie.to_str().expect("text").split_once(';').expect("attributes");
        let pick = |tried: &Tried| {
            let who = (0, Some(("cookie", cookie)));
            pick_for(pool, Balance::RoundRobin, tried, now, who)
        };
        for _ in 0..4 {
            assert_eq!(pick(&Tried::default()), Some(1));
        }
        let mut tried = Tried::default();
        tried.add(1);
        assert_ne!(pick(&tried), Some(1));
        pool.members[1].upstream.failed(now, true);
        assert_ne!(pick(&Tried::default()), Some(1));
    }

    #[test]
    fn who_is_new_gets_its_share_bit_by_bit() {
        let whole = Duration::from_secs(20);
        let options = Options { slow_start: Some(whole), ..Options::default() };
        let pools = pools_with(&[1, 1], options);
        let (pool, start) = (pools.pool(0), Instant::now());
        let counts = |balance, seconds| {
            let now = start + Duration::from_secs(seconds);
            let mut counts = [0; 2];
            for client in 0..1100 {
                let tried = Tried::default();
                let picked = pick_for(pool, balance, &tried, now, (client, None));
                counts[picked.expect("a member")] += 1;
            }
            counts
        };
        assert_eq!(counts(Balance::RoundRobin, 0), [550; 2]);
        pool.members[1].upstream.since.set(Some(start));
        for (balance, room) in
            [(Balance::RoundRobin, 1), (Balance::LeastLoaded, 1), (Balance::ClientAddress, 40)]
        {
            for (seconds, want) in [(0, 100), (5, 220), (20, 550), (100, 550)] {
                let [_, new] = counts(balance, seconds);
                // Load is not counted here: whoever has the larger share is the least loaded.
                let want = if balance == Balance::LeastLoaded && seconds < 20 { 0 } else { want };
                assert!((want - room..=want + room).contains(&new), "{balance:?} {seconds}: {new}");
            }
        }
    }

    #[tokio::test]
    async fn who_has_room_is_next_and_else_the_shortest_queue() {
        let options = Options { max_requests: Some(1), ..Options::default() };
        let pools = pools_with(&[1, 1], options);
        let (pool, now) = (pools.pool(0), Instant::now());
        let next = || pick(pool, Balance::RoundRobin, &Tried::default(), now);
        let queue = pool.queue.expect("a cap has a queue");
        let gate = |index: usize| pool.members[index].gate.clone().expect("a gate");
        let _first = gate(0).enter(queue).await.expect("room");
        assert_eq!([next(), next(), next()], [Some(1); 3]);
        let _second = gate(1).enter(queue).await.expect("room");
        let waits = tokio::spawn({
            let gate = gate(0);
            async move { gate.enter(queue).await }
        });
        while gate(0).waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!([next(), next()], [Some(1); 2]);
        waits.abort();
    }

    #[test]
    fn tried_and_ejected_members_are_passed_over() {
        let pools = pools(&[1, 1, 1]);
        let (pool, now) = (pools.pool(0), Instant::now());
        let mut tried = Tried::default();
        tried.add(0);
        pool.members[1].upstream.failed(now, true);
        let pick = |tried: &Tried| pick(pool, Balance::RoundRobin, tried, now);
        assert_eq!(pick(&tried), Some(2));
        tried.add(2);
        assert_eq!(pick(&tried), Some(1), "an ejected one is better than none");
        tried.add(1);
        assert_eq!(pick(&tried), None);
    }
}
