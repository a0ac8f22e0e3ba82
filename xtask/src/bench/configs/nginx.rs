//! nginx. Bodies stay in memory: buffers for the largest, and no temporary files.

use super::{Place, either, fill, hosts};

const TEMPLATE: &str = r#"
user root;
daemon off;
worker_processes @THREADS@;
pid @OWN@/nginx.pid;
error_log @OWN@/error.log crit;
events { worker_connections 16384; }
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
    server_names_hash_max_size 65536;
    server_names_hash_bucket_size 128;
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
@FIELDS@
@UNKNOWN@
    server {
        listen @HTTP@ backlog=8192;
        server_name plain.test;
        location / { proxy_pass http://bench; }
    }
    server {
        listen @HTTPS@ ssl http2 backlog=8192;
        server_name bench.test;
@LOCATIONS@
    }
@HOSTS@}
"#;

const FIELDS: &str = "
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header X-Forwarded-Port $server_port;
";

/// Where there are many hosts, a name that is none of them is not the first one's.
const UNKNOWN: &str = "    server { listen @HTTP@ default_server; return 404; }";

/// A location that sets one field has to set all of them.
const LOCATIONS: &str = r#"
        location / { proxy_pass http://bench; }
        location = /ws {
            proxy_pass http://bench;
            proxy_set_header Connection upgrade;
            proxy_set_header Upgrade $http_upgrade;
@FIELDS@
        }
"#;

const PLAIN_HOST: &str = "
    server {
        listen @HTTP@;
        server_name @HOST@;
        location / { proxy_pass http://bench; }
    }
";

const TLS_HOST: &str = "
    server {
        listen @HTTPS@ ssl http2;
        server_name @HOST@;
        ssl_certificate @FILES@/certificates/@HOST@.pem;
        ssl_certificate_key @FILES@/certificates/@HOST@.pem;
        location / { proxy_pass http://bench; }
    }
";

pub fn config(place: &Place<'_>) -> String {
    let grpc_fields = FIELDS.replace("proxy_set_header", "grpc_set_header");
    let locations = match place.setup.grpc() {
        true => format!("location / {{ grpc_pass grpc://bench; {grpc_fields} }}"),
        false => LOCATIONS.to_owned(),
    };
    let template = TEMPLATE
        .replace("@LOCATIONS@", &locations)
        .replace("@FIELDS@", FIELDS)
        .replace("@UNKNOWN@", either(place.setup.hosts > 0, UNKNOWN, ""));
    fill(&template, place).replace("@HOSTS@", &hosts(place, PLAIN_HOST, TLS_HOST))
}
