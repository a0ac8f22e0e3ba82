//! Caddy. X-Forwarded-For, -Proto and -Host it adds by itself; its threads come from GOMAXPROCS.

use super::{Place, either, fill, hosts};

const TEMPLATE: &str = r#"
{
    admin @ORDERS@
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
            @VERSIONS@
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

const PLAIN_HOST: &str = "
http://@HOST@:@HTTP_PORT@ {
    import bench
}
";

const TLS_HOST: &str = "
https://@HOST@:@HTTPS_PORT@ {
    tls @FILES@/certificates/@HOST@.pem @FILES@/certificates/@HOST@.pem
    import bench
}
";

pub fn config(place: &Place<'_>) -> String {
    let template = TEMPLATE
        .replace("@ORDERS@", either(place.setup.reloads, "@ADMIN@", "off"))
        .replace("@VERSIONS@", either(place.setup.grpc(), "versions h2c 2", ""));
    fill(&template, place) + &hosts(place, PLAIN_HOST, TLS_HOST)
}
