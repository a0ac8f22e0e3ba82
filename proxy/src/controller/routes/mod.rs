//! From containers and configuration to the route table: a pure function.

mod claim;
mod multiports;
mod opinion;
mod options;
mod settings;
mod table;
pub(super) mod value;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use self::claim::{Claim, Listed, Reading, key, normal};
use self::opinion::{Dissent, Opinion, Opinions, OrderOpinions, value};
pub(super) use self::settings::is_secret;
pub use self::table::{
    Clients, Diagnosis, HostEntry, Incumbents, Policy, RouteEntry, RouteKey, Served, Table,
    Unrouted, UpstreamEntry, UpstreamState, held,
};
use super::certificates::{Asked, Named, Wish};
use super::docker::Container;
use super::environment::Defaults;
use super::probe;
use crate::config::{Hsts, RouteTls, StaticRoute, StaticUpstream, VerifyClient};
use crate::protocol::options::Options;
use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot::HttpsMethod;

/// How a diagnosis names the configuration file.
const CONFIGURATION: &str = "the configuration";
/// Docker's network for published ports of a swarm: nothing listens there.
const INGRESS: &str = "ingress";
/// Longest text of a container that is shown, in characters.
const MAX_SHOWN: usize = 300;

/// All that a table depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub containers: &'a [Container],
    /// Those that are gone, but whose routes stay known for a while.
    pub departed: &'a [Container],
    pub static_routes: &'a [StaticRoute],
    /// What the prober found accepting.
    pub reachable: &'a HashSet<probe::Target>,
    /// Of the table before, so that a project does not lose a name to one that came later.
    pub incumbents: &'a Incumbents,
    /// PREFER_IPV6_NETWORK
    pub prefer_ipv6: bool,
    /// For hosts that say nothing.
    pub defaults: &'a Defaults,
}

/// The table for these inputs, and for no other reason ever a different one.
pub fn build(inputs: &Inputs<'_>) -> Table {
    let mut draft = Draft::default();
    for route in inputs.static_routes {
        draft.configure(route, inputs.reachable);
    }
    let readings = by_age(inputs.containers).into_iter().map(|c| (c, Reading::of(c, inputs)));
    let mut readings: Vec<(&Container, Reading<'_>)> = readings.collect();
    let claims = readings.iter().flat_map(|(_, reading)| &reading.claims);
    draft.incumbents = incumbents(claims, inputs.incumbents);
    for (container, reading) in &mut readings {
        draft.diagnoses.append(&mut reading.diagnoses);
        draft.place(container, reading);
    }
    // Once it is known what is routed.
    for (container, reading) in &readings {
        draft.ask(container, reading);
    }
    // Of those that followed one another, the last one.
    for container in by_age(inputs.departed).into_iter().rev() {
        draft.remember(container, &Reading::of(container, inputs));
    }
    let mut table = draft.finish(inputs.defaults);
    options::find_servers(&mut table, inputs);
    table
}

/// The oldest first: of two that disagree, its word stands.
fn by_age(containers: &[Container]) -> Vec<&Container> {
    let mut sorted: Vec<&Container> = containers.iter().collect();
    sorted.sort_by_key(|container| (container.created, &container.name, &container.id));
    sorted
}

/// Which compose project holds each route: the one that held it, while it still claims it, else
/// the one with the oldest container. A container outside compose holds nothing and may join.
fn incumbents<'a>(claims: impl Iterator<Item = &'a Claim<'a>>, before: &Incumbents) -> Incumbents {
    let mut holders = BTreeMap::new();
    for claim in claims {
        let Some(project) = claim.container.project() else { continue };
        let key = claim.key();
        if before.0.get(&key).is_some_and(|holder| holder == project) {
            holders.insert(key, project.to_owned());
        } else {
            holders.entry(key).or_insert_with(|| project.to_owned());
        }
    }
    Incumbents(holders)
}

#[derive(Default)]
struct Draft {
    hosts: BTreeMap<HostPattern, HostDraft>,
    configured: BTreeSet<RouteKey>,
    incumbents: Incumbents,
    unrouted: Vec<Unrouted>,
    diagnoses: Vec<Diagnosis>,
    probes: BTreeSet<probe::Target>,
}

