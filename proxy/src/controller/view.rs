//! What the controller knows, in the words of the admin socket.

use super::admin::answers::{self, rfc3339};
use super::admin::server::View;
use super::certificates::{Assembled, Report};
use super::docker::watch::{Containers, DockerStatus};
use super::routes::{Diagnosis, HostEntry, RouteEntry, Table, UpstreamEntry};

pub fn of(containers: &Containers, table: &Table, assembled: &Assembled) -> View {
    View {
        routes: routes(containers, table),
        certificates: assembled.reports.iter().map(certificate).collect(),
        docker: docker(&containers.status),
    }
}

/// One line for the log.
pub fn diagnosis_line(diagnosis: &Diagnosis) -> String {
    let Diagnosis { container, setting, value, problem } = diagnosis;
    format!("container {container}: {setting}={value}: {problem}")
}

fn routes(containers: &Containers, table: &Table) -> answers::Routes {
    let unrouted = table.unrouted.iter().map(|unrouted| answers::Unrouted {
        container: unrouted.container.clone(),
        reason: unrouted.reason.clone(),
    });
    let unreadable = containers.unreadable.iter().map(|(container, reason)| answers::Unrouted {
        container: container.clone(),
        reason: reason.clone(),
    });
    answers::Routes {
        routes: table
            .hosts
            .iter()
            .flat_map(|host| host.routes.iter().map(|path| route(host, path)))
            .collect(),
        unrouted: unrouted.chain(unreadable).collect(),
        diagnoses: table.diagnoses.iter().map(diagnosis).collect(),
    }
}

fn route(host: &HostEntry, route: &RouteEntry) -> answers::Route {
    answers::Route {
        host: host.pattern.to_string(),
        path: route.path.to_string(),
        replace_prefix: route.replace_prefix.clone(),
        upstreams: route.upstreams.iter().map(upstream).collect(),
        certificate: None,
    }
}

fn upstream(entry: &UpstreamEntry) -> answers::Upstream {
    answers::Upstream {
        address: entry.upstream.address.to_string(),
        protocol: entry.upstream.protocol.as_str().to_owned(),
        weight: entry.upstream.weight,
        container: entry.container.clone(),
        state: entry.state.as_str().to_owned(),
    }
}

fn diagnosis(diagnosis: &Diagnosis) -> answers::Diagnosis {
    answers::Diagnosis {
        container: diagnosis.container.clone(),
        setting: diagnosis.setting.clone(),
        value: diagnosis.value.clone(),
        problem: diagnosis.problem.clone(),
    }
}

fn certificate(report: &Report) -> answers::Certificate {
    answers::Certificate {
        names: report.names.clone(),
        issuer: report.issuer.clone(),
        not_after: Some(rfc3339(report.not_after)),
        next_renewal: None,
        state: "valid".to_owned(),
        last_error: None,
        next_try: None,
    }
}

fn docker(status: &DockerStatus) -> answers::Docker {
    answers::Docker {
        connected: status.connected,
        endpoint: Some(status.endpoint.clone()),
        containers: status.containers,
        last_sync: status.last_sync.map(rfc3339),
        error: status.error.clone(),
    }
}
