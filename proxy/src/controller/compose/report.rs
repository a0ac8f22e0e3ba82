//! What `baton check --compose` says, as JSON and as tables. Scripts read the JSON: it only grows.

use serde::Serialize;

use super::replaced::Part;
use crate::config::Acme;
use crate::controller::admin::answers::{Diagnosis, Unrouted};
use crate::controller::admin::tables::{align, diagnoses, or_dash, unrouted};
use crate::controller::certificates::{Wish, foresee};
use crate::controller::routes::{HostEntry, RouteEntry, UpstreamEntry};

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing is lost: `diagnoses` is empty.
    pub complete: bool,
    pub routes: Vec<Route>,
    pub unrouted: Vec<Unrouted>,
    /// What baton takes the place of.
    pub replaced: Vec<Replaced>,
    /// What a service would lose.
    pub diagnoses: Vec<Diagnosis>,
    /// What is as good with baton, or could not be known from the file.
    pub notes: Vec<Note>,
}

/// One service on one path of one host.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    pub host: String,
    pub path: String,
    pub replace_prefix: Option<String>,
    /// In the compose file.
    pub service: String,
    /// As compose names the first one.
    pub container: String,
    pub port: Option<u16>,
    pub protocol: String,
    pub weight: u32,
    /// `redirect`, `noredirect`, `nohttp` or `nohttps`.
    pub https: String,
    pub certificate: Certificate,
    /// By the names of the labels.
    pub options: Vec<String>,
}

/// What a host's certificate would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// `acme`, `local`, `file` or `none`.
    pub kind: String,
    /// Those in one certificate with it.
    pub names: Vec<String>,
    /// CERT_NAME
    pub cert_name: Option<String>,
    pub email: Option<String>,
    /// URL of the CA.
    pub directory: Option<String>,
    pub challenge: Option<String>,
    pub profile: Option<String>,
    pub preferred_chain: Option<String>,
    /// Why there is none.
    pub problem: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    pub service: String,
    pub by: String,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    /// A container, or a file.
    pub about: String,
    pub text: String,
}

impl Route {
    pub(super) fn new(
        service: &str,
        host: &HostEntry,
        route: &RouteEntry,
        upstream: &UpstreamEntry,
        certificate: Certificate,
    ) -> Self {
        Route {
            host: host.pattern.to_string(),
            path: route.path.to_string(),
            replace_prefix: route.replace_prefix.clone(),
            service: service.to_owned(),
            container: upstream.name.clone(),
            port: upstream.address.map(|address| address.port()),
            protocol: upstream.protocol.as_str().to_owned(),
            weight: upstream.weight,
            https: host.policy.https.as_str().to_owned(),
            certificate,
            options: route.options.names(),
        }
    }
}

impl Certificate {
    /// Of a host, once the terms of the CA are agreed to.
    pub(super) fn of(host: &HostEntry, acme: &Acme) -> Self {
        let Wish { cert_name, email, directory, challenge, profile, preferred_chain, .. } =
            &host.wish;
        let said = Certificate {
            cert_name: cert_name.as_ref().map(|named| named.name.clone()),
            email: email.clone(),
            directory: directory.as_ref().map(|directory| directory.url.clone()),
            challenge: challenge.map(|challenge| challenge.as_str().to_owned()),
            profile: profile.clone(),
            preferred_chain: preferred_chain.clone(),
            ..Certificate::default()
        };
        if cert_name.is_some() {
            return Certificate { kind: "file".to_owned(), ..said };
        }
        match foresee(&host.pattern, host.tls, &host.wish, acme) {
            Ok((kind, names)) => Certificate { kind: kind.to_owned(), names, ..said },
            Err(problem) => Certificate { kind: "none".to_owned(), problem: Some(problem), ..said },
        }
    }

    fn shown(&self) -> String {
        let also = [&self.directory, &self.challenge, &self.profile, &self.preferred_chain];
        let name = self
            .cert_name
            .clone()
            .or_else(|| Some(self.names.join(",")).filter(|_| self.names.len() > 1));
        let parts = std::iter::once(&self.kind).chain(&name).chain(also.into_iter().flatten());
        parts.cloned().collect::<Vec<_>>().join(" ")
    }
}

impl Replaced {
    pub(super) fn new(service: &str, part: Part) -> Self {
        Replaced { service: service.to_owned(), by: part.replaced_by().to_owned() }
    }
}

/// For people.
pub fn tables(report: &Report) -> String {
    let mut parts = vec![routes(&report.routes)];
    if !report.unrouted.is_empty() {
        parts.push(unrouted(&report.unrouted));
    }
    if !report.replaced.is_empty() {
        let rows = report.replaced.iter().map(|one| [one.service.clone(), one.by.clone()]);
        parts.push(align(["REPLACED", "BY"], rows));
    }
    if !report.diagnoses.is_empty() {
        parts.push(diagnoses(&report.diagnoses));
    }
    if !report.notes.is_empty() {
        let rows = report.notes.iter().map(|note| [note.about.clone(), note.text.clone()]);
        parts.push(align(["ABOUT", "NOTE"], rows));
    }
    parts.join("\n")
}

fn routes(routes: &[Route]) -> String {
    let header =
        ["HOST", "PATH", "CONTAINER", "PORT", "PROTOCOL", "HTTPS", "CERTIFICATE", "OPTIONS"];
    let rows = routes.iter().map(|route| {
        let path = match &route.replace_prefix {
            Some(replacement) => format!("{} -> {replacement}", route.path),
            None => route.path.clone(),
        };
        let options = Some(route.options.join(",")).filter(|options| !options.is_empty());
        [
            route.host.clone(),
            path,
            route.container.clone(),
            or_dash(route.port),
            route.protocol.clone(),
            route.https.clone(),
            route.certificate.shown(),
            or_dash(options),
        ]
    });
    align(header, rows)
}
