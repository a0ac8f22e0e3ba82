//! The compiled snapshot: what a request looks its route up in, and a handshake its certificate
//! and ticket keys, and a CA the answers to its challenges. Immutable, shared by all threads, swapped whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use regex::bytes::Regex;

use super::challenges::Challenges;
use super::client_auth::ClientAuth;
use super::error_pages::PageSets;
use super::hold::Waiting;
use super::host_book::{HostBook, PerThread};
use super::route_options::RouteOptions;
use super::stats::HostCounts;
use super::tickets::TicketKeys;
use super::tls::Certificates;
use super::upstream::gate::{Gate, Gates, Queue};
use super::upstream::sticky::Sticky;
use crate::protocol::default_root::DefaultRoot;
use crate::protocol::options::Options;
use crate::protocol::pattern::{HostPattern, PathPattern, compile};
use crate::protocol::settings::Balance;
use crate::protocol::snapshot::{self, HttpsMethod, Intervention, Snapshot, StickyKey};

/// Before an upstream that has as many requests as it may, where the route says nothing else.
const QUEUE_LENGTH: u32 = 100;
const QUEUE_WAIT: Duration = Duration::from_secs(5);

/// Index of a pool in [`Table::pools`].
pub type PoolIndex = usize;

#[derive(Debug, Default)]
pub struct Table {
    pub version: u64,
    hosts: Hosts,
    /// The pool of each route, in the order of the snapshot.
    pub pools: Vec<Plan>,
    /// Servers that routes ask before they answer.
    pub asked: Vec<snapshot::Upstream>,
    pub certificates: Certificates,
    pub ticket_keys: TicketKeys,
    pub challenges: Challenges,
    pub error_pages: PageSets,
}

/// What a pool is made of.
#[derive(Debug)]
pub struct Plan {
    pub upstreams: Vec<snapshot::Upstream>,
    /// `None`: as all others.
    pub balance: Option<Balance>,
    /// In place of that: by this field.
    pub balance_header: Option<Arc<str>>,
    pub slow_start: Option<Duration>,
    pub sticky: Option<Arc<Sticky>>,
    /// For each upstream, where there is a cap.
    pub gates: Vec<Arc<Gate>>,
    pub queue: Option<Queue>,
}

impl Plan {
    fn compile(
        upstreams: Vec<snapshot::Upstream>,
        options: &mut Options,
        place: (&HostPattern, &PathPattern),
        key: Option<&StickyKey>,
        gates: &mut Gates,
    ) -> Self {
        let mut gate = |upstream: &snapshot::Upstream| {
            let cap = options.max_requests?;
            Some(gates.of(upstream.address, upstream.protocol, cap))
        };
        let gates = upstreams.iter().filter_map(&mut gate).collect();
        let sticky = options.sticky.as_ref().zip(key);
        Plan {
            sticky: sticky
                .map(|(sticky, key)| Arc::new(Sticky::compile(sticky, key, place, &upstreams))),
            balance: options.balance.take(),
            slow_start: options.slow_start,
            balance_header: options.balance_header.take().map(Arc::from),
            gates,
            queue: options.max_requests.map(|_| Queue {
                length: options.queue.unwrap_or(QUEUE_LENGTH) as usize,
                wait: options.queue_wait.unwrap_or(QUEUE_WAIT),
            }),
            upstreams,
        }
    }
}

/// nginx's precedence: exact, longest leading wildcard, longest trailing wildcard, first regular
/// expression in sorted order.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<Box<[u8]>, Host>,
    /// By suffix with its dot.
    leading: HashMap<Box<[u8]>, Host>,
    /// By prefix with its dot.
    trailing: HashMap<Box<[u8]>, Host>,
    regexes: Vec<(Regex, Host)>,
    /// For all other names.
    fallback: Option<Box<Host>>,
}

