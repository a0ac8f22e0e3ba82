//! Clients that attack over HTTP/2: the limit that stops each, what it is told, and that neither other
//! clients nor the worker's memory feel it.

use baton_load::Upstream;
use baton_tests::frames::{
    block, code, continuation, data, flag, frame, goaway, headers, kind, literal, ping, priority,
    reset, setting, settings, window_update,
};
use baton_tests::{Baton, Config, FrameClient, Recorder, until};

use crate::siege::Siege;
use crate::stage::LIMIT;
use crate::{PLAIN, routed_to};

/// Above the frames that carry nothing of the worker's budget.
const FLOOD: usize = 20_000;

fn head(method: &str, path: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", "http"), (":authority", PLAIN), (":path", path)])
}

/// A request that is not answered before the attack is over.
fn slow(stream: u32) -> Vec<u8> {
    headers(stream, flag::WHOLE, &head("GET", "/slow?ms=60000"))
}

/// The identifiers of so many streams.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_that_carry_nothing_end_with_enhance_your_calm() {
    let siege = Siege::begin().await;
    let upload = headers(1, flag::END_HEADERS, &head("POST", "/sink"));
    let large = continuation(1, 0, &literal(0, b"x-large", &[b'x'; 16_000]));
    for (what, opening, repeated, times) in [
        ("PING", vec![], ping(1), FLOOD),
        ("PING with ACK", vec![], frame(kind::PING, flag::ACK, 0, &[1; 8]), FLOOD),
        ("SETTINGS", vec![], settings(&[]), FLOOD),
        ("a setting", vec![], settings(&[(setting::INITIAL_WINDOW_SIZE, 1000)]), FLOOD),
        ("PRIORITY", vec![], priority(1, 3, 1), FLOOD),
        ("PRIORITY in a ring", vec![], [priority(1, 3, 1), priority(3, 1, 1)].concat(), FLOOD),
        ("an unknown type", vec![], frame(kind::UNKNOWN, 0, 0, &[]), FLOOD),
        ("WINDOW_UPDATE", vec![], window_update(0, 1), FLOOD),
        ("WINDOW_UPDATE of a stream", slow(1), window_update(1, 1), FLOOD),
        ("GOAWAY", slow(1), goaway(0, code::NO_ERROR), FLOOD),
        ("RST_STREAM", [slow(1), reset(1, code::CANCEL)].concat(), reset(1, code::CANCEL), FLOOD),
        ("DATA without data", upload.clone(), data(1, 0, b""), 200),
        ("DATA of padding", upload, data(1, flag::PADDED, b"\x04\0\0\0\0"), 200),
        ("CONTINUATION", headers(1, 0, &[]), continuation(1, 0, b""), 200),
        ("large CONTINUATION", headers(1, 0, &[]), large, 20),
    ] {
        let bytes = [opening, repeated.repeat(times)].concat();
        let told = siege.attacker(&[]).await.flood(&bytes).await;
        assert_eq!(told, Some(code::ENHANCE_YOUR_CALM), "{what}");
    }
    siege.end().await;
}

/// CVE-2023-44487, as it was: the reset comes with the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rapid_reset_ends_with_enhance_your_calm() {
    let siege = Siege::begin().await;
    let pair = |stream| [slow(stream), reset(stream, code::CANCEL)].concat();
    let bytes: Vec<u8> = streams(1000).flat_map(pair).collect();
    let told = siege.attacker(&[]).await.flood(&bytes).await;
    assert_eq!(told, Some(code::ENHANCE_YOUR_CALM));
    siege.end().await;
}

