//! What one container asks for: hosts, a path on each, and itself as upstream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::multiports::{self, Entry};
use super::opinion::{Opinion, Opinions, OrderOpinions};
use super::options::{Complaint, Said};
use super::settings::{self, Key, Router, Written};
use super::table::{Diagnosis, RouteKey, UpstreamEntry, UpstreamState};
use super::value;
use super::{INGRESS, Inputs};
use crate::config::{Directory, ExternalAccount, HealthCheck, Hsts};
use crate::controller::docker::{Container, Health, Network, State};
use crate::controller::probe;
use crate::protocol::default_root::DefaultRoot;
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::snapshot::UpstreamProtocol;

/// When a container names no port and exposes none, or several.
const DEFAULT_PORT: u16 = 80;
const MAX_WEIGHT: u32 = 100;

/// One host and path that a container asks for.
#[derive(Debug, Clone)]
pub(super) struct Claim<'a> {
    pub container: &'a Container,
    pub host: HostPattern,
    /// The variable or label that names the host.
    pub host_setting: String,
    pub path: PathPattern,
    /// The variable or label of the path, or that of the host where none is.
    pub path_setting: String,
    pub replace_prefix: Option<String>,
    /// The variable or label of `replace_prefix`, or that of the path where none is.
    pub prefix_setting: String,
    /// How the host is to be served.
    pub says: Opinions,
    /// What its route shall do beside forwarding.
    pub options: Said,
    pub upstream: UpstreamEntry,
    /// What to ask before it can be in rotation.
    pub probe: Option<probe::Target>,
}

impl Claim<'_> {
    pub fn key(&self) -> RouteKey {
        key(&self.host, &self.path)
    }
}

pub(super) fn key(host: &HostPattern, path: &PathPattern) -> RouteKey {
    (host.clone(), path.to_string())
}

/// The root and a trailing slash mean the same to both kinds of prefix, so that `VIRTUAL_HOST` and
/// `baton.host` share a pool.
pub(super) fn normal(path: PathPattern) -> PathPattern {
    let PathPattern::Segments(prefix) = path else { return path };
    match prefix.trim_end_matches('/') {
        "" => PathPattern::Prefix("/".to_owned()),
        trimmed => PathPattern::Segments(trimmed.to_owned()),
    }
}

/// All that was found in one container.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    container: &'a Container,
    pub claims: Vec<Claim<'a>>,
    pub diagnoses: Vec<Diagnosis>,
    /// Why something that it asks for, or all of it, is not routed.
    pub reasons: Vec<String>,
    pub order: OrderOpinions,
    /// ACME_HOST
    pub listed: Option<Listed>,
}

/// The names that a container wants to be ordered.
#[derive(Debug)]
pub(super) struct Listed {
    pub names: Vec<HostPattern>,
    /// A certificate for each of them.
    pub single: bool,
    pub setting: String,
}

/// Why a router routes nothing.
struct Refused;