#[derive(Debug)]
pub struct Host {
    pub https: HttpsMethod,
    pub trusted: bool,
    /// 503 over plain HTTP, too, without a certificate.
    pub needs_certificate: bool,
    /// Of a redirect to HTTPS, where the method is neither GET nor HEAD.
    pub non_get_redirect: StatusCode,
    /// That a redirect to HTTPS names.
    pub https_port: Option<u16>,
    /// Strict-Transport-Security over HTTPS.
    pub hsts: Option<Bytes>,
    pub client_auth: Option<Arc<ClientAuth>>,
    /// Its upstreams end TLS.
    pub passthrough: bool,
    pub intervention: Option<Intervention>,
    pub default_root: DefaultRoot,
    counts: PerThread,
    paths: Paths,
}

/// nginx's precedence: exact, first regular expression in sorted order, longest prefix.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<[u8]>, Route>,
    regexes: Vec<(Regex, Route)>,
    /// Longest first.
    prefixes: Vec<(Prefix, Route)>,
}

#[derive(Debug)]
struct Prefix {
    text: Box<[u8]>,
    /// Matches whole segments only.
    segments: bool,
}

#[derive(Debug)]
pub struct Route {
    pub pool: PoolIndex,
    /// Requests may wait where nobody answers.
    pub hold: bool,
    pub waiting: Waiting,
    pub replace: Option<Replace>,
    /// What it does beside forwarding, which is most often nothing.
    pub options: Option<Box<RouteOptions>>,
}

impl Route {
    /// It needs nobody else.
    pub fn has_files(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.root.is_some())
    }
}

/// The matched prefix and what replaces it.
#[derive(Debug)]
pub struct Replace {
    pub prefix: Box<[u8]>,
    pub by: Box<[u8]>,
}

/// What could not be compiled. The rest of the snapshot stands.
pub type Problem = String;

impl Table {
    /// Compiles a snapshot. The controller has checked it, so problems mean a bug or a controller
    /// of another version.
    pub fn compile(snapshot: Snapshot, book: &mut HostBook) -> (Self, Vec<Problem>) {
        let mut compiler = Compiler::new(book, snapshot.sticky_key);
        let mut hosts = Hosts::default();
        let mut sorted = snapshot.hosts;
        sorted.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        for host in sorted {
            let pattern = host.pattern.clone();
            let compiled = compiler.host(host);
            hosts.insert(pattern, compiled, &mut compiler.problems);
        }
        hosts.fallback = snapshot.fallback.map(|host| Box::new(compiler.host(*host)));
        let Compiler { pools, asked, mut problems, .. } = compiler;
        let certificates = Certificates::load(snapshot.certificates, &mut problems);
        let ticket_keys = TicketKeys::load(&snapshot.ticket_keys);
        let challenges = Challenges::load(snapshot.challenges, &mut problems);
        let error_pages = PageSets::new(snapshot.error_pages);
        let version = snapshot.version;
        let table = Table {
            version,
            hosts,
            pools,
            asked,
            certificates,
            ticket_keys,
            challenges,
            error_pages,
        };
        (table, problems)
    }

    /// `name` is normal: see [`normal_host`].
    pub fn host(&self, name: &[u8]) -> Option<&Host> {
        self.hosts.find(name)
    }
}

/// What hosts are compiled into, beside themselves.
struct Compiler<'a> {
    book: &'a mut HostBook,
    sticky_key: Option<StickyKey>,
    pools: Vec<Plan>,
    asked: Vec<snapshot::Upstream>,
    problems: Vec<Problem>,
}

impl<'a> Compiler<'a> {
    fn new(book: &'a mut HostBook, sticky_key: Option<StickyKey>) -> Self {
        let (pools, asked, problems) = (Vec::new(), Vec::new(), Vec::new());
        Compiler { book, sticky_key, pools, asked, problems }
    }

