//! What a router and an upstream could read differently: paths, hosts, and the redirects made of them.

use baton_load::Upstream;
use baton_tests::{Baton, Config, Recorder, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stage::LIMIT;
use crate::{APP, PLAIN, in_front_of_one, routed_to};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const OFF: &str = "tls = \"off\"";

/// The first request line that came since `before` bytes.
fn line_since(upstream: &Recorder, before: usize) -> String {
    let received = upstream.received();
    received[before..].lines().next().unwrap_or_default().to_owned()
}

/// `/admin` is closed to everybody; all else goes to the same upstream, as it was received.
#[tokio::test]
async fn a_closed_path_is_closed_in_every_spelling() {
    let upstream = Recorder::start(OK).await;
    let addresses = [upstream.address()];
    let closed = format!("path = \"/admin\"\nallow = [\"192.0.2.1\"]\n{OFF}");
    let config =
        Config::new().route_with(PLAIN, &addresses, OFF).route_with(PLAIN, &addresses, &closed);
    let baton = Baton::start(config).await;
    for (target, want) in [
        ("/admin", 403),
        ("/admin/", 403),
        ("/admin/x", 403),
        ("/admin?x", 403),
        ("/admin/.", 403),
        ("/admin/x/..", 403),
        ("//admin", 403),
        ("///admin//x", 403),
        ("/./admin", 403),
        ("/x/../admin", 403),
        ("/x//..//admin", 403),
        ("/%61dmin", 403),
        ("/%61%64%6d%69%6E", 403),
        ("/%2e/admin", 403),
        ("/x/%2e%2e/admin", 403),
        ("/x/.%2E/admin", 403),
        ("/x%2f..%2fadmin", 403),
        ("/%2Fadmin", 403),
        ("/admin%2f", 403),
        ("/admin%2Fx", 403),
        ("/admin/..%2fadmin", 403),
        ("http://plain.test/admin", 403),
        ("HTTP://PLAIN.test:80//admin", 403),
        // Out of the root, or cut where text ends.
        ("/../admin", 400),
        ("/x/../../admin", 400),
        ("/%2e%2e/admin", 400),
        ("/admin%00", 400),
        ("/%00/../admin", 400),
        ("/admin#x", 400),
        ("admin", 400),
        ("*", 400),
        // Other paths for a router and for most upstreams: they are compared as they are written.
        ("/ADMIN", 200),
        ("/admin;x", 200),
        ("/administrator", 200),
        ("/x/..;/admin", 200),
        ("/x\\..\\admin", 200),
        ("/%2561dmin", 200),
        ("/%5cadmin", 200),
        ("/admin/../public", 200),
        ("/?/admin", 200),
        ("/%3f/../public", 200),
        ("/%zz", 200),
        ("/%", 200),
    ] {
        let before = upstream.received().len();
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
        let answer = exchange(baton.http_address(), request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{target}: {answer}");
        let went = if want == 200 { format!("GET {target} HTTP/1.1") } else { String::new() };
        assert_eq!(line_since(&upstream, before), went, "{target}");
    }
}

/// With a prefix taken off, the rest cannot lead out of it.
#[tokio::test]
async fn what_is_left_of_a_path_stays_below_its_replacement() {
    let upstream = Recorder::start(OK).await;
    let stripped = format!("path = \"/app\"\nstrip_prefix = true\n{OFF}");
    let baton =
        Baton::start(Config::new().route_with(PLAIN, &[upstream.address()], &stripped)).await;
    for (target, went) in [
        ("/app/x", "/x"),
        ("/app", "/"),
        ("/app/x/../y", "/y"),
        ("/app/%2e%2e/app/x", "/x"),
        ("/x/../app/y", "/y"),
        ("//app//evil.test", "/evil.test"),
        ("/app//evil.test", "/evil.test"),
        ("/app/%2f/evil.test", "/evil.test"),
        ("/app/a%20b%0d%0aX:y", "/a%20b%0D%0AX:y"),
        ("/app/./a%20b%0d%0aX:y", "/a%20b%0D%0AX:y"),
        ("/app/x%3fy", "/x%3Fy"),
        ("/app/./x%3fy", "/x%3Fy"),
    ] {
        let before = upstream.received().len();
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n");
        let answer = exchange(baton.http_address(), request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{target}: {answer}");
        assert_eq!(line_since(&upstream, before), format!("GET {went} HTTP/1.1"), "{target}");
    }
}

#[tokio::test]
async fn a_host_is_a_name_and_a_port_and_nothing_else() {
    let upstream = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&upstream.address())).await;
    for (target, host, want, went) in [
        ("/", "plain.test", 200, "plain.test"),
        ("/", "PLAIN.Test", 200, "PLAIN.Test"),
        ("/", "plain.test.", 200, "plain.test."),
        ("/", "plain.test:8080", 200, "plain.test:8080"),
        ("/", "plain.test:", 200, "plain.test:"),
        // The target's authority stands above Host (RFC 9112 section 3.2.2).
        ("http://plain.test/", "evil.test", 200, "plain.test"),
        ("https://plain.test:1/x", "evil.test", 200, "plain.test:1"),
        ("http://evil.test/", "plain.test", 503, ""),
        ("/", "plain.test..", 503, ""),
        ("/", "evil.test", 503, ""),
        ("/", "127.0.0.1", 503, ""),
        ("/", "", 503, ""),
        ("/", "plain.test:evil.test", 400, ""),
        ("/", "plain.test:80:80", 400, ""),
        ("/", "plain.test:80@evil.test", 400, ""),
        ("/", "plain.test:-1", 400, ""),
        ("/", "evil.test@plain.test", 400, ""),
        ("/", "plain.test@evil.test", 400, ""),
        ("/", "plain.test, evil.test", 400, ""),
        ("/", "plain.test evil.test", 400, ""),
        ("/", "plain.test/evil", 400, ""),
        ("/", "plain.test\\evil", 400, ""),
        ("/", "plain.test#evil", 400, ""),
        ("/", "plain.test?evil", 400, ""),
        ("/", "plain%2etest", 400, ""),
        ("/", "[plain.test]", 400, ""),
        ("/", "[::1", 400, ""),
        ("http://x@plain.test/", "plain.test", 400, ""),
        ("http://plain.test:80:80/", "plain.test", 400, ""),
        ("http:///x", "plain.test", 400, ""),
        ("ftp://plain.test/", "plain.test", 400, ""),
        ("//plain.test/", "evil.test", 503, ""),
    ] {
        let before = upstream.received().len();
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(baton.http_address(), request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{target} {host:?}: {answer}");
        let received = upstream.received();
        let hosts: Vec<&str> =
            received[before..].lines().filter_map(|line| line.strip_prefix("Host: ")).collect();
        let went = if want == 200 { vec![went] } else { vec![] };
        assert_eq!(hosts, went, "{target} {host:?}");
    }
}

/// A redirect leads to the host that was asked, whatever the target looks like.
#[tokio::test]
async fn redirects_lead_nowhere_else() {
    let (baton, _upstream) = in_front_of_one().await;
    let port = baton.https_address().port();
    for (target, rest) in [
        ("/", "/"),
        ("//evil.test", "//evil.test"),
        ("///evil.test/..", "///evil.test/.."),
        ("/\\evil.test", "/\\evil.test"),
        ("/%0d%0aSet-Cookie:%20a=b", "/%0d%0aSet-Cookie:%20a=b"),
        ("/@evil.test", "/@evil.test"),
        ("/?https://evil.test", "/?https://evil.test"),
        ("http://app.test//evil.test", "//evil.test"),
        ("http://app.test", "/"),
        ("http://app.test?x", "/?x"),
    ] {
        for host in ["app.test", "APP.test:80", "app.test."] {
            let request =
                format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = exchange(baton.http_address(), request).await;
            assert!(answer.starts_with("HTTP/1.1 301 "), "{target}: {answer}");
            let want = format!("location: https://{APP}:{port}{rest}\r\n");
            assert!(answer.contains(&want), "{target}: {answer}");
            assert!(!answer.contains("\nSet-Cookie"), "{target}: {answer}");
        }
    }
}

/// The same of the place that a host sends unclaimed paths to.
#[tokio::test]
async fn a_default_root_is_filled_with_what_was_asked_and_no_more() {
    let upstream = Recorder::start(OK).await;
    let docker_off = Config::new()
        .variable("DEFAULT_ROOT", "302 $scheme://$host/x$request_uri")
        .route_with(PLAIN, &[upstream.address()], &format!("path = \"/app\"\n{OFF}"));
    let baton = Baton::start(docker_off).await;
    for (target, host, location) in [
        ("//evil.test", "plain.test:80", "http://plain.test/x//evil.test"),
        ("/%0d%0aA:b", "plain.test", "http://plain.test/x/%0d%0aA:b"),
        ("/$host$scheme", "plain.test", "http://plain.test/x/$host$scheme"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = exchange(baton.http_address(), request).await;
        assert!(answer.starts_with("HTTP/1.1 302 "), "{target}: {answer}");
        assert!(answer.contains(&format!("location: {location}\r\n")), "{target}: {answer}");
    }
}

/// Buffers are used again and again, and connections of upstreams are shared: each client is to get its
/// own bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_gets_its_own_bytes() {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 40;
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(routed_to(&upstream.address()).top("threads = 1")).await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let address = baton.http_address();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.expect("baton listens");
            for turn in 0..REQUESTS {
                // Of all sizes around those of buffers, and of this client and turn alone.
                let size = [0, 1, 700, 4095, 4097, 16_385, 66_000][(number + turn * 5) % 7];
                let mark = format!("<{number}.{turn}>");
                let body: Vec<u8> = mark.bytes().cycle().take(size).collect();
                let head = format!(
                    "POST /echo HTTP/1.1\r\nHost: {PLAIN}\r\nX-Mark: {mark}\r\n\
                     Content-Length: {size}\r\n\r\n"
                );
                let request = [head.as_bytes(), &body].concat();
                let (mut reader, mut writer) = stream.split();
                let (sent, answer) =
                    tokio::join!(writer.write_all(&request), read_response(&mut reader));
                sent.expect("baton reads");
                assert!(answer == body, "client {number}, turn {turn}: {size} bytes");
            }
        });
    }
    tokio::time::timeout(LIMIT, clients.join_all()).await.expect("in time");
}

/// The body of a response, chunked or not.
async fn read_response(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let line = async |stream: &mut _| {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(AsyncReadExt::read_u8(stream).await.expect("a line"));
        }
        String::from_utf8(line).expect("text").trim_end().to_ascii_lowercase()
    };
    let (mut length, mut chunked) = (0, false);
    loop {
        let field = line(stream).await;
        match field.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().expect("a length"),
            Some(("transfer-encoding", _)) => chunked = true,
            _ if field.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    while chunked {
        let size = usize::from_str_radix(&line(stream).await, 16).expect("a size");
        let mut data = vec![0; size];
        stream.read_exact(&mut data).await.expect("a chunk");
        body.extend(data);
        assert_eq!(line(stream).await, "", "the end of a chunk");
        chunked = size > 0;
    }
    body
}
