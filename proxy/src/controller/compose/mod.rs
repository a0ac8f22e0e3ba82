//! `baton check --compose`: what each service of a compose file would get from baton, and what it
//! would not, told by the same function that routes containers. Docker is not asked.

mod file;
mod interpolation;
mod project;
mod replaced;
mod report;
mod service;
mod variables;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use thiserror::Error;

use self::project::Project;
use self::replaced::{Fate, Part};
use self::report::{Certificate, Note, Replaced, Route};
pub use self::report::{Report, tables};
use self::service::Service;
use super::admin::answers::{Diagnosis, Unrouted};
use super::certificates::Asked;
use super::docker::{Container, Port, VARIABLES};
use super::environment::{Defaults, Environment};
use super::routes::{self, Incumbents, Inputs, Table, UpstreamEntry};
use super::view;
use crate::config::{Acme, Config, StaticRoute};

/// What to do about parts of a file that are somewhere else.
const NOT_FOLLOWED: &str =
    "is not followed: `docker compose config | baton check --compose -` checks the whole";
/// A port that no container is asked at, to find out where the port comes from.
const NOBODYS_PORT: u16 = 1;
/// A variable that is further away than this from a known one is another program's.
const NEAR: usize = 2;

/// Each file that cannot be checked, and why.
#[derive(Debug, Error)]
#[error("{}", .0.join("\nbaton: "))]
pub struct Unreadable(Vec<String>);

/// Checks these files, `-` for stdin, beside the routes of the configuration.
///
/// # Errors
/// When a file cannot be read, or is no compose file. What a service says wrongly is in the report.
pub fn check(paths: &[PathBuf], config: &Config) -> Result<Report, Unreadable> {
    let mut projects = Vec::new();
    let mut problems = Vec::new();
    for path in paths {
        match Project::read(path) {
            Ok(project) => projects.push(project),
            Err(problem) => problems.push(format!("{}: {problem}", path.display())),
        }
    }
    if !problems.is_empty() {
        return Err(Unreadable(problems));
    }
    let services: Vec<Service> = projects.iter().flat_map(Project::services).collect();
    let mut report = judge(&services, &config.routes, &config.acme);
    report.diagnoses.extend(projects.iter().flat_map(Project::findings));
    report.notes.extend(projects.iter().flat_map(Project::notes));
    Ok(finished(report))
}

/// The same of a text with nothing beside it.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_text(text: &str) -> Result<Report, String> {
    let file = file::parse(text)?;
    let around = service::Surroundings {
        file: &file,
        project: "shop",
        variable: &|_| None,
        read: &|_| Err(std::io::ErrorKind::NotFound.into()),
    };
    let services: Vec<Service> =
        file.services().map(|(name, raw)| Service::read(name, raw, around)).collect();
    Ok(finished(judge(&services, &[], &Acme::default())))
}

fn finished(mut report: Report) -> Report {
    report.diagnoses.sort_by(|one, other| {
        (&one.container, &one.setting, &one.value).cmp(&(
            &other.container,
            &other.setting,
            &other.value,
        ))
    });
    report.diagnoses.dedup();
    report.notes.sort();
    report.notes.dedup();
    report.complete = report.diagnoses.is_empty();
    report
}

/// What these services would get.
fn judge(services: &[Service], static_routes: &[StaticRoute], acme: &Acme) -> Report {
    let mut report = Report::default();
    let mut globals: BTreeMap<String, String> = BTreeMap::new();
    let mut served = Vec::new();
    for service in services {
        match Part::of(service) {
            Some(part) => {
                report.replaced.push(Replaced::new(&service.name, part));
                replaced(service, &mut report);
                globals.extend(service.globals.clone());
            }
            None => served.push(service),
        }
    }
    let environment = Environment::from(|name| globals.get(name).cloned());
    let containers: Vec<Container> =
        served.iter().map(|service| service.container.clone()).collect();
    let table = build(&containers, static_routes, &environment.defaults, environment.prefer_ipv6);
    for service in &served {
        said(service, &mut report);
    }
    report.diagnoses.extend(twice(&containers));
    report.diagnoses.extend(table.diagnoses.iter().map(view::diagnosis));
    not_routed(&table, &containers, &mut report);
    // The terms are agreed to in the configuration, which a host that is not there yet does not have.
    let agreed = Acme { agree_tos: true, ..acme.clone() };
    routed(&table, &served, &agreed, &mut report);
    report.notes.extend(terms(acme, &report));
    guessed_ports(&table, &containers, static_routes, &mut report);
    report
}