    fn host(&mut self, host: snapshot::Host) -> Host {
        let problems = &mut self.problems;
        let client_auth = host.client_auth.map(|auth| Arc::new(ClientAuth::load(auth, problems)));
        Host {
            https: host.https,
            trusted: host.trusted,
            needs_certificate: host.needs_certificate,
            non_get_redirect: StatusCode::from_u16(host.non_get_redirect)
                .unwrap_or(StatusCode::MOVED_PERMANENTLY),
            https_port: host.https_port,
            hsts: host.hsts.map(Bytes::from),
            client_auth,
            passthrough: host.passthrough,
            intervention: host.intervention,
            default_root: host.default_root,
            counts: self.book.of(&host.pattern),
            paths: Paths::compile(&host.pattern, host.routes, self),
        }
    }
}

impl Hosts {
    fn insert(&mut self, pattern: HostPattern, host: Host, problems: &mut Vec<Problem>) {
        match pattern {
            HostPattern::Exact(name) => drop(self.exact.insert(name.into_bytes().into(), host)),
            HostPattern::Leading(suffix) => {
                drop(self.leading.insert(suffix.into_bytes().into(), host));
            }
            HostPattern::Trailing(prefix) => {
                drop(self.trailing.insert(prefix.into_bytes().into(), host));
            }
            HostPattern::Regex(expression) => match compile(&expression, true) {
                Ok(regex) => self.regexes.push((regex, host)),
                Err(error) => problems.push(error.to_string()),
            },
        }
    }

    fn find(&self, name: &[u8]) -> Option<&Host> {
        if let Some(host) = self.exact.get(name) {
            return Some(host);
        }
        let dots = || memchr::memchr_iter(b'.', name);
        if !self.leading.is_empty()
            && let Some(host) = dots().find_map(|dot| self.leading.get(&name[dot..]))
        {
            return Some(host);
        }
        if !self.trailing.is_empty()
            && let Some(host) = dots()
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .find_map(|dot| self.trailing.get(&name[..=dot]))
        {
            return Some(host);
        }
        let found = self.regexes.iter().find(|(regex, _)| regex.is_match(name));
        found.map(|(_, host)| host).or(self.fallback.as_deref())
    }
}

impl Host {
    /// Clients have to show a certificate.
    pub fn requires_certificate(&self) -> bool {
        self.client_auth.as_ref().is_some_and(|auth| auth.asked.required)
    }

    /// How much longer its requests wait because a person wants it.
    pub fn pause(&self) -> Option<Duration> {
        let Some(Intervention::Pause { until }) = self.intervention else { return None };
        until.duration_since(SystemTime::now()).ok()
    }

    /// What this thread counts of it.
    pub fn counts(&self, thread: usize) -> &HostCounts {
        &self.counts[thread]
    }

    /// The route for a path, decoded as [`normal_path`] does.
    pub fn route(&self, path: &[u8]) -> Option<&Route> {
        self.paths.find(path)
    }
}

