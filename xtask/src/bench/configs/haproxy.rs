//! HAProxy. The window lets a body of 100 KiB come without a pause.

use super::{Place, either, fill, host};

const TEMPLATE: &str = r#"
global
    nbthread @THREADS@
    maxconn 8192
    tune.h2.initial-window-size 1048576
    tune.h2.max-concurrent-streams 128
@STATS@

defaults
    mode http
    no log
    timeout connect 5s
    timeout client 600s
    timeout server 60s
    timeout tunnel 600s
    timeout http-keep-alive 600s
    http-reuse always

frontend plain
    bind @HTTP@ backlog 8192
    option forwardfor
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    @CHOOSE@

frontend tls
    bind @HTTPS@ backlog 8192 ssl crt @FILES@/both.pem @CERTIFICATES@ alpn h2,http/1.1 ssl-min-ver TLSv1.2
    option forwardfor
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    @CHOOSE@

backend bench
    server bench @UPSTREAM@ pool-max-conn 512 @PROTOCOL@
"#;

/// A process that comes takes the listeners of the one before over through this socket.
const STATS: &str = "    stats socket @OWN@/stats level admin expose-fd listeners";

/// Many hosts are in a tree, and a name that is none of them is nobody's.
const BY_MAP: &str = "use_backend %[req.hdr(host),field(1,:),lower,map(@OWN@/hosts.map)]";

pub fn config(place: &Place<'_>) -> String {
    let setup = &place.setup;
    let template = TEMPLATE
        .replace("@STATS@", either(setup.reloads, STATS, ""))
        .replace("@CHOOSE@", either(setup.hosts > 0, BY_MAP, "default_backend bench"))
        .replace("@CERTIFICATES@", either(setup.certificates, "crt @FILES@/certificates", ""))
        .replace("@PROTOCOL@", either(setup.grpc(), "proto h2", ""));
    fill(&template, place)
}

/// All hosts, as `hosts.map` has them.
pub fn map(place: &Place<'_>) -> String {
    let further = (0..place.setup.hosts).map(host);
    let all = ["plain.test".to_owned(), "bench.test".to_owned()].into_iter().chain(further);
    all.map(|host| format!("{host} bench\n")).collect()
}
