//! Ambiguous framing is refused with 400 and never forwarded (RFC 9112, sections 5, 6 and 7).

use std::time::Duration;

use baton_tests::{Baton, Recorder, exchange};
use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request, Version};

use crate::{APP, PLAIN, routed_to};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// What an attacker would like the upstream to take for a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: plain.test\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_are_refused_and_never_forwarded() {
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    for (what, fields) in [
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n"),
        ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("a list of lengths", "Content-Length: 5, 6\r\n"),
        ("a negative length", "Content-Length: -1\r\n"),
        ("a signed length", "Content-Length: +5\r\n"),
        ("a length with blanks", "Content-Length: 5 5\r\n"),
        ("a hexadecimal length", "Content-Length: 0x5\r\n"),
        ("an empty length", "Content-Length: \r\n"),
        ("a length that overflows", "Content-Length: 99999999999999999999999\r\n"),
        ("length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n"),
        ("chunked not last", "Transfer-Encoding: chunked, identity\r\n"),
        ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ("a tab before chunked", "Transfer-Encoding: \x0bchunked\r\n"),
        ("a blank before the colon", "Transfer-Encoding : chunked\r\n"),
        ("a folded line", "X-A: b\r\n Transfer-Encoding: chunked\r\n"),
        ("CR in a value", "X-A: b\rTransfer-Encoding: chunked\r\n"),
        ("NUL in a value", "X-A: b\0c\r\n"),
        ("a line without a colon", "X-A\r\n"),
        ("a name with a blank", "X A: b\r\n"),
        ("two hosts", "Host: other.test\r\n"),
        ("two equal hosts", "Host: plain.test\r\n"),
        ("two lengths, one in capitals", "Content-Length: 5\r\nCONTENT-LENGTH: 5\r\n"),
        ("a list of equal lengths", "Content-Length: 5, 5\r\n"),
        ("a length with a fraction", "Content-Length: 5.0\r\n"),
        ("a length with an exponent", "Content-Length: 5e0\r\n"),
        ("a length with a semicolon", "Content-Length: 5;\r\n"),
        ("a length in quotes", "Content-Length: \"5\"\r\n"),
        ("a length with an underscore", "Content-Length: 1_0\r\n"),
        ("a length in other digits", "Content-Length: \u{ff15}\r\n"),
        ("a length behind a vertical tab", "Content-Length: \x0b5\r\n"),
        ("a length before a form feed", "Content-Length: 5\x0c\r\n"),
        ("a length of twenty digits", "Content-Length: 00000000000000000005\r\n"),
        ("a folded length", "Content-Length: 5\r\n\t0\r\n"),
        ("a length on the next line", "Content-Length:\r\n 5\r\n"),
        ("a blank before the colon of a length", "Content-Length : 5\r\n"),
        ("a tab before the colon of a length", "Content-Length\t: 5\r\n"),
        ("a blank before the name", " Content-Length: 5\r\n"),
        ("a length and chunks in capitals", "CONTENT-LENGTH: 5\r\ntransfer-encoding: CHUNKED\r\n"),
        ("a length of nothing and chunks", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ("an empty coding", "Transfer-Encoding: \r\n"),
        ("identity", "Transfer-Encoding: identity\r\n"),
        ("identity and a length", "Transfer-Encoding: identity\r\nContent-Length: 5\r\n"),
        ("chunked with a parameter", "Transfer-Encoding: chunked;q=1\r\n"),
        ("chunked and a comma", "Transfer-Encoding: chunked,\r\n"),
        ("a comma and chunked, twice", "Transfer-Encoding: chunked, chunked\r\n"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n"),
        ("chunked and more", "Transfer-Encoding: chunked x\r\n"),
        ("chunkedx", "Transfer-Encoding: chunkedx\r\n"),
        ("chunked and NUL", "Transfer-Encoding: chunked\0\r\n"),
        ("chunked behind a form feed", "Transfer-Encoding: \x0cchunked\r\n"),
        ("chunked behind a next line", "Transfer-Encoding: \u{85}chunked\r\n"),
        ("two codings in two fields", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked on the next line", "Transfer-Encoding:\r\n chunked\r\n"),
        ("a tab before the colon of a coding", "Transfer-Encoding\t: chunked\r\n"),
        ("NUL in a name", "Transfer\0-Encoding: chunked\r\n"),
        ("a name in other letters", "Transfer-Encodin\u{261}: chunked\r\n"),
        ("an empty name", ": chunked\r\n"),
        ("a bare LF", "X-A: b\nTransfer-Encoding: chunked\r\n"),
        ("a bare LF at the end", "X-A: b\n"),
        ("CR CR LF", "X-A: b\r\r\nTransfer-Encoding: chunked\r\n"),
        ("LF CR", "X-A: b\n\rTransfer-Encoding: chunked\r\n"),
        ("a bare CR for a line end", "X-A: b\rContent-Length: 5\r\n"),
        ("a bare CR in a name", "X-A\r: b\r\n"),
        ("a head that a bare LF ends", "Content-Length: 5\n\n"),
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: {PLAIN}\r\n{fields}\r\n0\r\n\r\n{SMUGGLED}");
        let answer = exchange(baton.http_address(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert_eq!(recorder.received(), "", "{what}");
    }
}

/// What an upstream has to read: the fields that frame its first request, and the bytes behind that head.
fn framing(received: &str) -> (Vec<String>, &str) {
    let (head, rest) = received.split_once("\r\n\r\n").expect("a head");
    let head = head.to_ascii_lowercase();
    let frames = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().replace('_', "-");
        ["content-length", "transfer-encoding", "te", "trailer"].contains(&name.trim())
    };
    (head.lines().skip(1).filter(frames).map(str::to_owned).collect(), rest)
}

/// Whatever form an unambiguous request had, its upstream reads the one form, and the same body.
#[tokio::test]
async fn what_is_forwarded_is_framed_anew() {
    const LENGTH: &str = "content-length: 5";
    const CHUNKS: &str = "transfer-encoding: chunked";
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    let whole = "5\r\nhello\r\n0\r\n\r\n";
    for (what, fields, body, framed, forwarded) in [
        ("a length", "Content-Length: 5\r\n", "hello", LENGTH, "hello"),
        ("in capitals", "CONTENT-LENGTH: 5\r\n", "hello", LENGTH, "hello"),
        ("without a blank", "Content-Length:5\r\n", "hello", LENGTH, "hello"),
        ("with blanks", "Content-Length: \t 5 \t\r\n", "hello", LENGTH, "hello"),
        ("with zeros", "Content-Length: 005\r\n", "hello", LENGTH, "hello"),
        ("none", "", "", "content-length: 0", ""),
        ("of nothing", "Content-Length: 0\r\n", "", "content-length: 0", ""),
        ("chunks", "Transfer-Encoding: chunked\r\n", whole, CHUNKS, whole),
        ("chunks in capitals", "TRANSFER-ENCODING:CHUNKED\r\n", whole, CHUNKS, whole),
        ("chunks and blanks", "Transfer-Encoding: \t chunked \t\r\n", whole, CHUNKS, whole),
        (
            "zeros, an extension and capitals",
            "Transfer-Encoding: chunked\r\n",
            "000a ;a=\"b\"\r\nhellohello\r\n00;x\r\n\r\n",
            CHUNKS,
            "a\r\nhellohello\r\n0\r\n\r\n",
        ),
        (
            "trailers that frame",
            "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\nTE: trailers\r\n",
            "5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n",
            CHUNKS,
            whole,
        ),
        (
            "a length that Connection names",
            "Content-Length: 5\r\nConnection: Content-Length\r\n",
            "hello",
            LENGTH,
            "hello",
        ),
        (
            "chunks that Connection names",
            "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
            whole,
            CHUNKS,
            whole,
        ),
        (
            "a length with an underscore beside it",
            "Content-Length: 5\r\nTransfer_Encoding: chunked\r\nContent_Length: 9\r\n",
            "hello",
            LENGTH,
            "hello",
        ),
    ] {
        let before = recorder.received().len();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {PLAIN}\r\n{fields}\r\n{body}\
             GET /last HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n"
        );
        let answer = exchange(baton.http_address(), &request).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{what}: {answer}");
        let received = recorder.received().split_off(before);
        let (fields, rest) = framing(&received);
        assert_eq!(fields, [framed], "{what}: {received}");
        assert!(
            rest.starts_with(&format!("{forwarded}GET /last HTTP/1.1\r\n")),
            "{what}: {received}"
        );
    }
}

#[tokio::test]
async fn bad_request_lines_are_refused_and_never_forwarded() {
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: plain.test/evil\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/3.7\r\nHost: plain.test\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: plain.test\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: plain.test\r\n\r\n",
        "GET /a\0b HTTP/1.1\r\nHost: plain.test\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: plain.test\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
    ] {
        let answer = exchange(baton.http_address(), request).await;
        let refused =
            ["HTTP/1.1 400 ", "HTTP/1.1 505 "].iter().any(|line| answer.starts_with(line));
        assert!(refused, "{request:?}: {answer}");
        assert_eq!(recorder.received(), "", "{request:?}");
    }
}

#[tokio::test]
async fn bad_chunks_end_the_request_and_smuggle_nothing() {
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    for body in [
        "x\r\n",
        "-1\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5;\nx\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\nhello\r\n0\r\n\r\n",
        "\r\n",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {PLAIN}\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}"
        );
        let answer = exchange(baton.http_address(), &request).await;
        // The head may have gone on before the body was seen to be bad; what follows must not.
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{body:?}: {answer}");
        let received = recorder.received();
        assert!(!received.contains("GET /smuggled"), "{body:?}: {received}");
    }
}

