//! Reads what the daemon says of one container. Unknown fields and values of newer daemons cost at
//! most the container that has them, which bollard's own closed types could not promise.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::container::{Container, Health, Network, Port, State, VARIABLES, is_kept_label};
use super::signal;

/// What an answer to `/containers/ID/json` says.
#[derive(Debug, PartialEq, Eq)]
pub enum Inspected {
    Running(Box<Container>),
    /// There is one, and it does not run.
    NotRunning,
    /// It may run, but baton cannot tell how.
    Unreadable {
        name: String,
        why: String,
    },
}

/// Reads the answer for the container `id`.
pub fn read(id: &str, json: &[u8]) -> Inspected {
    match serde_json::from_slice::<Inspect>(json) {
        Ok(inspect) => inspect.meaning(id),
        Err(error) => Inspected::Unreadable {
            name: short(id),
            why: format!("the daemon's description of it cannot be read: {error}"),
        },
    }
}

/// An id as people see it.
pub fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspect {
    name: Option<String>,
    created: Option<String>,
    state: Option<RawState>,
    config: Option<RawConfig>,
    host_config: Option<RawHostConfig>,
    network_settings: Option<RawNetworkSettings>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawState {
    status: Option<String>,
    running: Option<bool>,
    started_at: Option<String>,
    /// Older Podman says `Healthcheck`.
    #[serde(alias = "Healthcheck")]
    health: Option<RawHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawHealth {
    status: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    image: Option<String>,
    env: Option<Vec<String>>,
    labels: Option<BTreeMap<String, Option<String>>>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    /// A name with Docker, a number with some of Podman.
    stop_signal: Option<serde_json::Value>,
    /// Negative: for ever.
    stop_timeout: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawHostConfig {
    network_mode: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawNetworkSettings {
    networks: Option<BTreeMap<String, Option<RawNetwork>>>,
    ports: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawNetwork {
    #[serde(rename = "IPAddress")]
    ipv4: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    ipv6: Option<String>,
}

impl Inspect {
    fn meaning(self, id: &str) -> Inspected {
        let name = match self.name.as_deref().map(|name| name.trim_start_matches('/')) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => short(id),
        };
        let state = self.state.unwrap_or_default();
        let kind = match state.kind() {
            Ok(Some(kind)) => kind,
            Ok(None) => return Inspected::NotRunning,
            Err(why) => return Inspected::Unreadable { name, why },
        };
        let config = self.config.unwrap_or_default();
        let settings = self.network_settings.unwrap_or_default();
        Inspected::Running(Box::new(Container {
            id: id.to_owned(),
            name,
            created: self.created.as_deref().and_then(nanoseconds).unwrap_or_default(),
            health: state.health(),
            started_at: state.started_at.unwrap_or_default(),
            exposed: exposed(&config, &settings),
            env: variables(&config.env.unwrap_or_default()),
            labels: labels(config.labels.unwrap_or_default()),
            stop_signal: config.stop_signal.as_ref().and_then(stop_signal),
            stop_timeout: config.stop_timeout.map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
            image: config.image,
            networks: networks(settings.networks.unwrap_or_default()),
            host_network: self
                .host_config
                .and_then(|host| host.network_mode)
                .is_some_and(|mode| mode == "host"),
            state: kind,
            stopping: false,
        }))
    }
}

impl RawState {
    /// `None` when it does not run, an error when that cannot be told.
    fn kind(&self) -> Result<Option<State>, String> {
        match self.status.as_deref().unwrap_or_default() {
            "running" => Ok(Some(State::Running)),
            "paused" => Ok(Some(State::Paused)),
            "restarting" => Ok(Some(State::Restarting)),
            "created" | "configured" | "initialized" | "removing" | "stopping" | "stopped"
            | "exited" | "dead" => Ok(None),
            "" if self.running == Some(true) => Ok(Some(State::Running)),
            _ if self.running != Some(true) => Ok(None),
            unknown => Err(format!("its state `{unknown}` is not known to this version of baton")),
        }
    }

    /// A health that this version does not know counts as none: then its port decides.
    fn health(&self) -> Health {
        match self.health.as_ref().and_then(|health| health.status.as_deref()) {
            Some("starting") => Health::Starting,
            Some("healthy") => Health::Healthy,
            Some("unhealthy") => Health::Unhealthy,
            _ => Health::None,
        }
    }
}

fn nanoseconds(rfc3339: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(rfc3339, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos()).ok()
}

fn variables(env: &[String]) -> BTreeMap<String, String> {
    let pairs = env.iter().filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(name, _)| VARIABLES.contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn labels(labels: BTreeMap<String, Option<String>>) -> BTreeMap<String, String> {
    labels
        .into_iter()
        .filter(|(name, _)| is_kept_label(name))
        .map(|(name, value)| (name, value.unwrap_or_default()))
        .collect()
}

fn stop_signal(value: &serde_json::Value) -> Option<i32> {
    match value {
        serde_json::Value::String(name) => signal::number(name),
        other => signal::number(&other.to_string()),
    }
}

/// EXPOSE of the image and of the command line, and what is published.
fn exposed(config: &RawConfig, settings: &RawNetworkSettings) -> BTreeSet<Port> {
    let ports = [config.exposed_ports.as_ref(), settings.ports.as_ref()];
    ports
        .into_iter()
        .flatten()
        .flat_map(BTreeMap::keys)
        .filter_map(|text| exposed_port(text))
        .collect()
}

/// `80/tcp`, `53/udp` or `80`.
pub fn exposed_port(text: &str) -> Option<Port> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol {
        "tcp" | "udp" => Some(Port { number: number.parse().ok()?, udp: protocol == "udp" }),
        _ => None,
    }
}

fn networks(networks: BTreeMap<String, Option<RawNetwork>>) -> Vec<Network> {
    networks
        .into_iter()
        .map(|(name, network)| Network {
            name,
            ipv4: address(network.as_ref().and_then(|network| network.ipv4.as_deref())),
            ipv6: address(network.as_ref().and_then(|network| network.ipv6.as_deref())),
        })
        .collect()
}

/// Empty text means none, and so does `invalid IP` of Docker 29.
fn address<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text.and_then(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::super::container::PROJECT_LABEL;
    use super::*;
    use serde_json::{Value, json};

    const ID: &str = "0123456789abcdef0123";

    fn inspect(value: &Value) -> Inspected {
        read(ID, value.to_string().as_bytes())
    }

    fn running(value: &Value) -> Container {
        match inspect(value) {
            Inspected::Running(container) => *container,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_answer() {
        let container = running(&json!({
            "Id": ID, "Name": "/web-1", "Created": "2026-01-02T03:04:05.000000006Z",
            "Image": "sha256:0", "New": {"field": [1]},
            "State": {"Status": "running", "Running": true, "StartedAt": "2026-01-02T03:04:06Z",
                      "Health": {"Status": "starting", "Log": []}},
            "Config": {"Image": "web:1", "StopSignal": "SIGQUIT", "StopTimeout": 40,
                       "Env": ["PATH=/bin", "DB_PASSWORD=hunter2", "VIRTUAL_HOST=a.test",
                               "VIRTUAL_PORT=80=81", "EMPTY"],
                       "Labels": {"baton.weight": "3", "com.docker.compose.project": "shop",
                                  "secret": "x"},
                       "ExposedPorts": {"80/tcp": {}, "9/sctp": {}}},
            "HostConfig": {"NetworkMode": "shop_default"},
            "NetworkSettings": {"Ports": {"443/tcp": null, "53/udp": [{"HostPort": "53"}]},
                "Networks": {"b": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": ""},
                             "a": {"IPAddress": "", "GlobalIPv6Address": "fd00::2"}, "c": null}},
        }));
        let pair = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
        let want = Container {
            id: ID.into(),
            name: "web-1".into(),
            created: 1_767_323_045_000_000_006,
            started_at: "2026-01-02T03:04:06Z".into(),
            image: Some("web:1".into()),
            env: [("VIRTUAL_HOST", "a.test"), ("VIRTUAL_PORT", "80=81")].map(pair).into(),
            labels: [("baton.weight", "3"), (PROJECT_LABEL, "shop")].map(pair).into(),
            networks: vec![
                Network { name: "a".into(), ipv4: None, ipv6: "fd00::2".parse().ok() },
                Network { name: "b".into(), ipv4: "172.18.0.2".parse().ok(), ipv6: None },
                Network { name: "c".into(), ipv4: None, ipv6: None },
            ],
            host_network: false,
            exposed: [(53, true), (80, false), (443, false)]
                .map(|(number, udp)| Port { number, udp })
                .into(),
            state: State::Running,
            health: Health::Starting,
            stopping: false,
            stop_signal: Some(3),
            stop_timeout: Some(40),
        };
        assert_eq!(container, want);
    }

    #[test]
    fn little_is_enough() {
        let container = running(&json!({"State": {"Running": true}}));
        assert_eq!(container.name, "0123456789ab");
        let container = running(&json!({
            "State": {"Status": "running", "Health": null},
            "Config": {"Env": null, "Labels": null, "ExposedPorts": null, "StopSignal": 37},
            "NetworkSettings": {"Networks": null, "Ports": null},
            "HostConfig": {"NetworkMode": "host"},
        }));
        assert!(container.host_network);
        assert_eq!(container.stop_signal, Some(37));
    }

    #[test]
    fn states() {
        let of = |status: &str, running: bool| match inspect(
            &json!({"State": {"Status": status, "Running": running}}),
        ) {
            Inspected::Running(container) => Ok(Some(container.state)),
            Inspected::NotRunning => Ok(None),
            Inspected::Unreadable { why, .. } => Err(why),
        };
        for (status, running, want) in [
            ("running", true, Ok(Some(State::Running))),
            ("paused", true, Ok(Some(State::Paused))),
            ("restarting", true, Ok(Some(State::Restarting))),
            ("exited", false, Ok(None)),
            ("hibernating", false, Ok(None)),
            (
                "hibernating",
                true,
                Err("its state `hibernating` is not known to this version of baton".to_owned()),
            ),
        ] {
            assert_eq!(of(status, running), want, "{status}");
        }
    }

    #[test]
    fn health() {
        for (text, want) in [
            ("none", Health::None),
            ("", Health::None),
            ("starting", Health::Starting),
            ("healthy", Health::Healthy),
            ("unhealthy", Health::Unhealthy),
            ("feverish", Health::None),
        ] {
            let state = json!({"Status": "running", "Health": {"Status": text}});
            assert_eq!(running(&json!({"State": state})).health, want, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_one_containers_problem() {
        for json in ["", "[]", "null", r#"{"Config": 7}"#] {
            let inspected = read(ID, json.as_bytes());
            assert!(
                matches!(&inspected, Inspected::Unreadable { name, .. } if name == "0123456789ab"),
                "{json}: {inspected:?}"
            );
        }
    }
}
