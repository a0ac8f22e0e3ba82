//! The witness is tested first: it has to see what a client feels, and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use baton_load::{
    Cause, Kind, Load, Pace, Protocol, Report, Target, Upstream, UpstreamOptions, download, upload,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const KINDS: [Kind; 5] = [
    Kind::Http1KeepAlive,
    Kind::Http1Fresh,
    Kind::Http2 { streams: 4 },
    Kind::Grpc { streams: 4 },
    Kind::WebSocket,
];

fn load(address: SocketAddr) -> Load {
    Load::new(Target::plain(address, "app.test"))
        .think(Duration::ZERO..Duration::from_millis(2))
        .timeout(Duration::from_secs(5))
        .requests(20)
}

#[tokio::test]
async fn a_good_server_is_felt_as_good_by_every_kind() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let load = KINDS.iter().fold(load(upstream.address()), |load, kind| load.clients(*kind, 2));
    let report = load.start().finish().await;
    assert_eq!(report.failed(), 0, "{report}");
    for (kind, report) in &report.kinds {
        let streams = matches!(kind, Kind::Http2 { .. } | Kind::Grpc { .. });
        let each = if streams { 160 } else { 40 };
        assert_eq!(report.requests, each, "{kind}");
        let connections = if *kind == Kind::Http1Fresh { 40 } else { 2 };
        assert_eq!(report.connections, connections, "{kind}");
    }
    assert_eq!(report.answered_by("one"), 400);
}

#[tokio::test]
async fn nobody_there_is_felt_as_refused_by_every_kind() {
    let upstream = Upstream::start("gone").await.expect("upstream");
    let address = upstream.address();
    upstream.stop().await;
    for kind in KINDS {
        let report =
            load(address).clients(kind, 1).time(Duration::from_millis(50)).start().finish().await;
        only(&report, Cause::ConnectRefused);
    }
}

#[tokio::test]
async fn a_server_that_stops_gracefully_tears_no_http2_stream() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let running =
        load(upstream.address()).clients(Kind::Http2 { streams: 8 }, 4).requests(u64::MAX).start();
    while running.snapshot().requests() < 200 {
        tokio::task::yield_now().await;
    }
    upstream.stop().await;
    let report = running.stop().await;
    let causes = report.kinds.values().flat_map(|kind| kind.failures.keys());
    for cause in causes {
        assert_eq!(*cause, Cause::ConnectRefused, "{report}");
    }
}

#[tokio::test]
async fn bodies_of_any_size_pass_both_ways() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let target = Target::plain(upstream.address(), "app.test");
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for bytes in [0, 1, 65_535, 3_000_000] {
            download(&target, protocol, bytes, Pace::free()).await.expect("download");
            upload(&target, protocol, bytes, Pace::free()).await.expect("upload");
        }
        let slow =
            download(&target, protocol, 100_000, Pace::at(1_000_000)).await.expect("download");
        assert!(slow.took >= Duration::from_millis(90), "{:?}", slow.took);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_signed_is_felt() {
    let options = UpstreamOptions { name: "one".into(), tls: true, ..Default::default() };
    let upstream = Upstream::start_with(options).await.expect("upstream");
    let ca = rcgen::generate_simple_self_signed(["other.test".to_owned()]).expect("certificate");
    let roots = baton_load::roots_from_pem(ca.cert.pem().as_bytes()).expect("roots");
    let target = Target::tls(upstream.address(), "localhost", roots);
    let report = Load::new(target).clients(Kind::Http1Fresh, 1).requests(2).start().finish().await;
    only(&report, Cause::Tls);
}

#[tokio::test]
async fn a_close_with_the_request_on_the_wire_is_felt() {
    // The second request of each connection is read, and answered by the end of the stream.
    let address = server(|mut stream, request| async move {
        stream.write_all(&answer(&request)).await.expect("write");
        read_request(&mut stream).await;
    })
    .await;
    let report = load(address)
        .post_one_in(0)
        .clients(Kind::Http1KeepAlive, 1)
        .requests(4)
        .start()
        .finish()
        .await;
    let kind = &report.kinds[&Kind::Http1KeepAlive];
    assert_eq!((kind.requests, kind.torn()), (4, 2), "{report}");
}

#[tokio::test]
async fn a_close_that_was_announced_or_seen_while_idle_is_felt_by_nobody() {
    let announced = server(|mut stream, request| async move {
        let text = String::from_utf8(answer(&request)).expect("text");
        let text = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        stream.write_all(text.as_bytes()).await.expect("write");
    })
    .await;
    let seen = server(|mut stream, request| async move {
        stream.write_all(&answer(&request)).await.expect("write");
    })
    .await;
    for address in [announced, seen] {
        let report = load(address)
            .post_one_in(0)
            .think(Duration::from_millis(50)..Duration::from_millis(51))
            .clients(Kind::Http1KeepAlive, 1)
            .requests(4)
            .start()
            .finish()
            .await;
        assert_eq!(report.failed(), 0, "{report}");
        assert!(report.kinds[&Kind::Http1KeepAlive].closed_between >= 3, "{report}");
    }
}

#[tokio::test]
async fn each_bad_answer_is_felt_by_its_cause() {
    let other = "HTTP/1.1 200 OK\r\nX-Upstream: one\r\nX-Nonce: 0\r\nContent-Length: 0\r\n\r\n";
    for (answer, cause) in [
        (other, Cause::WrongBody),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Cause::WrongStatus),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", Cause::Eof),
        ("HTTP/1.1 200 OK\r\nContent-Le", Cause::Eof),
        ("", Cause::Eof),
        ("nonsense\r\n\r\n", Cause::Protocol),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", Cause::Protocol),
    ] {
        let address = server(move |mut stream, _| async move {
            stream.write_all(answer.as_bytes()).await.expect("write");
        })
        .await;
        let load = load(address).post_one_in(0).requests(2);
        let report = load.clients(Kind::Http1Fresh, 1).start().finish().await;
        only(&report, cause);
    }
}

#[tokio::test]
async fn silence_is_felt_as_a_timeout() {
    let address = server(|mut stream, _| async move {
        // Ends when the client has had enough.
        read_request(&mut stream).await;
    })
    .await;
    let report = load(address)
        .post_one_in(0)
        .timeout(Duration::from_millis(50))
        .clients(Kind::Http1Fresh, 1)
        .requests(2)
        .start()
        .finish()
        .await;
    only(&report, Cause::Timeout);
}

fn only(report: &Report, cause: Cause) {
    let kind = report.kinds.values().next().expect("one kind");
    assert!(kind.requests > 0, "{report}");
    assert_eq!(kind.failures.get(&cause), Some(&kind.requests), "{report}");
}

/// A server that reads each connection's first request and leaves the rest to `serve`.
async fn server<F>(serve: impl Fn(TcpStream, String) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let request = read_request(&mut stream).await;
            serve(stream, request).await;
        }
    });
    address
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    while !request.ends_with("\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => request.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    request
}

/// What an upstream would have said.
fn answer(request: &str) -> Vec<u8> {
    let nonce = request.lines().find_map(|line| line.strip_prefix("X-Nonce: ")).expect("a nonce");
    let body = format!("one {nonce}\n");
    format!(
        "HTTP/1.1 200 OK\r\nX-Upstream: one\r\nX-Nonce: {nonce}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
