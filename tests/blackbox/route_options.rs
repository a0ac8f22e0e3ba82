//! What a route does beside forwarding, by label and by configuration.

use baton_load::{Cause, Pace, Protocol, Upstream, upload};
use baton_tests::{Answer, Baton, Config, Docker, Recorder};

async fn get(baton: &Baton, url: &str, version: &str) -> Answer {
    baton.curl(url).args(["--insecure", version]).run().await
}

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

#[tokio::test]
async fn a_route_changes_fields_both_ways() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let own = Recorder::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: secret/1\r\nX-Twice: a\r\n\r\n",
    )
    .await;
    let config = Config::new()
        .route_with(
            "up.test",
            &[upstream.address()],
            "request_headers.set = { X-Tenant = \"a\" }\nrequest_headers.remove = [\"X-Debug\"]",
        )
        .route_with(
            "down.test",
            &[own.address()],
            "headers.set = { X-Frame-Options = \"DENY\" }\nheaders.add = { X-Twice = \"b\" }\n\
             headers.remove = [\"server\"]",
        );
    let baton = Baton::start(config).await;
    for version in VERSIONS {
        let answer = baton
            .curl("https://up.test/headers")
            .args(["--insecure", version, "--header", "X_Tenant: mallory"])
            .args(["--header", "X-Debug: 1", "--header", "X-Kept: 1"])
            .run()
            .await;
        let seen = answer.text().to_ascii_lowercase();
        assert!(seen.contains("x-tenant") && seen.contains("x-kept"), "{version}: {seen}");
        assert!(!seen.contains("mallory") && !seen.contains("x-debug"), "{version}: {seen}");

        let answer = get(&baton, "https://down.test/", version).await;
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        assert_eq!(answer.field("x-frame-options"), Some("DENY"), "{version}");
        assert_eq!(answer.field("server"), None, "{version}");
        assert_eq!(answer.fields("x-twice"), ["a", "b"], "{version}");
    }
}

#[tokio::test]
async fn labels_of_a_container_change_fields() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let labels = [
        ("baton.headers.set.X-Frame-Options", "DENY"),
        ("baton.headers.set.Transfer-Encoding", "chunked"),
        ("baton.request_headers.set.X-Tenant", "a"),
    ];
    let _web = docker.run("web", &[("VIRTUAL_HOST", "fields.test")], &labels);
    baton.wait_up("fields.test", 1).await;
    let answer = get(&baton, "https://fields.test/headers", "--http2").await;
    assert_eq!((answer.status, answer.field("x-frame-options")), (200, Some("DENY")));
    assert!(answer.text().to_ascii_lowercase().contains("x-tenant"), "{answer:?}");
    let routes = baton.routes_json();
    let mut listed = routes["routes"].as_array().expect("a list").iter();
    let route = listed.find(|route| route["host"] == "fields.test").expect("it is there");
    let options = route["options"].to_string();
    assert!(options.contains("headers.set.X-Frame-Options"), "{options}");
    let diagnoses = routes["diagnoses"].to_string();
    assert!(diagnoses.contains("baton.headers.set.Transfer-Encoding"), "{diagnoses}");
    assert!(!diagnoses.contains("chunked"), "{diagnoses}");
}

#[tokio::test]
async fn a_route_is_open_to_the_networks_that_it_names() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let config = Config::new()
        .top("trusted_proxies = [\"127.0.0.1\"]")
        .route_with("allow.test", &address, "allow = [\"192.0.2.0/24\"]")
        .route_with("deny.test", &address, "deny = [\"192.0.2.7\"]")
        .route_with("nobody.test", &address, "allow = []");
    let baton = Baton::start(config).await;
    for (host, from, want) in [
        // The peer itself.
        ("allow.test", "", 403),
        ("allow.test", "192.0.2.7", 200),
        ("allow.test", "192.0.2.7, 198.51.100.1", 403),
        ("deny.test", "", 200),
        ("deny.test", "192.0.2.7", 403),
        ("nobody.test", "192.0.2.7", 403),
    ] {
        for version in VERSIONS {
            let curl = baton.curl(&format!("https://{host}/")).args(["--insecure", version]);
            let answer = curl.args(["--header", &format!("X-Forwarded-For: {from}")]).run().await;
            assert_eq!(answer.status, want, "{host} {from} {version}");
        }
    }
}

