//! Clients that people use, unchanged: a generated gRPC client, git, a browser, a form of curl's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use baton_load::Upstream;
use baton_tests::{Baton, Browser, Config, Recorder, free_addresses, peak, reset_peak, until};
use tempfile::TempDir;

use crate::{APP, in_front_of_one, routed_to};

/// Debian's, whose modules its packages bring.
const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(60);

/// What ran as it should, or what it said.
async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("it is installed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// A process that ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// The messages and stubs of `clients/echo.proto`, made by Debian's generator.
async fn generated() -> TempDir {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut protoc = Command::new("protoc");
    protoc
        .arg("-I")
        .arg(sources())
        .arg("--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin")
        .arg("--python_out")
        .arg(directory.path())
        .arg("--grpc_python_out")
        .arg(directory.path())
        .arg("echo.proto");
    run(protoc).await;
    directory
}

fn python(script: &str, generated: &TempDir) -> Command {
    let mut command = Command::new(PYTHON);
    command.arg(sources().join(script)).env("PYTHONPATH", generated.path());
    command
}

/// With its standard input, at whose end it ends.
fn serve_grpc(generated: &TempDir) -> (Ended, ChildStdin, SocketAddr) {
    let mut command = python("grpc_server.py", generated);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is installed");
    let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut port = String::new();
    BufReader::new(stdout).read_line(&mut port).expect("its port");
    let port = port.trim().parse().expect("its port");
    (Ended(child), stdin, ([127, 0, 0, 1], port).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_grpc_client_makes_every_kind_of_call() {
    let generated = generated().await;
    let (_server, _stdin, address) = serve_grpc(&generated);
    let upstream = format!("grpc://{address}");
    let baton = Baton::start(Config::new().route(APP, &[upstream])).await;
    let mut client = python("grpc_client.py", &generated);
    client.arg(baton.https_address().to_string()).arg(APP).arg(baton.ca_file());
    assert_eq!(run(client).await, "well\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones_over_https() {
    let site = tempfile::tempdir().expect("tempdir");
    let original = site.path().join("original");
    run(git(&["init", "--quiet", "--initial-branch=main"], Some(&original))).await;
    // What does not compress, so that the pack is large.
    let noise: Vec<u8> =
        (0..4_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(original.join("noise"), &noise).expect("written");
    run(git(&["-C", path(&original), "add", "noise"], None)).await;
    run(git(&["-C", path(&original), "commit", "--quiet", "-m", "Noise"], None)).await;

    let (_httpd, address) = serve_git(site.path()).await;
    let baton = Baton::start(routed_to(&address)).await;
    let (http, copy) = (baton.https_address(), site.path().join("copy"));
    let resolve = format!("http.curloptResolve={APP}:{}:{}", http.port(), http.ip());
    let url = format!("https://{APP}:{}/cgi-bin/git/original/.git", http.port());
    let mut clone = git(&["-c", &resolve, "clone", "--quiet", &url, path(&copy)], None);
    clone.env("GIT_SSL_CAINFO", baton.ca_file());
    run(clone).await;
    assert_eq!(fs::read(copy.join("noise")).expect("cloned"), noise);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

fn git(arguments: &[&str], new: Option<&Path>) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).args(new);
    // Nobody's settings but these.
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_AUTHOR_NAME", "baton"),
        ("GIT_AUTHOR_EMAIL", "baton@example.com"),
        ("GIT_COMMITTER_NAME", "baton"),
        ("GIT_COMMITTER_EMAIL", "baton@example.com"),
    ] {
        command.env(name, value);
    }
    command
}

/// git's own server of HTTP, which is a CGI program, behind busybox's web server.
async fn serve_git(site: &Path) -> (Ended, SocketAddr) {
    let script = site.join("cgi-bin").join("git");
    fs::create_dir(site.join("cgi-bin")).expect("created");
    let text = format!(
        "#!/bin/sh\nexport GIT_PROJECT_ROOT={} GIT_HTTP_EXPORT_ALL=1\nexec git http-backend\n",
        site.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its mode");
    let [address] = free_addresses();
    let mut httpd = Command::new("busybox");
    httpd.args(["httpd", "-f", "-p", &address.to_string(), "-h", path(site)]);
    let httpd = Ended(httpd.spawn().expect("busybox is installed"));
    until("busybox httpd", LIMIT, async || std::net::TcpStream::connect(address).ok()).await;
    (httpd, address)
}

/// A page that tells its origin what a WebSocket has told it.
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 210\r\n\r\n\
    <!doctype html><title>A page</title><script>\
    const socket = new WebSocket('wss://app.test/ws');\
    socket.onopen = () => socket.send('hello');\
    socket.onmessage = (message) => fetch('/told/' + message.data);\
    </script>\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_talks_through_a_websocket() {
    let (echo, page) =
        (Upstream::start("one").await.expect("upstream"), Recorder::start(PAGE).await);
    let config = Config::new().route(APP, &[page.address()]).route_with(
        APP,
        &[echo.address()],
        "path = \"/ws\"",
    );
    let baton = Baton::start(config).await;
    let rule = format!("--host-resolver-rules=MAP {APP}:443 {}", baton.https_address());
    let browser = Browser::start(&[&rule]).await;
    browser.go(&format!("https://{APP}/")).await;
    until("what the page tells", LIMIT, async || {
        page.received().contains("GET /told/hello HTTP/1.1").then_some(())
    })
    .await;
    let counters = &baton.status_json()["generations"][0]["counters"];
    assert_eq!(counters["tunnels"], 1, "{counters}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_with_a_file_of_a_gibibyte_arrives_and_is_not_kept() {
    const GIB: u64 = 1 << 30;
    let (baton, _upstream) = in_front_of_one().await;
    let file = tempfile::NamedTempFile::new().expect("tempfile");
    file.as_file().set_len(GIB).expect("sparse");
    let worker = baton.worker_pid();
    reset_peak(worker);
    let before = peak(worker);
    let form = format!("upload=@{}", file.path().display());
    let answer = baton.curl("https://app.test/sink").args(["--form", &form]).run().await;
    let counted = answer.json()["length"].as_u64().expect("a number of bytes");
    // The file, and the parts' own lines.
    assert!((GIB..GIB + 1024).contains(&counted), "{answer:?}");
    let grown = peak(worker).saturating_sub(before);
    assert!(grown < 32 << 20, "{} KiB more", grown / 1024);
}