impl<'a> Reading<'a> {
    pub fn of(container: &'a Container, inputs: &Inputs<'_>) -> Reading<'a> {
        let mut reading = Reading {
            container,
            claims: Vec::new(),
            diagnoses: Vec::new(),
            reasons: Vec::new(),
            order: OrderOpinions::default(),
            listed: None,
        };
        for unused in settings::unused(container) {
            // Without the value: it may be a secret, such as the lines of an htpasswd file.
            reading.diagnose(unused.name, "", unused.why);
        }
        for router in settings::routers(container) {
            // The reason is kept in the reading.
            let _refused = reading.router(router, inputs);
        }
        let own = settings::own(container);
        reading.order = reading.order(own);
        reading.listed = reading.listed(own);
        reading
    }

    fn router(&mut self, router: Router<'a>, inputs: &Inputs<'_>) -> Result<(), Refused> {
        if let Some(written) = router.written(Key::Multiports).into_iter().next() {
            match router.written(Key::Host).into_iter().find(|host| host.is_label) {
                // A label wins over the environment.
                Some(label) => {
                    let problem = format!("is not used: {} says which hosts", label.name);
                    self.diagnose(written.name, "", problem);
                }
                None => return self.multiports(router, &written, inputs),
            }
        }
        let hosts = self.hosts(router)?;
        let protocol = self.protocol(router)?;
        let path = self.path(router)?;
        let replace_prefix = self.replace_prefix(router, path.as_ref().map(|(path, _)| path));
        let says = self.says(router);
        let options = self.options(router);
        let port = self.first(router, Key::Port, port).map(|(port, _)| port);
        let check = self.check(router, protocol, hosts.first().map(|(host, _)| host), &options);
        let (upstream, probe) = self.upstream(router, protocol, (port, check), inputs);
        for (host, host_setting) in hosts {
            let (path, path_setting) = path
                .clone()
                .unwrap_or_else(|| (PathPattern::Prefix("/".to_owned()), host_setting.clone()));
            let (replace_prefix, prefix_setting) = match replace_prefix.clone() {
                Some((replacement, setting)) => (replacement, setting),
                None => (None, path_setting.clone()),
            };
            self.claims.push(Claim {
                container: self.container,
                host,
                host_setting,
                path,
                path_setting,
                replace_prefix,
                prefix_setting,
                says: says.clone(),
                options: options.clone(),
                upstream: upstream.clone(),
                probe: probe.clone(),
            });
        }
        Ok(())
    }

    /// VIRTUAL_HOST_MULTIPORTS overrides the VIRTUAL_* beside it. What is wrong with one host or path
    /// takes that one away.
    fn multiports(
        &mut self,
        router: Router<'a>,
        written: &Written<'a>,
        inputs: &Inputs<'_>,
    ) -> Result<(), Refused> {
        let setting = &written.name;
        let read = match multiports::parse(written.value) {
            Ok(read) => read,
            Err(problem) => {
                self.diagnose(setting.clone(), "", problem.clone());
                return self.refuse(format!("{setting} {problem}"));
            }
        };
        for (place, problem) in read.problems {
            self.diagnose(setting.clone(), &place, problem);
        }
        let says = self.says(router);
        let options = self.options(router);
        for entry in &read.entries {
            let claim = self.multiport(router, setting, entry, (&says, &options), inputs);
            self.claims.extend(claim);
        }
        if self.claims.is_empty() {
            return self.refuse(format!("{setting} has no usable host"));
        }
        Ok(())
    }

    fn multiport(
        &mut self,
        router: Router<'a>,
        setting: &str,
        entry: &Entry,
        (says, options): (&Opinions, &Said),
        inputs: &Inputs<'_>,
    ) -> Option<Claim<'a>> {
        let place = |key: &str| format!("{setting} {}{} {key}", entry.host, entry.path);
        let mut unusable = |key: &str, value: &str, error: String| {
            self.diagnose(place(key), value, error);
        };
        let host = entry.host.parse::<HostPattern>();
        let host = host.map_err(|error| unusable("host", &entry.host, error.to_string())).ok()?;
        let path = PathPattern::from_virtual_path(&entry.path);
        let path = path.map_err(|error| unusable("path", &entry.path, error.to_string())).ok()?;
        let spoken = match entry.proto.as_deref().map(protocol) {
            None => UpstreamProtocol::default(),
            Some(Ok(Protocol::Spoken(protocol))) => protocol,
            Some(Ok(Protocol::Unsupported)) => {
                let problem = "is not supported: baton speaks http, https, grpc and grpcs";
                unusable("proto", entry.proto.as_deref().unwrap_or_default(), problem.to_owned());
                return None;
            }
            Some(Err(problem)) => {
                unusable("proto", entry.proto.as_deref().unwrap_or_default(), problem);
                UpstreamProtocol::default()
            }
        };
        let port = entry
            .port
            .as_deref()
            .and_then(|text| port(text).map_err(|problem| unusable("port", text, problem)).ok());
        let replace_prefix = entry.dest.as_deref().and_then(|text| match destination(text) {
            Ok(_) if matches!(path, PathPattern::Regex(_)) => {
                let problem = "has no effect: the path is a regular expression";
                unusable("dest", text, problem.to_owned());
                None
            }
            dest => dest.map_err(|problem| unusable("dest", text, problem)).ok(),
        });
        let check = self.check(router, spoken, Some(&host), options);
        let (upstream, probe) = self.upstream(router, spoken, (port, check), inputs);
        Some(Claim {
            container: self.container,
            host,
            host_setting: setting.to_owned(),
            path: normal(path),
            path_setting: place("path"),
            replace_prefix,
            prefix_setting: place("dest"),
            says: says.clone(),
            options: options.clone(),
            probe,
            upstream,
        })
    }

    /// Each host once, with the setting that names it.
    fn hosts(&mut self, router: Router<'a>) -> Result<Vec<(HostPattern, String)>, Refused> {
        let Some(written) = router.written(Key::Host).into_iter().next() else {
            if let Some(name) = router.name() {
                let setting = format!("baton.{name}.host");
                let problem = format!("is missing: nothing is routed for the router `{name}`");
                self.diagnose(setting, "", problem);
            }
            return Err(Refused);
        };
        let mut hosts: Vec<HostPattern> = Vec::new();
        for item in written.value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.parse() {
                Ok(host) if hosts.contains(&host) => {}
                Ok(host) => hosts.push(host),
                Err(error) => self.diagnose(written.name.clone(), item, error.to_string()),
            }
        }
        if hosts.is_empty() {
            return self.refuse(format!("{} `{}` has no usable host", written.name, written.value));
        }
        Ok(hosts.into_iter().map(|host| (host, written.name.clone())).collect())
    }

    /// A path that is wrong is not the path `/`: that would put the container into the pool of
    /// another one.
    fn path(&mut self, router: Router<'a>) -> Result<Option<(PathPattern, String)>, Refused> {
        let Some(written) = router.written(Key::Path).into_iter().next() else { return Ok(None) };
        let pattern = if written.is_label {
            PathPattern::from_label(written.value)
        } else {
            PathPattern::from_virtual_path(written.value)
        };
        match pattern {
            Ok(pattern) => Ok(Some((normal(pattern), written.name))),
            Err(error) => {
                self.diagnose(written.name.clone(), written.value, error.to_string());
                self.refuse(format!("{}: {error}", written.name))
            }
        }
    }

    /// What replaces the prefix, and the setting that says so; nothing when none does.
    fn replace_prefix(
        &mut self,
        router: Router<'a>,
        path: Option<&PathPattern>,
    ) -> Option<(Option<String>, String)> {
        let strip = self.first(router, Key::StripPrefix, value::boolean);
        let (replacement, written) = match strip {
            Some((strip, written)) => (strip.then(|| "/".to_owned()), written),
            None => {
                let (dest, written) = self.first(router, Key::Dest, destination)?;
                (Some(dest), written)
            }
        };
        if replacement.is_some() && matches!(path, Some(PathPattern::Regex(_))) {
            let problem = "has no effect: the path is a regular expression".to_owned();
            self.diagnose(written.name, written.value, problem);
            return None;
        }
        Some((replacement, written.name))
    }

    fn protocol(&mut self, router: Router<'a>) -> Result<UpstreamProtocol, Refused> {
        let Some((protocol, written)) = self.first(router, Key::Proto, protocol) else {
            return Ok(UpstreamProtocol::default());
        };
        match protocol {
            Protocol::Spoken(protocol) => Ok(protocol),
            Protocol::Unsupported => {
                let problem = "is not supported: baton speaks http, https, grpc and grpcs";
                self.diagnose(written.name.clone(), written.value, problem.to_owned());
                self.refuse(format!("{} `{}` is not supported", written.name, written.value))
            }
        }
    }

    /// What is said of a health check means something only beside a path.
    fn check(
        &mut self,
        router: Router<'a>,
        protocol: UpstreamProtocol,
        host: Option<&HostPattern>,
        options: &Said,
    ) -> Option<HealthCheck> {
        let (path, written) = self.first(router, Key::HealthPath, HealthCheck::path)?;
        if !protocol.is_http1() {
            let problem = format!("has no effect: {} is spoken, and not asked", protocol.as_str());
            self.diagnose(written.name, written.value, problem);
            return None;
        }
        let mut check = HealthCheck::new(path);
        check.proxy_protocol = options.proxy_protocol();
        let mut set = |key, time: &mut Duration| {
            self.first(router, key, value::span).into_iter().for_each(|(span, _)| *time = span);
        };
        set(Key::HealthInterval, &mut check.interval);
        set(Key::HealthTimeout, &mut check.timeout);
        let mut set = |key, number: &mut u32| {
            let said = self.first(router, key, HealthCheck::in_a_row);
            said.into_iter().for_each(|(said, _)| *number = said);
        };
        set(Key::HealthRise, &mut check.rise);
        set(Key::HealthFall, &mut check.fall);
        Some(check_of(check, host, protocol))
    }

    fn upstream(
        &mut self,
        router: Router<'a>,
        protocol: UpstreamProtocol,
        (port, check): (Option<u16>, Option<HealthCheck>),
        inputs: &Inputs<'_>,
    ) -> (UpstreamEntry, Option<probe::Target>) {
        let port = port.unwrap_or_else(|| default_port(self.container));
        let weight = self.first(router, Key::Weight, weight).map_or(1, |(weight, _)| weight);
        let ip = self.ip(router, inputs.prefer_ipv6);
        let address = ip.map(|ip| SocketAddr::new(ip, port));
        let health = check.as_ref().map(|check| check.path.clone());
        let probe = address.and_then(|address| probe_target(self.container, address, check));
        let upstream = UpstreamEntry {
            name: self.container.name.clone(),
            address,
            protocol,
            weight,
            container: Some(self.container.name.clone()),
            health,
            state: state(self.container, address, probe.as_ref(), inputs),
        };
        (upstream, probe)
    }

    fn ip(&mut self, router: Router<'a>, prefer_ipv6: bool) -> Option<IpAddr> {
        let container = self.container;
        if container.host_network {
            return Some(Ipv4Addr::LOCALHOST.into());
        }
        let named =
            self.first(router, Key::Network, |name| named_network(container, name, prefer_ipv6));
        named.map(|(ip, _)| ip).or_else(|| {
            let networks = container.networks.iter().filter(|network| network.name != INGRESS);
            networks.filter_map(|network| network_ip(network, prefer_ipv6)).next()
        })
    }

    fn says(&mut self, router: Router<'a>) -> Opinions {
        Opinions {
            https: self.opinion(router, Key::HttpsMethod, value::https_method),
            https_port: self.opinion(router, Key::HttpsPort, port),
            tls: self.opinion(router, Key::Tls, value::passthrough),
            hsts: self.opinion(router, Key::Hsts, Hsts::parse),
            non_get_redirect: self.opinion(router, Key::NonGetRedirect, value::redirect_status),
            http_on_missing: self.opinion(router, Key::HttpOnMissing, value::boolean),
            default_root: self.opinion(router, Key::DefaultRoot, DefaultRoot::parse),
            cert_name: self.opinion(router, Key::CertName, value::word),
            client_ca: None,
            verify_client: self.opinion(router, Key::VerifyClient, value::verify_client),
        }
    }

    fn options(&mut self, router: Router<'a>) -> Said {
        let (said, complaints) = Said::by(&self.container.name, router);
        for Complaint { setting, value, problem } in complaints {
            self.diagnose(setting, &value, problem);
        }
        said
    }

    fn order(&mut self, own: Router<'a>) -> OrderOpinions {
        // As with acme-companion: the staging CA is for a test, whatever else is written.
        let test = self.opinion(own, Key::AcmeTest, value::boolean).filter(|test| test.value);
        let staging = Directory::named("letsencrypt-staging").expect("it is in the list");
        let directory = self.opinion(own, Key::AcmeDirectory, value::directory);
        OrderOpinions {
            email: self.opinion(own, Key::AcmeEmail, value::email),
            directory: test.map(|test| test.with(staging)).or(directory),
            challenge: self.opinion(own, Key::AcmeChallenge, str::parse),
            profile: self.opinion(own, Key::AcmeProfile, value::word),
            preferred_chain: self.opinion(own, Key::AcmeChain, value::any),
            external_account: self.external_account(own),
            key: self.opinion(own, Key::AcmeKeySize, str::parse),
        }
    }

    /// Id and key go together; the key, which is a secret, is in no diagnosis.
    fn external_account(&mut self, own: Router<'a>) -> Option<Opinion<ExternalAccount>> {
        let kid = self.opinion(own, Key::AcmeEabKid, value::any);
        let key = own.written(Key::AcmeEabSecret).into_iter().next();
        let (kid, key) = match (kid, key) {
            (Some(kid), Some(key)) => (kid, key),
            (None, None) => return None,
            (Some(kid), None) => {
                self.diagnose(kid.setting, &kid.text, "has no ACME_EAB_HMAC_KEY beside it".into());
                return None;
            }
            (None, Some(key)) => {
                self.diagnose(key.name, "", "has no ACME_EAB_KID beside it".into());
                return None;
            }
        };
        match ExternalAccount::new(&kid.value, key.value) {
            Ok(account) => Some(kid.with(account)),
            Err(problem) => {
                self.diagnose(key.name, "", problem);
                None
            }
        }
    }

    fn listed(&mut self, own: Router<'a>) -> Option<Listed> {
        let single = self.first(own, Key::SingleDomain, value::boolean);
        let written = own.written(Key::AcmeHost).into_iter().next()?;
        let mut names = Vec::new();
        for item in written.value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match orderable(item) {
                Ok(name) if names.contains(&name) => {}
                Ok(name) => names.push(name),
                Err(problem) => self.diagnose(written.name.clone(), item, problem),
            }
        }
        Some(Listed {
            names,
            single: single.is_some_and(|(single, _)| single),
            setting: written.name,
        })
    }

    fn opinion<T>(
        &mut self,
        router: Router<'a>,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Opinion<T>> {
        let (value, written) = self.first(router, key, parse)?;
        Some(Opinion {
            value,
            setting: written.name,
            text: written.value.to_owned(),
            by: self.container.name.clone(),
        })
    }

    /// The first value that can be used, with where it is written; those before it are diagnosed.
    fn first<T>(
        &mut self,
        router: Router<'a>,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<(T, Written<'a>)> {
        for written in router.written(key) {
            match parse(written.value) {
                Ok(value) => return Some((value, written)),
                Err(problem) => self.diagnose(written.name, written.value, problem),
            }
        }
        None
    }

    fn diagnose(&mut self, setting: String, value: &str, problem: String) {
        self.diagnoses.push(Diagnosis {
            container: self.container.name.clone(),
            setting,
            value: value.to_owned(),
            problem,
        });
    }

    fn refuse<T>(&mut self, reason: String) -> Result<T, Refused> {
        self.reasons.push(reason);
        Err(Refused)
    }
}