fn terms(acme: &Acme, report: &Report) -> Option<Note> {
    let ordered = report.routes.iter().any(|route| route.certificate.kind == "acme");
    (ordered && !acme.agree_tos).then(|| Note {
        about: "certificates".to_owned(),
        text: "nothing is ordered before acme.agree_tos is true in the configuration; hosts are served \
               over plain HTTP until then"
            .to_owned(),
    })
}

/// Files of one project are merged by compose.
fn twice(containers: &[Container]) -> Vec<Diagnosis> {
    let mut seen = BTreeSet::new();
    let again = containers.iter().filter(|container| !seen.insert(&container.name));
    let diagnoses = again.map(|container| Diagnosis {
        container: container.name.clone(),
        setting: "name".to_owned(),
        value: String::new(),
        problem:
            "is there twice: files are not merged here; `docker compose -f ONE -f OTHER config | \
                  baton check --compose -` checks the whole"
                .to_owned(),
    });
    diagnoses.collect()
}

fn build(
    containers: &[Container],
    static_routes: &[StaticRoute],
    defaults: &Defaults,
    prefer_ipv6: bool,
) -> Table {
    routes::build(&Inputs {
        containers,
        departed: &[],
        static_routes,
        reachable: &HashSet::new(),
        incumbents: &Incumbents::default(),
        prefer_ipv6,
        defaults,
    })
}

/// What becomes of the settings and files of a service that baton takes the place of.
fn replaced(service: &Service, report: &mut Report) {
    let name = &service.container.name;
    for mount in &service.mounts {
        tell(name, "volumes", &mount.target, replaced::mounted(mount), report);
    }
    for (global, value) in service.globals.iter().filter(|(_, value)| !value.trim().is_empty()) {
        let problems = Environment::from(|name| (name == global).then(|| value.clone())).problems;
        let prefix = format!("environment: {global}={} ", value.trim());
        let wrong = problems.iter().find_map(|problem| problem.strip_prefix(&prefix));
        let fate = match wrong {
            Some(problem) => Some(Fate::Lost(problem.to_owned())),
            None => replaced::global(global),
        };
        tell(name, global, value, fate, report);
    }
    report.diagnoses.extend(service.findings.iter().cloned());
}

/// What a service says that no container could tell: most of its variables are dropped as they are
/// read.
fn said(service: &Service, report: &mut Report) {
    let name = &service.container.name;
    report.diagnoses.extend(service.findings.iter().cloned());
    for note in &service.notes {
        report.notes.push(Note { about: name.clone(), text: note.clone() });
    }
    for variable in &service.variables {
        let fate = replaced::foreign(variable).or_else(|| unknown(variable));
        tell(name, variable, "", fate, report);
    }
}

fn tell(name: &str, setting: &str, value: &str, fate: Option<Fate>, report: &mut Report) {
    match fate {
        None => {}
        Some(Fate::Kept(how)) => {
            report.notes.push(Note {
                about: name.to_owned(),
                text: format!("{}: {how}", if setting == "volumes" { value } else { setting }),
            });
        }
        Some(Fate::Lost(problem)) => report.diagnoses.push(Diagnosis {
            container: name.to_owned(),
            setting: setting.to_owned(),
            value: value.to_owned(),
            problem,
        }),
    }
}

