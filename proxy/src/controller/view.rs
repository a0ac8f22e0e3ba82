//! What the controller knows, in the words of the admin socket.

use std::collections::HashMap;

use super::admin::answers::{self, rfc3339};
use super::admin::known::View;
use super::certificates::{Assembled, CertificateKind, CertificateReport, CertificateState};
use super::docker::{Containers, DockerStatus};
use super::routes::{Diagnosis, HostEntry, RouteEntry, Table, UpstreamEntry};
use crate::config::RouteTls;
use crate::protocol::snapshot::Intervention;

pub fn of(containers: &Containers, table: &Table, assembled: &Assembled, snapshot: u64) -> View {
    View {
        snapshot,
        routes: routes(containers, table, assembled),
        certificates: assembled.reports.iter().map(certificate).collect(),
        docker: docker(&containers.status),
    }
}

/// One line for the log.
pub fn diagnosis_line(diagnosis: &Diagnosis) -> String {
    let Diagnosis { container, setting, value, problem } = diagnosis;
    format!("container {container}: {setting}={value}: {problem}")
}

fn routes(containers: &Containers, table: &Table, assembled: &Assembled) -> answers::Routes {
    let unrouted = table.unrouted.iter().map(|unrouted| answers::Unrouted {
        container: unrouted.container.clone(),
        reason: unrouted.reason.clone(),
    });
    let unreadable = containers.unreadable.iter().map(|(container, reason)| answers::Unrouted {
        container: container.clone(),
        reason: reason.clone(),
    });
    let shown = Shown::of(&assembled.reports);
    answers::Routes {
        routes: table
            .hosts
            .iter()
            .flat_map(|host| {
                let certificate = shown.to_clients_of(host);
                host.routes.iter().map(move |path| route(host, path, certificate))
            })
            .collect(),
        unrouted: unrouted.chain(unreadable).collect(),
        diagnoses: table.diagnoses.iter().map(diagnosis).collect(),
    }
}

fn route(host: &HostEntry, route: &RouteEntry, certificate: Option<&str>) -> answers::Route {
    answers::Route {
        host: host.pattern.to_string(),
        path: route.path.to_string(),
        replace_prefix: route.replace_prefix.clone(),
        upstreams: route.upstreams.iter().map(upstream).collect(),
        certificate: certificate.map(str::to_owned),
        intervention: host.intervention.as_ref().map(intervention),
        options: route.options.names(),
    }
}

fn intervention(intervention: &Intervention) -> String {
    match intervention {
        Intervention::Pause { until } => format!("paused until {}", rfc3339(*until)),
        Intervention::Maintenance(_) => "maintenance".to_owned(),
    }
}

fn upstream(entry: &UpstreamEntry) -> answers::Upstream {
    answers::Upstream {
        address: entry.address.map(|address| address.to_string()),
        protocol: entry.protocol.as_str().to_owned(),
        weight: entry.weight,
        container: entry.container.clone(),
        health: entry.health.clone(),
        state: entry.state.as_str().to_owned(),
    }
}

pub fn diagnosis(diagnosis: &Diagnosis) -> answers::Diagnosis {
    answers::Diagnosis {
        container: diagnosis.container.clone(),
        setting: diagnosis.setting.clone(),
        value: diagnosis.value.clone(),
        problem: diagnosis.problem.clone(),
    }
}

fn certificate(report: &CertificateReport) -> answers::Certificate {
    answers::Certificate {
        names: report.names.clone(),
        kind: kind(report.kind).to_owned(),
        issuer: report.issuer.clone(),
        not_after: report.not_after.clone(),
        next_renewal: report.next_renewal.clone(),
        state: state(report.state).to_owned(),
        last_error: report.last_error.clone(),
        next_try: report.next_try.clone(),
    }
}

fn kind(kind: CertificateKind) -> &'static str {
    match kind {
        CertificateKind::File => "file",
        CertificateKind::Acme => "acme",
        CertificateKind::Local => "local",
        CertificateKind::Default => "default",
    }
}

fn state(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Valid => "valid",
        CertificateState::Expired => "expired",
        CertificateState::Failed => "failed",
        CertificateState::Pending => "pending",
    }
}

/// The kind of certificate that is shown for each name.
struct Shown<'a>(HashMap<&'a str, CertificateKind>);

impl<'a> Shown<'a> {
    /// The local CA's and those that were ordered before a file, as the snapshot has it.
    fn of(reports: &'a [CertificateReport]) -> Self {
        let rank = |kind| match kind {
            CertificateKind::Local => 0,
            CertificateKind::Acme => 1,
            CertificateKind::File | CertificateKind::Default => 2,
        };
        let mut shown = HashMap::new();
        for report in reports.iter().filter(|report| report.state == CertificateState::Valid) {
            for name in &report.names {
                let kind = shown.entry(name.as_str()).or_insert(report.kind);
                if rank(report.kind) < rank(*kind) {
                    *kind = report.kind;
                }
            }
        }
        Shown(shown)
    }

    /// One for the very name before a wildcard.
    fn to_clients_of(&self, host: &HostEntry) -> Option<&'static str> {
        let name = host.pattern.to_string();
        let wildcard = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        let shown = |name: String| self.0.get(name.as_str()).copied().map(kind);
        match host.tls {
            RouteTls::Off => None,
            RouteTls::Passthrough => Some("passthrough"),
            RouteTls::Auto | RouteTls::Acme | RouteTls::Local => {
                shown(name).or_else(|| shown(wildcard?))
            }
        }
    }
}

fn docker(status: &DockerStatus) -> answers::Docker {
    answers::Docker {
        connected: status.connected,
        endpoint: Some(status.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
        containers: status.containers,
        last_sync: status.last_sync.map(rfc3339),
        error: status.error.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, kind: CertificateKind, state: CertificateState) -> CertificateReport {
        CertificateReport {
            names: vec![name.to_owned()],
            issuer: String::new(),
            not_after: None,
            next_renewal: None,
            kind,
            state,
            last_error: None,
            next_try: None,
        }
    }

    #[test]
    fn the_certificate_that_a_host_shows() {
        use CertificateKind::{File, Local};
        use CertificateState::{Expired, Valid};
        let reports = [
            report("a.test", File, Valid),
            report("a.test", Local, Valid),
            report("*.example.com", File, Valid),
            report("old.net", File, Expired),
        ];
        for (pattern, tls, want) in [
            ("a.test", RouteTls::Auto, Some("local")),
            ("a.test", RouteTls::Off, None),
            ("b.example.com", RouteTls::Auto, Some("file")),
            ("*.example.com", RouteTls::Auto, Some("file")),
            ("b.a.example.com", RouteTls::Auto, None),
            ("old.net", RouteTls::Auto, None),
            ("~x", RouteTls::Auto, None),
        ] {
            let host = HostEntry { tls, ..HostEntry::new(pattern) };
            assert_eq!(Shown::of(&reports).to_clients_of(&host), want, "{pattern} {tls:?}");
        }
    }
}
