//! Handoffs: what clients feel of reloads that make a generation, of upgrades and of rollbacks.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use baton_load::{Kind, Load, Pace, Protocol, Target, Upstream, download, upload};
use baton_tests::{Config, baton_binary, exchange, until};
use bytes::Bytes;
use http::{Method, Request};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::stage::{
    IdleConnection, LIMIT, Mode, Stage, find, get, in_modes, says_close, text, tunnels_lived_on,
};
use crate::websocket::{ECHO, FRAME, GOING_AWAY, http1_tunnel};
use crate::{APP, PLAIN, more_requests, nobody_felt_anything};

const MB: u64 = 1_000_000;

in_modes! {
    both:
    ten_reloads_that_make_a_generation_are_felt_by_nobody,
    three_upgrades_and_a_rollback_are_felt_by_nobody,
    threads_are_doubled_and_halved_and_nobody_feels_it,
    addresses_come_and_go_and_the_one_that_stays_never_fails,
    the_next_request_of_500_idle_connections_is_answered_across_an_upgrade,
    tls_sessions_resume_after_an_upgrade,
    ipv6_and_dual_stack_addresses_hand_over,
    a_reload_with_200_routes_is_live_within_a_second,
    a_binary_that_cannot_take_over_is_refused_and_nothing_changes,
    without_an_upgrade_there_is_nothing_to_roll_back_to,
    transfers_that_span_five_handoffs_complete,
    goaway_lets_streams_in_progress_finish,
    a_grpc_stream_goes_on_through_a_handoff,
    the_oldest_of_more_than_four_generations_is_told_to_hurry,
    a_draining_generation_follows_changes_of_routes,
    status_tells_of_the_last_handoffs;
    ebpf:
}