#[derive(Default)]
struct HostDraft {
    tls: RouteTls,
    says: Opinions,
    order: OrderOpinions,
    /// One certificate with these names.
    asked: Option<Opinion<Vec<HostPattern>>>,
    /// A container of it lists other names.
    is_left_out: bool,
    /// By the path as it is written.
    routes: BTreeMap<String, RouteDraft>,
}

struct RouteDraft {
    entry: RouteEntry,
    /// What containers say of its options.
    options: options::Said,
    /// Who was first.
    by: String,
}

impl Draft {
    fn configure(&mut self, route: &StaticRoute, reachable: &HashSet<probe::Target>) {
        let path = normal(route.path.clone());
        let key = key(&route.host, &path);
        if !self.configured.insert(key.clone()) {
            self.diagnoses.push(Diagnosis {
                container: CONFIGURATION.to_owned(),
                setting: "route".to_owned(),
                value: format!("{}{path}", route.host),
                problem: "is there twice; the first one stands".to_owned(),
            });
            return;
        }
        let host = self.hosts.entry(route.host.clone()).or_default();
        if host.routes.is_empty() {
            host.tls = route.tls;
        }
        let dissents = host.says.hear(&configured(route));
        let upstreams = route.upstreams.iter().map(|upstream| {
            let probe = configured_probe(route, upstream);
            let state = match &probe {
                Some(target) if !reachable.contains(target) => UpstreamState::Unready,
                _ => UpstreamState::Up,
            };
            self.probes.extend(probe);
            UpstreamEntry {
                name: upstream.text.clone(),
                address: Some(upstream.address),
                protocol: upstream.protocol,
                weight: 1,
                container: None,
                health: route.health.as_ref().map(|check| check.path.clone()),
                state,
            }
        });
        let upstreams = upstreams.collect();
        let entry = RouteEntry {
            path,
            replace_prefix: route.replace_prefix.clone(),
            options: route.options.clone(),
            upstreams,
            hold: false,
        };
        let by = CONFIGURATION.to_owned();
        host.routes.insert(key.1, RouteDraft { entry, options: options::Said::default(), by });
        self.tell(&route.host, dissents);
    }

    fn tell(&mut self, place: &dyn std::fmt::Display, dissents: Vec<Dissent>) {
        self.diagnoses.extend(dissents.into_iter().map(|dissent| Diagnosis {
            problem: disagrees(place, &dissent.stands_by, &dissent.stands),
            container: dissent.by,
            setting: dissent.setting,
            value: dissent.text,
        }));
    }

    /// Puts a container's claims into the table; it is unrouted when none of them can be.
    fn place(&mut self, container: &Container, reading: &Reading<'_>) {
        let mut reasons = reading.reasons.clone();
        let mut placed = false;
        for claim in &reading.claims {
            match self.holder(claim) {
                Some(holder) => {
                    let route = format!("{}{}", claim.host, claim.path);
                    reasons.push(format!("{route} belongs to {holder}"));
                    self.diagnoses.push(Diagnosis {
                        container: container.name.clone(),
                        setting: claim.host_setting.clone(),
                        value: claim.host.to_string(),
                        problem: format!("{route} belongs to {holder}, which keeps it"),
                    });
                }
                None => {
                    self.merge(claim, reading);
                    placed = true;
                }
            }
        }
        if placed {
            return;
        }
        let reason = if reasons.is_empty() { no_host(container) } else { reasons.join("; ") };
        self.unrouted.push(Unrouted { container: container.name.clone(), reason });
    }

    /// Keeps the routes of a container that is gone, where no other has them. What it says wrongly
    /// was said while it lived.
    fn remember(&mut self, container: &Container, reading: &Reading<'_>) {
        let said = self.diagnoses.len();
        for claim in &reading.claims {
            let host = self.hosts.get(&claim.host);
            if !host.is_some_and(|host| host.routes.contains_key(&claim.path.to_string())) {
                self.merge(claim, reading);
            }
        }
        self.ask(container, reading);
        self.diagnoses.truncate(said);
    }