fn orderable(item: &str) -> Result<HostPattern, String> {
    match item.parse() {
        Ok(name @ (HostPattern::Exact(_) | HostPattern::Leading(_))) => Ok(name),
        Ok(_) => Err("no certificate can be issued for a pattern of this kind".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("is not a port: expected 1 to 65535".to_owned()),
    }
}

/// The only exposed port, else 80. The same number for TCP and UDP counts as two.
fn default_port(container: &Container) -> u16 {
    let mut exposed = container.exposed.iter();
    match (exposed.next(), exposed.next()) {
        (Some(port), None) => port.number,
        _ => DEFAULT_PORT,
    }
}

fn weight(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(weight @ 1..=MAX_WEIGHT) => Ok(weight),
        _ => Err(format!("is not a weight: expected 1 to {MAX_WEIGHT}")),
    }
}

fn destination(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|b| b > b' ' && b != 0x7f) {
        Ok(text.to_owned())
    } else {
        Err("is not a path: it must begin with `/` and have no blank".to_owned())
    }
}

enum Protocol {
    Spoken(UpstreamProtocol),
    /// nginx-proxy's, and not baton's.
    Unsupported,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_lowercase().as_str() {
        "http" => Ok(Protocol::Spoken(UpstreamProtocol::Http)),
        "https" => Ok(Protocol::Spoken(UpstreamProtocol::Https)),
        "grpc" => Ok(Protocol::Spoken(UpstreamProtocol::Grpc)),
        "grpcs" => Ok(Protocol::Spoken(UpstreamProtocol::Grpcs)),
        "fastcgi" | "uwsgi" => Ok(Protocol::Unsupported),
        _ => Err("is not a protocol: expected http, https, grpc or grpcs".to_owned()),
    }
}