#[tokio::test]
async fn labels_and_network_access_close_a_container() {
    let docker = Docker::connect();
    let config = Config::new().docker(docker.endpoint()).top("trusted_proxies = [\"127.0.0.1\"]");
    let baton = Baton::start(config).await;
    let internal = [("VIRTUAL_HOST", "internal.test"), ("NETWORK_ACCESS", "internal")];
    let _internal = docker.run("internal", &internal, &[]);
    let _label = docker.run(
        "label",
        &[("VIRTUAL_HOST", "label-access.test")],
        &[("baton.allow", "192.0.2.0/24, 192.0.2.0/33"), ("baton.deny", "192.0.2.7")],
    );
    for (host, from, want) in [
        ("internal.test", "10.1.2.3", 200),
        ("internal.test", "192.0.2.1", 403),
        ("label-access.test", "192.0.2.1", 200),
        ("label-access.test", "192.0.2.7", 403),
        ("label-access.test", "10.1.2.3", 403),
    ] {
        baton.wait_up(host, 1).await;
        let curl = baton.curl(&format!("https://{host}/")).arg("--insecure");
        let answer = curl.args(["--header", &format!("X-Forwarded-For: {from}")]).run().await;
        assert_eq!(answer.status, want, "{host} {from}");
    }
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains("192.0.2.0/33"), "{diagnoses}");
}

/// `openssl passwd`, which is installed where curl is.
fn hashed(kind: &str, password: &str) -> String {
    let arguments = ["passwd", kind, "-salt", "saltsalt", password];
    let output = std::process::Command::new("openssl").args(arguments).output().expect("openssl");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test]