    /// Who keeps the route from this claim.
    fn holder(&self, claim: &Claim<'_>) -> Option<String> {
        let key = claim.key();
        if self.configured.contains(&key) {
            return Some(CONFIGURATION.to_owned());
        }
        let holder = self.incumbents.0.get(&key)?;
        let project = claim.container.project()?;
        (holder != project).then(|| format!("the compose project `{holder}`"))
    }

    fn merge(&mut self, claim: &Claim<'_>, reading: &Reading<'_>) {
        let name = &claim.container.name;
        let host = self.hosts.entry(claim.host.clone()).or_default();
        let mut dissents = host.says.hear(&claim.says);
        dissents.extend(host.order.hear(&reading.order));
        host.is_left_out |=
            reading.listed.as_ref().is_some_and(|listed| !listed.names.contains(&claim.host));
        let route = host.routes.entry(claim.path.to_string()).or_insert_with(|| RouteDraft {
            entry: RouteEntry {
                path: claim.path.clone(),
                replace_prefix: claim.replace_prefix.clone(),
                options: Options::default(),
                upstreams: Vec::new(),
                hold: false,
            },
            options: options::Said::default(),
            by: name.clone(),
        });
        let of_route = route.options.hear(&claim.options);
        route.entry.options = route.options.options();
        let stands = &route.entry;
        let place = format!("{}{}", claim.host, claim.path);
        if stands.replace_prefix != claim.replace_prefix {
            let text = |prefix: &Option<String>| prefix.clone().unwrap_or_else(|| "unset".into());
            let problem = disagrees(&place, &route.by, &text(&stands.replace_prefix));
            let value = claim.replace_prefix.as_deref().unwrap_or_default();
            self.diagnoses.push(diagnosis(claim, &claim.prefix_setting, value, problem));
        }
        if stands.path != claim.path {
            let problem = disagrees(&place, &route.by, "the other kind of prefix");
            let value = claim.path.to_string();
            self.diagnoses.push(diagnosis(claim, &claim.path_setting, &value, problem));
        }
        if !route.entry.upstreams.contains(&claim.upstream) {
            route.entry.upstreams.push(claim.upstream.clone());
        }
        self.probes.extend(claim.probe.clone());
        self.tell(&claim.host, dissents);
        self.tell(&place, of_route);
    }

    /// What a container lists is one certificate, or one for each name. Of two that have a name in
    /// different ones, the older one's word stands for it.
    fn ask(&mut self, container: &Container, reading: &Reading<'_>) {
        let Some(listed) = &reading.listed else { return };
        let names = self.routed(container, listed);
        for name in &names {
            let host = self.hosts.entry(name.clone()).or_default();
            let dissents = host.order.hear(&reading.order);
            self.tell(name, dissents);
        }
        let groups = match listed.single {
            true => names.into_iter().map(|name| vec![name]).collect(),
            false => vec![names],
        };
        for group in groups {
            self.ask_for(container, &listed.setting, group);
        }
    }

    fn ask_for(&mut self, container: &Container, setting: &str, group: Vec<HostPattern>) {
        let mut said = Opinion {
            text: texts(&group).join(","),
            value: group,
            setting: setting.to_owned(),
            by: container.name.clone(),
        };
        let mut free = said.value.clone();
        free.retain(|name| match self.hosts.get(name).and_then(|host| host.asked.as_ref()) {
            None => true,
            Some(stands) => {
                let differs = !is_same_set(&stands.value, &said.value);
                let dissent = differs.then(|| Dissent::of(&said, stands));
                self.tell(name, dissent.into_iter().collect());
                false
            }
        });
        said.value = free;
        for name in &said.value {
            self.hosts.entry(name.clone()).or_default().asked = Some(said.clone());
        }
    }

    /// Those of the list that are routed, by whomever.
    fn routed(&mut self, container: &Container, listed: &Listed) -> Vec<HostPattern> {
        let (routed, others): (Vec<_>, Vec<_>) =
            listed.names.iter().cloned().partition(|name| self.hosts.contains_key(name));
        self.diagnoses.extend(others.iter().map(|name| Diagnosis {
            container: container.name.clone(),
            setting: listed.setting.clone(),
            value: name.to_string(),
            problem: "is not routed: no certificate is ordered for it".to_owned(),
        }));
        routed
    }

