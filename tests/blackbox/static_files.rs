//! Static files: what a route with a root answers, and that nothing else can be had through it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use baton_load::Upstream;
use baton_tests::{Answer, Baton, Config};

use crate::{APP, routed_to};

const SITE: &str = "site.test";

/// A directory that the worker, who is nobody, can read.
pub(crate) fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("temp dir");
    fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    root
}

pub(crate) fn write(root: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
    fs::write(path, text).expect("file");
}

async fn get(baton: &Baton, path: &str, more: &[&str]) -> Answer {
    let url = format!("https://{SITE}{path}");
    let curl = baton.curl(&url).args(["--insecure", "--path-as-is"]);
    more.iter().fold(curl, |curl, argument| curl.arg(*argument)).run().await
}

#[tokio::test]
async fn files_are_served_with_all_that_http_has_for_them() {
    let root = root();
    let digits = "0123456789".repeat(10_000);
    write(root.path(), "index.html", "<p>home");
    write(root.path(), "sub/index.html", "<p>sub");
    write(root.path(), "digits.bin", &digits);
    write(root.path(), "app.js", "let a = 1;");
    write(root.path(), "app.js.br", "br!");
    write(root.path(), "app.js.gz", "gz!");
    write(root.path(), "late.js", "new");
    write(root.path(), "late.js.gz", "stale");
    let hour = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let stale = fs::File::options().write(true).open(root.path().join("late.js.gz"));
    stale.and_then(|file| file.set_modified(hour)).expect("an old file");
    let baton = Baton::start(Config::new().files(SITE, root.path(), "")).await;

    for version in ["--http1.1", "--http2"] {
        let answer = get(&baton, "/", &[version]).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "<p>home"), "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("text/html; charset=utf-8"));
        let tag = answer.field("etag").expect("a tag").to_owned();
        let modified = answer.field("last-modified").expect("a date").to_owned();
        for condition in [format!("If-None-Match: {tag}"), format!("If-Modified-Since: {modified}")]
        {
            let answer = get(&baton, "/", &[version, "--header", &condition]).await;
            assert_eq!((answer.status, answer.text().as_str()), (304, ""), "{condition}");
        }
        let answer = get(&baton, "/digits.bin", &[version]).await;
        assert_eq!((answer.status, answer.text()), (200, digits.clone()));
        let answer = get(&baton, "/digits.bin", &[version, "--range", "99990-"]).await;
        assert_eq!((answer.status, answer.text().as_str()), (206, "0123456789"));
        assert_eq!(answer.field("content-range"), Some("bytes 99990-99999/100000"));
        let answer = get(&baton, "/digits.bin", &[version, "--head"]).await;
        assert_eq!(answer.field("content-length"), Some("100000"), "{answer:?}");
        assert_eq!(answer.field("accept-ranges"), Some("bytes"));
        let answer = get(&baton, "/digits.bin", &[version, "--range", "100000-"]).await;
        assert_eq!((answer.status, answer.field("content-range")), (416, Some("bytes */100000")));
        for (path, accept, want, encoding) in [
            ("/app.js", "gzip, br", "br!", Some("br")),
            ("/app.js", "gzip", "gz!", Some("gzip")),
            ("/app.js", "identity", "let a = 1;", None),
            ("/late.js", "gzip", "new", None),
        ] {
            let accept = format!("Accept-Encoding: {accept}");
            let answer = get(&baton, path, &[version, "--header", &accept]).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, want), "{path} {accept}");
            assert_eq!(answer.field("content-encoding"), encoding, "{path} {accept}");
            assert_eq!(answer.field("vary"), Some("Accept-Encoding"), "{path} {accept}");
            assert_eq!(answer.field("content-type"), Some("text/javascript; charset=utf-8"));
        }
        let answer = get(&baton, "/sub?a=b", &[version]).await;
        assert_eq!((answer.status, answer.field("location")), (301, Some("/sub/?a=b")));
        assert_eq!(get(&baton, "/sub/", &[version]).await.text(), "<p>sub");
        let answer = get(&baton, "/", &[version, "--request", "POST"]).await;
        assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD")));
    }
}

#[tokio::test]
async fn nothing_beside_the_root_can_be_had() {
    let outside = root();
    write(outside.path(), "secret", "hunter2");
    let root = outside.path().join("root");
    for name in ["index.html", "sub/a", ".env", ".git/config", "empty/.keep"] {
        write(&root, name, "hunter2");
    }
    write(&root, "index.html", "open");
    symlink("../secret", root.join("up")).expect("link");
    symlink("/etc/hostname", root.join("away")).expect("link");
    symlink("index.html", root.join("inside")).expect("link");
    let pipe = Command::new("mkfifo").arg(root.join("pipe")).status().expect("mkfifo");
    assert!(pipe.success());
    let baton = Baton::start(Config::new().files(SITE, &root, "")).await;
    for (path, want) in [
        ("/inside", 200),
        ("/up", 404),
        ("/away", 404),
        ("/pipe", 404),
        ("/.env", 404),
        ("/%2eenv", 404),
        ("/.git/config", 404),
        ("/sub/", 404),
        ("/empty/", 404),
        ("/index.html/", 404),
        ("/../secret", 400),
        ("/%2e%2e/secret", 400),
        ("/sub/..%2f..%2fsecret", 400),
        ("/sub/%2e%2e/%2e%2e/secret", 400),
        ("/..%5csecret", 404),
        ("/%252e%252e/secret", 404),
        ("//secret", 404),
        ("/a%00", 400),
    ] {
        for version in ["--http1.1", "--http2"] {
            let answer = get(&baton, path, &[version]).await;
            assert_eq!(answer.status, want, "{path} {version}: {answer:?}");
            assert!(!answer.text().contains("hunter2"), "{path} {version}");
        }
    }
}

#[tokio::test]
async fn another_root_is_another_generation() {
    let (first, second) = (root(), root());
    write(first.path(), "index.html", "first");
    write(second.path(), "index.html", "second");
    let upstream = Upstream::start("one").await.expect("upstream");
    let beside = |root: &Path| {
        let more = "path = \"/files\"\nstrip_prefix = true";
        routed_to(&upstream.address()).files(SITE, root, "").files(APP, root, more)
    };
    let baton = Baton::start(beside(first.path())).await;
    assert_eq!(get(&baton, "/", &[]).await.text(), "first");
    let answer = baton.curl(&format!("https://{APP}/files/")).run().await;
    assert_eq!(answer.text(), "first", "{answer:?}");
    baton.reconfigure(&beside(second.path()));
    assert_eq!(get(&baton, "/", &[]).await.text(), "second");
    assert!(baton.stderr().contains("route.root changed"), "{}", baton.stderr());
}

#[tokio::test]
async fn a_root_answers_for_names_that_nobody_has() {
    let root = root();
    write(root.path(), "index.html", "<p>nobody has this name");
    let config = Config::new().top(&format!("default_host = {SITE:?}"));
    let baton = Baton::start(config.files(SITE, root.path(), "")).await;
    for url in ["https://unknown.test/", "http://unknown.test/"] {
        let answer = baton.curl(url).arg("--insecure").run().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "<p>nobody has this name"));
    }
}
