//! The whole story of one name, for a person: what answers for it, and what to do where nothing does.
//! A pure function of the controller's answers.

use std::fmt::Write;
use std::net::IpAddr;

use super::answers::{Certificate, Route, Routes, Status, Upstream};
use crate::protocol::pattern::{HostPattern, compile};

/// What there is to tell from.
#[derive(Debug)]
pub struct Known<'a> {
    pub routes: &'a Routes,
    pub certificates: &'a [Certificate],
    pub status: &'a Status,
    /// What the DNS says of the name, or why it says nothing.
    pub addresses: &'a Result<Vec<IpAddr>, String>,
}

/// A host, or a container by its name; `None` when nothing is known of either.
pub fn story(subject: &str, known: &Known<'_>) -> Option<String> {
    let mut text = String::new();
    if let Some(error) = &known.status.docker.error {
        let _ = writeln!(text, "Docker is not connected, so that what follows is old: {error}");
    }
    match host(subject, known.routes) {
        Some(pattern) => tell_host(&mut text, subject, pattern, known),
        None => tell_container(&mut text, subject, known)?,
    }
    Some(text)
}

/// The pattern that a request for this name finds: nginx's precedence.
fn host<'a>(name: &str, routes: &'a Routes) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let ranked = routes.routes.iter().filter_map(|route| {
        let rank = match route.host.parse().ok()? {
            _ if route.host == name => (3, usize::MAX),
            HostPattern::Exact(exact) => (3, (exact == name).then_some(usize::MAX)?),
            HostPattern::Leading(suffix) => (2, name.ends_with(&suffix).then_some(suffix.len())?),
            HostPattern::Trailing(prefix) => {
                (1, name.starts_with(&prefix).then_some(prefix.len())?)
            }
            HostPattern::Regex(expression) => {
                (0, compile(&expression, true).ok()?.is_match(name.as_bytes()).then_some(0)?)
            }
        };
        Some((rank, route.host.as_str()))
    });
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, host)| host)
}

fn tell_host(text: &mut String, name: &str, pattern: &str, known: &Known<'_>) {
    let routes: Vec<&Route> =
        known.routes.routes.iter().filter(|route| route.host == pattern).collect();
    let is_up =
        |route: &&Route| route.has_files() || route.upstreams.iter().any(|one| one.state == "up");
    let up = routes.iter().filter(|route| is_up(route)).count();
    let by = if pattern == name { String::new() } else { format!(" by `{pattern}`") };
    let how = match up {
        0 => "nobody is up for it: clients wait for a moment, and get 503".to_owned(),
        _ if up == routes.len() => "it is served".to_owned(),
        _ => format!("{up} of its {} paths are served", routes.len()),
    };
    let _ = writeln!(text, "{name} is routed{by}, and {how}.");
    if let Some(intervention) = routes.iter().find_map(|route| route.intervention.as_ref()) {
        let _ = writeln!(text, "A person has intervened: {intervention}.");
    }
    tell_dns(text, known.addresses);
    tell_certificate(text, name, pattern, &routes, known.certificates);
    for route in &routes {
        let _ = writeln!(text, "\n{}{}", route.host, route.path);
        if route.has_files() {
            let _ = writeln!(text, "  static files");
        } else if route.upstreams.is_empty() {
            let _ = writeln!(text, "  nobody answers for it");
        }
        for upstream in &route.upstreams {
            let _ = writeln!(text, "  {}: {}", called(upstream), condition(upstream));
        }
    }
    let containers = routes.iter().flat_map(|route| &route.upstreams);
    let containers: Vec<&str> = containers.filter_map(|one| one.container.as_deref()).collect();
    tell_diagnoses(text, &containers, known.routes);
}

fn tell_dns(text: &mut String, addresses: &Result<Vec<IpAddr>, String>) {
    let _ = match addresses {
        Ok(addresses) => {
            let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            writeln!(text, "DNS: {}. One of them has to be this host's.", list.join(", "))
        }
        Err(error) => {
            writeln!(text, "DNS: no address ({error}): an A or AAAA record has to lead here.")
        }
    };
}

