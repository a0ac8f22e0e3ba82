//! From containers and configuration to the route table: a pure function.

mod claim;
mod settings;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use self::claim::{Claim, Reading, key, normal};
use self::table::RouteKey;
pub use self::table::{
    Diagnosis, HostEntry, Incumbents, RouteEntry, Table, Unrouted, UpstreamEntry, UpstreamState,
};
use super::docker::Container;
use super::probe;
use crate::config::{RouteTls, StaticRoute};
use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot::HttpsMethod;

/// How a diagnosis names the configuration file.
const CONFIGURATION: &str = "the configuration";
/// Longest text of a container that is shown, in characters.
const MAX_SHOWN: usize = 300;

/// All that a table depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub containers: &'a [Container],
    pub static_routes: &'a [StaticRoute],
    /// What the prober found accepting.
    pub reachable: &'a HashSet<probe::Target>,
    /// Of the table before, so that a project does not lose a name to one that came later.
    pub incumbents: &'a Incumbents,
    /// PREFER_IPV6_NETWORK
    pub prefer_ipv6: bool,
}

/// The table for these inputs, and for no other reason ever a different one.
pub fn build(inputs: &Inputs<'_>) -> Table {
    let mut draft = Draft::default();
    for route in inputs.static_routes {
        draft.configure(route);
    }
    let readings = by_age(inputs.containers).into_iter().map(|c| (c, Reading::of(c, inputs)));
    let mut readings: Vec<(&Container, Reading<'_>)> = readings.collect();
    let claims = readings.iter().flat_map(|(_, reading)| &reading.claims);
    draft.incumbents = incumbents(claims, inputs.incumbents);
    for (container, reading) in &mut readings {
        draft.diagnoses.append(&mut reading.diagnoses);
        draft.place(container, reading);
    }
    draft.finish()
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
    /// What stands, and who said it.
    https: Option<(HttpsMethod, String)>,
    /// By the path as it is written.
    routes: BTreeMap<String, RouteDraft>,
}

struct RouteDraft {
    entry: RouteEntry,
    /// Who was first.
    by: String,
}

impl Draft {
    fn configure(&mut self, route: &StaticRoute) {
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
        if route.tls == RouteTls::Off {
            host.https = Some((HttpsMethod::NoHttps, CONFIGURATION.to_owned()));
        }
        let upstreams = route.upstreams.iter().map(|upstream| UpstreamEntry {
            name: upstream.text.clone(),
            address: Some(upstream.address),
            protocol: upstream.protocol,
            weight: 1,
            container: None,
            state: UpstreamState::Up,
        });
        let entry = RouteEntry {
            path,
            replace_prefix: route.replace_prefix.clone(),
            upstreams: upstreams.collect(),
        };
        host.routes.insert(key.1, RouteDraft { entry, by: CONFIGURATION.to_owned() });
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
                    self.merge(claim);
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

    fn merge(&mut self, claim: &Claim<'_>) {
        let name = &claim.container.name;
        let host = self.hosts.entry(claim.host.clone()).or_default();
        if let Some(https) = claim.https {
            let (stands, by) = host.https.get_or_insert_with(|| (https, name.clone()));
            if *stands != https {
                let value = method_name(https);
                let problem = disagrees(&claim.host, by, method_name(*stands));
                self.diagnoses.push(diagnosis(claim, "HTTPS_METHOD", value, problem));
            }
        }
        let route = host.routes.entry(claim.path.to_string()).or_insert_with(|| RouteDraft {
            entry: RouteEntry {
                path: claim.path.clone(),
                replace_prefix: claim.replace_prefix.clone(),
                upstreams: Vec::new(),
            },
            by: name.clone(),
        });
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
    }

    fn finish(mut self) -> Table {
        for unrouted in &mut self.unrouted {
            unrouted.reason = printable(&unrouted.reason);
        }
        for diagnosis in &mut self.diagnoses {
            diagnosis.value = printable(&diagnosis.value);
            diagnosis.problem = printable(&diagnosis.problem);
        }
        self.unrouted.sort();
        self.diagnoses.sort();
        // Several routers of a container inherit the same wrong value.
        self.diagnoses.dedup();
        let hosts = self.hosts.into_iter().map(|(pattern, host)| HostEntry {
            pattern,
            https: host.https.map(|(https, _)| https).unwrap_or_default(),
            tls: host.tls,
            routes: host.routes.into_values().map(|route| route.entry).collect(),
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

/// Containers choose these texts, and people read them in a terminal: without control characters,
/// and not longer than a few lines.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars().take(MAX_SHOWN) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn no_host(container: &Container) -> String {
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

fn method_name(https: HttpsMethod) -> &'static str {
    match https {
        HttpsMethod::Redirect => "redirect",
        HttpsMethod::NoRedirect => "noredirect",
        HttpsMethod::NoHttp => "nohttp",
        HttpsMethod::NoHttps => "nohttps",
    }
}

#[cfg(test)]
mod tests;
