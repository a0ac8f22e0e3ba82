//! baton: as users have it, its sandbox and its kernel selector included.

use super::{Place, either, fill, hosts};

const TEMPLATE: &str = r#"
@COUNTED@
threads = @THREADS@
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
upstreams = ["@SCHEME@@UPSTREAM@"]

[[route]]
host = "bench.test"
compress = false
upstreams = ["@SCHEME@@UPSTREAM@"]
"#;

const COUNTED: &str = r#"
sandbox = "off"
handoff = "inherit"
"#;

const PLAIN_HOST: &str = r#"
[[route]]
host = "@HOST@"
tls = "off"
compress = false
upstreams = ["@UPSTREAM@"]
"#;

const TLS_HOST: &str = r#"
[[tls.certificate]]
cert = "@FILES@/certificates/@HOST@.pem"
key = "@FILES@/certificates/@HOST@.pem"

[[route]]
host = "@HOST@"
compress = false
upstreams = ["@UPSTREAM@"]
"#;

pub fn config(place: &Place<'_>) -> String {
    let scheme = either(place.setup.grpc(), "grpc://", "");
    let counted = either(place.setup.counted, COUNTED, "");
    let template = TEMPLATE.replace("@SCHEME@", scheme).replace("@COUNTED@", counted);
    fill(&template, place) + &hosts(place, PLAIN_HOST, TLS_HOST)
}
