//! Claims about what the controller reads: containers, files of users, and its own.

use std::collections::HashSet;
use std::path::Path;
use std::time::SystemTime;

use bollard::models::EventMessage;
use http::{HeaderMap, HeaderValue};
use time::OffsetDateTime;

use super::protocol::again;
use super::text;
use crate::config;
use crate::controller::certificates::Pair;
use crate::controller::certificates::acme::failures::{Blame, Failure};
use crate::controller::certificates::acme::record::{Failures, Origin, Pending};
use crate::controller::certificates::acme::{chains, client};
use crate::controller::compose as compose_file;
use crate::controller::docker::inspect::{self, Inspected};
use crate::controller::docker::{Container, Health, Network, VARIABLES, event, is_kept_label};
use crate::controller::environment::Defaults;
use crate::controller::routes::{Incumbents, Inputs, Table, build};

/// Whatever other containers say, a container keeps its route as long as they do not join it; the
/// order of the list does not matter; and what is shown of them is bounded and printable.
///
/// Lines are settings, an empty line begins the next container, and a tab stands for a new line.
pub fn routes(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let honest = container(0, "VIRTUAL_HOST=honest.test\nVIRTUAL_PORT=80");
    let alone = table(std::slice::from_ref(&honest));
    let others = text.split("\n\n").take(8).enumerate();
    let mut all: Vec<Container> = others.map(|(n, lines)| container(n + 1, lines)).collect();
    all.insert(0, honest);
    let table_of_all = table(&all);
    all.reverse();
    assert_eq!(table_of_all, table(&all), "by the order of the list");
    let honest_host = |table: &Table| {
        let is_it = |host: &&crate::controller::routes::HostEntry| {
            host.pattern.to_string() == "honest.test"
        };
        table.hosts.iter().find(is_it).cloned().expect("the honest container's host")
    };
    let (before, after) = (honest_host(&alone), honest_host(&table_of_all));
    let kept = &before.routes[0];
    let same_path = after.routes.iter().find(|route| route.path == kept.path);
    let same_path = same_path.expect("the honest container's route");
    assert!(same_path.upstreams.contains(&kept.upstreams[0]));
    if !text.to_ascii_lowercase().contains("honest") && after.routes == before.routes {
        assert_eq!(before, after);
    }
    is_shown(&table_of_all);
}

fn is_shown(table: &Table) {
    let diagnoses = table.diagnoses.iter().flat_map(|one| [&one.value, &one.problem]);
    for shown in diagnoses.chain(table.unrouted.iter().map(|one| &one.reason)) {
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        assert!(shown.chars().count() < 400, "{shown}");
    }
}

fn container(number: usize, lines: &str) -> Container {
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.replace('\t', "\n")));
    let (labels, env): (Vec<_>, Vec<_>) = pairs.partition(|(name, _)| name.contains('.'));
    let address = format!("172.17.0.{}", number + 2).parse().ok();
    Container {
        id: format!("id{number}"),
        name: format!("c{number}"),
        created: number as i64,
        started_at: "1".to_owned(),
        env: env.into_iter().filter(|(name, _)| VARIABLES.contains(&name.as_str())).collect(),
        labels: labels.into_iter().filter(|(name, _)| is_kept_label(name)).collect(),
        networks: vec![Network { name: "bridge".to_owned(), ipv4: address, ipv6: None }],
        health: Health::Healthy,
        ..Container::default()
    }
}

fn table(containers: &[Container]) -> Table {
    build(&Inputs {
        containers,
        departed: &[],
        static_routes: &[],
        reachable: &HashSet::new(),
        incumbents: &Incumbents::default(),
        prefer_ipv6: false,
        defaults: &Defaults::default(),
    })
}

/// A comment changes nothing, and every mistake stands somewhere in the file.
pub fn config(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let file = Path::new("baton.toml");
    match config::parse(text, file) {
        Ok(config) => {
            let commented = format!("# before\n{text}\n# after\n");
            assert_eq!(config::parse(&commented, file).as_ref(), Ok(&config));
        }
        Err(mistakes) => {
            assert!(mistakes.iter().next().is_some(), "no mistake is no error");
            let lines = text.split('\n').count();
            let lines_of = mistakes.iter().filter_map(|mistake| mistake.position);
            lines_of.for_each(|at| assert!((1..=lines).contains(&at.line), "{mistakes:?}"));
        }
    }
}

/// Of a container only what is ours is kept, and what is kept crosses an upgrade.
pub fn docker(bytes: &[u8]) {
    if let Inspected::Running(container) = inspect::read("0123456789abcdef", bytes) {
        assert!(!container.name.is_empty());
        assert!(container.env.keys().all(|name| VARIABLES.contains(&name.as_str())));
        assert!(container.labels.keys().all(|name| is_kept_label(name)));
        let json = serde_json::to_vec(&container).expect("a container is written");
        assert_eq!(again::<Container>(&json).as_ref(), Some(&*container));
        table(std::slice::from_ref(&container));
    }
    if let Ok(message) = serde_json::from_slice::<EventMessage>(bytes) {
        let _ = event::reaction(message);
    }
}

/// A wait that a CA asks for ends within a month, and links lead where they say.
pub fn acme(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Some(url) = chains::alternate(text) {
        assert!(text.contains(&format!("<{url}>")));
    }
    let _ = chains::topmost_issuer(text);
    let Ok(value) = HeaderValue::from_str(text) else { return };
    let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, value)]);
    let asked = client::retry_after(&headers, SystemTime::UNIX_EPOCH);
    let asked = asked.map(|wait| wait.try_into().unwrap_or(time::Duration::MAX));
    let now = OffsetDateTime::UNIX_EPOCH;
    let failure = Failure::after(None, Blame::Ca, String::new(), asked, now);
    assert!(failure.next_try > now && failure.next_try <= now + time::Duration::days(31));
}

/// What was read of the state directory is written so that it is read again.
pub fn stored(bytes: &[u8]) {
    again::<Pending>(bytes);
    again::<Origin>(bytes);
    again::<Failures>(bytes);
    let Some(Ok(pair)) = text(bytes).map(Pair::from_pem) else { return };
    let now = OffsetDateTime::UNIX_EPOCH;
    let _ = (pair.is_late(now), pair.is_valid(now), pair.renewal());
    let again = Pair::from_pem(&pair.to_pem()).expect("a pair that was written");
    assert_eq!((again.leaf, again.names), (pair.leaf, pair.names));
}

/// The same file has the same report, which is complete where nothing is wrong.
pub fn compose(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(report) = compose_file::check_text(text) else { return };
    assert_eq!(report.complete, report.diagnoses.is_empty());
    assert_eq!(compose_file::check_text(text).as_ref(), Ok(&report));
}