/// By the name that Docker has for it, or the one in the compose file.
fn named_network(container: &Container, name: &str, prefer_ipv6: bool) -> Result<IpAddr, String> {
    let of_project = container.project().map(|project| format!("{project}_{name}"));
    let find = |name: &str| container.networks.iter().find(|network| network.name == name);
    let network = find(name)
        .or_else(|| find(of_project.as_deref()?))
        .ok_or_else(|| "is not a network of this container".to_owned())?;
    network_ip(network, prefer_ipv6).ok_or_else(|| "has no address for this container".to_owned())
}

pub(super) fn network_ip(network: &Network, prefer_ipv6: bool) -> Option<IpAddr> {
    let (ipv4, ipv6) = (network.ipv4.map(IpAddr::V4), network.ipv6.map(IpAddr::V6));
    if prefer_ipv6 { ipv6.or(ipv4) } else { ipv4.or(ipv6) }
}

/// How an upstream of this host is asked.
pub(super) fn check_of(
    check: HealthCheck,
    host: Option<&HostPattern>,
    protocol: UpstreamProtocol,
) -> HealthCheck {
    let host = match host {
        Some(HostPattern::Exact(name)) => Some(name.clone()),
        // Patterns name nobody.
        _ => None,
    };
    HealthCheck { host, tls: protocol == UpstreamProtocol::Https, ..check }
}