/// One that is nearly one of baton's, or looks as if it were one.
fn unknown(variable: &str) -> Option<Fate> {
    let is_ours =
        ["VIRTUAL_", "LETSENCRYPT_", "ACME_"].iter().any(|ours| variable.starts_with(ours));
    if VARIABLES.contains(&variable) {
        return None;
    }
    let near = VARIABLES
        .iter()
        .map(|known| (strsim::damerau_levenshtein(variable, known), *known))
        .filter(|(distance, known)| *distance <= NEAR && known.len() > 3 * NEAR)
        .min();
    match near {
        Some((_, known)) => Some(Fate::Lost(format!("is not known; the nearest is `{known}`"))),
        None if is_ours => Some(Fate::Lost("is not known".to_owned())),
        None => None,
    }
}

/// Whoever asks for nothing loses nothing.
fn not_routed(table: &Table, containers: &[Container], report: &mut Report) {
    let by_name: BTreeMap<&str, &Container> =
        containers.iter().map(|container| (container.name.as_str(), container)).collect();
    let told: BTreeSet<String> =
        report.diagnoses.iter().map(|diagnosis| diagnosis.container.clone()).collect();
    for unrouted in &table.unrouted {
        let container = by_name.get(unrouted.container.as_str());
        let asks = container.is_some_and(|one| routes::no_host(one) != unrouted.reason);
        let is_told = told.contains(&unrouted.container);
        if asks && !is_told {
            report.diagnoses.push(Diagnosis {
                container: unrouted.container.clone(),
                setting: "host".to_owned(),
                value: String::new(),
                problem: unrouted.reason.clone(),
            });
        }
        report.unrouted.push(Unrouted {
            container: unrouted.container.clone(),
            reason: unrouted.reason.clone(),
        });
    }
}

fn routed(table: &Table, served: &[&Service], acme: &Acme, report: &mut Report) {
    let by_container: BTreeMap<&str, &&Service> =
        served.iter().map(|service| (service.container.name.as_str(), service)).collect();
    for host in &table.hosts {
        let certificate = Certificate::of(host, acme);
        for (route, upstream) in upstreams(host) {
            let Some(service) = by_container.get(upstream.name.as_str()) else { continue };
            if upstream.address.is_none() {
                report.diagnoses.push(Diagnosis {
                    container: upstream.name.clone(),
                    setting: "network_mode".to_owned(),
                    value: service.network_mode.clone(),
                    problem: "leaves it without an address of its own: nothing can be sent to it"
                        .to_owned(),
                });
            }
            if let (Asked::For(_), Some(problem)) = (&host.wish.asked, &certificate.problem) {
                report.diagnoses.push(Diagnosis {
                    container: upstream.name.clone(),
                    setting: "ACME_HOST".to_owned(),
                    value: host.pattern.to_string(),
                    problem: problem.clone(),
                });
            }
            report.routes.push(Route::new(
                &service.name,
                host,
                route,
                upstream,
                certificate.clone(),
            ));
        }
    }
}

/// Of containers.
fn upstreams(
    host: &routes::HostEntry,
) -> impl Iterator<Item = (&routes::RouteEntry, &UpstreamEntry)> {
    host.routes.iter().flat_map(|route| {
        let of_containers = route.upstreams.iter().filter(|one| one.container.is_some());
        of_containers.map(move |upstream| (route, upstream))
    })
}

/// Where nothing names the port, what the image exposes counts, and is in no compose file.
fn guessed_ports(
    table: &Table,
    containers: &[Container],
    static_routes: &[StaticRoute],
    report: &mut Report,
) {
    let exposed = BTreeSet::from([Port { number: NOBODYS_PORT, udp: false }]);
    let others: Vec<Container> = containers
        .iter()
        .map(|container| Container { exposed: exposed.clone(), ..container.clone() })
        .collect();
    let other = build(&others, static_routes, &Defaults::default(), false);
    let ports = |table: &Table| -> BTreeSet<(String, u16)> {
        let all = table.hosts.iter().flat_map(upstreams);
        all.filter_map(|(_, one)| Some((one.name.clone(), one.address?.port()))).collect()
    };
    for (name, port) in ports(table).difference(&ports(&other)) {
        report.notes.push(Note {
            about: name.clone(),
            text: format!(
                "nothing names its port: {port}, unless what its image exposes says otherwise; \
                 VIRTUAL_PORT or baton.port settles it"
            ),
        });
    }
}

#[cfg(test)]
mod tests;
