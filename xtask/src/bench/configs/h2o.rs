//! H2O. It adds X-Forwarded-For, X-Forwarded-Proto and Via, and this version cannot be told to add more.

use super::{Place, either, fill, hosts};

const TEMPLATE: &str = r#"
user: root
num-threads: @THREADS@
max-connections: 16384
http2-max-concurrent-requests-per-connection: 128
http2-idle-timeout: 600
http1-request-timeout: 600
proxy.timeout.keepalive: 60000
proxy.preserve-host: ON
@WEBSOCKET@
hosts:
@UNKNOWN@
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
        ocsp-update-interval: 0
    paths:
      "/":
        proxy.reverse.url: "http://@UPSTREAM@/"
"#;

/// The first host is that of all names that are none: it has nothing.
const UNKNOWN: &str = r#"
  "unknown.test:@HTTP_PORT@":
    listen:
      host: 127.0.0.1
      port: @HTTP_PORT@
    paths:
      "/":
        file.dir: @OWN@
"#;

const PLAIN_HOST: &str = r#"
  "@HOST@:@HTTP_PORT@":
    listen:
      host: 127.0.0.1
      port: @HTTP_PORT@
    paths:
      "/":
        proxy.reverse.url: "http://@UPSTREAM@/"
"#;

const TLS_HOST: &str = r#"
  "@HOST@:@HTTPS_PORT@":
    listen:
      host: 127.0.0.1
      port: @HTTPS_PORT@
      ssl:
        neverbleed: OFF
        certificate-file: @FILES@/certificates/@HOST@.pem
        key-file: @FILES@/certificates/@HOST@.pem
        minimum-version: TLSv1.2
        ocsp-update-interval: 0
    paths:
      "/":
        proxy.reverse.url: "http://@UPSTREAM@/"
"#;

pub fn config(place: &Place<'_>) -> String {
    let websocket = place.setup.upstream == super::Upstream::WebSocket;
    let template = TEMPLATE
        .replace("@WEBSOCKET@", either(websocket, "proxy.websocket: ON", ""))
        .replace("@UNKNOWN@", either(place.setup.hosts > 0, UNKNOWN, ""));
    fill(&template, place) + &hosts(place, PLAIN_HOST, TLS_HOST)
}
