//! The answers as tables, for people.

use std::fmt::Write;

use super::answers::{
    Certificate, Diagnosis, Generation, Handoff, Reloaded, Routes, Status, Unrouted, Upstream,
};
use crate::protocol::frame::WorkerStats;

const GAP: &str = "  ";

pub fn status(status: &Status) -> String {
    let docker = &status.docker;
    let mut text =
        format!("baton {} (pid {}), since {}\n", status.version, status.pid, status.started);
    for listener in &status.listeners {
        let _ = writeln!(text, "listener  {} {}", listener.kind, listener.address);
    }
    let endpoint = docker.endpoint.as_deref().unwrap_or("off");
    let synced = docker.last_sync.as_deref().unwrap_or("never");
    let _ = match (docker.connected, &docker.error) {
        (true, _) => writeln!(
            text,
            "docker    {endpoint}: connected, {} containers, listed {synced}",
            docker.containers
        ),
        (false, Some(error)) => writeln!(text, "docker    not connected: {error}"),
        (false, None) => writeln!(text, "docker    {endpoint}: not connected"),
    };
    let _ = writeln!(text, "handoff   {}: {}\n", status.handoff.mode, status.handoff.why);

    text.push_str(&generations(&status.generations));
    for generation in &status.generations {
        if let Some(reason) = &generation.last_death {
            let _ = writeln!(text, "last death in generation {}: {reason}", generation.id);
        }
        text.push_str(&sandbox(generation));
    }
    if !status.last_handoffs.is_empty() {
        text.push('\n');
        text.push_str(&handoffs(&status.last_handoffs));
    }
    text
}

/// Where it is whole, the active generation's alone says enough.
fn sandbox(generation: &Generation) -> String {
    let Generation { id, state, sandbox, sandbox_missing, .. } = generation;
    let mut text = String::new();
    if state == "active" && !sandbox.is_empty() {
        let _ = writeln!(text, "sandbox   {}", sandbox.join(", "));
    }
    for missing in sandbox_missing {
        let _ = writeln!(text, "no sandbox in generation {id} for {missing}");
    }
    text
}

fn generations(generations: &[Generation]) -> String {
    let header = [
        "GENERATION",
        "STATE",
        "PID",
        "SINCE",
        "HTTP/1.1",
        "HTTP/2",
        "TUNNELS",
        "REQUESTS",
        "SELECTED",
        "MIGRATED",
        "DEATHS",
    ];
    let rows = generations.iter().map(|generation| {
        let counted =
            |count: fn(&WorkerStats) -> u64| or_dash(generation.counters.as_ref().map(count));
        [
            generation.id.to_string(),
            generation.state.clone(),
            or_dash(generation.pid),
            generation.started.clone(),
            counted(|c| c.connections_http1),
            counted(|c| c.connections_http2),
            counted(|c| c.tunnels),
            counted(|c| c.requests_http1 + c.requests_http2),
            or_dash(generation.selected),
            or_dash(generation.migrated),
            generation.deaths.to_string(),
        ]
    });
    align(header, rows)
}

fn handoffs(handoffs: &[Handoff]) -> String {
    let header = [
        "HANDOFF", "KIND", "FROM", "TO", "STARTED", "READY", "FLIP", "CLOSED", "MIGRATED",
        "OUTCOME",
    ];
    let ms = |time: Option<u64>| or_dash(time.map(|ms| format!("{ms} ms")));
    let rows = handoffs.iter().map(|handoff| {
        let outcome = match &handoff.error {
            Some(error) => format!("{}: {error}", handoff.outcome),
            None => handoff.outcome.clone(),
        };
        [
            handoff.id.to_string(),
            handoff.kind.clone(),
            handoff.from.to_string(),
            handoff.to.to_string(),
            handoff.started.clone(),
            ms(handoff.ms_to_ready),
            ms(handoff.ms_to_flip),
            ms(handoff.ms_to_close),
            or_dash(handoff.migrated),
            outcome,
        ]
    });
    align(header, rows)
}