fn state(
    container: &Container,
    address: Option<SocketAddr>,
    probe: Option<&probe::Target>,
    inputs: &Inputs<'_>,
) -> UpstreamState {
    match (container.state, container.health) {
        (State::Gone, _) => UpstreamState::Gone,
        (State::Restarting, _) => UpstreamState::Restarting,
        _ if container.stopping => UpstreamState::Stopping,
        (State::Paused, _) => UpstreamState::Paused,
        (State::Running, Health::Starting) => UpstreamState::Starting,
        (State::Running, Health::Unhealthy) => UpstreamState::Unhealthy,
        (State::Running, Health::None | Health::Healthy) => match probe {
            _ if address.is_none() => UpstreamState::NoAddress,
            None => UpstreamState::Up,
            Some(target) if inputs.reachable.contains(target) => UpstreamState::Up,
            Some(target) if target.check.is_some() => UpstreamState::Unready,
            Some(_) => UpstreamState::Waiting,
        },
    }
}

/// A container with a health path is asked for it, one without a HEALTHCHECK at its port. One that
/// stops is not asked any more, and one that has started again is asked anew.
fn probe_target(
    container: &Container,
    address: SocketAddr,
    check: Option<HealthCheck>,
) -> Option<probe::Target> {
    let asked = container.state == State::Running
        && (container.health == Health::None || check.is_some())
        && !container.stopping;
    asked.then(|| probe::Target {
        address,
        container: container.id.clone(),
        started_at: container.started_at.clone(),
        check,
    })
}