    fn finish(mut self, defaults: &Defaults) -> Table {
        self.diagnose_unseen();
        for unrouted in &mut self.unrouted {
            unrouted.reason = printable(&unrouted.reason);
        }
        for diagnosis in &mut self.diagnoses {
            // The name of a label is any text, too.
            diagnosis.setting = printable(&diagnosis.setting);
            diagnosis.value = printable(&diagnosis.value);
            diagnosis.problem = printable(&diagnosis.problem);
        }
        self.unrouted.sort();
        self.diagnoses.sort();
        // Several routers of a container inherit the same wrong value.
        self.diagnoses.dedup();
        let wishes: Vec<Wish> = self.hosts.values().map(|host| self.wish(host)).collect();
        let hosts = self.hosts.into_iter().zip(wishes).map(|((pattern, host), wish)| {
            let policy = policy(&host.says, defaults);
            HostEntry {
                pattern,
                tls: tls(&host, &policy, &wish),
                policy,
                wish,
                clients: Clients {
                    ca: value(host.says.client_ca.as_ref()),
                    verify: value(host.says.verify_client.as_ref()),
                },
                intervention: None,
                routes: host.routes.into_values().map(|route| route.entry).collect(),
            }
        });
        Table {
            hosts: hosts.collect(),
            unrouted: self.unrouted,
            diagnoses: self.diagnoses,
            probes: self.probes,
            incumbents: self.incumbents,
        }
    }
}

impl Draft {
    /// Where TLS is passed through, nobody here sees a request.
    fn diagnose_unseen(&mut self) {
        let says = |host: &HostDraft| host.says.tls.clone();
        let passed = self.hosts.iter().filter_map(|(name, host)| Some((name, host, says(host)?)));
        for (name, host, said) in passed {
            for route in host.routes.values() {
                let unseen = unseen(&route.entry);
                if !unseen.is_empty() {
                    let unseen = unseen.join(", ");
                    self.diagnoses.push(Diagnosis {
                        container: route.by.clone(),
                        setting: said.setting.clone(),
                        value: said.text.clone(),
                        problem: format!("hides the requests to {name}: no use for {unseen}"),
                    });
                }
            }
        }
    }

    /// What is said of the first name holds for the whole certificate.
    fn wish(&self, host: &HostDraft) -> Wish {
        let asked = host.asked.as_ref().map(|asked| &asked.value);
        let first = asked.and_then(|names| self.hosts.get(names.first()?));
        let order = &first.unwrap_or(host).order;
        Wish {
            asked: match asked {
                Some(names) => Asked::For(texts(names)),
                None if host.is_left_out => Asked::No,
                None => Asked::Unsaid,
            },
            cert_name: host
                .says
                .cert_name
                .as_ref()
                .map(|said| Named { name: said.value.clone(), by: said.by.clone() }),
            email: value(order.email.as_ref()),
            directory: value(order.directory.as_ref()),
            challenge: value(order.challenge.as_ref()),
            profile: value(order.profile.as_ref()),
            preferred_chain: value(order.preferred_chain.as_ref()),
            external_account: value(order.external_account.as_ref()),
            key: value(order.key.as_ref()),
        }
    }
}

/// What a route says of its requests, and not of its connections.
fn unseen(route: &RouteEntry) -> Vec<String> {
    const OF_CONNECTIONS: [&str; 7] =
        ["allow", "deny", "balance", "compress", "max_requests", "proxy_protocol", "timeout"];
    let path = route.path.to_string();
    let mut unseen = route.options.names();
    // Compression is on unless somebody says otherwise.
    unseen.retain(|name| !OF_CONNECTIONS.contains(&name.as_str()));
    unseen.extend((path != "/").then(|| format!("the path {path}")));
    unseen
}

/// A host without HTTPS needs no certificate, unless somebody asks for one by name.
fn tls(host: &HostDraft, policy: &Policy, wish: &Wish) -> RouteTls {
    let is_asked = matches!(wish.asked, Asked::For(_));
    match value(host.says.tls.as_ref()) {
        _ if policy.https == HttpsMethod::NoHttps && !is_asked => RouteTls::Off,
        Some(passthrough) => passthrough,
        None => host.tls,
    }
}

