//! What differs between two route tables, as lines for people.

use std::collections::BTreeMap;

use super::routes::{Table, UpstreamEntry};
use crate::protocol::snapshot::UpstreamProtocol;

/// One line for each upstream that a route gained, lost, or has in another state.
pub fn changes(old: &Table, new: &Table) -> Vec<String> {
    let (old, new) = (lines(old), lines(new));
    let mut changes = Vec::new();
    for (line, state) in &old {
        if !new.contains_key(line) {
            changes.push(format!("route {line} removed ({state})"));
        }
    }
    for (line, state) in &new {
        match old.get(line) {
            None => changes.push(format!("route {line} added ({state})")),
            Some(before) if before != state => {
                changes.push(format!("route {line} changed ({before}, now {state})"));
            }
            Some(_) => {}
        }
    }
    changes
}

/// Those of `new` that are not in `old`: what was said once is not said again at every rebuild.
pub fn fresh<'a, T: PartialEq>(old: &'a [T], new: &'a [T]) -> impl Iterator<Item = &'a T> {
    new.iter().filter(|item| !old.contains(item))
}

/// Every upstream of every route with its state.
fn lines(table: &Table) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for host in &table.hosts {
        for route in &host.routes {
            let from = format!("{}{}", host.pattern, route.path);
            if let Some(root) = &route.options.root {
                lines.insert(format!("{from} -> files in {}", root.display()), "up".to_owned());
            } else if route.upstreams.is_empty() {
                lines.insert(format!("{from} -> nobody"), "down".to_owned());
            }
            for upstream in &route.upstreams {
                lines.insert(format!("{from} -> {}", target(upstream)), state(upstream));
            }
        }
    }
    lines
}

/// `web-1 (172.17.0.2:80)`, with the protocol where it is not plain HTTP.
fn target(entry: &UpstreamEntry) -> String {
    let address = match (entry.address, entry.protocol) {
        (None, _) => "no address".to_owned(),
        (Some(address), UpstreamProtocol::Http) => address.to_string(),
        (Some(address), protocol) => format!("{}://{address}", protocol.as_str()),
    };
    match &entry.container {
        Some(container) => format!("{container} ({address})"),
        None => address,
    }
}

fn state(entry: &UpstreamEntry) -> String {
    match entry.weight {
        1 => entry.state.as_str().to_owned(),
        weight => format!("{}, weight {weight}", entry.state.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::routes::{HostEntry, RouteEntry, UpstreamState};
    use crate::protocol::options::Options;
    use crate::protocol::pattern::PathPattern;

    fn upstream(container: &str, address: &str, state: UpstreamState) -> UpstreamEntry {
        UpstreamEntry {
            name: container.to_owned(),
            address: address.parse().ok(),
            protocol: UpstreamProtocol::Http,
            weight: 1,
            container: Some(container.to_owned()),
            health: None,
            state,
        }
    }

    fn table(upstreams: Vec<UpstreamEntry>) -> Table {
        let route = RouteEntry {
            path: PathPattern::Prefix("/".to_owned()),
            replace_prefix: None,
            options: Options::default(),
            upstreams,
            hold: false,
        };
        let host = HostEntry { routes: vec![route], ..HostEntry::new("app.example.com") };
        Table { hosts: vec![host], ..Table::default() }
    }

    #[test]
    fn each_upstream_that_differs_is_one_line() {
        let up = |name| upstream(name, "172.17.0.2:80", UpstreamState::Up);
        let waiting = upstream("web-1", "172.17.0.2:80", UpstreamState::Waiting);
        let lost = upstream("web-1", "", UpstreamState::NoAddress);
        let heavy = UpstreamEntry { weight: 3, protocol: UpstreamProtocol::Grpc, ..up("web-1") };
        let route = "route app.example.com/ ->";
        for (old, new, want) in [
            (Table::default(), table(vec![up("web-1")]), vec!["web-1 (172.17.0.2:80) added (up)"]),
            (table(vec![up("web-1")]), table(vec![up("web-1")]), vec![]),
            (
                table(vec![waiting.clone()]),
                table(vec![up("web-1")]),
                vec!["web-1 (172.17.0.2:80) changed (waiting, now up)"],
            ),
            (
                table(vec![up("web-1")]),
                table(vec![up("web-2")]),
                vec!["web-1 (172.17.0.2:80) removed (up)", "web-2 (172.17.0.2:80) added (up)"],
            ),
            (
                Table::default(),
                table(vec![heavy]),
                vec!["web-1 (grpc://172.17.0.2:80) added (up, weight 3)"],
            ),
            (Table::default(), table(vec![lost]), vec!["web-1 (no address) added (no_address)"]),
        ] {
            let want: Vec<_> = want.iter().map(|line| format!("{route} {line}")).collect();
            assert_eq!(changes(&old, &new), want);
        }
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        assert_eq!(fresh(&["a", "b"], &["b", "c"]).collect::<Vec<_>>(), [&"c"]);
    }
}
