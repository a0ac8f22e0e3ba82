//! Asks upstreams whether they can serve: ports of containers without a HEALTHCHECK until they accept
//! a connection, and whoever has a health path for as long as it is wanted.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::health_check;
use crate::config::HealthCheck;

/// Between the first two tries; doubled for each further one.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connects under way at one time.
const MAX_CONNECTS: usize = 64;

/// One address of one run of a container. A container that restarts keeps its address, but what was
/// found of the run before says nothing of the new one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    pub address: SocketAddr,
    /// Id of the container.
    pub container: String,
    /// [`super::docker::Container::started_at`]
    pub started_at: String,
    /// What it has to pass; `None`: it is enough that it accepts a connection.
    #[serde(default)]
    pub check: Option<HealthCheck>,
}

/// What a probe has found out.
struct Finding {
    target: Target,
    reachable: bool,
}

/// The running prober. Ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Prober {
    wanted: watch::Sender<BTreeSet<Target>>,
    asked: watch::Receiver<HashSet<Target>>,
    task: JoinHandle<()>,
}

impl Prober {
    /// The receiver has those of the wanted targets that can serve: the ones that have accepted a
    /// connection, from then on until they are no longer wanted (passive ejection does the rest), and
    /// those with a health check while they pass it.
    ///
    /// `known` were found before; they count until they are no longer wanted, or fail their check.
    pub fn start(known: Vec<Target>) -> (Prober, watch::Receiver<Arc<HashSet<Target>>>) {
        let (wanted, wanted_receiver) = watch::channel(BTreeSet::new());
        let known: Arc<HashSet<_>> = Arc::new(known.into_iter().collect());
        let (reachable, reachable_receiver) = watch::channel(known);
        let (asked_sender, asked) = watch::channel(HashSet::new());
        let task = tokio::spawn(run(wanted_receiver, reachable, asked_sender));
        (Prober { wanted, asked, task }, reachable_receiver)
    }

    /// Those of the wanted targets that were asked at least once, whatever they answered.
    pub fn asked(&self) -> watch::Receiver<HashSet<Target>> {
        self.asked.clone()
    }

    /// Replaces what is wanted.
    pub fn want(&self, targets: BTreeSet<Target>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != targets;
            *wanted = targets;
            changed
        });
    }

    /// Ends all probes.
    pub async fn stop(self) {
        drop(self.wanted);
        if let Err(error) = self.task.await {
            warn!("prober: {error}");
        }
    }
}

async fn run(
    mut wanted: watch::Receiver<BTreeSet<Target>>,
    reachable: watch::Sender<Arc<HashSet<Target>>>,
    asked: watch::Sender<HashSet<Target>>,
) {
    let (finder, mut findings) = mpsc::unbounded_channel();
    let connects = Arc::new(Semaphore::new(MAX_CONNECTS));
    // Dropping the set ends the probes.
    let mut probes = JoinSet::new();
    let mut probed: HashMap<Target, AbortHandle> = HashMap::new();
    loop {
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = wanted.borrow_and_update();
                probed.retain(|target, probe| {
                    let keep = wanted.contains(target);
                    if !keep {
                        probe.abort();
                    }
                    keep
                });
                reachable.send_if_modified(|found| retain(found, &wanted));
                asked.send_modify(|asked| asked.retain(|target| wanted.contains(target)));
                for target in wanted.iter() {
                    if !probed.contains_key(target) {
                        let is_up = reachable.borrow().contains(target);
                        let prober = Probe {
                            target: target.clone(),
                            connects: connects.clone(),
                            finder: finder.clone(),
                        };
                        probed.insert(target.clone(), probes.spawn(prober.run(is_up)));
                    }
                }
            }
            // So that those that have ended leave nothing behind.
            Some(_) = probes.join_next(), if !probes.is_empty() => {}
            Some(Finding { target, reachable: is_up }) = findings.recv() => {
                // One that was found just before it was no longer wanted is not.
                if !probed.contains_key(&target) {
                    continue;
                }
                reachable.send_if_modified(|found| {
                    let differs = found.contains(&target) != is_up;
                    match (differs, is_up) {
                        (false, _) => {}
                        (true, true) => drop(Arc::make_mut(found).insert(target.clone())),
                        (true, false) => drop(Arc::make_mut(found).remove(&target)),
                    }
                    differs
                });
                asked.send_if_modified(|asked| asked.insert(target));
            }
        }
    }
}

fn retain(found: &mut Arc<HashSet<Target>>, wanted: &BTreeSet<Target>) -> bool {
    if found.iter().all(|target| wanted.contains(target)) {
        return false;
    }
    Arc::make_mut(found).retain(|target| wanted.contains(target));
    true
}

