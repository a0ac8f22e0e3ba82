//! Publishes what is true now: the snapshot to the worker, the view to the admin socket, the
//! changes to the log.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::admin::known::View;
use super::certificates::acme::{Stock, Wishes};
use super::certificates::{Assembled, Certificates, ClientCas, Problem, Wanted};
use super::changes::{changes, fresh};
use super::docker::{Container, Containers};
use super::environment::Environment;
use super::error_pages::ErrorPages;
use super::htpasswd::Htpasswd;
use super::interventions::Interventions;
use super::probe::Target;
use super::routes::{self, HostEntry, Inputs, Served, Table, UpstreamState};
use super::ticket_keys::TicketKeys;
use super::vacancies::Vacancies;
use super::view;
use crate::config::{Config, Proof, StaticRoute};
use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot::{Snapshot, StickyKey};

/// What stands still between two events, and what was published last.
pub struct Publisher {
    certificates: Certificates,
    stock: watch::Receiver<Arc<Stock>>,
    ticket_keys: TicketKeys,
    sticky_key: StickyKey,
    routes: Vec<StaticRoute>,
    /// `default_host`
    default_host: Option<HostPattern>,
    awaits_docker: bool,
    /// Roots that CAs' own endpoints are trusted by.
    ca_file: Option<PathBuf>,
    /// How control over names is shown to CAs.
    proof: Proof,
    client_cas: ClientCas,
    htpasswd: Htpasswd,
    error_pages: ErrorPages,
    environment: Environment,
    table: Table,
    vacancies: Vacancies,
    interventions: Interventions,
    /// Requests wait where nobody is up for a moment.
    holds: bool,
    problems: Vec<String>,
    /// When certificates or ticket keys are due, whatever else happens.
    due: SystemTime,
    /// Workers keep what they have.
    held: bool,
    snapshot: watch::Sender<Arc<Snapshot>>,
    view: watch::Sender<Arc<View>>,
    wishes: watch::Sender<Arc<Wishes>>,
}

/// A root of static files that a worker will not be able to open.
fn unusable(root: &Path) -> Option<Problem> {
    let reason = match std::fs::metadata(root) {
        Ok(found) if found.is_dir() => return None,
        Ok(_) => "not a directory: its routes answer 503".to_owned(),
        Err(error) => format!("{error}: its routes answer 503"),
    };
    Some(Problem { thing: format!("static files in {}", root.display()), reason })
}

impl Publisher {
    /// Knows no configuration and publishes nothing yet: see [`Publisher::configure`] and
    /// [`Publisher::publish`]. `snapshot` is what workers route by until then.
    pub fn new(
        certificates: Certificates,
        stock: watch::Receiver<Arc<Stock>>,
        (ticket_keys, sticky_key): (TicketKeys, StickyKey),
        environment: Environment,
        snapshot: Snapshot,
    ) -> Self {
        Publisher {
            certificates,
            stock,
            ticket_keys,
            sticky_key,
            routes: Vec::new(),
            default_host: None,
            awaits_docker: false,
            ca_file: None,
            proof: Proof::default(),
            client_cas: ClientCas::default(),
            htpasswd: Htpasswd::default(),
            error_pages: ErrorPages::default(),
            environment,
            table: Table::default(),
            vacancies: Vacancies::default(),
            interventions: Interventions::default(),
            holds: false,
            problems: Vec::new(),
            due: SystemTime::now(),
            held: false,
            snapshot: watch::Sender::new(Arc::new(snapshot)),
            view: watch::Sender::default(),
            wishes: watch::Sender::default(),
        }
    }

    /// nginx-proxy's variables.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// What is to be ordered and kept.
    pub fn wishes(&self) -> watch::Receiver<Arc<Wishes>> {
        self.wishes.subscribe()
    }

    /// The table that was published last.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Version of the snapshot that was published last.
    pub fn version(&self) -> u64 {
        self.snapshot.borrow().version
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot::clone(&self.snapshot.borrow())
    }

    pub fn ticket_keys(&self) -> &TicketKeys {
        &self.ticket_keys
    }