async fn a_route_asks_for_a_password() {
    let files = tempfile::tempdir().expect("temp dir");
    let write = |name: &str, text: String| {
        std::fs::write(files.path().join(name), text).expect("the file");
    };
    write("file.test", format!("# users\nalice:{}\n", hashed("-6", "one")));
    // printf /admin | sha1sum
    let admin = "file.test_492924f55ccb86045b8e2142acf33d94581f6e11";
    write(admin, format!("root:{}\n", hashed("-5", "two")));
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let lines = format!("auth.basic = [\"bob:{}\"]", hashed("-6", "three"));
    let config = Config::new()
        .top(&format!("htpasswd_dir = {:?}", files.path().display().to_string()))
        .section("[log]\nlevel = \"debug\"\naccess = \"json\"")
        .route_with("line.test", &address, &lines)
        .route_with("nobody.test", &address, "auth.basic = []")
        .route("file.test", &address)
        .route_with("file.test", &address, "path = \"/admin\"")
        .route("open.test", &address);
    let baton = Baton::start(config).await;
    for (url, user, want) in [
        ("https://open.test/", "", 200),
        ("https://line.test/", "", 401),
        ("https://line.test/", "bob:three", 200),
        // Out of what is remembered, on one thread or another.
        ("https://line.test/", "bob:three", 200),
        ("https://line.test/", "bob:four", 401),
        ("https://line.test/", "alice:one", 401),
        ("https://nobody.test/", "bob:three", 401),
        ("https://file.test/", "alice:one", 200),
        ("https://file.test/", "root:two", 401),
        ("https://file.test/admin/x", "root:two", 200),
        ("https://file.test/admin/x", "alice:one", 401),
        // The same path in other words.
        ("https://file.test//%61dmin/./x", "alice:one", 401),
    ] {
        for version in VERSIONS {
            let curl = baton.curl(url).args(["--insecure", "--path-as-is", version]);
            let curl = if user.is_empty() { curl } else { curl.args(["--user", user]) };
            let answer = curl.run().await;
            assert_eq!(answer.status, want, "{url} {user} {version}");
            let challenge =
                answer.field("www-authenticate").map(|field| field.starts_with("Basic "));
            assert_eq!(challenge, (want == 401).then_some(true), "{url} {user} {version}");
        }
    }
    let shown = baton.routes_json().to_string() + &baton.stderr();
    for secret in ["$5$", "$6$", "three", "Ym9iOnRocmVl"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[tokio::test]
async fn labels_of_a_container_ask_for_a_password() {
    let docker = Docker::connect();
    let baton = Baton::start(Config::new().docker(docker.endpoint())).await;
    let lines = format!("alice:{},bob:{}", hashed("-5", "one"), hashed("-apr1", "two"));
    let labels = [("baton.auth.basic", lines.as_str())];
    let web = docker.run("web", &[("VIRTUAL_HOST", "auth.test")], &labels);
    let torn = [("baton.auth.basic", "hunter2")];
    let _torn = docker.run("torn", &[("VIRTUAL_HOST", "torn-auth.test")], &torn);
    for (host, user, want) in [
        ("auth.test", "alice:one", 200),
        ("auth.test", "bob:two", 401),
        // A line that cannot be used does not open the door.
        ("torn-auth.test", "hunter2:", 401),
    ] {
        baton.wait_up(host, 1).await;
        let curl = baton.curl(&format!("https://{host}/")).args(["--insecure", "--user", user]);
        assert_eq!(curl.run().await.status, want, "{host} {user}");
    }
    let diagnoses = baton.routes_json()["diagnoses"].to_string();
    assert!(diagnoses.contains(web.name()) && diagnoses.contains("MD5"), "{diagnoses}");
    assert!(!diagnoses.contains("hunter2") && !diagnoses.contains("$apr1"), "{diagnoses}");
}

#[tokio::test]
async fn a_route_sends_requests_elsewhere() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let config = Config::new()
        .route_with("www.apex.test", &address, "redirect.www = \"apex\"")
        .route_with("apex.test", &address, "redirect.www = \"apex\"")
        .route_with("bare.test", &address, "redirect.www = \"www\"\ntls = \"off\"")
        .route_with("other.test", &address, "redirect.host = \"canonical.test\"")
        .route_with("fixed.test", &address, "redirect.to = \"303 https://a.test/b\"");
    let baton = Baton::start(config).await;
    for (url, method, status, location) in [
        ("https://www.apex.test/a?b", "GET", 301, Some("https://apex.test/a?b")),
        ("https://www.apex.test/a?b", "POST", 308, Some("https://apex.test/a?b")),
        ("https://apex.test/", "GET", 200, None),
        // HTTPS comes first.
        ("http://fixed.test/x", "GET", 301, Some("https")),
        ("http://bare.test/", "GET", 301, Some("http://www.bare.test/")),
        ("https://other.test/x", "GET", 301, Some("https://canonical.test/x")),
        ("https://fixed.test/x", "GET", 303, Some("https://a.test/b")),
    ] {
        for version in VERSIONS {
            let curl = baton.curl(url).args(["--insecure", version, "--request", method]);
            let answer = curl.run().await;
            assert_eq!(answer.status, status, "{url} {method} {version}");
            let found = answer.field("location");
            let is_right = found.zip(location).map(|(found, want)| found.starts_with(want));
            assert_eq!(is_right, location.map(|_| true), "{url} {method} {version}: {found:?}");
        }
    }
}

#[tokio::test]
async fn a_route_takes_bodies_up_to_its_limit() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let config = Config::new()
        .route_with("small.test", &address, "max_body = \"1k\"")
        .route("usual.test", &address);
    let baton = Baton::start(config).await;
    let (small, usual) = (baton.https("small.test"), baton.https("usual.test"));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        upload(&small, protocol, 1024, Pace::free()).await.expect("within the limit");
        let failure =
            upload(&small, protocol, 1025, Pace::free()).await.expect_err("beyond the limit");
        assert_eq!((failure.cause, failure.text.as_str()), (Cause::WrongStatus, "413"));
        upload(&usual, protocol, 1025, Pace::free()).await.expect("it has no limit");
    }
    // One that does not say how long it is.
    for (bytes, want) in [(1024, 200), (1025, 413)] {
        let body = "x".repeat(bytes);
        let curl = baton.curl("https://small.test/echo").args(["--insecure", "--data", &body]);
        let chunked = curl.args(["--http1.1", "--header", "Transfer-Encoding: chunked"]);
        assert_eq!(chunked.run().await.status, want, "{bytes}");
    }
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_again() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let config = Config::new()
        .top("threads = 2")
        .top("trusted_proxies = [\"127.0.0.1\"]")
        .route_with("slow.test", &address, "rate_limit = \"6/h burst=3\"")
        .route("usual.test", &address);
    let baton = Baton::start(config).await;
    let ask = async |host: &str, from: &str| {
        let curl = baton.curl(&format!("https://{host}/")).arg("--insecure");
        curl.args(["--header", &format!("X-Forwarded-For: {from}")]).run().await
    };
    // Over connections of their own, and so by both threads.
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(ask("slow.test", "192.0.2.1").await);
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429, 429, 429, 429]);
    let wait: u64 =
        answers[7].field("retry-after").expect("it says when").parse().expect("seconds");
    assert!((500..=601).contains(&wait), "{wait}");
    assert_eq!(ask("slow.test", "192.0.2.2").await.status, 200);
    assert_eq!(ask("usual.test", "192.0.2.1").await.status, 200);
}

