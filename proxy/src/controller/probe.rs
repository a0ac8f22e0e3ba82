//! Asks ports of containers without a HEALTHCHECK whether they accept a connection.

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
}

/// The running prober. Ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Prober {
    wanted: watch::Sender<BTreeSet<Target>>,
    asked: watch::Receiver<HashSet<Target>>,
    task: JoinHandle<()>,
}

impl Prober {
    /// The receiver has those of the wanted targets that have accepted a connection. From then on a
    /// target counts as reachable until it is no longer wanted: passive ejection does the rest.
    ///
    /// `known` were found before; they count until they are no longer wanted.
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
    let (refused, mut refusals) = mpsc::unbounded_channel();
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
                        let probe = probe(target.clone(), connects.clone(), refused.clone());
                        let probe = probes.spawn(probe);
                        probed.insert(target.clone(), probe);
                    }
                }
            }
            Some(accepted) = probes.join_next(), if !probes.is_empty() => {
                // An aborted probe is an error here; one that ended just before is not wanted.
                if let Ok(target) = accepted && probed.contains_key(&target) {
                    reachable.send_if_modified(|found| Arc::make_mut(found).insert(target.clone()));
                    asked.send_if_modified(|asked| asked.insert(target));
                }
            }
            Some(target) = refusals.recv() => {
                if probed.contains_key(&target) {
                    asked.send_if_modified(|asked| asked.insert(target));
                }
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

/// Ends when the target accepts; says so when it did not at first.
async fn probe(
    target: Target,
    connects: Arc<Semaphore>,
    refused: mpsc::UnboundedSender<Target>,
) -> Target {
    let mut pause = PAUSE_MIN;
    let mut refused = Some(refused);
    loop {
        let permit = connects.acquire().await;
        let accepts = accepts(target.address).await;
        drop(permit);
        if accepts {
            return target;
        }
        if let Some(refused) = refused.take() {
            // Nobody listens when the prober ends.
            let _ = refused.send(target.clone());
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
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
        Target { address, container: "c".into(), started_at: started_at.into() }
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
}