/// One target, and where it is told what it was found to be.
struct Probe {
    target: Target,
    connects: Arc<Semaphore>,
    finder: mpsc::UnboundedSender<Finding>,
}

impl Probe {
    async fn run(self, is_up: bool) {
        match self.target.check.clone() {
            None => self.until_it_accepts().await,
            Some(check) => self.check(&check, is_up).await,
        }
    }

    fn found(&self, reachable: bool) {
        // Nobody listens when the prober ends.
        let _ = self.finder.send(Finding { target: self.target.clone(), reachable });
    }

    /// Ends when the target accepts; says so when it did not at first.
    async fn until_it_accepts(&self) {
        let mut pause = PAUSE_MIN;
        let mut is_refused = false;
        loop {
            let permit = self.connects.acquire().await;
            let accepts = accepts(self.target.address).await;
            drop(permit);
            if accepts {
                return self.found(true);
            }
            if !std::mem::replace(&mut is_refused, true) {
                self.found(false);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks for ever. Until it has risen for the first time, it is asked more often.
    async fn check(&self, check: &HealthCheck, is_up: bool) {
        let mut streak = Streak::new(is_up);
        let quick = check.interval.min(PAUSE_MAX);
        let (mut pause, mut longest) =
            if is_up { (check.interval, check.interval) } else { (PAUSE_MIN.min(quick), quick) };
        loop {
            let permit = self.connects.acquire().await;
            let passed = health_check::pass(self.target.address, check).await;
            drop(permit);
            if let Some(is_up) = streak.count(passed.is_ok(), check) {
                self.found(is_up);
                if is_up {
                    (pause, longest) = (check.interval, check.interval);
                }
            }
            if let Err(fault) = passed {
                self.tell(check, &fault, &streak);
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn tell(&self, check: &HealthCheck, fault: &health_check::Fault, streak: &Streak) {
        let (address, path) = (self.target.address, &check.path);
        // Once for each time that it falls, not at each check.
        if streak.has_just_fallen(check) {
            warn!("{address}: health check GET {path}: {fault}: out of rotation");
        } else {
            tracing::debug!("{address}: health check GET {path}: {fault}");
        }
    }
}

/// Checks in a row that went the same way.
#[derive(Debug)]
struct Streak {
    /// `None`: nobody was told yet.
    is_up: Option<bool>,
    passed: bool,
    length: u32,
}

impl Streak {
    fn new(is_up: bool) -> Self {
        Streak { is_up: is_up.then_some(true), passed: true, length: 0 }
    }

    /// Whether it is in rotation from now on, where that is news.
    fn count(&mut self, passed: bool, check: &HealthCheck) -> Option<bool> {
        self.length = if passed == self.passed { self.length.saturating_add(1) } else { 1 };
        self.passed = passed;
        let is_up = match (self.is_up, passed) {
            (Some(true), false) => self.length < check.fall,
            (_, true) => self.is_up == Some(true) || self.length >= check.rise,
            (_, false) => false,
        };
        // Of one that has passed, and not often enough, nothing is known yet.
        if passed && !is_up && self.is_up.is_none() {
            return None;
        }
        (self.is_up.replace(is_up) != Some(is_up)).then_some(is_up)
    }

    fn has_just_fallen(&self, check: &HealthCheck) -> bool {
        !self.passed && self.length == check.fall
    }
}

async fn accepts(address: SocketAddr) -> bool {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        // A port of this host in the ephemeral range can be connected to itself (RFC 9293 section
        // 3.5, simultaneous open): that is nobody who accepts.
        Ok(Ok(stream)) => stream.local_addr().ok() != stream.peer_addr().ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    fn target(address: SocketAddr, started_at: &str) -> Target {
        Target { address, container: "c".into(), started_at: started_at.into(), check: None }
    }

    async fn until(receiver: &mut watch::Receiver<Arc<HashSet<Target>>>, want: &[&Target]) {
        let want: HashSet<Target> = want.iter().map(|&target| target.clone()).collect();
        let seen = timeout(Duration::from_secs(10), receiver.wait_for(|found| **found == want));
        seen.await.expect("in time").expect("prober runs");
    }

    #[tokio::test]
    async fn a_port_that_accepts_is_reachable_while_it_is_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let target = target(listener.local_addr().expect("address"), "1");
        let (prober, mut receiver) = Prober::start(vec![]);
        prober.want([target.clone()].into());
        until(&mut receiver, &[&target]).await;
        prober.want([].into());
        until(&mut receiver, &[]).await;
        prober.stop().await;
    }

    #[tokio::test]
    async fn a_port_is_asked_until_it_accepts() {
        // Bound and not listening: refuses.
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind("127.0.0.1:0".parse().expect("address")).expect("bind");
        let target = target(socket.local_addr().expect("address"), "1");
        assert!(!accepts(target.address).await);
        let (prober, mut receiver) = Prober::start(vec![]);
        prober.want([target.clone()].into());
        let asked = prober.asked().wait_for(|asked| asked.contains(&target)).await.is_ok();
        assert!(asked && receiver.borrow().is_empty());
        let _listener = socket.listen(8).expect("listen");
        until(&mut receiver, &[&target]).await;
        prober.stop().await;
    }

    #[tokio::test]
    async fn a_restart_at_the_same_address_is_asked_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (first, second) = (target(address, "1"), target(address, "2"));
        let (prober, mut receiver) = Prober::start(vec![]);
        prober.want([first.clone()].into());
        until(&mut receiver, &[&first]).await;
        prober.want([second.clone()].into());
        until(&mut receiver, &[&second]).await;
        prober.stop().await;
    }

    #[tokio::test]
    async fn a_dead_port_does_not_hold_the_others_back() {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind("127.0.0.1:0".parse().expect("address")).expect("bind");
        let dead = target(socket.local_addr().expect("address"), "1");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let alive = target(listener.local_addr().expect("address"), "1");
        let (prober, mut receiver) = Prober::start(vec![]);
        prober.want([dead, alive.clone()].into());
        until(&mut receiver, &[&alive]).await;
        prober.stop().await;
    }

    fn check(interval: u64, rise: u32, fall: u32) -> HealthCheck {
        let interval = Duration::from_millis(interval);
        HealthCheck { interval, rise, fall, ..HealthCheck::new("/up".to_owned()) }
    }

    #[test]
    fn it_rises_and_falls_by_checks_in_a_row() {
        // Checks as they went (`+` passed), and what was told after each: up, down or nothing.
        for (was_up, rise, fall, checks, want) in [
            (false, 2, 3, "++", ".u"),
            (false, 2, 3, "+-++", ".d.u"),
            (false, 1, 1, "+-+-", "udud"),
            (false, 1, 3, "----+", "d...u"),
            (false, 2, 2, "++-+--+-++", ".u...d...u"),
            (true, 2, 3, "+--+---", "......d"),
            (true, 2, 3, "---", "..d"),
        ] {
            let (mut streak, check) = (Streak::new(was_up), check(1, rise, fall));
            let told: String = checks
                .chars()
                .map(|c| match streak.count(c == '+', &check) {
                    Some(true) => 'u',
                    Some(false) => 'd',
                    None => '.',
                })
                .collect();
            assert_eq!(told, want, "{was_up} {rise} {fall} {checks}");
        }
    }

    /// Answers each connection by the head that holds, and counts them.
    async fn server(mut head: watch::Receiver<&'static str>) -> SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap_or_default();
                let asked = String::from_utf8_lossy(&buffer[..read]).to_ascii_lowercase();
                assert!(asked.starts_with("get /up http/1.1\r\n"), "{asked}");
                let head = *head.borrow_and_update();
                let _ = stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_health_path_decides_again_and_again() {
        let (head, receiver) = watch::channel("503 Not Yet");
        let address = server(receiver).await;
        let target = Target { check: Some(check(5, 2, 2)), ..target(address, "1") };
        let (prober, mut found) = Prober::start(vec![]);
        prober.want([target.clone()].into());
        let asked = prober.asked().wait_for(|asked| asked.contains(&target)).await.is_ok();
        assert!(asked && found.borrow().is_empty());
        for (answer, is_up) in [("204 Up", true), ("404 Gone", false), ("302 Found", true)] {
            head.send_replace(answer);
            let want = if is_up { vec![&target] } else { vec![] };
            until(&mut found, &want).await;
        }
        prober.stop().await;
    }

    #[tokio::test]
    async fn what_was_up_before_is_until_it_falls() {
        let (head, receiver) = watch::channel("200 OK");
        let address = server(receiver).await;
        let target = Target { check: Some(check(5, 2, 1)), ..target(address, "1") };
        let (prober, mut found) = Prober::start(vec![target.clone()]);
        prober.want([target.clone()].into());
        assert_eq!(found.borrow().len(), 1);
        head.send_replace("500 No");
        until(&mut found, &[]).await;
        prober.stop().await;
    }
}