#[tokio::test]
async fn another_server_decides_who_passes() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let pass = Recorder::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRemote-User: alice\r\nX-Other: 1\r\n\r\nok",
    )
    .await;
    let login = Recorder::start(
        "HTTP/1.1 302 Found\r\nContent-Length: 5\r\nLocation: https://login.test/\r\n\
         Set-Cookie: a=b\r\n\r\nlogin",
    )
    .await;
    let broken = Recorder::start("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await;
    let asks = |address: &dyn std::fmt::Display| {
        let url = format!("auth.forward = \"http://{address}/verify?x=1\"");
        format!("{url}\nauth.forward_headers = [\"Remote-User\", \"Remote-Groups\"]")
    };
    let address = [upstream.address()];
    let config = Config::new()
        .route_with("pass.test", &address, &asks(&pass.address()))
        .route_with("login.test", &address, &asks(&login.address()))
        .route_with("broken.test", &address, &asks(&broken.address()))
        .route_with("down.test", &address, &asks(&"127.0.0.1:1"))
        .route_with("nowhere.test", &address, &asks(&"nowhere"));
    let baton = Baton::start(config).await;
    for version in VERSIONS {
        let answer = baton
            .curl("https://pass.test/headers?y=2")
            .args(["--insecure", version, "--request", "POST", "--data", "body"])
            .args(["--header", "Remote-User: mallory", "--header", "Remote-Groups: admins"])
            .args(["--header", "If-None-Match: x"])
            .run()
            .await;
        assert_eq!(answer.status, 200, "{version}: {answer:?}");
        let seen = answer.text();
        assert!(seen.contains("alice"), "{version}: {seen}");
        for gone in ["mallory", "admins", "x-other", "X-Other"] {
            assert!(!seen.contains(gone), "{version}: {gone} in {seen}");
        }

        let answer = get(&baton, "https://login.test/x", version).await;
        assert_eq!((answer.status, answer.text().as_str()), (302, "login"), "{version}");
        assert_eq!(answer.field("location"), Some("https://login.test/"), "{version}");
        assert_eq!(answer.field("set-cookie"), Some("a=b"), "{version}");

        for host in ["broken.test", "down.test", "nowhere.test"] {
            let answer = get(&baton, &format!("https://{host}/"), version).await;
            assert_eq!(answer.status, 502, "{host} {version}");
        }
    }
    let asked = pass.received();
    assert!(asked.starts_with("GET /verify?x=1 HTTP/1.1\r\n"), "{asked}");
    for line in [
        &format!("\r\nHost: {}\r\n", pass.address()),
        "\r\nX-Forwarded-Host: pass.test\r\n",
        "\r\nX-Forwarded-Uri: /headers?y=2\r\n",
        "\r\nX-Forwarded-Method: POST\r\n",
        "\r\nX-Forwarded-For: 127.0.0.1\r\n",
    ] {
        assert!(asked.contains(line), "{line} in {asked}");
    }
    assert!(!asked.contains("If-None-Match") && !asked.contains("\r\n\r\nbody"), "{asked}");
}

