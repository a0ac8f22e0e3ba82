//! The sections of the file, each as the list of its keys, and what holds between keys.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Problem, Section};
use super::route_options::{route_options, said};
use super::{
    CertificateFiles, Config, Docker, Drain, HandoffWish, HealthCheck, Hsts, Listen, Metrics,
    RouteTls, StaticRoute, StaticUpstream, VerifyClient, acme, value,
};
use crate::protocol::access_log::{Escape, Format};
use crate::protocol::options::Options;
use crate::protocol::pattern::{HostPattern, PathPattern, PatternError};
use crate::protocol::settings::{
    Balance, Hold, Limits, Sandbox, Timeouts, TlsProfile, TlsSettings, WorkerSettings,
};

pub(super) fn config(root: &mut Section<'_, '_, '_>) -> Config {
    let mut config = Config::default();
    root.read("state_dir", &mut config.state_dir, value::path);
    root.read("control_socket", &mut config.control_socket, value::socket_path);
    root.read("handoff", &mut config.handoff, value::one_of(HANDOFFS));
    config.htpasswd_dir = directory(root, "htpasswd_dir");
    config.error_pages = directory(root, "error_pages");
    worker(root, &mut config.worker);
    root.read("default_host", &mut config.default_host, value::optional(host_pattern));
    root.table("listen", |section| listen(section, &mut config.listen));
    root.table("docker", |section| docker(section, &mut config.docker));
    root.table("tls", |section| {
        tls(section, &mut config.worker.tls);
        config.client_ca_dir = directory(section, "client_ca_dir");
        config.certificates = certificates(section);
        if let Some(list) = section.list("certificate_dirs", value::path) {
            config.certificate_dirs = list.into_iter().map(Spanned::into_inner).collect();
        }
    });
    root.table("acme", |section| acme::acme(section, &mut config.acme));
    root.table("drain", |section| drain(section, &mut config.drain));
    root.table("metrics", |section| metrics(section, &config.listen, &mut config.metrics));
    root.table("log", |section| log(section, &mut config));
    root.table("timeouts", |section| timeouts(section, &mut config.worker.timeouts));
    root.table("limits", |section| limits(section, &mut config.worker.limits));
    root.table("hold", |section| hold(section, &mut config.worker.hold));
    config.routes = routes(root);
    config.worker.static_roots = static_roots(&config.routes);
    config
}

fn host_pattern(value: &DeValue<'_>) -> Result<HostPattern, Problem> {
    value::text(value)?.parse().map_err(|error: PatternError| error.to_string().into())
}

/// Settings of the worker that stand at the top of the file.
fn worker(root: &mut Section<'_, '_, '_>, worker: &mut WorkerSettings) {
    root.read("threads", &mut worker.threads, value::number(1..=1024));
    root.read("balance", &mut worker.balance, value::one_of(BALANCES));
    root.read("sandbox", &mut worker.sandbox, value::one_of(SANDBOXES));
    if let Some(networks) = root.list("trusted_proxies", value::network) {
        worker.trusted_proxies = networks.into_iter().map(Spanned::into_inner).collect();
    }
    if let Some(networks) = root.list("proxy_protocol", value::network) {
        worker.proxy_protocol = networks.into_iter().map(Spanned::into_inner).collect();
    }
}

const HANDOFFS: &[(&str, HandoffWish)] =
    &[("auto", HandoffWish::Auto), ("ebpf", HandoffWish::Ebpf), ("inherit", HandoffWish::Inherit)];

const SANDBOXES: &[(&str, Sandbox)] = &[
    ("on", Sandbox::On),
    ("strict", Sandbox::Strict),
    ("log", Sandbox::Log),
    ("off", Sandbox::Off),
];

const BALANCES: &[(&str, Balance)] = &[
    ("round-robin", Balance::RoundRobin),
    ("least-loaded", Balance::LeastLoaded),
    ("client-address", Balance::ClientAddress),
];

fn listen(section: &mut Section<'_, '_, '_>, listen: &mut Listen) {
    let http = addresses(section, "http", &mut listen.http);
    let https = addresses(section, "https", &mut listen.https);
    let both = http.into_iter().chain(https);
    each_address_once(section, both);
    if listen.http.is_empty() && listen.https.is_empty() {
        section.mistake(
            section.offset(),
            "",
            "http and https are empty: nothing to listen on".into(),
        );
    }
}