#[tokio::test]
async fn a_request_after_a_body_is_a_request_of_its_own() {
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    let request = format!(
        "POST /first HTTP/1.1\r\nHost: {PLAIN}\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;ext=1\r\nhello\r\n0\r\n\r\n\
         GET /second HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n"
    );
    let answer = exchange(baton.http_address(), &request).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    let received = recorder.received();
    assert!(received.contains("POST /first HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("GET /second HTTP/1.1\r\n"), "{received}");
}

#[tokio::test]
async fn an_answer_with_ambiguous_framing_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let recorder = Recorder::start(answer).await;
        let baton = Baton::start(routed_to(&recorder.address())).await;
        let got = baton.curl("http://plain.test/").run().await;
        assert_eq!(got.status, 502, "{answer:?}: {got:?}");
    }
}

#[tokio::test]
async fn a_field_that_http2_forbids_never_reaches_an_http1_upstream() {
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    // nghttp sends what it is told to, where curl would not.
    let url = format!("http://{}/", baton.http_address());
    let nghttp = move |field: &'static str| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            std::process::Command::new("nghttp")
                .args(["--verbose", "--no-dep", "--header", ":authority: plain.test"])
                .args(["--header", field, &url])
                .output()
                .expect("nghttp is installed")
        })
    };
    for field in ["transfer-encoding: chunked", "connection: x-evil"] {
        let output = nghttp(field).await.expect("nghttp was run");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains(":status: 200"), "{field}: {said}");
        assert_eq!(recorder.received(), "", "{field}");
    }
}

