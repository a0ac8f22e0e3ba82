//! How each proxy is set up, as text: one worker, no access log, no compression, connections to the
//! upstream kept (twice as many as a row has requests at a time), the same certificate, and the same
//! fields added to requests where it can.

use std::net::SocketAddr;
use std::path::Path;

/// Where a proxy listens, and for whom.
pub struct Place<'a> {
    /// Has `cert.pem`, `key.pem` and `both.pem`.
    pub files: &'a Path,
    /// Of this proxy alone.
    pub own: &'a Path,
    pub upstream: SocketAddr,
    /// Host `plain.test`.
    pub http: SocketAddr,
    /// Host `bench.test`.
    pub https: SocketAddr,
}

/// A template with its `@NAME@` filled in: braces belong to the languages of the proxies.
fn fill(template: &str, place: &Place<'_>) -> String {
    let port = |address: &SocketAddr| address.port().to_string();
    template
        .replace("@FILES@", &place.files.display().to_string())
        .replace("@OWN@", &place.own.display().to_string())
        .replace("@UPSTREAM@", &place.upstream.to_string())
        .replace("@HTTP@", &place.http.to_string())
        .replace("@HTTPS@", &place.https.to_string())
        .replace("@HTTP_PORT@", &port(&place.http))
        .replace("@HTTPS_PORT@", &port(&place.https))
}

/// The upstream of all: files from the page cache, and an answer to every POST.
pub fn upstream(files: &Path, listen: SocketAddr) -> String {
    let template = r#"
user root;
daemon off;
worker_processes 1;
pid @FILES@/upstream.pid;
error_log @FILES@/upstream.log crit;
events { worker_connections 8192; }
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=16;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_max_body_size 0;
    client_body_buffer_size 256k;
    client_body_temp_path @FILES@/upstream-body;
    server {
        listen @HTTP@ backlog=8192;
        root @FILES@;
        location = /post { return 200 "taken"; }
        location ~ pem|conf|log { return 404; }
    }
}
"#;
    let place = Place { files, own: files, upstream: listen, http: listen, https: listen };
    fill(template, &place)
}

pub fn baton(place: &Place<'_>) -> String {
    let template = r#"
threads = 1
state_dir = "@OWN@/state"
control_socket = "@OWN@/control.sock"

[listen]
http = ["@HTTP@"]
https = ["@HTTPS@"]

[docker]
enabled = false

[log]
access = "off"
level = "warn"

[[tls.certificate]]
cert = "@FILES@/cert.pem"
key = "@FILES@/key.pem"

[[route]]
host = "plain.test"
tls = "off"
compress = false
upstreams = ["@UPSTREAM@"]

[[route]]
host = "bench.test"
compress = false
upstreams = ["@UPSTREAM@"]
"#;
    fill(template, place)
}

/// Bodies stay in memory: buffers for the largest, and no temporary files.
pub fn nginx(place: &Place<'_>) -> String {
    let template = r#"
user root;
daemon off;
worker_processes 1;
pid @OWN@/nginx.pid;
error_log @OWN@/error.log crit;
events { worker_connections 8192; }
http {
    access_log off;
    gzip off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_max_body_size 0;
    client_body_buffer_size 256k;
    client_body_temp_path @OWN@/body;
    proxy_temp_path @OWN@/proxy;
    http2_max_concurrent_streams 128;
    http2_chunk_size 16k;
    ssl_certificate @FILES@/cert.pem;
    ssl_certificate_key @FILES@/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    upstream bench {
        server @UPSTREAM@;
        keepalive 512;
        keepalive_requests 1000000000;
    }
    proxy_http_version 1.1;
    proxy_buffer_size 16k;
    proxy_buffers 32 64k;
    proxy_busy_buffers_size 256k;
    proxy_max_temp_file_size 0;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Forwarded-Port $server_port;
    server {
        listen @HTTP@ backlog=8192;
        server_name plain.test;
        location / { proxy_pass http://bench; }
    }
    server {
        listen @HTTPS@ ssl http2 backlog=8192;
        server_name bench.test;
        location / { proxy_pass http://bench; }
    }
}
"#;
    fill(template, place)
}

/// The window lets a body of 100 KiB come without a pause.
pub fn haproxy(place: &Place<'_>) -> String {
    let template = r#"
global
    nbthread 1
    maxconn 4096
    tune.h2.initial-window-size 1048576
    tune.h2.max-concurrent-streams 128

defaults
    mode http
    no log
    timeout connect 5s
    timeout client 600s
    timeout server 60s
    timeout http-keep-alive 600s
    http-reuse always

frontend plain
    bind @HTTP@ backlog 8192
    default_backend bench
    option forwardfor
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]

frontend tls
    bind @HTTPS@ backlog 8192 ssl crt @FILES@/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.2
    default_backend bench
    option forwardfor
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]

backend bench
    server bench @UPSTREAM@ pool-max-conn 512
"#;
    fill(template, place)
}

/// It adds X-Forwarded-For, X-Forwarded-Proto and Via, and this version cannot be told to add more.
pub fn h2o(place: &Place<'_>) -> String {
    let template = r#"
user: root
num-threads: 1
max-connections: 4096
http2-max-concurrent-requests-per-connection: 128
http2-idle-timeout: 600
http1-request-timeout: 600
proxy.timeout.keepalive: 60000
proxy.preserve-host: ON
hosts:
  "plain.test:@HTTP_PORT@":
    listen:
      host: 127.0.0.1
      port: @HTTP_PORT@
    paths:
      "/":
        proxy.reverse.url: "http://@UPSTREAM@/"
  "bench.test:@HTTPS_PORT@":
    listen:
      host: 127.0.0.1
      port: @HTTPS_PORT@
      ssl:
        neverbleed: OFF
        certificate-file: @FILES@/cert.pem
        key-file: @FILES@/key.pem
        minimum-version: TLSv1.2
    paths:
      "/":
        proxy.reverse.url: "http://@UPSTREAM@/"
"#;
    fill(template, place)
}

/// X-Forwarded-For, -Proto and -Host it adds by itself.
pub fn caddy(place: &Place<'_>) -> String {
    let template = r#"
{
    admin off
    auto_https off
    servers {
        protocols h1 h2
    }
}
(bench) {
    bind 127.0.0.1
    reverse_proxy @UPSTREAM@ {
        header_up X-Real-IP {remote_host}
        header_up X-Forwarded-Port {http.request.port}
        transport http {
            compression off
            keepalive_idle_conns 512
            keepalive_idle_conns_per_host 512
        }
    }
}
http://plain.test:@HTTP_PORT@ {
    import bench
}
https://bench.test:@HTTPS_PORT@ {
    tls @FILES@/cert.pem @FILES@/key.pem
    import bench
}
"#;
    fill(template, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_template_has_a_name_left() {
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let place = Place {
            files: Path::new("/f"),
            own: Path::new("/o"),
            upstream: address,
            http: address,
            https: address,
        };
        for write in [baton, nginx, haproxy, h2o, caddy] {
            assert!(!write(&place).contains('@'), "{}", write(&place));
        }
        assert!(!upstream(Path::new("/f"), address).contains('@'));
    }
}
