//! Which response goes first where the client takes less than there is (RFC 9218).

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::frames::{block, flag, headers, kind, setting, window_update};
use baton_tests::{Baton, Config, FrameClient};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::static_files::{root, write};

const MIB: usize = 1024 * 1024;
/// What the client's kernel takes before anybody reads, in bytes.
const RECEIVE_BUFFER: u32 = 32 * 1024;
/// Of the client, in bytes a second.
const RATE: f64 = 4e6;
/// With which the pictures take four seconds.
const SLOW: f64 = 1e6;
/// As browsers have them, flow control holds up nothing.
const WINDOW: u32 = 1 << 30;

/// Four pictures of 1 MiB.
const PICTURES: [u32; 4] = [1, 3, 5, 7];
/// And of half a MiB, asked for after them.
const STYLE: u32 = 9;

/// A host with an upstream; the others have files.
const UP: &str = "up.test";

/// The `priority` fields of requests, by stream.
type Said = [(u32, &'static str)];

/// Asks for all at once, and reads until `last` is there: how much came of the others between its
/// head and its end.
async fn before_the_end_of(
    last: u32,
    address: SocketAddr,
    (host, rate): (&str, f64),
    said: &Said,
) -> usize {
    let windows = [(setting::INITIAL_WINDOW_SIZE, WINDOW)];
    let mut client = FrameClient::narrow(address, RECEIVE_BUFFER, &windows).await;
    let mut requests = window_update(0, WINDOW);
    for stream in PICTURES.into_iter().chain([STYLE]) {
        requests.extend(request(host, stream, said));
    }
    assert!(client.send(requests).await, "baton reads");
    let mut others = None;
    loop {
        let frame = client.read().await.expect("the connection lasts");
        assert_eq!(frame.code(), None, "{frame:?}");
        match frame.kind {
            kind::HEADERS if frame.stream == last => others = Some(0),
            kind::DATA if frame.stream != last => {
                others = others.map(|bytes| bytes + frame.payload.len());
            }
            _ => {}
        }
        if frame.stream == last && frame.ends_stream() {
            return others.expect("a head before the end");
        }
        // From now on, and not by what is due: a link does not make up for a pause.
        sleep(Duration::from_secs_f64(frame.payload.len() as f64 / rate)).await;
    }
}

fn request(host: &str, stream: u32, said: &Said) -> Vec<u8> {
    let (length, name) = if stream == STYLE { (MIB / 2, "a.css") } else { (MIB, "a.png") };
    let path = if host == UP { format!("/bytes?n={length}") } else { format!("/{name}") };
    let head = [(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", &path)];
    let said = said.iter().filter(|(of, _)| *of == stream);
    let field: Vec<_> = said.map(|(_, priority)| ("priority", *priority)).collect();
    headers(stream, flag::WHOLE, &block(&[&head[..], &field].concat()))
}

/// What is asked for, as files: a worker has them at once, however busy others are.
fn files() -> tempfile::TempDir {
    let root = root();
    write(root.path(), "a.png", vec![0; MIB]);
    write(root.path(), "a.css", vec![0; MIB / 2]);
    root
}

#[tokio::test]
async fn what_is_urgent_overtakes_on_a_slow_link() {
    let root = files();
    let config = [
        ("on.test", ""),
        ("off.test", "priority = \"off\""),
        ("late.test", "priority = \"u=7\""),
        ("said.test", "headers.set = { Priority = \"u=6\" }"),
    ];
    let config = config.into_iter().fold(Config::new(), |config, (host, more)| {
        config.files(host, root.path(), &format!("tls = \"off\"\n{more}"))
    });
    let baton = Baton::start(config).await;
    const FIRST: Range<usize> = 0..MIB;
    const ALIKE: Range<usize> = 3 * MIB / 2..11 * MIB / 4;
    const LAST: Range<usize> = 11 * MIB / 4..5 * MIB;
    let cases = [
        ("nobody says anything", "on.test", STYLE, &[][..], FIRST),
        ("the client", "on.test", 7, &[(7, "u=0"), (STYLE, "u=6")], FIRST),
        ("the client, of the style", "on.test", STYLE, &[(STYLE, "u=6")], LAST),
        ("the response before the client", "said.test", STYLE, &[(STYLE, "u=0")], LAST),
        ("switched off", "off.test", STYLE, &[(STYLE, "u=0")], ALIKE),
        ("the route", "late.test", STYLE, &[(STYLE, "u=0")], LAST),
    ];
    let address = baton.http_address();
    let mut running = JoinSet::new();
    for (about, host, last, said, others) in cases {
        running.spawn(async move {
            let bytes = before_the_end_of(last, address, (host, RATE), said).await;
            assert!(others.contains(&bytes), "{about}: {bytes} bytes of others came before it");
        });
    }
    running.join_all().await;
}

#[tokio::test]
async fn a_response_that_waits_for_others_is_not_cut_off() {
    let root = files();
    let upstream = Upstream::start("one").await.expect("upstream");
    let keys = "tls = \"off\"\ntimeout.send_idle = \"2s\"";
    let config = Config::new()
        .top("timeouts.send_idle = \"2s\"")
        .files("files.test", root.path(), keys)
        .route_with(UP, &[upstream.address()], keys);
    let baton = Baton::start(config).await;
    // It begins at once, and then waits for longer than a client may take nothing.
    let asked = ["files.test", UP].map(|host| {
        before_the_end_of(STYLE, baton.http_address(), (host, SLOW), &[(STYLE, "u=6")])
    });
    let [files, upstream] = asked;
    let (files, upstream) = tokio::join!(files, upstream);
    assert!(files.min(upstream) > 2 * MIB, "{files} and {upstream} bytes of others came before it");
}