type Listed = (&'static str, Spanned<SocketAddr>);

fn addresses(
    section: &mut Section<'_, '_, '_>,
    key: &'static str,
    target: &mut Vec<SocketAddr>,
) -> Vec<Listed> {
    // Absent or not a list: the default stands, and must not collide with what is there.
    let Some(list) = section.list(key, value::address) else {
        let here = section.offset();
        return target.iter().map(|a| (key, Spanned::new(here..here, *a))).collect();
    };
    *target = list.iter().map(|address| *address.get_ref()).collect();
    list.into_iter().map(|address| (key, address)).collect()
}

fn each_address_once(section: &mut Section<'_, '_, '_>, addresses: impl Iterator<Item = Listed>) {
    let mut seen: Vec<Listed> = Vec::new();
    for (key, address) in addresses {
        let socket = *address.get_ref();
        // Port 0 is a new port each time.
        let earlier = seen.iter().find(|(_, a)| *a.get_ref() == socket && socket.port() != 0);
        if let Some((other, _)) = earlier {
            let problem = match *other == key {
                true => format!("{socket} is there twice"),
                false => format!("{socket} is an address of listen.{other} already"),
            };
            section.mistake(address.span().start, key, problem.into());
        }
        seen.push((key, address));
    }
}

fn docker(section: &mut Section<'_, '_, '_>, docker: &mut Docker) {
    section.read("enabled", &mut docker.enabled, value::boolean);
    docker.endpoint = section.optional("endpoint", value::docker_endpoint);
}

fn tls(section: &mut Section<'_, '_, '_>, tls: &mut TlsSettings) {
    section.read("profile", &mut tls.profile, value::one_of(PROFILES));
    section.read("strict_sni", &mut tls.strict_sni, value::boolean);
}

/// Empty is none.
fn directory(section: &mut Section<'_, '_, '_>, key: &'static str) -> Option<PathBuf> {
    let read = |value: &DeValue<'_>| match value::text(value)? {
        "" => Ok(None),
        _ => value::path(value).map(Some),
    };
    section.optional(key, read).flatten()
}

const PROFILES: &[(&str, TlsProfile)] =
    &[("modern", TlsProfile::Modern), ("intermediate", TlsProfile::Intermediate)];

fn certificates(section: &mut Section<'_, '_, '_>) -> Vec<CertificateFiles> {
    let read = section.tables("certificate", |section| {
        let cert = section.required("cert", value::path);
        let key = section.required("key", value::path);
        Some(CertificateFiles { cert: cert?, key: key? })
    });
    read.into_iter().map(Spanned::into_inner).collect()
}

fn drain(section: &mut Section<'_, '_, '_>, drain: &mut Drain) {
    section.read("limit", &mut drain.limit, value::duration);
    section.read("tunnel_limit", &mut drain.tunnel_limit, value::duration);
}

fn metrics(section: &mut Section<'_, '_, '_>, listen: &Listen, metrics: &mut Metrics) {
    // Empty is none.
    let address = section.optional("listen", |value| match value::text(value)? {
        "" => Ok(None),
        _ => private_address(value, listen).map(Some),
    });
    metrics.listen = address.flatten();
    let name = |value: &DeValue<'_>| match value::text(value)?.parse::<HostPattern>() {
        Ok(HostPattern::Exact(name)) => Ok(name),
        Ok(_) => Err("a pattern is not taken here: name each host".into()),
        Err(error) => Err(error.to_string().into()),
    };
    if let Some(list) = section.list("hosts", name) {
        metrics.hosts = list.into_iter().map(Spanned::into_inner).collect();
    }
    metrics.page = section.optional("page", value::boolean);
}

fn private_address(value: &DeValue<'_>, listen: &Listen) -> Result<SocketAddr, Problem> {
    let address = value::address(value)?;
    let is_public = |public: &SocketAddr| *public == address && address.port() != 0;
    match listen.http.iter().chain(&listen.https).any(is_public) {
        true => Err(format!("{address} serves the public already (see `[listen]`)").into()),
        false => Ok(address),
    }
}