fn policy(says: &Opinions, defaults: &Defaults) -> Policy {
    let usual = Policy::from(defaults);
    Policy {
        https: value(says.https.as_ref()).unwrap_or(usual.https),
        https_port: value(says.https_port.as_ref()),
        hsts: value(says.hsts.as_ref()).unwrap_or(usual.hsts),
        non_get_redirect: value(says.non_get_redirect.as_ref()).unwrap_or(usual.non_get_redirect),
        http_on_missing: value(says.http_on_missing.as_ref()).unwrap_or(usual.http_on_missing),
        default_root: value(says.default_root.as_ref()).unwrap_or(usual.default_root),
    }
}

/// What a route of the configuration says of its host.
fn configured(route: &StaticRoute) -> Opinions {
    fn said<T>(value: Option<T>, setting: &str, text: &str) -> Option<Opinion<T>> {
        let (setting, text, by) = (setting.to_owned(), text.to_owned(), CONFIGURATION.to_owned());
        value.map(|value| Opinion { value, setting, text, by })
    }
    let off = (route.tls == RouteTls::Off).then_some(HttpsMethod::NoHttps);
    let passes = route.tls == RouteTls::Passthrough;
    let hsts = match &route.hsts {
        Some(Hsts::Value(value)) => value,
        Some(Hsts::Off) | None => "off",
    };
    let ca = route.client_ca.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let verify = match route.client_auth {
        Some(VerifyClient::Optional) => "optional",
        Some(VerifyClient::Required | VerifyClient::Off) | None => "required",
    };
    Opinions {
        https: said(off, "tls", "nohttps"),
        tls: said(passes.then_some(route.tls), "tls", "passthrough"),
        hsts: said(route.hsts.clone(), "hsts", hsts),
        client_ca: said(route.client_ca.clone(), "client_ca", &ca),
        verify_client: said(route.client_auth, "client_auth", verify),
        ..Opinions::default()
    }
}

/// How an upstream of the configuration is asked; it has no run of its own.
fn configured_probe(route: &StaticRoute, upstream: &StaticUpstream) -> Option<probe::Target> {
    let mut check = claim::check_of(route.health.clone()?, Some(&route.host), upstream.protocol);
    check.proxy_protocol = route.options.proxy_protocol;
    let (container, started_at) = (String::new(), String::new());
    Some(probe::Target { address: upstream.address, container, started_at, check: Some(check) })
}

fn texts(names: &[HostPattern]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn is_same_set(one: &[HostPattern], other: &[HostPattern]) -> bool {
    one.len() == other.len() && one.iter().all(|name| other.contains(name))
}

/// Containers choose these texts, and people read them in a terminal: without control characters,
/// and not longer than a few lines.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    // Of what is shown, not of what was said: an escaped character is up to eight of them.
    let mut room = MAX_SHOWN;
    for character in text.chars() {
        let escaped = character.is_control().then(|| character.escape_default());
        let length = escaped.as_ref().map_or(1, ExactSizeIterator::len);
        if length > room {
            shown.push('…');
            break;
        }
        room -= length;
        match escaped {
            Some(escaped) => shown.extend(escaped),
            None => shown.push(character),
        }
    }
    shown
}

/// Why a container is not routed that asks for nothing.
pub(super) fn no_host(container: &Container) -> String {
    match container.env.get("VIRTUAL_HOST") {
        Some(_) => "VIRTUAL_HOST is empty".to_owned(),
        None => "no VIRTUAL_HOST or baton.host".to_owned(),
    }
}

fn diagnosis(claim: &Claim<'_>, setting: &str, value: &str, problem: String) -> Diagnosis {
    Diagnosis {
        container: claim.container.name.clone(),
        setting: setting.to_owned(),
        value: value.to_owned(),
        problem,
    }
}

fn disagrees(place: impl std::fmt::Display, by: &str, stands: &str) -> String {
    let age = if by == CONFIGURATION { "" } else { ", which is older," };
    format!("disagrees with {by}{age} on {place}: `{stands}` stands")
}

#[cfg(test)]
mod tests;