#[tokio::test]
async fn a_protocol_that_is_not_websocket_never_reaches_an_upstream() {
    let recorder = Recorder::start(OK).await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    for protocol in ["websocket\r\n\r\nGET /smuggled HTTP/1.1\r\nX: ", "h2c", "connect-udp", ""] {
        let stream = baton.https(APP).connect("h2").await.expect("connection");
        let (requests, connection) =
            h2::client::Builder::new().handshake::<_, Bytes>(stream).await.expect("handshake");
        let driver = tokio::spawn(connection);
        let mut requests = requests.ready().await.expect("ready");
        baton_tests::until("extended CONNECT", Duration::from_secs(5), async || {
            requests.is_extended_connect_protocol_enabled().then_some(())
        })
        .await;
        let request = Request::builder().version(Version::HTTP_2).method(Method::CONNECT);
        let request = request.uri(format!("https://{APP}/ws")).body(());
        let mut request = request.expect("request");
        request.extensions_mut().insert(Protocol::from(protocol));
        let (response, _out) = requests.send_request(request, false).expect("open");
        let refused = match response.await {
            Ok(response) => response.status().is_client_error() || response.status() == 501,
            Err(error) => error.is_reset() || error.is_remote(),
        };
        assert!(refused, "{protocol:?}");
        assert_eq!(recorder.received(), "", "{protocol:?}");
        driver.abort();
    }
}