fn tell_certificate(
    text: &mut String,
    name: &str,
    pattern: &str,
    routes: &[&Route],
    certificates: &[Certificate],
) {
    let has = |certificate: &&Certificate| {
        certificate.names.iter().any(|one| one == name || one == pattern)
    };
    let kind = routes.iter().find_map(|route| route.certificate.as_deref());
    let mut own = certificates.iter().filter(has).peekable();
    if own.peek().is_none() {
        let _ = match kind {
            Some(kind) => {
                writeln!(text, "Certificate: one of another name that covers it ({kind}).")
            }
            None => writeln!(
                text,
                "Certificate: none, so that it is served over plain HTTP alone. One is ordered where \
                 `acme.agree_tos` is true."
            ),
        };
    }
    for certificate in own {
        let Certificate { kind, state, issuer, .. } = certificate;
        let _ = write!(text, "Certificate: {state} ({kind}");
        let issuer = Some(issuer).filter(|issuer| !issuer.is_empty());
        let _ = issuer.map_or(Ok(()), |issuer| write!(text, ", by {issuer}"));
        let until = certificate.not_after.as_ref();
        let _ = until.map_or(Ok(()), |until| write!(text, ", until {until}"));
        let next = certificate.next_renewal.as_ref();
        let _ = next.map_or(Ok(()), |next| write!(text, ", renewed at {next}"));
        let _ = writeln!(text, ").");
        if let Some(error) = &certificate.last_error {
            let next = certificate.next_try.as_deref().unwrap_or("the next occasion");
            let first = certificate.names.first().map_or(name, String::as_str);
            let _ = writeln!(
                text,
                "  Its last order failed: {error}. It is tried again at {next}, or now by \
                 `baton certs --retry {first}`."
            );
        }
    }
}

fn called(upstream: &Upstream) -> String {
    let address = upstream.address.as_deref().unwrap_or("no address");
    match &upstream.container {
        Some(container) => format!("{container} ({address})"),
        None => address.to_owned(),
    }
}

/// What a state means, and what to do about it.
fn condition(upstream: &Upstream) -> String {
    let container = upstream.container.as_deref().unwrap_or_default();
    match upstream.state.as_str() {
        "up" => "up".to_owned(),
        "starting" => "starting: its HEALTHCHECK has not passed yet".to_owned(),
        "unhealthy" => format!(
            "unhealthy: its HEALTHCHECK fails; `docker inspect --format '{{{{json .State.Health}}}}' \
             {container}` shows what it says"
        ),
        "stopping" => "stopping: it was told to, and finishes what it has begun".to_owned(),
        "waiting" => format!(
            "waiting: nothing listens on that port yet; `docker logs {container}`, or another \
             VIRTUAL_PORT"
        ),
        "unready" => format!(
            "unready: `GET {}` is not answered by 2xx or 3xx, or not yet often enough; baton's log says \
             what it answered last",
            upstream.health.as_deref().unwrap_or("/")
        ),
        "paused" => format!("paused: `docker unpause {container}`"),
        "restarting" => {
            format!("restarting: it ends by itself; `docker logs {container}` says why")
        }
        "no_address" => {
            "no address: it is on no network that this host reaches; baton.network names one"
                .to_owned()
        }
        "gone" => "gone: it has ended, and requests wait a moment for the next one".to_owned(),
        other => other.to_owned(),
    }
}

fn tell_container(text: &mut String, name: &str, known: &Known<'_>) -> Option<()> {
    let mut is_known = false;
    for route in &known.routes.routes {
        let mine = |one: &&Upstream| one.container.as_deref() == Some(name);
        for upstream in route.upstreams.iter().filter(mine) {
            is_known = true;
            let place = format!("{}{}", route.host, route.path);
            let _ = writeln!(text, "{name} answers for {place}: {}", condition(upstream));
        }
    }
    for unrouted in known.routes.unrouted.iter().filter(|unrouted| unrouted.container == name) {
        is_known = true;
        let _ = writeln!(text, "{name} is not routed: {}.", unrouted.reason);
    }
    tell_diagnoses(text, &[name], known.routes);
    is_known.then_some(())
}

