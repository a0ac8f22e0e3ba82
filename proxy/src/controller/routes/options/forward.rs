//! Where the containers are that forward auth asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::controller::docker::Container;
use crate::controller::routes::claim::network_ip;
use crate::controller::routes::table::{Diagnosis, RouteEntry, Table};
use crate::controller::routes::{CONFIGURATION, INGRESS, Inputs};

/// Looks for them anew at each build: they move, too.
pub(in crate::controller::routes) fn find_servers(table: &mut Table, inputs: &Inputs<'_>) {
    let mut diagnoses = Vec::new();
    for route in table.hosts.iter_mut().flat_map(|host| &mut host.routes) {
        let project = project(route, inputs);
        let by = route.upstreams.iter().find_map(|upstream| upstream.container.clone());
        let Some(auth) = &mut route.options.forward_auth else { continue };
        if auth.address.is_some() || auth.host.is_empty() {
            continue;
        }
        let server = inputs.containers.iter().find(|c| is_called(c, &auth.host, project));
        let ip = server.and_then(|server| address(server, inputs.prefer_ipv6));
        auth.address = ip.map(|ip| SocketAddr::new(ip, auth.port));
        if auth.address.is_none() {
            diagnoses.push(Diagnosis {
                container: by.unwrap_or_else(|| CONFIGURATION.to_owned()),
                setting: "baton.auth.forward".to_owned(),
                value: auth.host.clone(),
                problem: "is not the name of a running container: nobody gets in".to_owned(),
            });
        }
    }
    table.diagnoses.extend(diagnoses);
    table.diagnoses.sort();
    table.diagnoses.dedup();
}

fn project<'a>(route: &RouteEntry, inputs: &Inputs<'a>) -> Option<&'a str> {
    let name = route.upstreams.iter().find_map(|upstream| upstream.container.as_ref())?;
    inputs.containers.iter().find(|container| container.name == *name)?.project()
}

/// By its own name, or that of its service within the project that asks.
fn is_called(container: &Container, name: &str, project: Option<&str>) -> bool {
    if container.name.eq_ignore_ascii_case(name) {
        return true;
    }
    let Some(project) = project.filter(|project| container.project() == Some(*project)) else {
        return false;
    };
    ["-", "_"].iter().any(|dash| container.name == format!("{project}{dash}{name}{dash}1"))
}

fn address(container: &Container, prefer_ipv6: bool) -> Option<IpAddr> {
    if container.host_network {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    let networks = container.networks.iter().filter(|network| network.name != INGRESS);
    networks.filter_map(|network| network_ip(network, prefer_ipv6)).next()
}
