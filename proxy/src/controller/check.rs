//! `baton check`: what would go wrong, found without binding or listening.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{AccessFlags, Uid, access};
use tokio::time::timeout;

use super::docker::{Containers, Watch};
use super::environment::Environment;
use super::metrics::{self, Tally};
use super::port_holder;
use crate::config::{self, Config, DnsProvider, Mistakes};
use crate::protocol::settings::ListenerKind;

/// For Docker to answer.
const DOCKER_LIMIT: Duration = Duration::from_secs(3);
/// CAP_NET_BIND_SERVICE of capabilities(7).
const NET_BIND_SERVICE: u32 = 10;

/// Reads the configuration, and looks at what it asks for.
///
/// # Errors
/// Every mistake of the configuration. What the surroundings lack is no mistake of it: it comes as
/// a remark, one line each.
pub fn check(config_path: Option<&Path>) -> Result<Vec<String>, Mistakes> {
    let config = config::load(config_path)?;
    let mut remarks = Vec::new();
    remarks.extend(directory_remark("state_dir", &config.state_dir));
    remarks
        .extend(config.control_socket.parent().and_then(|d| directory_remark("control_socket", d)));
    remarks.extend(listener_remarks(&config));
    remarks.extend(config.metrics.listen.and_then(metrics_remark));
    remarks.extend(config.acme.proof.dns.provider.as_ref().and_then(program_remark));
    let files = config.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
    remarks.extend(files.filter_map(|file| file_remark(file)));
    remarks.extend(config.certificate_dirs.iter().filter_map(|d| certificates_remark(d)));
    remarks.extend(Environment::read().problems);
    remarks.push(docker_remark(&config));
    Ok(remarks)
}

/// A directory that is not there yet is made: then its nearest ancestor counts.
fn directory_remark(key: &str, directory: &Path) -> Option<String> {
    let existing = directory.ancestors().find(|ancestor| ancestor.exists())?;
    let error = access(existing, AccessFlags::W_OK | AccessFlags::X_OK).err()?;
    Some(format!("{key}: {}: {}", existing.display(), error.desc().to_lowercase()))
}

fn program_remark(provider: &DnsProvider) -> Option<String> {
    let DnsProvider::Exec { program, .. } = provider else { return None };
    let error = access(program.as_path(), AccessFlags::X_OK).err()?;
    Some(format!("acme.dns.exec: {}: {}", program.display(), error.desc().to_lowercase()))
}

fn file_remark(file: &Path) -> Option<String> {
    let error = access(file, AccessFlags::R_OK).err()?;
    Some(format!("tls.certificate: {}: {}", file.display(), error.desc().to_lowercase()))
}

fn certificates_remark(directory: &Path) -> Option<String> {
    let error = access(directory, AccessFlags::R_OK | AccessFlags::X_OK).err()?;
    let error = error.desc().to_lowercase();
    Some(format!("tls.certificate_dirs: {}: {error}", directory.display()))
}

fn listener_remarks(config: &Config) -> Vec<String> {
    let http = config.listen.http.iter().map(|address| (address, ListenerKind::Http));
    let https = config.listen.https.iter().map(|address| (address, ListenerKind::Https));
    http.chain(https).filter_map(|(address, kind)| listener_remark(*address, kind)).collect()
}

fn metrics_remark(address: SocketAddr) -> Option<String> {
    (!address.ip().is_loopback()).then(|| metrics::exposed(address))
}

fn listener_remark(address: SocketAddr, kind: ListenerKind) -> Option<String> {
    let kind = kind.as_str();
    if port_holder::is_held(address) {
        let holder = port_holder::holder(address);
        let holder = holder.map_or_else(|| "somebody".to_owned(), |holder| holder.to_string());
        return Some(format!("listen.{kind}: {address} is in use by {holder}"));
    }
    (address.port() != 0 && address.port() < first_unprivileged_port() && !may_bind_low_ports())
        .then(|| format!("listen.{kind}: {address}: this user needs CAP_NET_BIND_SERVICE for it"))
}

fn first_unprivileged_port() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1024)
}

fn may_bind_low_ports() -> bool {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => effective_capabilities(&status) & (1 << NET_BIND_SERVICE) != 0,
        Err(_) => Uid::effective().is_root(),
    }
}

/// CapEff of /proc/PID/status.
fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn docker_remark(config: &Config) -> String {
    if !config.docker.enabled {
        return "docker: off".to_owned();
    }
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(ask_docker(config)),
        Err(e) => format!("docker: runtime: {e}"),
    }
}

async fn ask_docker(config: &Config) -> String {
    let (watch, mut containers) = Watch::start(&config.docker, Tally::default(), vec![]);
    let spoken =
        |now: &std::sync::Arc<Containers>| now.status.connected || now.status.error.is_some();
    let remark = match timeout(DOCKER_LIMIT, containers.wait_for(spoken)).await {
        Ok(Ok(now)) => match &now.status.error {
            Some(error) => format!("docker: not connected: {error}"),
            None => {
                format!("docker: {}: {} containers", now.status.endpoint, now.status.containers)
            }
        },
        Ok(Err(_)) | Err(_) => "docker: no answer".to_owned(),
    };
    watch.stop().await;
    remark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000000400\n"), 1 << 10);
        assert_eq!(effective_capabilities("Name:\tx\n"), 0);
    }

    #[test]
    fn what_certificates_need_and_is_not_there_is_named() {
        let missing = Path::new("/nonexistent/file");
        let provider = DnsProvider::Exec { program: missing.into(), limit: Duration::from_secs(1) };
        assert_eq!(
            program_remark(&provider).as_deref(),
            Some("acme.dns.exec: /nonexistent/file: no such file or directory")
        );
        assert_eq!(
            certificates_remark(missing).as_deref(),
            Some("tls.certificate_dirs: /nonexistent/file: no such file or directory")
        );
        assert_eq!(certificates_remark(Path::new("/")), None);
        assert_eq!(
            file_remark(missing).as_deref(),
            Some("tls.certificate: /nonexistent/file: no such file or directory")
        );
        assert_eq!(file_remark(Path::new("/proc/self/status")), None);
    }

    #[test]
    fn a_held_port_is_named_without_binding() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = held.local_addr().expect("address");
        let remark = listener_remark(address, ListenerKind::Http).expect("a remark");
        assert!(remark.contains(&format!("(pid {})", std::process::id())), "{remark}");
    }
}
