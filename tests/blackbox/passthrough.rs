//! TLS that the upstream ends. The upstream is a baton of its own, with a CA of its own.

use baton_load::{Kind, Load, Target, Upstream};
use baton_tests::{Baton, Config, exchange};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::tls::s_client;
use crate::{APP, PLAIN, every_kind, more_requests, nobody_felt_anything, routed_to};

/// One that ends TLS for [`APP`], and one in front of it that does not.
struct Pair {
    front: Baton,
    inner: Baton,
    _upstream: Upstream,
}

impl Pair {
    async fn start(more: &str) -> Self {
        Pair::with(more, |inner| inner).await
    }

    async fn with(more: &str, inner: impl FnOnce(Config) -> Config) -> Self {
        let upstream = Upstream::start("inner").await.expect("upstream");
        let inner = Baton::start(inner(routed_to(&upstream.address()))).await;
        let front = Baton::start(in_front(&inner, more)).await;
        Pair { front, inner, _upstream: upstream }
    }

    /// Trusts the inner one alone.
    fn target(&self) -> Target {
        Target::tls(self.front.https_address(), APP, self.inner.roots())
    }
}

fn in_front(inner: &Baton, more: &str) -> Config {
    let passthrough = format!("tls = \"passthrough\"\n{more}");
    Config::new().route_with(APP, &[inner.https_address()], &passthrough).route_with(
        PLAIN,
        &["127.0.0.1:9"],
        "tls = \"local\"",
    )
}

#[tokio::test]
async fn the_upstream_ends_tls_and_a_reload_is_felt_by_nobody() {
    let pair = Pair::start("").await;
    let load: Load = every_kind(pair.target());
    let load = load.start();
    for streams in [20, 30] {
        more_requests(&load, 200).await;
        // Another generation of the one in front, so that tunnels drain and listeners pass on.
        let limits = format!("[limits]\nstreams = {streams}");
        pair.front.reconfigure(&in_front(&pair.inner, "").section(&limits));
    }
    more_requests(&load, 200).await;
    nobody_felt_anything(&load.stop().await);
}

#[tokio::test]
async fn other_names_are_served_as_ever_and_plain_http_is_redirected() {
    let pair = Pair::start("").await;
    let other = pair.front.curl("https://plain.test/").run().await;
    assert_eq!(other.status, 502, "its upstream does not listen: {other:?}");
    let plain = pair.front.curl("http://app.test/x").run().await;
    assert_eq!(plain.status, 301, "{plain:?}");
    assert!(plain.field("location").is_some_and(|to| to.starts_with("https://app.test:")));
    // A connection for another name says nothing about this one.
    let host = ["-H", "Host: app.test"];
    let misdirected = pair.front.curl("https://plain.test/").args(host).run().await;
    assert_eq!(misdirected.status, 421, "{misdirected:?}");
    let routes = pair.front.routes_json().to_string();
    assert!(routes.contains("passthrough"), "{routes}");
}

#[tokio::test]
async fn a_hello_that_comes_in_pieces_arrives_whole() {
    let pair = Pair::start("").await;
    let hello = client_hello(APP);
    let mut stream = TcpStream::connect(pair.front.https_address()).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    for piece in hello.chunks(7) {
        stream.write_all(piece).await.expect("send");
    }
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.expect("an answer");
    // A handshake record with a ServerHello (RFC 8446 section 4.1.3).
    assert_eq!((answer[0], answer[5]), (22, 2), "{answer:?}");
}

#[tokio::test]
async fn who_may_not_come_and_what_nobody_answers_gets_an_alert() {
    let mut pair = Pair::start("deny = [\"127.0.0.0/8\"]").await;
    let address = pair.front.https_address();
    let denied = s_client(address, &["-servername", APP]).await;
    assert!(denied.contains("access denied"), "{denied}");
    pair.front.reconfigure(&in_front(&pair.inner, ""));
    pair.inner.stop_for_now().await;
    let gone = s_client(address, &["-servername", APP]).await;
    assert!(gone.contains("internal error"), "{gone}");
    // What is no TLS is closed as ever.
    assert!(!exchange(address, "GET / HTTP/1.1\r\n\r\n").await.contains("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_upstream_can_be_told_of_the_client() {
    // From this address it takes nothing that does not begin with the header.
    let told = |inner: Config| inner.top("proxy_protocol = [\"127.0.0.1\"]");
    let pair = Pair::with("proxy_protocol = \"v2\"", told).await;
    let load = Load::new(pair.target()).clients(Kind::Http2 { streams: 2 }, 2).requests(20);
    nobody_felt_anything(&load.start().finish().await);
}

/// The first flight of a client, made by the library that real clients use.
fn client_hello(name: &str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let mut client =
        rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("in memory");
    hello
}
