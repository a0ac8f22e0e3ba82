//! One service of a compose file as the container that it would be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use serde_json::{Map, Value};

use super::file::File;
use super::interpolation::{Filled, Gap, Lookup, fill};
use super::variables;
use crate::controller::admin::answers::Diagnosis;
use crate::controller::docker::{
    Container, Health, Network, PROJECT_LABEL, Port, VARIABLES, exposed_port, is_kept_label,
};
use crate::controller::routes::is_secret;

/// Nobody's (RFC 2544): what counts is that there is one.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// What is around a service.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub file: &'a File,
    pub project: &'a str,
    /// The environment, and `.env` beside the file.
    pub variable: Lookup<'a>,
    /// Reads a file that is named relative to the compose file.
    pub read: &'a dyn Fn(&str) -> io::Result<String>,
}

/// A service, understood as far as baton needs it.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// In the compose file.
    pub name: String,
    pub container: Container,
    /// Names of all its variables, and of no value: most are secrets.
    pub variables: BTreeSet<String>,
    /// Names of all its labels.
    pub labels: BTreeSet<String>,
    /// Those of nginx-proxy itself.
    pub globals: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    /// One that leaves it without an address.
    pub network_mode: String,
    /// What of the file cannot be used as it is.
    pub findings: Vec<Diagnosis>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// A path, or the name of a volume.
    pub source: String,
    pub target: String,
}

impl Mount {
    /// A volume has no path.
    pub fn is_bind(&self) -> bool {
        self.source.starts_with(['/', '.', '~'])
    }
}

impl Service {
    pub fn read(name: &str, raw: &Value, around: Surroundings<'_>) -> Self {
        let empty = Map::new();
        let raw = raw.as_object().unwrap_or(&empty);
        let mut reader = Reader { service: Service::default(), raw, around };
        reader.service.name = name.to_owned();
        reader.name(name);
        reader.environment();
        reader.labels();
        reader.networks();
        reader.ports();
        reader.mounts();
        reader.health();
        reader.not_followed();
        reader.service
    }
}

struct Reader<'a> {
    service: Service,
    raw: &'a Map<String, Value>,
    around: Surroundings<'a>,
}