/// An answer with this body and these lines before it.
fn answer_of(lines: &str, body: &str) -> &'static str {
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{lines}\r\n{body}", body.len());
    Box::leak(text.into_boxed_str())
}

#[tokio::test]
async fn bodies_are_compressed_for_those_who_take_that() {
    let page = "<p>one line of a page</p>\n".repeat(2000);
    let html = "Content-Type: text/html\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n";
    let web = Recorder::start(answer_of(html, &page)).await;
    let image = Recorder::start(answer_of("Content-Type: image/png\r\n", &page)).await;
    let kept = format!("{html}Cache-Control: no-transform\r\n");
    let kept = Recorder::start(answer_of(&kept, &page)).await;
    let small = Recorder::start(answer_of(html, "small")).await;
    let config = Config::new()
        .route("web.test", &[web.address()])
        .route("image.test", &[image.address()])
        .route("kept.test", &[kept.address()])
        .route("small.test", &[small.address()])
        .route_with("off.test", &[web.address()], "compress = false");
    let baton = Baton::start(config).await;
    for (host, accepted, want) in [
        ("web.test", "br", Some("br")),
        ("web.test", "gzip, br, zstd", Some("zstd")),
        ("web.test", "gzip", Some("gzip")),
        ("web.test", "gzip;q=0", None),
        ("web.test", "identity", None),
        ("image.test", "gzip", None),
        ("kept.test", "gzip", None),
        ("small.test", "gzip", None),
        ("off.test", "gzip", None),
    ] {
        for version in VERSIONS {
            let said = format!("Accept-Encoding: {accepted}");
            let curl = baton.curl(&format!("https://{host}/")).args(["--insecure", version]);
            let answer = curl.args(["--compressed", "--header", &said]).run().await;
            let case = format!("{host} {accepted} {version}");
            assert_eq!((answer.status, answer.field("content-encoding")), (200, want), "{case}");
            assert!(answer.text() == page || host == "small.test", "{case}");
            let varies = answer.field("vary") == Some("Accept-Encoding");
            assert_eq!(varies, host == "web.test", "{case}");
            if want.is_some() {
                assert_eq!(answer.field("etag"), Some("W/\"a\""), "{case}");
                assert_eq!(answer.field("accept-ranges"), None, "{case}");
                assert_eq!(answer.field("content-length"), None, "{case}");
            }
        }
    }
    // What is asked for in part, or without its body, comes as it is.
    let curl = baton.curl("https://web.test/").args(["--insecure", "--compressed", "--head"]);
    let head = curl.run().await;
    assert_eq!((head.status, head.field("content-encoding")), (200, None));
}

#[tokio::test]
async fn a_compressed_body_that_pauses_is_not_held_back() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n\
                  d\r\na first line\n\r\n";
    let upstream = Recorder::start(answer).await;
    let baton = Baton::start(Config::new().route("pause.test", &[upstream.address()])).await;
    for encoding in ["br", "zstd", "gzip"] {
        let said = format!("Accept-Encoding: {encoding}");
        // It never ends: what has come by then counts.
        let curl = baton.curl("https://pause.test/").args(["--insecure", "--max-time", "1"]);
        let answer = curl.args(["--compressed", "--no-buffer", "--header", &said]).run().await;
        assert_eq!(answer.field("content-encoding"), Some(encoding));
        assert_eq!(answer.text(), "a first line\n", "{encoding}");
    }
}