    /// When to publish again although nothing has happened: a certificate is renewed or ends then,
    /// or a ticket key is, or requests wait no more.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// Until this is lifted, workers hear nothing: what they route by is better than what we know.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    pub fn is_held(&self) -> bool {
        self.held
    }

    pub fn interventions(&self) -> &Interventions {
        &self.interventions
    }

    /// Knows these of another run: until there is a list, or for a while, requests to them wait.
    pub fn remember(&mut self, containers: &[Container]) {
        if self.holds {
            self.vacancies.recall(containers, SystemTime::now());
        }
    }

    /// Goes on where the program before this one was, which published what this one begins with.
    pub fn resume(&mut self, containers: Vec<Container>) {
        if self.holds {
            let held = routes::held(&self.snapshot.borrow());
            self.vacancies.resume(containers, held);
        }
    }

    /// For [`Publisher::resume`].
    pub fn known_containers(&self) -> Vec<Container> {
        self.vacancies.known()
    }

    /// Takes effect with the next publish.
    pub fn intervene(&mut self, interventions: Interventions) {
        self.interventions = interventions;
    }

    /// What of the configuration goes live in place. Takes effect with the next publish.
    pub fn configure(&mut self, config: &Config) -> Vec<Problem> {
        self.routes.clone_from(&config.routes);
        self.default_host.clone_from(&config.default_host);
        self.awaits_docker = config.docker.enabled;
        self.holds = !config.worker.hold.limit.is_zero();
        self.ca_file.clone_from(&config.acme.ca_file);
        self.proof.clone_from(&config.acme.proof);
        let mut acme = config.acme.clone();
        acme.email = acme.email.or_else(|| self.environment.email.clone());
        self.certificates.set_acme(acme);
        let mut problems =
            self.certificates.set_files(&config.certificates, &config.certificate_dirs);
        let named = config.routes.iter().filter_map(|route| route.client_ca.as_ref());
        problems.extend(self.client_cas.set(config.client_ca_dir.as_deref(), named));
        problems.extend(self.htpasswd.read(config.htpasswd_dir.as_deref()));
        problems.extend(self.error_pages.read(config.error_pages.as_deref()));
        problems.extend(config.worker.static_roots.iter().filter_map(|root| unusable(root)));
        problems
    }

    /// Rebuilds everything from what is known, and publishes what differs. Returns the changes, one
    /// line each.
    pub fn publish(&mut self, containers: &Containers, reachable: &HashSet<Target>) -> Vec<String> {
        let now = SystemTime::now();
        let list = if self.holds { containers.list.as_slice() } else { &[] };
        self.vacancies.note_containers(list, now);
        if containers.status.last_sync.is_some() {
            self.vacancies.forget_recalled();
        }
        let mut table = routes::build(&Inputs {
            containers: &containers.list,
            departed: &self.vacancies.departed(),
            static_routes: &self.routes,
            reachable,
            incumbents: &self.table.incumbents,
            prefer_ipv6: self.environment.prefer_ipv6,
            defaults: &self.environment.defaults,
        });
        if self.holds {
            self.vacancies.mark(&mut table, now);
        }
        self.interventions.expire(now);
        for host in &mut table.hosts {
            host.intervention = self.interventions.of(&host.pattern.to_string()).cloned();
        }
        self.htpasswd.guard(&mut table.hosts);
        let stock = self.stock.borrow().clone();
        let mut assembled = self.assemble(&table, &stock);
        let served = self.served(&table, &mut assembled);
        table.diagnose_missing(&assembled.missing);
        let is_complete = containers.status.last_sync.is_some() || !self.awaits_docker;
        self.check_default_host(&table, is_complete, &mut assembled.problems);
        self.check_error_pages(&table, &mut assembled.problems);
        if self.ticket_keys.rotate(now) {
            tracing::info!("TLS session tickets have a new key");
        }
        if !self.held {
            self.send_snapshot(&table, served, &assembled, &stock);
        }
        self.send_wishes(&assembled);
        let view = view::of(containers, &table, &assembled, self.version());
        self.view.send_replace(Arc::new(view));

        let changes = changes(&self.table, &table);
        self.tell(&changes, &table, &assembled);
        self.table = table;
        let due = assembled.next_change.min(self.ticket_keys.next_change());
        let others = [self.vacancies.next_change(), self.interventions.next_change()];
        self.due = others.into_iter().flatten().fold(due, SystemTime::min);
        changes
    }

    fn default_host(&self) -> Option<&HostPattern> {
        self.default_host.as_ref().or(self.environment.default_host.as_ref())
    }

    /// Reports a default host that nobody routes.
    fn check_default_host(&self, table: &Table, is_complete: bool, problems: &mut Vec<Problem>) {
        // Without Docker's list nobody knows.
        let Some(name) = self.default_host().filter(|_| is_complete) else { return };
        if !table.hosts.iter().any(|host| host.pattern == *name) {
            let thing = format!("default host {name}");
            let reason = "not routed: unknown names are answered 503 until it is".to_owned();
            problems.push(Problem { thing, reason });
        }
    }

    /// Reports routes that name a set of pages that there is not.
    fn check_error_pages(&self, table: &Table, problems: &mut Vec<Problem>) {
        for host in &table.hosts {
            let named = host.routes.iter().filter_map(|route| route.options.error_pages.as_ref());
            for name in named.filter(|name| !self.error_pages.sets().contains_key(*name)) {
                problems.push(Problem {
                    thing: format!("error pages {name} of {}", host.pattern),
                    reason: "there are none of this name: the usual ones are shown".to_owned(),
                });
            }
        }
    }

    fn assemble(&mut self, table: &Table, stock: &Stock) -> Assembled {
        let is_up = |host: &HostEntry| {
            let mut upstreams = host.routes.iter().flat_map(|route| &route.upstreams);
            host.routes.iter().any(|route| route.options.root.is_some())
                || upstreams.any(|upstream| upstream.state == UpstreamState::Up)
        };
        let wanted: Vec<_> = table
            .hosts
            .iter()
            .map(|host| Wanted {
                pattern: host.pattern.clone(),
                tls: host.tls,
                is_up: is_up(host),
                wish: host.wish.clone(),
            })
            .collect();
        self.certificates.assemble(&wanted, stock)
    }

    fn send_wishes(&self, assembled: &Assembled) {
        let next = Wishes {
            certificates: assembled.desired.clone(),
            ca_file: self.ca_file.clone(),
            proof: self.proof.clone(),
        };
        self.wishes.send_if_modified(|wishes| {
            let differs = **wishes != next;
            if differs {
                *wishes = Arc::new(next);
            }
            differs
        });
    }

    fn served(&self, table: &Table, assembled: &mut Assembled) -> Vec<Served> {
        let Assembled { trust, problems, .. } = assembled;
        let hosts = table.hosts.iter().zip(trust.iter());
        hosts
            .map(|(host, trust)| Served {
                trust: *trust,
                client_auth: self.client_cas.of(host, problems),
            })
            .collect()
    }

    fn send_snapshot(
        &self,
        table: &Table,
        served: Vec<Served>,
        assembled: &Assembled,
        stock: &Stock,
    ) {
        let hosts = table.snapshot_hosts(served);
        let fallback = hosts.iter().find(|host| Some(&host.pattern) == self.default_host());
        let fallback = fallback.map(|host| Box::new(host.as_fallback()));
        let mut routes = hosts.iter().flat_map(|host| &host.routes);
        let is_sticky = routes.any(|route| route.options.sticky.is_some());
        self.snapshot.send_if_modified(|published| {
            let next = Snapshot {
                version: published.version,
                hosts,
                certificates: assembled.certificates.clone(),
                ticket_keys: self.ticket_keys.newest_first().to_vec(),
                sticky_key: is_sticky.then(|| self.sticky_key.clone()),
                challenges: stock.challenges.clone(),
                fallback,
                error_pages: self.error_pages.sets().clone(),
            };
            let differs = published.version == 0 || **published != next;
            if differs {
                *published = Arc::new(Snapshot { version: next.version + 1, ..next });
            }
            differs
        });
    }

    fn tell(&mut self, changes: &[String], table: &Table, assembled: &Assembled) {
        for change in changes {
            tracing::info!("{change}");
        }
        for diagnosis in fresh(&self.table.diagnoses, &table.diagnoses) {
            tracing::warn!("{}", view::diagnosis_line(diagnosis));
        }
        let problems: Vec<_> = assembled.problems.iter().map(ToString::to_string).collect();
        for problem in fresh(&self.problems, &problems) {
            tracing::warn!("{problem}");
        }
        self.problems = problems;
    }
}