impl Paths {
    fn compile(
        host: &HostPattern,
        mut routes: Vec<snapshot::Route>,
        compiler: &mut Compiler<'_>,
    ) -> Self {
        let Compiler { book, sticky_key, pools, asked, problems } = compiler;
        let mut paths = Paths::default();
        routes.sort_by(|a, b| a.path.cmp(&b.path));
        for mut route in routes {
            let pool = pools.len();
            let place = (host, &route.path);
            let key = sticky_key.as_ref();
            let (upstreams, options) = (route.upstreams, &mut route.options);
            pools.push(Plan::compile(upstreams, options, place, key, &mut book.gates));
            let options = RouteOptions::compile(route.options, host, &route.path, asked);
            let waiting = Waiting::default();
            let entry = Route { pool, hold: route.hold, waiting, replace: None, options };
            paths.insert(route.path, route.replace_prefix, entry, problems);
        }
        paths.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.text.len()));
        paths
    }

    fn insert(
        &mut self,
        path: PathPattern,
        replacement: Option<String>,
        entry: Route,
        problems: &mut Vec<Problem>,
    ) {
        let replacing = |matched: &str| {
            let prefix = matched.as_bytes().into();
            replacement.map(|by| Replace { prefix, by: by.into_bytes().into() })
        };
        match path {
            PathPattern::Exact(path) => {
                let route = Route { replace: replacing(&path), ..entry };
                self.exact.insert(path.into_bytes().into(), route);
            }
            PathPattern::Regex(expression) => match compile(&expression, false) {
                Ok(regex) => self.regexes.push((regex, entry)),
                Err(error) => problems.push(error.to_string()),
            },
            PathPattern::Prefix(text) => {
                let route = Route { replace: replacing(&text), ..entry };
                self.prefixes
                    .push((Prefix { text: text.into_bytes().into(), segments: false }, route));
            }
            PathPattern::Segments(text) => {
                let route = Route { replace: replacing(&text), ..entry };
                let text = text.trim_end_matches('/').as_bytes().into();
                self.prefixes.push((Prefix { text, segments: true }, route));
            }
        }
    }

    fn find(&self, path: &[u8]) -> Option<&Route> {
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(path)
        {
            return Some(route);
        }
        if let Some((_, route)) = self.regexes.iter().find(|(regex, _)| regex.is_match(path)) {
            return Some(route);
        }
        self.prefixes.iter().find(|(prefix, _)| prefix.matches(path)).map(|(_, route)| route)
    }
}

impl Prefix {
    fn matches(&self, path: &[u8]) -> bool {
        path.starts_with(&self.text)
            && (!self.segments || matches!(path.get(self.text.len()), None | Some(b'/')))
    }
}

/// A host as names are compared: without port, brackets and trailing dot, in lower case.
pub fn normal_host(authority: &[u8]) -> Vec<u8> {
    let host = match authority.strip_prefix(b"[") {
        Some(rest) => rest.split(|&b| b == b']').next().unwrap_or_default(),
        None => authority.split(|&b| b == b':').next().unwrap_or_default(),
    };
    host.strip_suffix(b".").unwrap_or(host).to_ascii_lowercase()
}