pub fn routes(routes: &Routes) -> String {
    let mut rows = Vec::new();
    for route in &routes.routes {
        let certificate = or_dash(route.certificate.as_deref());
        if route.upstreams.is_empty() {
            let state = if route.has_files() { "static files" } else { "nobody is up" };
            let row = [&route.host, &route.path, "-", "-", state, &certificate];
            rows.push(row.map(String::from));
        }
        for upstream in &route.upstreams {
            let state = match &route.intervention {
                Some(intervention) => format!("{} ({intervention})", upstream.state),
                None => upstream.state.clone(),
            };
            rows.push([
                route.host.clone(),
                route.path.clone(),
                or_dash(upstream.container.as_deref()),
                address(upstream),
                state,
                certificate.clone(),
            ]);
        }
    }
    let header = ["HOST", "PATH", "CONTAINER", "UPSTREAM", "STATE", "CERTIFICATE"];
    let mut text = align(header, rows);
    if !routes.unrouted.is_empty() {
        text.push('\n');
        text.push_str(&unrouted(&routes.unrouted));
    }
    if !routes.diagnoses.is_empty() {
        text.push('\n');
        text.push_str(&diagnoses(&routes.diagnoses));
    }
    text
}

pub(in crate::controller) fn unrouted(unrouted: &[Unrouted]) -> String {
    let rows = unrouted.iter().map(|u| [u.container.clone(), u.reason.clone()]);
    align(["NOT ROUTED", "BECAUSE"], rows)
}

pub(in crate::controller) fn diagnoses(diagnoses: &[Diagnosis]) -> String {
    let rows = diagnoses
        .iter()
        .map(|d| [d.container.clone(), format!("{}={}", d.setting, d.value), d.problem.clone()]);
    align(["CONTAINER", "SETTING", "PROBLEM"], rows)
}

pub fn certificates(certificates: &[Certificate]) -> String {
    let rows = certificates.iter().map(|certificate| {
        [
            names(certificate),
            certificate.kind.clone(),
            or_dash(Some(&certificate.issuer).filter(|issuer| !issuer.is_empty())),
            or_dash(certificate.not_after.as_deref()),
            or_dash(certificate.next_renewal.as_deref()),
            certificate.state.clone(),
            or_dash(certificate.next_try.as_deref()),
            or_dash(certificate.last_error.as_deref()),
        ]
    });
    let header =
        ["NAMES", "KIND", "ISSUER", "NOT AFTER", "RENEWAL", "STATE", "NEXT TRY", "LAST ERROR"];
    align(header, rows)
}

pub fn reloaded(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for warning in &reloaded.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for change in &reloaded.changes {
        let _ = writeln!(text, "{change}");
    }
    if reloaded.changes.is_empty() {
        text.push_str("reloaded: no route changed\n");
    }
    text
}

fn names(certificate: &Certificate) -> String {
    let names = certificate.names.join(", ");
    or_dash(Some(names).filter(|names| !names.is_empty()))
}

fn address(upstream: &Upstream) -> String {
    let address = upstream.address.as_deref();
    or_dash(address.map(|address| format!("{}://{address}", upstream.protocol)))
}

pub(in crate::controller) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Left-aligned columns, as wide as their widest cell; the last one is not padded.
pub(in crate::controller) fn align<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| printable(&cell))));
    let widths: Vec<usize> = (0..N)
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
        text.push('\n');
    }
    text
}

/// What a container says is data: it must not move the cursor of whoever looks at it.
fn printable(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::answers::Route;
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [["a".to_owned(), "b".to_owned()], ["long\x1b".to_owned(), "c".to_owned()]];
        assert_eq!(align(["X", "Y"], rows), "X      Y\na      b\nlong\u{fffd}  c\n");
    }

    #[test]
    fn routes_say_where_or_why_not() {
        let upstream = Upstream {
            address: Some("172.17.0.2:80".into()),
            protocol: "http".into(),
            weight: 1,
            container: Some("web-1".into()),
            health: None,
            state: "up".into(),
        };
        let route = |host: &str, upstreams| Route {
            host: host.into(),
            path: "/".into(),
            replace_prefix: None,
            upstreams,
            certificate: None,
            intervention: None,
            options: Vec::new(),
        };
        let answer = Routes {
            routes: vec![route("app.example.com", vec![upstream]), route("b.test", vec![])],
            unrouted: vec![Unrouted { container: "db".into(), reason: "no VIRTUAL_HOST".into() }],
            diagnoses: vec![],
        };
        assert_eq!(
            routes(&answer),
            "\
HOST             PATH  CONTAINER  UPSTREAM              STATE         CERTIFICATE
app.example.com  /     web-1      http://172.17.0.2:80  up            -
b.test           /     -          -                     nobody is up  -

NOT ROUTED  BECAUSE
db          no VIRTUAL_HOST
"
        );
    }
}
