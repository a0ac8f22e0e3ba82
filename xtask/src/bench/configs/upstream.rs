//! The upstream of most rows: nginx, with files from the page cache, and an answer to every POST.

use std::net::SocketAddr;
use std::path::Path;

const TEMPLATE: &str = r#"
user root;
daemon off;
worker_processes 1;
pid @FILES@/upstream.pid;
error_log @FILES@/upstream.log crit;
events { worker_connections 16384; }
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
        listen @LISTEN@ backlog=8192;
        root @FILES@;
        location = /post { return 200 "taken"; }
        location ~ pem|conf|log { return 404; }
    }
}
"#;

pub fn config(files: &Path, listen: SocketAddr) -> String {
    TEMPLATE
        .replace("@FILES@", &files.display().to_string())
        .replace("@LISTEN@", &listen.to_string())
}