#[tokio::test]
async fn a_route_is_as_patient_as_it_says() {
    let upstream = Upstream::start("one").await.expect("upstream");
    let address = [upstream.address()];
    let config = Config::new()
        .section("[timeouts]\nresponse_head = \"100ms\"")
        .route_with("patient.test", &address, "timeout.response_head = \"10s\"")
        .route("usual.test", &address);
    let baton = Baton::start(config).await;
    for (host, want) in [("patient.test", 200), ("usual.test", 504)] {
        let answer = get(&baton, &format!("https://{host}/slow?ms=500"), "--http2").await;
        assert_eq!(answer.status, want, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_answered_by_the_same_container_where_the_route_says_so() {
    let docker = Docker::connect();
    let config = Config::new().docker(docker.endpoint()).top("trusted_proxies = [\"127.0.0.1\"]");
    let baton = Baton::start(config).await;
    let host = "same.test";
    let label = [("com.github.nginx-proxy.nginx-proxy.loadbalance", "ip_hash")];
    let environment = [("VIRTUAL_HOST", host), ("HTTPS_METHOD", "noredirect")];
    let _pool = ["first", "second"].map(|name| docker.run(name, &environment, &label));
    baton.wait_up(host, 2).await;
    let mut answered = std::collections::BTreeSet::new();
    for client in 0..16 {
        let from = format!("X-Forwarded-For: 203.0.113.{client}");
        let ask = async || {
            let curl = baton.curl(&format!("http://{host}/")).args(["-H", &from]);
            curl.run().await.field("x-upstream").expect("a name").to_owned()
        };
        let first = ask().await;
        for _ in 0..3 {
            assert_eq!(ask().await, first, "{from}");
        }
        answered.insert(first);
    }
    assert_eq!(answered.len(), 2, "{answered:?}");
    assert_eq!(baton.routes_json()["diagnoses"].to_string(), "[]");
}

#[tokio::test]
async fn browsers_are_told_who_may_read_and_to_be_careful() {
    let own = Recorder::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Frame-Options: DENY\r\n\
         Access-Control-Allow-Origin: https://evil.test\r\n\r\n",
    )
    .await;
    // Nobody is asked for a password before the browser has asked whether it may come.
    let locked = format!("auth.basic = [\"a:{}\"]", hashed("-5", "secret"));
    let config = Config::new()
        .route_with(
            "cors.test",
            &[own.address()],
            "cors = \"https://*.a.test, credentials\"\nsecurity_headers = true",
        )
        .route_with("locked.test", &[own.address()], &format!("cors = \"*\"\n{locked}"));
    let baton = Baton::start(config).await;
    for version in VERSIONS {
        for (origin, want) in
            [("https://x.a.test", Some("https://x.a.test")), ("https://evil.test", None)]
        {
            let origin = format!("Origin: {origin}");
            let curl = baton.curl("https://cors.test/").args(["--insecure", version]);
            let answer = curl.args(["--header", &origin]).run().await;
            assert_eq!(answer.status, 200, "{version} {origin}");
            assert_eq!(answer.field("access-control-allow-origin"), want, "{version} {origin}");
            let credentials = want.map(|_| "true");
            assert_eq!(answer.field("access-control-allow-credentials"), credentials, "{origin}");
            assert_eq!(answer.field("vary"), Some("Origin"), "{version} {origin}");
            assert_eq!(answer.fields("x-frame-options"), ["DENY"], "{version}");
            assert_eq!(answer.field("x-content-type-options"), Some("nosniff"), "{version}");
        }
        let asking = ["--insecure", version, "--request", "OPTIONS", "--header"];
        let curl = baton.curl("https://locked.test/").args(asking).arg("Origin: https://b.test");
        let answer = curl.args(["--header", "Access-Control-Request-Method: PUT"]).run().await;
        assert_eq!(answer.status, 204, "{version}: {answer:?}");
        assert_eq!(answer.field("access-control-allow-origin"), Some("*"), "{version}");
        assert!(answer.field("access-control-allow-methods").is_some_and(|m| m.contains("PUT")));
        assert_eq!(get(&baton, "https://locked.test/", version).await.status, 401, "{version}");
    }
}