fn log(section: &mut Section<'_, '_, '_>, config: &mut Config) {
    let log = &mut config.worker.access_log;
    let escape = section.optional("escape", said(Escape::parse)).unwrap_or_default();
    let format = section.optional("access", said(|text| Format::parse(text, escape)));
    config.access_log_is_set = format.is_some();
    log.format = format.unwrap_or_default();
    section.read("sample", &mut log.sample, value::number(1..=1_000_000));
    let names = section.list("redact", |value| Ok(value::text(value)?.to_ascii_lowercase()));
    log.redact = names.unwrap_or_default().into_iter().map(Spanned::into_inner).collect();
    section.read("level", &mut config.worker.log_level, value::log_filter);
}

fn timeouts(section: &mut Section<'_, '_, '_>, timeouts: &mut Timeouts) {
    section.read("handshake", &mut timeouts.handshake, value::duration);
    section.read("header_read", &mut timeouts.header_read, value::duration);
    section.read("keep_alive", &mut timeouts.keep_alive, value::duration);
    section.read("body_idle", &mut timeouts.body_idle, value::duration);
    section.read("send_idle", &mut timeouts.send_idle, value::duration);
    section.read("connect", &mut timeouts.connect, value::duration);
    section.read("response_head", &mut timeouts.response_head, value::duration);
    section.read("response_idle", &mut timeouts.response_idle, value::duration);
    section.read("tunnel_idle", &mut timeouts.tunnel_idle, value::duration);
    section.read("upstream_keep_alive", &mut timeouts.upstream_keep_alive, value::duration);
}

/// A request head below this would refuse browsers; above that it is memory for strangers.
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1024..=1 << 20;

fn limits(section: &mut Section<'_, '_, '_>, limits: &mut Limits) {
    section.read("header_bytes", &mut limits.header_bytes, value::size(HEADER_BYTES));
    section.read("header_count", &mut limits.header_count, value::number(1..=10_000));
    section.read("streams", &mut limits.streams, value::number(1..=10_000));
    section.read("connections", &mut limits.connections, value::number(1..=10_000_000));
    section.read("body_bytes", &mut limits.body_bytes, value::size(0..=u64::MAX));
    section.read("upstream_idle", &mut limits.upstream_idle, value::number(0..=10_000));
}

fn hold(section: &mut Section<'_, '_, '_>, hold: &mut Hold) {
    section.read("limit", &mut hold.limit, value::duration_or_off);
    section.read("requests", &mut hold.requests, value::number(1..=1_000_000));
}

fn routes(root: &mut Section<'_, '_, '_>) -> Vec<StaticRoute> {
    let routes = root.tables("route", route);
    for (index, later) in routes.iter().enumerate() {
        let (host, path) = (&later.get_ref().host, &later.get_ref().path);
        let same = |earlier: &&Spanned<StaticRoute>| {
            earlier.get_ref().host == *host && earlier.get_ref().path == *path
        };
        if let Some(earlier) = routes[..index].iter().find(same) {
            let line = root.line(earlier.span().start);
            let problem =
                format!("host {host} with path {path} has a route in line {line} already");
            root.mistake(later.span().start, "route", problem.into());
        }
    }
    routes.into_iter().map(Spanned::into_inner).collect()
}

fn route(section: &mut Section<'_, '_, '_>) -> Option<StaticRoute> {
    let host = section.required("host", |value| {
        value::text(value)?.parse::<HostPattern>().map_err(|error| error.to_string().into())
    });
    let mut path = PathPattern::Segments("/".to_owned());
    section.read("path", &mut path, |value| {
        PathPattern::from_label(value::text(value)?).map_err(|error| error.to_string().into())
    });
    let replace_prefix = replace_prefix(section, &path);
    let root = section.optional("root", value::path);
    let upstreams = match &root {
        None => upstreams(section),
        Some(_) => no_upstreams(section),
    };
    let health = health(section, &upstreams);
    let options = Options { root, ..route_options(section) };
    let tls = section.optional("tls", value::one_of(ROUTE_TLS)).unwrap_or_default();
    let hsts = section.optional("hsts", |value| {
        Ok(Hsts::parse(value::text(value)?).map_err(with_subject(value))?)
    });
    let client_ca = section.optional("client_ca", value::path);
    let client_auth = section.optional("client_auth", value::one_of(CLIENT_AUTHS));
    Some(StaticRoute {
        host: host?,
        path,
        replace_prefix,
        options,
        upstreams,
        health,
        tls,
        hsts,
        client_ca,
        client_auth,
    })
}