async fn ten_reloads_that_make_a_generation_are_felt_by_nobody(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    for number in 0..10 {
        stage.hand_over(&stage.with_streams(100 + number));
        more_requests(&load, 300).await;
        // The first one lives on with its tunnels.
        stage.draining_at_most(1).await;
    }
    assert_eq!(stage.active()["id"], 11);
    assert_eq!(stage.generations("draining"), [1]);
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

async fn three_upgrades_and_a_rollback_are_felt_by_nobody(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let copies: Vec<PathBuf> = (1..=3).map(|number| stage.copy(number)).collect();
    for (generation, binary) in (2..).zip(&copies) {
        stage.done(&["upgrade", text(binary)], generation);
        assert_eq!(stage.program(), *binary);
        more_requests(&load, 300).await;
        stage.draining_at_most(1).await;
    }
    fs::remove_file(&copies[1]).expect("the copy");
    stage.done(&["rollback"], 5);
    assert_eq!(stage.program(), Path::new(&format!("{} (deleted)", copies[1].display())));
    more_requests(&load, 300).await;
    tunnels_lived_on(&load.stop().await);
    stage.draining_at_most(0).await;
}

async fn threads_are_doubled_and_halved_and_nobody_feels_it(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    for threads in [4, 2, 1, 2, 4, 8, 4, 2, 1, 2] {
        stage.hand_over(&stage.config().top(&format!("threads = {threads}")));
        more_requests(&load, 300).await;
        stage.draining_at_most(1).await;
    }
    tunnels_lived_on(&load.stop().await);
}

async fn addresses_come_and_go_and_the_one_that_stays_never_fails(mode: Mode) {
    let stage = Stage::start(mode).await;
    let before = stage.listeners();
    let load = stage.mixed_load().await;
    let one = stage.config();
    let two =
        one.clone().listen("http = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\nhttps = [\"127.0.0.1:0\"]");
    for _ in 0..2 {
        stage.hand_over(&two);
        let both = stage.listeners();
        let added = *both.iter().find(|address| !before.contains(address)).expect("a new address");
        assert_eq!(both.len(), before.len() + 1, "{both:?}");
        for _ in 0..20 {
            let answer = exchange(added, get(PLAIN)).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        stage.hand_over(&one);
        assert_eq!(stage.listeners(), before);
        until("the removed address refuses", LIMIT, async || {
            TcpStream::connect(added).await.is_err().then_some(())
        })
        .await;
        more_requests(&load, 100).await;
        stage.draining_at_most(1).await;
    }
    tunnels_lived_on(&load.stop().await);
}

async fn the_next_request_of_500_idle_connections_is_answered_across_an_upgrade(mode: Mode) {
    let stage = Stage::start(mode).await;
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(IdleConnection::open(stage.baton.http_address()).await);
    }
    let upgrade = stage.baton.spawn_command(&["upgrade"]);
    // One after the other, through the very moment of the flip.
    let mut told = 0;
    for connection in &mut idle[..400] {
        told += usize::from(says_close(&connection.ask().await));
    }
    assert!(upgrade.wait_with_output().expect("it ends").status.success());
    assert_eq!(stage.generations("draining"), [1]);
    let left = idle.len() - told;
    let (mut closed, mut answered) = (0, 0);
    for connection in idle {
        match connection.last_request().await {
            // It had its last answer.
            None => closed += 1,
            Some(answer) => {
                assert!(says_close(&answer), "{answer}");
                answered += 1;
            }
        }
    }
    assert_eq!((closed, answered), (told, left));
    stage.draining_at_most(0).await;
}

async fn tls_sessions_resume_after_an_upgrade(mode: Mode) {
    let stage = Stage::start(mode).await;
    let session = stage.baton.directory().join("session.pem");
    let connect = async |option: &'static str| {
        let address = stage.baton.https_address().to_string();
        let mut openssl = tokio::process::Command::new("openssl");
        openssl.args(["s_client", "-connect", &address, "-servername", APP, "-ign_eof"]);
        openssl.arg(option).arg(&session).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = openssl.stderr(Stdio::null()).spawn().expect("openssl is installed");
        // The tickets come behind the handshake: an answer comes behind them.
        let request = get(APP);
        child.stdin.take().expect("piped").write_all(request.as_bytes()).await.expect("send");
        let said = child.wait_with_output().await.expect("it ends").stdout;
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = connect("-sess_out").await;
    assert!(said.contains("\nNew, TLSv1.3, "), "{said}");
    stage.done(&["upgrade"], 2);
    stage.done(&["upgrade"], 3);
    let said = connect("-sess_in").await;
    assert!(said.contains("\nReused, TLSv1.3, "), "{said}");
    assert!(said.contains("HTTP/1.1 200 "), "{said}");
}

async fn ipv6_and_dual_stack_addresses_hand_over(mode: Mode) {
    let listen = "http = [\"[::1]:0\", \"[::]:0\"]\nhttps = [\"127.0.0.1:0\"]";
    let stage = Stage::start_with(mode, |config| config.listen(listen)).await;
    let port = |wildcard: bool| {
        let mut addresses = stage.listeners().into_iter().filter(SocketAddr::is_ipv6);
        addresses.find(|a| a.ip().is_unspecified() == wildcard).expect("a listener").port()
    };
    let targets = [("::1", port(false)), ("::1", port(true)), ("127.0.0.1", port(true))];
    let loads: Vec<_> = targets
        .map(|(ip, port)| Target::plain((ip.parse::<IpAddr>().expect("IP"), port).into(), PLAIN))
        .map(|target| Load::new(target).clients(Kind::Http1Fresh, 4).start())
        .into();
    for streams in [50, 60, 70] {
        stage.hand_over(&stage.with_streams(streams).listen(listen));
        for load in &loads {
            more_requests(load, 50).await;
        }
        stage.draining_at_most(0).await;
    }
    for load in loads {
        nobody_felt_anything(&load.stop().await);
    }
}

/// The cost that the README names; this machine has other work to do meanwhile.
async fn a_reload_with_200_routes_is_live_within_a_second(mode: Mode) {
    let many = |config: Config, upstream: SocketAddr| {
        (0..200).fold(config, |config, n| config.route(&format!("app{n}.test"), &[upstream]))
    };
    let stage = Stage::start(mode).await;
    let upstream = stage.upstream.address();
    stage.baton.reconfigure(&many(stage.config(), upstream));
    let began = Instant::now();
    stage.hand_over(&many(stage.with_streams(50), upstream));
    let took = began.elapsed();
    let handoff = stage.last_handoff();
    let ms = |key: &str| handoff[key].as_u64().expect("a time");
    assert!(ms("ms_to_flip") - ms("ms_to_ready") < 50, "{handoff}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

async fn a_binary_that_cannot_take_over_is_refused_and_nothing_changes(mode: Mode) {
    let stage = Stage::start(mode).await;
    let load = stage.mixed_load().await;
    let not_executable = stage.copy(1);
    fs::set_permissions(&not_executable, fs::Permissions::from_mode(0o644)).expect("the copy");
    let worker = stage.baton.worker_pid();
    for (binary, why) in [
        (Path::new("/nonexistent/baton"), "No such file or directory"),
        (&not_executable, "Permission denied"),
        (Path::new("/bin/true"), "not baton"),
    ] {
        let output = stage.baton.command(&["upgrade", text(binary)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said.starts_with("baton: ") && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!((stage.active()["id"].as_u64(), stage.baton.worker_pid()), (Some(1), worker));
        assert_eq!(stage.baton.status_json()["pid"], stage.baton.pid());
        assert_eq!(stage.program(), fs::canonicalize(baton_binary()).expect("the binary"));
        more_requests(&load, 100).await;
    }
    tunnels_lived_on(&load.stop().await);
    // The way is still free for one that can.
    stage.done(&["upgrade"], 2);
}

async fn without_an_upgrade_there_is_nothing_to_roll_back_to(mode: Mode) {
    let stage = Stage::start(mode).await;
    let output = stage.baton.command(&["rollback"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("no program to return to"), "{said}");
}

async fn transfers_that_span_five_handoffs_complete(mode: Mode) {
    let stage = Stage::start(mode).await;
    let target = stage.baton.https(APP);
    let mut transfers = Vec::new();
    // None is over before the last handoff is.
    let (release, released) = watch::channel(false);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (down, up) = (target.clone(), target.clone());
        let held = |rate, bytes| Pace::at(rate).hold_at(bytes, released.clone());
        let (down_pace, up_pace) = (held(20 * MB, 90 * MB), held(2 * MB, 9 * MB));
        transfers.push(tokio::spawn(async move {
            download(&down, protocol, 100 * MB, down_pace).await
        }));
        transfers.push(tokio::spawn(async move { upload(&up, protocol, 10 * MB, up_pace).await }));
    }
    until("the transfers' begin", LIMIT, async || (stage.upstream.requests() == 4).then_some(()))
        .await;
    for number in 0..4 {
        stage.hand_over(&stage.with_streams(100 + number));
        stage.draining_at_most(1).await;
    }
    stage.done(&["upgrade"], 6);
    release.send_replace(true);
    for transfer in transfers {
        transfer.await.expect("no panic").expect("transfer");
    }
    stage.draining_at_most(0).await;
}

async fn goaway_lets_streams_in_progress_finish(mode: Mode) {
    let stage = Stage::start(mode).await;
    let stream = stage.baton.https(APP).connect("h2").await.expect("connection");
    let (requests, connection) =
        h2::client::Builder::new().handshake::<_, Bytes>(stream).await.expect("handshake");
    let driver = tokio::spawn(connection);
    let mut requests = requests.ready().await.expect("ready");
    let request = Request::builder().method(Method::POST).uri(format!("https://{APP}/echo"));
    let request = request.body(()).expect("request");
    let (response, mut body) = requests.send_request(request, false).expect("open");
    body.send_data(Bytes::from_static(b"before, "), false).expect("send");
    let mut echo = response.await.expect("response").into_body();
    assert_eq!(echo.data().await.expect("open").expect("data"), "before, ");

    stage.hand_over(&stage.with_streams(100));
    until("GOAWAY", LIMIT, async || requests.clone().ready().await.is_err().then_some(())).await;
    body.send_data(Bytes::from_static(b"after"), true).expect("send");
    let mut rest = Vec::new();
    while let Some(piece) = echo.data().await {
        rest.extend_from_slice(&piece.expect("the stream goes on"));
    }
    assert_eq!(rest, b"after");
    drop((requests, body, echo));
    driver.await.expect("no panic").expect("an orderly end");
    stage.draining_at_most(0).await;
}

async fn a_grpc_stream_goes_on_through_a_handoff(mode: Mode) {
    let stage = Stage::start(mode).await;
    let grpc = |streams: u32| {
        let upstream = [format!("grpc://{}", stage.upstream.address())];
        stage.with_streams(streams).route("grpc.test", &upstream)
    };
    stage.hand_over(&grpc(100));
    let stream = stage.baton.https("grpc.test").connect("h2").await.expect("connection");
    let (requests, connection) = h2::client::handshake(stream).await.expect("handshake");
    let driver = tokio::spawn(connection);
    let mut requests = requests.ready().await.expect("ready");
    let call = Request::builder()
        .method(Method::POST)
        .uri("https://grpc.test/test.Echo/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (response, mut out) =
        requests.send_request(call.body(()).expect("request"), false).expect("open");
    let message = |text: &'static str| {
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        Bytes::from([&[0], length.as_slice(), text.as_bytes()].concat())
    };
    out.send_data(message("before"), false).expect("send");
    let mut incoming = response.await.expect("response").into_body();
    assert_eq!(incoming.data().await.expect("open").expect("data"), message("before"));
    stage.hand_over(&grpc(50));
    stage.done(&["upgrade"], 4);
    out.send_data(message("after"), true).expect("send");
    assert_eq!(incoming.data().await.expect("open").expect("data"), message("after"));
    assert!(incoming.data().await.is_none());
    let trailers = incoming.trailers().await.expect("open").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    drop((requests, out, incoming));
    driver.await.expect("no panic").expect("an orderly end");
    stage.draining_at_most(0).await;
}

async fn the_oldest_of_more_than_four_generations_is_told_to_hurry(mode: Mode) {
    let stage = Stage::start(mode).await;
    let mut tunnels = Vec::new();
    for number in 1..=4 {
        tunnels.push(http1_tunnel(&stage.baton).await);
        stage.hand_over(&stage.with_streams(50 + number));
        // In inherit mode the old one may have accepted the next tunnel until then.
        stage.closed().await;
    }
    assert_eq!(stage.generations("draining"), [1, 2, 3, 4]);
    // A ping of the client's would come behind it.
    let mut goodbye = [0; GOING_AWAY.len()];
    tunnels[0].read_exact(&mut goodbye).await.expect("a goodbye");
    assert_eq!(goodbye, GOING_AWAY);
    drop(tunnels.remove(0));
    stage.draining_at_most(3).await;
    for tunnel in &mut tunnels {
        tunnel.write_all(&FRAME).await.expect("send");
        let mut echo = [0; ECHO.len()];
        tunnel.read_exact(&mut echo).await.expect("an echo");
        assert_eq!(echo, ECHO);
    }
    assert_eq!(stage.generations("draining"), [2, 3, 4]);
    drop(tunnels);
    stage.draining_at_most(0).await;
}

async fn a_draining_generation_follows_changes_of_routes(mode: Mode) {
    let stage = Stage::start(mode).await;
    let two = Upstream::start("two").await.expect("upstream");
    let idle = IdleConnection::open(stage.baton.http_address()).await;
    stage.hand_over(&stage.with_streams(100));
    let said = stage.baton.reconfigure(&stage.with_streams_to(&two, 100));
    assert!(said["handoff"].is_null(), "{said}");
    until("the change in the draining generation", LIMIT, async || {
        let status = stage.baton.status_json();
        let old = find(&status, "draining").next().expect("a draining generation");
        (old["snapshot"] == said["snapshot"]).then_some(())
    })
    .await;
    let answer = idle.last_request().await.expect("an answer");
    assert!(answer.to_lowercase().contains("\r\nx-upstream: two\r\n"), "{answer}");
}

async fn status_tells_of_the_last_handoffs(mode: Mode) {
    let stage = Stage::start(mode).await;
    stage.hand_over(&stage.with_streams(100));
    stage.done(&["upgrade"], 3);
    stage.done(&["rollback"], 4);
    assert_eq!(stage.baton.command(&["upgrade", "/bin/true"]).status.code(), Some(1));

    let output = stage.baton.command(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mode = status["handoff"]["mode"].as_str().expect("a mode");
    assert!(["ebpf", "inherit"].contains(&mode), "{status}");
    assert!(!status["handoff"]["why"].as_str().expect("a reason").is_empty(), "{status}");
    let handoffs = status["last_handoffs"].as_array().expect("a list");
    let outcomes: Vec<_> = handoffs.iter().map(|h| (&h["kind"], &h["outcome"])).collect();
    for (got, want) in outcomes.iter().zip([
        ("upgrade", "failed"),
        ("rollback", "done"),
        ("upgrade", "done"),
        ("reload", "done"),
    ]) {
        assert_eq!((got.0.as_str(), got.1.as_str()), (Some(want.0), Some(want.1)), "{status}");
    }
    assert_eq!(handoffs.len(), 4, "{status}");
    assert!(handoffs[0]["error"].as_str().is_some_and(|error| error.contains("not baton")));
    for handoff in &handoffs[1..] {
        let ready = handoff["ms_to_ready"].as_u64().expect("a time");
        let flip = handoff["ms_to_flip"].as_u64().expect("a time");
        assert!(ready <= flip, "{handoff}");
        assert!(!handoff["steps"].as_array().expect("a list").is_empty(), "{handoff}");
    }
}