/// One attacker after the other, each until it is told to calm down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_wait_at_most_three_times_as_long_during_a_rapid_reset() {
    let pair = |stream| [slow(stream), reset(stream, code::CANCEL)].concat();
    slowed_little_by(&[("rapid reset", streams(1000).flat_map(pair).collect())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement that wants the machine for itself: cargo xtask test --alone"]
async fn others_wait_at_most_three_times_as_long_during_each_kind_of_attack() {
    let overflow = |id| [slow(id), window_update(id, (1 << 31) - 1)].concat();
    let upload = headers(1, flag::END_HEADERS, &head("POST", "/sink"));
    let field = literal(0x40, b"x-bomb", &[b'x'; 4000]);
    let bomb = [head("GET", "/"), field, vec![0xbe; 12_000]].concat();
    slowed_little_by(&[
        ("made to reset", streams(200).flat_map(overflow).collect()),
        ("PING", ping(1).repeat(FLOOD)),
        ("SETTINGS", settings(&[]).repeat(FLOOD)),
        ("WINDOW_UPDATE", window_update(0, 1).repeat(FLOOD)),
        ("PRIORITY in a ring", [priority(1, 3, 1), priority(3, 1, 1)].concat().repeat(FLOOD)),
        ("DATA without data", [upload, data(1, 0, b"").repeat(200)].concat()),
        ("CONTINUATION", [headers(1, 0, &[]), continuation(1, 0, b"").repeat(200)].concat()),
        ("a header bomb", headers(1, flag::WHOLE, &bomb)),
    ])
    .await;
}

async fn slowed_little_by(attacks: &[(&str, Vec<u8>)]) {
    let siege = Siege::begin().await;
    for (what, bytes) in attacks {
        let attack = async |siege: &Siege| {
            let told = siege.attacker(&[]).await.flood(bytes).await;
            assert_eq!(told, Some(code::ENHANCE_YOUR_CALM), "{what}");
        };
        siege.slowed_little_by(what, attack).await;
    }
    siege.end().await;
}

/// The reset comes when the request is at the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patient_rapid_reset_ends_too() {
    const ROUND: u32 = 100;
    let siege = Siege::begin().await;
    let mut client = siege.attacker(&[]).await;
    let mut told = None;
    for first in (1..).step_by(usize::try_from(2 * ROUND).expect("small")).take(20) {
        let ids: Vec<u32> = streams(ROUND).map(|id| first + id - 1).collect();
        let requests: Vec<u8> = ids.iter().flat_map(|id| slow(*id)).collect();
        let resets: Vec<u8> = ids.iter().flat_map(|id| reset(*id, code::CANCEL)).collect();
        client.send([requests, ping(1)].concat()).await;
        let answer = client.find(|frame| frame.kind == kind::PING || frame.code() > Some(0)).await;
        told = answer.expect("a goodbye").code();
        if told.is_some() {
            break;
        }
        client.send(resets).await;
    }
    assert_eq!(told, Some(code::ENHANCE_YOUR_CALM));
    drop(client);
    siege.end().await;
}

/// CVE-2025-8671: the server is made to reset, and goes on working.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_baton_reset_streams_is_told_to_calm_down() {
    let siege = Siege::begin().await;
    let short = [head("POST", "/sink"), block(&[("content-length", "1")])].concat();
    let overflow = |id| [slow(id), window_update(id, (1 << 31) - 1)].concat();
    let itself = |id| [slow(id), priority(id, id, 1)].concat();
    let excess = |id| [headers(id, flag::END_HEADERS, &short), data(id, 0, b"too much")].concat();
    for (what, bytes) in [
        ("a window above the largest", streams(200).flat_map(overflow).collect::<Vec<u8>>()),
        ("a stream that depends on itself", streams(200).flat_map(itself).collect()),
        ("more DATA than announced", streams(200).flat_map(excess).collect()),
        ("more streams than allowed", streams(400).flat_map(slow).collect()),
    ] {
        let told = siege.attacker(&[]).await.flood(&bytes).await;
        assert_eq!(told, Some(code::ENHANCE_YOUR_CALM), "{what}");
    }
    siege.end().await;
}