fn tell_diagnoses(text: &mut String, containers: &[&str], routes: &Routes) {
    let mine = |container: &str| containers.contains(&container);
    let mut heading = "\nWhat is wrong with what they say:\n";
    for diagnosis in routes.diagnoses.iter().filter(|one| mine(&one.container)) {
        let _ = writeln!(
            text,
            "{heading}  {}: {}={} {}",
            diagnosis.container, diagnosis.setting, diagnosis.value, diagnosis.problem
        );
        heading = "";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::admin::answers::{Diagnosis, Docker, HandoffMode, Unrouted};

    fn upstream(container: &str, state: &str) -> Upstream {
        Upstream {
            address: Some("172.17.0.2:80".into()),
            protocol: "http".into(),
            weight: 1,
            container: Some(container.into()),
            health: (state == "unready").then(|| "/up".into()),
            state: state.into(),
        }
    }

    fn route(host: &str, upstreams: Vec<Upstream>) -> Route {
        Route {
            host: host.into(),
            path: "/".into(),
            replace_prefix: None,
            upstreams,
            certificate: Some("acme".into()),
            intervention: None,
            options: Vec::new(),
        }
    }

    fn told(subject: &str) -> Option<String> {
        let routes = Routes {
            routes: vec![
                route("*.test", vec![upstream("any-1", "waiting"), upstream("any-2", "unready")]),
                route("app.test", vec![upstream("web-1", "up"), upstream("web-2", "unhealthy")]),
                route("~^x\\d+\\.test$", vec![]),
            ],
            unrouted: vec![Unrouted { container: "db".into(), reason: "no VIRTUAL_HOST".into() }],
            diagnoses: vec![Diagnosis {
                container: "web-1".into(),
                setting: "HSTS".into(),
                value: "on".into(),
                problem: "is neither".into(),
            }],
        };
        let certificates = [Certificate {
            names: vec!["app.test".into()],
            kind: "acme".into(),
            issuer: "R11".into(),
            not_after: None,
            next_renewal: None,
            state: "failed".into(),
            last_error: Some("no address".into()),
            next_try: Some("12:00".into()),
        }];
        let status = Status {
            version: String::new(),
            pid: 1,
            started: String::new(),
            handoff: HandoffMode { mode: String::new(), why: String::new() },
            generations: vec![],
            listeners: vec![],
            last_handoffs: vec![],
            docker: Docker {
                connected: true,
                endpoint: None,
                containers: 0,
                last_sync: None,
                error: None,
            },
        };
        let addresses = Err("NXDOMAIN".to_owned());
        story(
            subject,
            &Known {
                routes: &routes,
                certificates: &certificates,
                status: &status,
                addresses: &addresses,
            },
        )
    }

    #[test]
    fn a_host_with_all_that_is_wrong() {
        let story = told("APP.test").expect("it is routed");
        for part in [
            "APP.test is routed by `app.test`, and it is served.",
            "DNS: no address (NXDOMAIN)",
            "Certificate: failed (acme, by R11).",
            "tried again at 12:00, or now by `baton certs --retry app.test`.",
            "web-1 (172.17.0.2:80): up",
            "web-2 (172.17.0.2:80): unhealthy",
            "web-1: HSTS=on is neither",
        ] {
            assert!(story.contains(part), "{part}\n{story}");
        }
    }

    #[test]
    fn names_find_the_pattern_that_requests_find() {
        for (name, want) in [
            ("app.test", Some("app.test is routed, and it is served.")),
            ("b.test", Some("b.test is routed by `*.test`, and nobody is up for it")),
            ("web-2", Some("web-2 answers for app.test/: unhealthy")),
            ("any-2", Some("any-2 answers for *.test/: unready: `GET /up` is not answered by 2xx")),
            ("db", Some("db is not routed: no VIRTUAL_HOST.")),
            ("other.example", None),
        ] {
            let told = told(name);
            let first = told.as_deref().and_then(|story| story.lines().next());
            match want {
                Some(want) => assert!(first.is_some_and(|line| line.starts_with(want)), "{told:?}"),
                None => assert_eq!(told, None),
            }
        }
    }
}