fn replace_prefix(section: &mut Section<'_, '_, '_>, path: &PathPattern) -> Option<String> {
    let regex = matches!(path, PathPattern::Regex(_));
    let strip = section.optional("strip_prefix", |value| match value::boolean(value)? {
        true if regex => Err("a path that is a regular expression has no prefix".into()),
        strip => Ok(strip),
    });
    (strip == Some(true)).then(|| "/".to_owned())
}

/// What workers have to be able to read.
fn static_roots(routes: &[StaticRoute]) -> Vec<PathBuf> {
    let roots: BTreeSet<&PathBuf> =
        routes.iter().filter_map(|route| route.options.root.as_ref()).collect();
    roots.into_iter().cloned().collect()
}

fn no_upstreams(section: &mut Section<'_, '_, '_>) -> Vec<StaticUpstream> {
    let list = section.list("upstreams", |value| value::text(value).map(drop));
    if let Some(first) = list.iter().flatten().next() {
        let problem = "there is a root: files, or upstreams, not both".into();
        section.mistake(first.span().start, "upstreams", problem);
    }
    Vec::new()
}

fn upstreams(section: &mut Section<'_, '_, '_>) -> Vec<StaticUpstream> {
    let list = section.required_list("upstreams", |value| {
        value::text(value)?.parse::<StaticUpstream>().map_err(|error| error.to_string().into())
    });
    for (index, later) in list.iter().enumerate() {
        let address = later.get_ref().address;
        if list[..index].iter().any(|earlier| earlier.get_ref().address == address) {
            let problem = format!("{address} is there twice");
            section.mistake(later.span().start, "upstreams", problem.into());
        }
    }
    list.into_iter().map(Spanned::into_inner).collect()
}

fn health(section: &mut Section<'_, '_, '_>, upstreams: &[StaticUpstream]) -> Option<HealthCheck> {
    let mut health = None;
    section.table("health", |section| {
        let mut check = HealthCheck::new(String::new());
        let path = section.optional("path", |value| {
            let text = value::text(value)?;
            Ok(HealthCheck::path(text).map_err(with_subject(value))?)
        });
        section.read("interval", &mut check.interval, value::duration);
        section.read("timeout", &mut check.timeout, value::duration);
        section.read("rise", &mut check.rise, in_a_row);
        section.read("fall", &mut check.fall, in_a_row);
        let other = upstreams.iter().find(|upstream| !upstream.protocol.is_http1());
        match (path, other) {
            (Some(_), Some(other)) => {
                let problem = format!("`{}` is not asked: it does not speak HTTP/1.1", other.text);
                section.mistake(section.offset(), "path", problem.into());
            }
            (Some(path), None) => health = Some(HealthCheck { path, ..check }),
            (None, _) if check != HealthCheck::new(String::new()) => {
                section.mistake(section.offset(), "path", "missing".into());
            }
            (None, _) => {}
        }
    });
    health
}

fn in_a_row(value: &DeValue<'_>) -> Result<u32, Problem> {
    value::number(HealthCheck::IN_A_ROW)(value)
}

/// A sentence without its subject, with it.
fn with_subject(value: &DeValue<'_>) -> impl FnOnce(String) -> String {
    let text = value.as_str().unwrap_or_default();
    move |problem| format!("`{text}` {problem}")
}

const CLIENT_AUTHS: &[(&str, VerifyClient)] =
    &[("required", VerifyClient::Required), ("optional", VerifyClient::Optional)];

const ROUTE_TLS: &[(&str, RouteTls)] = &[
    ("acme", RouteTls::Acme),
    ("local", RouteTls::Local),
    ("off", RouteTls::Off),
    ("passthrough", RouteTls::Passthrough),
];
