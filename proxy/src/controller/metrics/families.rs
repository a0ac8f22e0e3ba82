//! The metrics by name: what is known at the moment of a scrape, as text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::exposition::{Exposition, Format};
use super::tally::{Load, Totals};
use crate::controller::admin::known::View;
use crate::protocol::frame::WorkerStats;

/// What a scrape tells.
#[derive(Debug)]
pub struct Report {
    pub started: SystemTime,
    pub totals: Totals,
    /// Of all workers.
    pub load: Load,
    /// How many are in each state.
    pub generations: BTreeMap<&'static str, u64>,
    /// New connections go where a selector says.
    pub is_steered: bool,
    pub view: Arc<View>,
}

impl Report {
    pub fn write(&self, format: Format) -> String {
        let mut text = Exposition::new(format);
        self.requests(&mut text);
        self.connections(&mut text);
        self.upstreams(&mut text);
        self.processes(&mut text);
        self.handoffs(&mut text);
        self.docker(&mut text);
        self.certificates(&mut text);
        text.finish()
    }

    fn requests(&self, text: &mut Exposition) {
        let hosts = &self.totals.workers.hosts;
        let mut family = text.counter("baton_requests", "Requests that are over.");
        for (host, stats) in hosts {
            for ([protocol, method, status], count) in stats.requests() {
                let labels = [
                    ("host", &**host),
                    ("protocol", protocol),
                    ("method", method),
                    ("status", status),
                ];
                family.sample(&labels, count);
            }
        }
        let mut family = text.histogram(
            "baton_request_duration_seconds",
            "From the head of a request to the end of its response.",
        );
        for (host, stats) in hosts {
            family.durations(&[("host", host)], &stats.durations);
        }
        let mut family = text.histogram(
            "baton_upstream_head_seconds",
            "From a request sent to an upstream to the head of its answer.",
        );
        for (host, stats) in hosts.iter().filter(|(_, stats)| stats.upstream_heads.count() > 0) {
            family.durations(&[("host", host)], &stats.upstream_heads);
        }
        let mut family = text.gauge("baton_requests_active", "Requests in progress.");
        family.sample(&[], self.load.requests_active);
        let help = "Requests in progress that wait for an upstream to be there.";
        text.gauge("baton_requests_held", help).sample(&[], self.load.requests_held);
        let help = "Requests that have waited for an upstream to be there.";
        text.counter("baton_holds", help).sample(&[], self.totals.workers.holds);
        let mut family = text.counter(
            "baton_log_lines_dropped",
            "Lines of the access log that stdout did not take in time.",
        );
        family.sample(&[], self.totals.workers.log_lines_dropped);
    }

    fn connections(&self, text: &mut Exposition) {
        let WorkerStats {
            accepted,
            tls12_full,
            tls12_resumed,
            tls13_full,
            tls13_resumed,
            handshake_failures,
            ..
        } = &self.totals.workers;
        let Load { connections, connections_http1, connections_http2, tunnels, .. } = self.load;
        text.counter("baton_connections_accepted", "Connections of clients.").sample(&[], accepted);
        let mut family = text.gauge(
            "baton_connections",
            "Connections of clients that are open, by protocol; none of those in a handshake.",
        );
        let none = connections.saturating_sub(connections_http1 + connections_http2);
        for (protocol, count) in
            [("http1", connections_http1), ("http2", connections_http2), ("none", none)]
        {
            family.sample(&[("protocol", protocol)], count);
        }
        let help = "WebSocket connections and other upgrades that are open.";
        text.gauge("baton_tunnels", help).sample(&[], tunnels);
        let mut family = text.counter(
            "baton_tls_handshakes",
            "TLS handshakes that were completed; resumed where a session went on.",
        );
        for (version, resumed, count) in [
            ("1.2", "false", tls12_full),
            ("1.2", "true", tls12_resumed),
            ("1.3", "false", tls13_full),
            ("1.3", "true", tls13_resumed),
        ] {
            family.sample(&[("version", version), ("resumed", resumed)], count);
        }
        let help = "TLS handshakes that failed or ran out of time.";
        text.counter("baton_tls_handshake_failures", help).sample(&[], handshake_failures);
    }

    fn upstreams(&self, text: &mut Exposition) {
        let WorkerStats { upstream_connects, upstream_failures, retries, .. } =
            &self.totals.workers;
        for (name, help, count) in [
            ("baton_upstream_connects", "Connections opened to upstreams.", upstream_connects),
            (
                "baton_upstream_failures",
                "Attempts to have an answer of an upstream that failed.",
                upstream_failures,
            ),
            ("baton_upstream_retries", "Requests that were tried once more.", retries),
        ] {
            text.counter(name, help).sample(&[], count);
        }
        let mut up: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        for route in &self.view.routes.routes {
            let [ups, downs] = up.entry(&route.host).or_default();
            for upstream in &route.upstreams {
                *(if upstream.state == "up" { &mut *ups } else { &mut *downs }) += 1;
            }
        }
        let mut family = text.gauge(
            "baton_upstreams",
            "Upstreams of a host, over its routes; state is up, or down for out of rotation.",
        );
        for (host, [ups, downs]) in up {
            family.sample(&[("host", host), ("state", "up")], ups);
            family.sample(&[("host", host), ("state", "down")], downs);
        }
        let unrouted = self.view.routes.unrouted.len();
        text.gauge("baton_unrouted_containers", "Running containers that have no route.")
            .sample(&[], unrouted);
        text.gauge("baton_diagnoses", "Settings of containers that are wrong, and have no effect.")
            .sample(&[], self.view.routes.diagnoses.len());
    }