/// A path as nginx matches it: percent-decoded, slashes merged, dot segments resolved. Borrowed
/// where nothing has to change. `None` when it leaves the root
/// or holds a NUL.
pub fn normal_path(path: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    let plain = memchr::memchr(b'%', path).is_none()
        && !path.windows(2).any(|pair| pair == b"//" || pair == b"/.");
    if plain {
        return Some(path.into());
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' && tail.len() >= 2 {
            let digit = |b: u8| (b as char).to_digit(16);
            if let (Some(high), Some(low)) = (digit(tail[0]), digit(tail[1])) {
                decoded.push((high * 16 + low) as u8);
                rest = &tail[2..];
                continue;
            }
        }
        decoded.push(byte);
    }
    // No path has it, and what reads one as text ends there.
    if decoded.contains(&0) {
        return None;
    }
    let mut normal: Vec<&[u8]> = Vec::new();
    let mut segments = decoded.split(|&b| b == b'/').peekable();
    let mut directory = false;
    while let Some(segment) = segments.next() {
        directory = segments.peek().is_none() && matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => drop(normal.pop()?),
            segment => normal.push(segment),
        }
    }
    let mut path = normal.iter().flat_map(|segment| [b"/", *segment]).collect::<Vec<_>>().concat();
    if directory {
        path.push(b'/');
    }
    Some(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::options::Options;

    fn upstream(name: &str) -> snapshot::Upstream {
        snapshot::Upstream {
            name: name.into(),
            address: "127.0.0.1:80".parse().expect("address"),
            protocol: Default::default(),
            weight: 1,
        }
    }

    fn route(path: PathPattern, name: &str) -> snapshot::Route {
        snapshot::Route {
            path,
            replace_prefix: None,
            options: Options::default(),
            upstreams: vec![upstream(name)],
            hold: false,
        }
    }

    fn table(hosts: &[(&str, Vec<snapshot::Route>)]) -> Table {
        let hosts = hosts
            .iter()
            .map(|(pattern, routes)| snapshot::Host::new(pattern, routes.clone()))
            .collect();
        let snapshot = Snapshot { version: 1, hosts, ..Snapshot::default() };
        let (table, problems) = Table::compile(snapshot, &mut HostBook::new(1));
        assert_eq!(problems, Vec::<String>::new());
        table
    }

    fn found<'a>(table: &'a Table, host: &str, path: &str) -> Option<&'a str> {
        let path = normal_path(path.as_bytes())?;
        let route = table.host(&normal_host(host.as_bytes()))?.route(&path)?;
        Some(&table.pools[route.pool].upstreams[0].name)
    }

    #[test]
    fn hosts_are_found_in_nginx_order() {
        let root = |name| vec![route(PathPattern::Prefix("/".into()), name)];
        let table = table(&[
            ("a.example.com", root("exact")),
            ("*.example.com", root("leading")),
            ("*.b.example.com", root("longer")),
            ("a.*", root("trailing")),
            ("a.b.*", root("longer-trailing")),
            (r"~^x\d\.org$", root("regex")),
            (r"~^x.*\.org$", root("regex-later")),
            ("2001:db8::1", root("ip")),
        ]);
        for (host, want) in [
            ("a.example.com", Some("exact")),
            ("A.Example.COM.:443", Some("exact")),
            ("c.example.com", Some("leading")),
            ("x.c.example.com", Some("leading")),
            ("c.b.example.com", Some("longer")),
            ("example.com", None),
            ("a.net", Some("trailing")),
            ("a.b.net", Some("longer-trailing")),
            ("a.b.c.net", Some("longer-trailing")),
            ("X1.org", Some("regex-later")),
            ("xx.org", Some("regex-later")),
            ("[2001:db8::1]:80", Some("ip")),
            ("other", None),
            ("", None),
        ] {
            assert_eq!(found(&table, host, "/"), want, "{host}");
        }
    }

    #[test]
    fn paths_are_found_in_nginx_order() {
        use PathPattern::*;
        let table = table(&[(
            "a",
            vec![
                route(Prefix("/".into()), "root"),
                route(Prefix("/app".into()), "textual"),
                route(Segments("/seg".into()), "segments"),
                route(Prefix("/app/long/".into()), "long"),
                route(Exact("/app".into()), "exact"),
                route(Regex(r"\.php$".into()), "regex"),
            ],
        )]);
        for (path, want) in [
            ("/", "root"),
            ("/app", "exact"),
            ("/apple", "textual"),
            ("/app/long/x", "long"),
            ("/app/long/x.php", "regex"),
            ("/seg", "segments"),
            ("/seg/x", "segments"),
            ("/segment", "root"),
            ("/%61pp", "exact"),
            ("//app//long//x", "long"),
            ("/x/../app/./long/x", "long"),
        ] {
            assert_eq!(found(&table, "a", path), Some(want), "{path}");
        }
        assert_eq!(found(&table, "a", "/../app"), None);
    }

    #[test]
    fn normal_paths() {
        for (path, want) in [
            ("/a/b", Some("/a/b")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b/", Some("/b/")),
            ("/a/..", Some("/")),
            ("/a/%2e%2e/b", Some("/b")),
            ("/a%2Fb", Some("/a/b")),
            ("/.hidden", Some("/.hidden")),
            ("/a%zz", Some("/a%zz")),
            ("/..", None),
            ("/a%00b", None),
            ("//", Some("/")),
        ] {
            let got =
                normal_path(path.as_bytes()).map(|p| String::from_utf8_lossy(&p).into_owned());
            assert_eq!(got.as_deref(), want, "{path}");
        }
    }
}