/// A field of 4 KB, once in the dynamic table, costs one octet each time it is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_bomb_is_not_unpacked() {
    let siege = Siege::begin().await;
    let field = literal(0x40, b"x-bomb", &[b'x'; 4000]);
    let bomb = |id, times| {
        let named = vec![0xbe; times];
        headers(id, flag::WHOLE, &[head("GET", "/"), field.clone(), named].concat())
    };
    let told = siege.attacker(&[]).await.flood(&bomb(1, 12_000)).await;
    assert_eq!(told, Some(code::ENHANCE_YOUR_CALM), "a list of 48 MB");
    // Below what ends the connection, on every stream that there may be.
    let mut client = siege.attacker(&[]).await;
    client.send(streams(100).flat_map(|id| bomb(id, 20)).collect::<Vec<u8>>()).await;
    for _ in 0..100 {
        let answer = client.find(|frame| frame.kind == kind::HEADERS).await.expect("an answer");
        assert_eq!(answer.status(), Some(431));
    }
    drop(client);
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_above_the_limits_is_a_431_and_the_connection_serves_on() {
    let siege = Siege::begin().await;
    let large = block(&[("x-large", "x".repeat(16_000).as_str()); 3]);
    let many = block(&[("x-many", ""); 101]);
    let request = headers(1, flag::END_STREAM, &head("GET", "/"));
    let parts: Vec<&[u8]> = large.chunks(16_000).collect();
    let [a, b, c, d] = parts[..] else { panic!("{} parts", parts.len()) };
    let parts = [continuation(1, 0, a), continuation(1, 0, b), continuation(1, 0, c)].concat();
    let too_large = [request, parts, continuation(1, flag::END_HEADERS, d)].concat();
    let with = |fields: Vec<u8>| headers(1, flag::WHOLE, &[head("GET", "/"), fields].concat());
    let cookie = block(&[("cookie", "a=b"); 150]);
    for (what, bytes, status) in [
        ("too large", too_large, 431),
        ("too many fields", with(many), 431),
        ("one field in many parts", with(cookie), 200),
    ] {
        let mut client = siege.attacker(&[]).await;
        client.send(bytes).await;
        let answer = client.find(|frame| frame.kind == kind::HEADERS).await.expect("an answer");
        assert_eq!(answer.status(), Some(status), "{what}");
        assert!(client.is_alive().await, "{what}");
    }
    siege.end().await;
}

