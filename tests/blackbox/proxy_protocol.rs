//! A load balancer in front that speaks the PROXY protocol.

use baton_tests::{Baton, Config, Recorder, exchange};

use crate::stage::get;
use crate::{PLAIN, in_front_of_one, routed_to};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// Version 2, for 203.0.113.9 port 5000, with a TLV of four bytes behind it.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10\xcb\x00\x71\x09\x7f\x00\x00\x01\x13\x88\x00\x50\
    \x04\x00\x01\x00";

fn behind_a_balancer(upstream: &impl ToString) -> Config {
    routed_to(upstream).top("proxy_protocol = [\"127.0.0.0/8\"]")
}

#[tokio::test]
async fn upstreams_are_told_of_the_client_that_the_balancer_names() {
    for (header, want) in [
        (b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 80\r\n".as_slice(), "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 80\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (V2, "203.0.113.9"),
    ] {
        let recorder = Recorder::start(ANSWER).await;
        let baton = Baton::start(behind_a_balancer(&recorder.address())).await;
        let bytes = [header, get(PLAIN).as_bytes()].concat();
        let answer = exchange(baton.http_address(), bytes).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let received = recorder.received().to_lowercase();
        assert!(received.contains(&format!("\r\nx-real-ip: {want}\r\n")), "{received}");
    }
}

#[tokio::test]
async fn a_handshake_follows_the_header() {
    let (baton, upstream) = in_front_of_one().await;
    baton.reconfigure(&behind_a_balancer(&upstream.address()));
    let url = "https://app.test/";
    let root = baton.ca_file();
    let answer = baton.curl(url).arg("--cacert").arg(&root).arg("--haproxy-protocol").run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Who has agreed to send a header and does not, gets nothing.
    let without = baton.curl(url).arg("--cacert").arg(&root).run().await;
    assert_eq!(without.status, 0, "{without:?}");
}

#[tokio::test]
async fn what_is_no_header_ends_the_connection_and_strangers_may_not_send_one() {
    let (baton, upstream) = in_front_of_one().await;
    let header = "PROXY TCP4 203.0.113.7 192.0.2.1 56324 80\r\n";
    let stranger = exchange(baton.http_address(), format!("{header}{}", get(PLAIN))).await;
    // Whatever else it is, it is no request.
    assert!(stranger.starts_with("HTTP/1.1 505 "), "{stranger}");
    baton.reconfigure(&behind_a_balancer(&upstream.address()));
    let endless = format!("PROXY TCP4 {}", "1".repeat(200));
    for wrong in ["PROXY TCP4 here there 1 2\r\n", &endless, "GET / HTTP/1.1\r\n"] {
        let answer = exchange(baton.http_address(), format!("{wrong}{}", get(PLAIN))).await;
        assert_eq!(answer, "", "{wrong}");
    }
}
