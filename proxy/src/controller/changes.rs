//! What differs between two route tables, as lines for people.

use std::collections::BTreeMap;

use super::routes::{Table, UpstreamEntry};

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
            if route.upstreams.is_empty() {
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
    let upstream = &entry.upstream;
    let address = upstream.address.to_string();
    let scheme = match upstream.protocol.as_str() {
        "http" => String::new(),
        other => format!("{other}://"),
    };
    match &entry.container {
        Some(container) => format!("{container} ({scheme}{address})"),
        None => format!("{scheme}{address}"),
    }
}

fn state(entry: &UpstreamEntry) -> String {
    match entry.upstream.weight {
        1 => entry.state.as_str().to_owned(),
        weight => format!("{}, weight {weight}", entry.state.as_str()),
    }
}