impl Reader<'_> {
    /// As compose names the first of its containers.
    fn name(&mut self, name: &str) {
        let project = self.around.project;
        // Findings are told by it.
        self.service.container.name = format!("{project}-{name}-1");
        if let Some(given) = self.text("container_name").filter(|given| !given.is_empty()) {
            self.service.container.name = given;
        }
        self.service.container.id = self.service.container.name.clone();
        self.service.container.image =
            self.raw.get("image").and_then(scalar).map(|i| self.quiet(&i));
    }

    /// `environment` stands before what `env_file` says, and the last of several files before the
    /// others.
    fn environment(&mut self) {
        let files: Vec<EnvFile<'_>> = list(self.raw.get("env_file")).map(EnvFile::of).collect();
        for file in files {
            let path = self.filled("env_file", file.path);
            match (self.around.read)(&path) {
                Ok(text) => {
                    let found = variables::parse(&text, self.around.variable);
                    for (name, value) in found {
                        let value =
                            if is_heeded(&name) { self.told(&name, value) } else { value.text };
                        self.variable(&name, value);
                    }
                }
                Err(_) if !file.required => {}
                Err(error) => self.find("env_file", &path, format!("cannot be read: {error}")),
            }
        }
        for (name, value) in self.pairs("environment") {
            let value = match value {
                Some(value) if is_heeded(&name) => Some(self.filled(&name, &value)),
                Some(value) => Some(value),
                // Without a value it has that of whoever starts compose.
                None => (self.around.variable)(&name),
            };
            value.into_iter().for_each(|value| self.variable(&name, value));
        }
    }

    fn variable(&mut self, name: &str, value: String) {
        self.service.variables.insert(name.to_owned());
        if VARIABLES.contains(&name) {
            self.service.container.env.insert(name.to_owned(), value.clone());
        }
        if super::replaced::is_global(name) {
            self.service.globals.insert(name.to_owned(), value);
        }
    }

    fn labels(&mut self) {
        for (name, value) in self.pairs("labels") {
            if is_kept_label(&name) {
                let value = self.filled(&name, &value.unwrap_or_default());
                self.service.container.labels.insert(name.clone(), value);
            }
            self.service.labels.insert(name);
        }
        let project = self.around.project.to_owned();
        self.service.container.labels.insert(PROJECT_LABEL.to_owned(), project);
    }

    fn networks(&mut self) {
        let project = self.around.project;
        let names = match self.text("network_mode").as_deref() {
            Some("host") => {
                self.service.container.host_network = true;
                return;
            }
            // No network of its own: the table says what that means.
            Some(mode) if mode == "none" || mode.contains(':') => {
                self.service.network_mode = mode.to_owned();
                return;
            }
            Some(mode) => vec![mode.to_owned()],
            None => {
                let file = self.around.file;
                let names = self.network_names();
                names.iter().map(|name| file.network(project, name)).collect()
            }
        };
        let mut networks: Vec<Network> = names
            .into_iter()
            .map(|name| Network { name, ipv4: Some(ADDRESS), ipv6: None })
            .collect();
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        self.service.container.networks = networks;
    }

    fn network_names(&self) -> Vec<String> {
        let names: Vec<String> = match self.raw.get("networks") {
            Some(Value::Object(networks)) => networks.keys().cloned().collect(),
            other => list(other).filter_map(scalar).collect(),
        };
        if names.is_empty() { vec!["default".to_owned()] } else { names }
    }

    /// What the image exposes is in no compose file.
    fn ports(&mut self) {
        for text in list(self.raw.get("expose")).filter_map(scalar).collect::<Vec<_>>() {
            let text = self.quiet(&text);
            self.expose(&text);
        }
        for port in list(self.raw.get("ports")).cloned().collect::<Vec<_>>() {
            let text = match &port {
                Value::Object(long) => {
                    let target = long.get("target").and_then(scalar).unwrap_or_default();
                    let protocol = long.get("protocol").and_then(scalar);
                    format!("{target}/{}", protocol.as_deref().unwrap_or("tcp"))
                }
                short => scalar(short).unwrap_or_default(),
            };
            let text = self.quiet(&text);
            // HOST:PUBLISHED:TARGET, each but the last one may be missing.
            self.expose(text.rsplit_once(':').map_or(&*text, |(_, target)| target));
        }
    }

    /// Of a range the first and the last: more than one port is all that matters.
    fn expose(&mut self, text: &str) {
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let ports = [first, last].map(|number| exposed_port(&format!("{number}/{protocol}")));
        let found: Vec<Port> = ports.into_iter().flatten().collect();
        self.service.container.exposed.extend(found);
    }

    fn mounts(&mut self) {
        for volume in list(self.raw.get("volumes")).cloned().collect::<Vec<_>>() {
            let (source, target) = match &volume {
                Value::Object(long) => {
                    let text = |key| long.get(key).and_then(scalar).unwrap_or_default();
                    (text("source"), text("target"))
                }
                short => {
                    let short = scalar(short).unwrap_or_default();
                    let short = self.quiet(&short);
                    let mut parts = short.split(':').map(str::to_owned);
                    match (parts.next(), parts.next()) {
                        (Some(source), Some(target)) => (source, target),
                        (target, _) => (String::new(), target.unwrap_or_default()),
                    }
                }
            };
            let target = target.trim_end_matches('/').to_owned();
            self.service.mounts.push(Mount { source, target });
        }
    }

    /// The image may have one too: that is in no compose file.
    fn health(&mut self) {
        let Some(Value::Object(check)) = self.raw.get("healthcheck") else { return };
        let is_none =
            |test: &Value| list(Some(test)).next().and_then(Value::as_str) == Some("NONE");
        let is_off = check.get("disable") == Some(&Value::Bool(true))
            || check.get("test").is_some_and(is_none);
        if !is_off {
            self.service.container.health = Health::Healthy;
        }
    }

    fn not_followed(&mut self) {
        for key in ["extends", "label_file"] {
            if self.raw.contains_key(key) {
                self.find(key, "", super::NOT_FOLLOWED.to_owned());
            }
        }
        let profiles: Vec<String> = list(self.raw.get("profiles")).filter_map(scalar).collect();
        if !profiles.is_empty() {
            let profiles = profiles.join(", ");
            self.service.notes.push(format!("checked as if its profile {profiles} were active"));
        }
    }

    /// A map of names and values, or a list of `NAME=VALUE`.
    fn pairs(&mut self, key: &'static str) -> Vec<(String, Option<String>)> {
        match self.raw.get(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(map)) => {
                map.iter().map(|(name, value)| (name.clone(), scalar(value))).collect()
            }
            Some(Value::Array(lines)) => lines
                .iter()
                .filter_map(scalar)
                .map(|line| match line.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (line, None),
                })
                .collect(),
            Some(_) => {
                self.find(key, "", "is neither a map nor a list".to_owned());
                Vec::new()
            }
        }
    }

    fn text(&mut self, key: &str) -> Option<String> {
        let text = self.raw.get(key).and_then(scalar)?;
        Some(self.filled(key, &text))
    }

    fn filled(&mut self, setting: &str, text: &str) -> String {
        self.told(setting, fill(text, self.around.variable))
    }

    /// The text, once it is told what is missing in it.
    fn told(&mut self, setting: &str, filled: Filled) -> String {
        let mut gaps = filled.gaps;
        if is_secret(setting) && !gaps.is_empty() {
            // The name may be a part of a hash whose `$` nobody has doubled.
            gaps = vec![Gap::Malformed];
        }
        gaps.iter().for_each(|gap| self.find(setting, &gap.shown(), gap.to_string()));
        filled.text
    }

    /// Where little depends on it.
    fn quiet(&self, text: &str) -> String {
        fill(text, self.around.variable).text
    }

    fn find(&mut self, setting: &str, value: &str, problem: String) {
        self.service.findings.push(Diagnosis {
            container: self.service.container.name.clone(),
            setting: setting.to_owned(),
            value: value.to_owned(),
            problem,
        });
    }
}

/// An item of `env_file`.
struct EnvFile<'a> {
    path: &'a str,
    required: bool,
}

impl<'a> EnvFile<'a> {
    fn of(item: &'a Value) -> Self {
        match item {
            Value::Object(long) => EnvFile {
                path: long.get("path").and_then(Value::as_str).unwrap_or_default(),
                required: long.get("required") != Some(&Value::Bool(false)),
            },
            short => EnvFile { path: short.as_str().unwrap_or_default(), required: true },
        }
    }
}

/// Whether anything depends on its value.
fn is_heeded(variable: &str) -> bool {
    VARIABLES.contains(&variable) || super::replaced::is_global(variable)
}

/// One item may stand without a list around it.
fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    match value {
        Some(Value::Array(items)) => items.as_slice(),
        Some(Value::Null) | None => &[],
        Some(one) => std::slice::from_ref(one),
    }
    .iter()
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