#[tokio::test]
async fn pseudo_fields_that_are_none_reach_no_upstream() {
    let recorder = Recorder::start("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let baton = Baton::start(routed_to(&recorder.address())).await;
    let (method, scheme, path) = ((":method", "GET"), (":scheme", "http"), (":path", "/"));
    let host = (":authority", PLAIN);
    let request = |fields: &[(&str, &str)]| headers(1, flag::WHOLE, &block(fields));
    for (what, bytes) in [
        (
            "CR LF in :path",
            request(&[method, scheme, host, (":path", "/ HTTP/1.1\r\nx: y\r\n\r\n")]),
        ),
        ("a blank in :path", request(&[method, scheme, host, (":path", "/a b")])),
        ("NUL in :path", request(&[method, scheme, host, (":path", "/a\0b")])),
        ("CR LF in :method", request(&[(":method", "GET / HTTP/1.1\r\nx: y"), scheme, host, path])),
        ("a blank in :method", request(&[(":method", "GET /evil"), scheme, host, path])),
        (
            "CR LF in :authority",
            request(&[method, scheme, (":authority", "plain.test\r\nx: y"), path]),
        ),
        (
            "a path in :authority",
            request(&[method, scheme, (":authority", "plain.test/evil"), path]),
        ),
        ("a user in :authority", request(&[method, scheme, (":authority", "x@plain.test"), path])),
        ("CR LF in :scheme", request(&[method, (":scheme", "http\r\nx: y"), host, path])),
        ("CR LF in a value", request(&[method, scheme, host, path, ("x-a", "b\r\nx: y")])),
        ("LF in a value", request(&[method, scheme, host, path, ("x-a", "b\nx: y")])),
        ("NUL in a value", request(&[method, scheme, host, path, ("x-a", "b\0")])),
        ("CR LF in a name", request(&[method, scheme, host, path, ("x-a: b\r\nx", "y")])),
        ("a colon in a name", request(&[method, scheme, host, path, ("x:a", "b")])),
        ("an empty name", request(&[method, scheme, host, path, ("", "b")])),
        ("two :authority", request(&[method, scheme, host, host, path])),
        ("a Host that differs", request(&[method, scheme, host, path, ("host", "other.test")])),
        ("two Host", request(&[method, scheme, path, ("host", PLAIN), ("host", PLAIN)])),
        ("no host", request(&[method, scheme, path])),
        (":path after a field", request(&[method, scheme, host, ("x-a", "b"), path])),
        ("a length that is none", request(&[method, scheme, host, path, ("content-length", "+0")])),
        ("CONNECT", request(&[(":method", "CONNECT"), host])),
        (
            ":protocol without CONNECT",
            request(&[method, scheme, host, path, (":protocol", "websocket")]),
        ),
    ] {
        let mut client = FrameClient::connect(&baton.http(PLAIN), &[]).await;
        client.send(bytes).await;
        let answer = client.find(|frame| frame.code().is_some() || frame.status().is_some()).await;
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        let refused = answer.code() == Some(code::PROTOCOL_ERROR)
            || answer.status().is_some_and(|status| (400..=501).contains(&status));
        assert!(refused, "{what}: {answer:?}");
        assert_eq!(recorder.received(), "", "{what}");
    }
}

/// For a client that takes nothing, or begins what it does not end. Not too short for the others: a
/// request that comes as its idle connection is closed is lost.
const IMPATIENT: &str = "[timeouts]\nsend_idle = \"300ms\"\nkeep_alive = \"1500ms\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_stays_shut_costs_its_stream_and_no_other() {
    let siege = Siege::with(IMPATIENT).await;
    let mut client = siege.attacker(&[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
    let get = |id| headers(id, flag::WHOLE, &head("GET", "/bytes?n=1000000"));
    client.send(streams(100).flat_map(get).collect::<Vec<u8>>()).await;
    for _ in 0..100 {
        let answer = client.find(|frame| frame.kind == kind::RST_STREAM).await;
        assert_eq!(answer.expect("a reset").code(), Some(code::INTERNAL_ERROR));
    }
    assert!(client.is_alive().await);
    drop(client);
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_cut_off() {
    let siege = Siege::with(IMPATIENT).await;
    let window = (1 << 31) - 1;
    let get = |id| headers(id, flag::WHOLE, &head("GET", "/bytes?n=10000000"));
    let responses: Vec<u8> = streams(100).flat_map(get).collect();
    let mut client = siege.attacker(&[(setting::INITIAL_WINDOW_SIZE, window)]).await;
    client.send([window_update(0, window - 65_535), responses].concat()).await;
    until("the end", LIMIT, async || (!client.send(ping(1)).await).then_some(())).await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_block_that_does_not_end_keeps_no_connection() {
    let siege = Siege::with(IMPATIENT).await;
    let mut client = siege.attacker(&[]).await;
    client.send(headers(1, flag::END_STREAM, &head("GET", "/"))).await;
    let goodbye = client.find(|frame| frame.kind == kind::GOAWAY).await.expect("a goodbye");
    assert_eq!(goodbye.code(), Some(code::NO_ERROR));
    assert!(client.find(|_| false).await.is_none());
    drop(client);
    siege.end().await;
}

/// Limits that a drain comes to soon; each number of streams is another generation.
fn hurried(upstream: &Upstream, streams: u32) -> Config {
    let limits = format!("[drain]\nlimit = \"500ms\"\n\n[limits]\nstreams = {streams}");
    routed_to(&upstream.address()).section(&limits)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_in_a_drain_is_told_how_far_it_came_and_not_reset() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let baton = Baton::start(hurried(&upstream, 1)).await;
    let mut client = FrameClient::connect(&baton.http(PLAIN), &[]).await;
    client.send(headers(1, flag::WHOLE, &head("GET", "/"))).await;
    client.find(|frame| frame.stream == 1 && frame.ends_stream()).await.expect("an answer");
    baton.reconfigure(&hurried(&upstream, 2));
    let last = client.find(|frame| frame.last_stream() == Some(1)).await.expect("a final GOAWAY");
    assert_eq!(last.code(), Some(code::NO_ERROR));
    assert!(client.ends_orderly().await);
    // Whoever closes now answers one of these by a reset, which takes with it what the client has not
    // read yet; what is sent after that fails.
    for number in 0..10 {
        assert!(client.send(ping(number)).await, "reset by ping {number}");
        baton.status_json();
    }
    assert!(client.ends_orderly().await);
}
