//! How each proxy is set up, as text: no access log, no compression, connections to the upstream kept
//! (twice as many as a row has requests at a time), the same certificate, and the same fields added to
//! requests where it can. What a row asks for beside that is in its [`Setup`].

pub mod baton;
pub mod caddy;
pub mod h2o;
pub mod haproxy;
pub mod nginx;
pub mod upstream;

use std::net::SocketAddr;
use std::path::Path;

/// What differs from row to row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setup {
    pub threads: usize,
    /// Beside `plain.test` and `bench.test`, each with a route of its own.
    pub hosts: usize,
    /// The further hosts are served over TLS, each with a certificate of its own.
    pub certificates: bool,
    pub upstream: Upstream,
    /// It can be told to take a new configuration.
    pub reloads: bool,
    /// Beneath valgrind, which makes system calls of its own, and knows little of eBPF.
    pub counted: bool,
}

/// Whom the proxy asks, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Upstream {
    Files,
    WebSocket,
    Grpc,
}

impl Setup {
    pub const USUAL: Setup = Setup {
        threads: 1,
        hosts: 0,
        certificates: false,
        upstream: Upstream::Files,
        reloads: false,
        counted: false,
    };

    fn grpc(&self) -> bool {
        self.upstream == Upstream::Grpc
    }
}

/// Where a proxy listens, for whom, and how.
pub struct Place<'a> {
    /// Has `cert.pem`, `key.pem`, `both.pem`, and a directory `certificates`.
    pub files: &'a Path,
    /// Of this proxy alone.
    pub own: &'a Path,
    pub upstream: SocketAddr,
    pub addresses: Addresses,
    pub setup: Setup,
}

#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Host `plain.test`.
    pub http: SocketAddr,
    /// Host `bench.test`.
    pub https: SocketAddr,
    /// Where it takes orders, if that is how it does.
    pub admin: SocketAddr,
}

/// The name of a further host.
pub fn host(number: usize) -> String {
    format!("host{number}.test")
}

/// A template with its `@NAME@` filled in: braces belong to the languages of the proxies.
fn fill(template: &str, place: &Place<'_>) -> String {
    let Addresses { http, https, admin } = place.addresses;
    template
        .replace("@FILES@", &place.files.display().to_string())
        .replace("@OWN@", &place.own.display().to_string())
        .replace("@UPSTREAM@", &place.upstream.to_string())
        .replace("@THREADS@", &place.setup.threads.to_string())
        .replace("@HTTP@", &http.to_string())
        .replace("@HTTPS@", &https.to_string())
        .replace("@ADMIN@", &admin.to_string())
        .replace("@HTTP_PORT@", &http.port().to_string())
        .replace("@HTTPS_PORT@", &https.port().to_string())
}

/// The further hosts, each as one of two templates has it: in the clear, or over TLS.
fn hosts(place: &Place<'_>, plain: &str, tls: &str) -> String {
    let template = fill(if place.setup.certificates { tls } else { plain }, place);
    (0..place.setup.hosts).map(|number| template.replace("@HOST@", &host(number))).collect()
}

/// Of two texts the one that fits.
fn either(condition: bool, yes: &'static str, no: &'static str) -> &'static str {
    if condition { yes } else { no }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(setup: Setup) {
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let place = Place {
            files: Path::new("/f"),
            own: Path::new("/o"),
            upstream: address,
            addresses: Addresses { http: address, https: address, admin: address },
            setup,
        };
        for write in [baton::config, nginx::config, h2o::config, caddy::config] {
            let config = write(&place);
            assert!(!config.contains('@'), "{config}");
            assert_eq!(config.contains("host1.test"), setup.hosts == 2, "{config}");
        }
        assert!(!haproxy::config(&place).contains('@'));
        assert!(haproxy::map(&place).contains("host1.test") || setup.hosts == 0);
    }

    #[test]
    fn no_template_has_a_name_left() {
        for hosts in [0, 2] {
            for certificates in [false, true] {
                for upstream in [Upstream::Files, Upstream::WebSocket, Upstream::Grpc] {
                    let (reloads, counted) = (certificates, certificates);
                    check(Setup { threads: 1, hosts, certificates, upstream, reloads, counted });
                }
            }
        }
        let address = ([127, 0, 0, 1], 1).into();
        assert!(!upstream::config(Path::new("/f"), address).contains('@'));
    }
}