    fn processes(&self, text: &mut Exposition) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.gauge("baton_build_info", "1, with the version of the controller.")
            .sample(&version, 1);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        text.gauge("baton_start_time_seconds", "When this process was started; upgrades keep it.")
            .sample(&[], started.as_secs());
        let mut family = text.gauge("baton_generations", "Generations of workers that live.");
        for (state, count) in &self.generations {
            family.sample(&[("state", state)], count);
        }
        text.counter("baton_worker_deaths", "Workers that died unasked, and were replaced.")
            .sample(&[], self.totals.deaths);
    }

    fn handoffs(&self, text: &mut Exposition) {
        let Totals { steered, handoffs, handoff_durations, .. } = &self.totals;
        if self.is_steered {
            let help = "Connections that the selector sent to a generation.";
            text.counter("baton_connections_selected", help).sample(&[], steered.selected);
            let help = "Connections that moved from the queue of a listener that closed.";
            text.counter("baton_connections_migrated", help).sample(&[], steered.migrated);
        }
        let mut family = text.counter("baton_handoffs", "Handoffs that are over.");
        for (kind, outcomes) in handoffs {
            for (outcome, count) in outcomes {
                family.sample(&[("kind", kind), ("outcome", outcome)], count);
            }
        }
        let mut family = text.histogram(
            "baton_handoff_duration_seconds",
            "From the start of a handoff that was done to its switch.",
        );
        for (kind, durations) in handoff_durations {
            family.durations(&[("kind", kind)], durations);
        }
    }

    fn docker(&self, text: &mut Exposition) {
        let docker = &self.view.docker;
        text.gauge("baton_docker_connected", "1 where Docker is connected.")
            .sample(&[], u8::from(docker.connected));
        text.gauge("baton_docker_containers", "Running containers.").sample(&[], docker.containers);
        for (name, help, count) in [
            (
                "baton_docker_events",
                "Events that concerned a container.",
                self.totals.docker_events,
            ),
            (
                "baton_docker_lists",
                "Complete lists; one at each connect.",
                self.totals.docker_lists,
            ),
            ("baton_docker_losses", "Connections that were lost.", self.totals.docker_losses),
        ] {
            text.counter(name, help).sample(&[], count);
        }
    }

    fn certificates(&self, text: &mut Exposition) {
        let certificates = &self.view.certificates;
        let mut ends: BTreeMap<[&str; 2], i64> = BTreeMap::new();
        let mut states: BTreeMap<[&str; 2], u64> = BTreeMap::new();
        let mut failing: BTreeMap<&str, bool> = BTreeMap::new();
        for certificate in certificates {
            let (kind, state) = (certificate.kind.as_str(), certificate.state.as_str());
            *states.entry([kind, state]).or_default() += 1;
            if kind == "acme" {
                for name in &certificate.names {
                    *failing.entry(name).or_default() |= certificate.last_error.is_some();
                }
            }
            let not_after = certificate.not_after.as_deref();
            let end = not_after.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
            let Some(end) = end.map(OffsetDateTime::unix_timestamp) else { continue };
            for name in &certificate.names {
                // Of several that cover a name, the one that lasts.
                let latest = ends.entry([name, kind]).or_insert(end);
                *latest = end.max(*latest);
            }
        }
        let mut family = text.gauge(
            "baton_certificate_expiry_timestamp_seconds",
            "When the certificate for a name ends.",
        );
        for ([name, kind], end) in ends {
            family.sample(&[("name", name), ("kind", kind)], end);
        }
        let mut family = text.gauge(
            "baton_certificate_failing",
            "1 where the last order at a CA for a name failed, whatever certificate it has.",
        );
        for (name, is_failing) in failing {
            family.sample(&[("name", name)], u64::from(is_failing));
        }
        let mut family = text.gauge("baton_certificates", "Certificates, by kind and state.");
        for ([kind, state], count) in states {
            family.sample(&[("kind", kind), ("state", state)], count);
        }
        let mut family = text.counter("baton_acme_orders", "Orders at CAs that are over.");
        family.sample(&[("outcome", "issued")], self.totals.orders_issued);
        family.sample(&[("outcome", "failed")], self.totals.orders_failed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::{Method, StatusCode};

    use super::*;
    use crate::controller::admin::answers::{Certificate, Route, Upstream};
    use crate::protocol::stats::{Durations, HostStats, RequestKind};

    const ALERTS: &str = include_str!("../../../../deploy/prometheus/alerts.yml");
    const DASHBOARD: &str = include_str!("../../../../deploy/grafana/baton.json");

    /// Everything that there can be, once.
    fn full() -> Report {
        let mut durations = Durations::default();
        durations.record(std::time::Duration::from_millis(3));
        let mut host = HostStats::default();
        host.add(RequestKind::new(true, &Method::GET, Some(StatusCode::OK)), 1);
        host.durations.clone_from(&durations);
        host.upstream_heads.clone_from(&durations);
        let mut totals = Totals::default();
        totals.workers.hosts.insert("a.test".to_owned(), host);
        totals.handoffs.entry("upgrade".to_owned()).or_default().insert("done".to_owned(), 1);
        totals.handoff_durations.insert("upgrade".to_owned(), durations);
        let mut view = View::default();
        view.routes.routes = ["up", "starting"].map(route).into();
        view.certificates =
            ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"].map(certificate).into();
        view.certificates[0].last_error = Some("no".to_owned());
        Report {
            started: UNIX_EPOCH + std::time::Duration::from_secs(7),
            totals,
            load: Load::default(),
            generations: BTreeMap::from([("active", 1)]),
            is_steered: true,
            view: Arc::new(view),
        }
    }

    fn route(state: &str) -> Route {
        let upstream = Upstream {
            address: None,
            protocol: "http".to_owned(),
            weight: 1,
            container: None,
            health: None,
            state: state.to_owned(),
        };
        Route {
            host: "a.test".to_owned(),
            path: format!("/{state}"),
            replace_prefix: None,
            upstreams: vec![upstream],
            certificate: None,
            intervention: None,
            options: Vec::new(),
        }
    }

    fn certificate(not_after: &str) -> Certificate {
        Certificate {
            names: vec!["a.test".to_owned()],
            kind: "acme".to_owned(),
            issuer: "a CA".to_owned(),
            not_after: Some(not_after.to_owned()),
            next_renewal: None,
            state: "valid".to_owned(),
            last_error: None,
            next_try: None,
        }
    }

    #[test]
    fn what_is_known_is_told() {
        let text = full().write(Format::Prometheus);
        for line in [
            "baton_requests_total{host=\"a.test\",protocol=\"http2\",method=\"read\",status=\"2xx\"} 1",
            "baton_request_duration_seconds_bucket{host=\"a.test\",le=\"0.005\"} 1",
            "baton_upstreams{host=\"a.test\",state=\"up\"} 1",
            "baton_upstreams{host=\"a.test\",state=\"down\"} 1",
            "baton_start_time_seconds 7",
            "baton_handoffs_total{kind=\"upgrade\",outcome=\"done\"} 1",
            // The one that lasts.
            "baton_certificate_expiry_timestamp_seconds{name=\"a.test\",kind=\"acme\"} 1769904000",
            "baton_certificates{kind=\"acme\",state=\"valid\"} 2",
            "baton_certificate_failing{name=\"a.test\"} 1",
            "baton_holds_total 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
    }

    fn names(text: &str) -> BTreeSet<&str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        text.split(|c| !is_part(c)).filter(|word| word.starts_with("baton_")).collect()
    }

    /// Selectors of series: the name, and the names of labels.
    fn selectors(text: &str) -> Vec<(&str, Vec<&str>)> {
        let expression =
            regex::Regex::new(r"(baton_[a-z0-9_]+)\{([^{}]*)\}").expect("an expression");
        let label = regex::Regex::new(r"([a-z]+)(?:=~|!=|!~|=)").expect("an expression");
        expression
            .captures_iter(text)
            .map(|found| {
                let (_, [name, labels]) = found.extract();
                (
                    name,
                    label
                        .find_iter(labels)
                        .map(|m| m.as_str().trim_end_matches(['=', '~', '!']))
                        .collect(),
                )
            })
            .collect()
    }

    #[test]
    fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
        let text = full().write(Format::Prometheus);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let known: BTreeSet<&str> =
            samples.iter().filter_map(|sample| sample.split(['{', ' ']).next()).collect();
        for asked in [ALERTS, DASHBOARD] {
            let unknown: Vec<_> = names(asked).difference(&known).copied().collect();
            assert!(unknown.is_empty(), "{unknown:?}");
            for (name, labels) in selectors(asked) {
                let has = |label: &str| {
                    let label = format!("{label}=\"");
                    samples.iter().any(|sample| sample.starts_with(name) && sample.contains(&label))
                };
                // Prometheus adds the instance.
                let unknown = labels.iter().find(|label| **label != "instance" && !has(label));
                assert_eq!(unknown, None, "{name}");
            }
        }
        assert!(selectors(DASHBOARD).len() > 20 && selectors(ALERTS).len() > 3);
        serde_json::from_str::<serde_json::Value>(DASHBOARD).expect("JSON");
        serde_saphyr::from_str::<serde_json::Value>(ALERTS).expect("YAML");
    }
}
