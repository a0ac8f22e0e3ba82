//! What compose files are told before anything is moved.

use std::path::Path;
use std::process::{Command, Output};

use baton_tests::baton_binary;
use serde_json::Value;
use tempfile::TempDir;

const NGINX_PROXY: &str = "\
services:
  nginx-proxy:
    image: nginxproxy/nginx-proxy
    ports: ['80:80', '443:443']
    volumes:
      - certs:/etc/nginx/certs
      - /var/run/docker.sock:/tmp/docker.sock:ro
  acme-companion:
    image: nginxproxy/acme-companion
    volumes_from: [nginx-proxy]
    environment:
      DEFAULT_EMAIL: me@example.com
  web:
    image: web:1
    env_file: web.env
    environment:
      - VIRTUAL_HOST=${DOMAIN}
      - LETSENCRYPT_HOST=${DOMAIN}
  db:
    image: postgres
    environment:
      POSTGRES_PASSWORD: $NOT_SET
volumes:
  certs:
";

const MISTAKES: &str = "\
services:
  web:
    environment:
      VIRTUAL_HOST: a.test
      VIRTUAL_PORT: none
    labels:
      baton.max_bodi: 1M
  vpn:
    network_mode: service:web
    environment: {VIRTUAL_HOST: '${NOBODY:?name it}'}
";

/// Files in a directory called `shop`.
struct Shop {
    directory: TempDir,
}

impl Shop {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let shop = Shop { directory };
        std::fs::create_dir(shop.path()).expect("directory");
        for (name, text) in files {
            std::fs::write(shop.path().join(name), text).expect("file");
        }
        shop
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("shop")
    }

    fn check(&self, arguments: &[&str]) -> Output {
        check(&self.path(), arguments)
    }
}

/// Without the environment of whoever runs the tests, and with a configuration that says nothing.
fn check(directory: &Path, arguments: &[&str]) -> Output {
    let config = directory.join("baton.toml");
    std::fs::write(&config, "").expect("configuration");
    let mut command = Command::new(baton_binary());
    command.current_dir(directory).env_clear().args(["check", "--config"]).arg(config);
    command.arg("--compose").args(arguments).output().expect("baton starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn a_stack_of_nginx_proxy_is_told_what_its_services_get() {
    let shop = Shop::with(&[
        ("compose.yml", NGINX_PROXY),
        (".env", "DOMAIN=app.example.com\n"),
        ("web.env", "VIRTUAL_PORT=8080\nSECRET=hunter2\n"),
    ]);
    let output = shop.check(&["compose.yml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "\
HOST             PATH  CONTAINER   PORT  PROTOCOL  HTTPS     CERTIFICATE  OPTIONS
app.example.com  /     shop-web-1  8080  http      redirect  acme         compress

NOT ROUTED  BECAUSE
shop-db-1   no VIRTUAL_HOST or baton.host

REPLACED        BY
acme-companion  baton orders certificates itself, once acme.agree_tos is true in its configuration
nginx-proxy     baton serves ports 80 and 443 itself

ABOUT                  NOTE
certificates           nothing is ordered before acme.agree_tos is true in the configuration; hosts are served over plain HTTP until then
shop-acme-companion-1  DEFAULT_EMAIL: same, in baton's own environment
shop-nginx-proxy-1     /etc/nginx/certs: read in place: name the volume's directory in tls.certificate_dirs
"
    );
}

#[test]
fn a_service_that_would_lose_something_is_named_and_status_1() {
    let shop = Shop::with(&[("compose.yml", MISTAKES)]);
    let output = shop.check(&["compose.yml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stdout);
    for line in [
        "shop-vpn-1  VIRTUAL_HOST=${NOBODY}  docker compose refuses the file: NOBODY is not set: name it",
        "shop-web-1  VIRTUAL_PORT=none       is not a port: expected 1 to 65535",
        "shop-web-1  baton.max_bodi=         is not known; the nearest is `baton.max_body`",
    ] {
        assert!(said.contains(line), "`{line}` is not in: {said}");
    }
    assert_eq!(
        text(&output.stderr),
        "baton: not everything would be served as before (problems: 3)\n"
    );
}

#[test]
fn json_says_the_same_and_stdin_is_a_file_too() {
    let shop = Shop::with(&[("compose.yml", MISTAKES)]);
    let file = std::fs::File::open(shop.path().join("compose.yml")).expect("file");
    let output = Command::new(baton_binary())
        .current_dir(shop.path())
        .env_clear()
        .args(["check", "--compose", "-", "--json"])
        .stdin(file)
        .output()
        .expect("baton starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["complete"], false);
    assert_eq!(report["routes"][0]["host"], "a.test");
    assert_eq!(report["routes"][0]["service"], "web");
    assert_eq!(report["routes"][0]["certificate"]["kind"], "local");
    assert_eq!(report["diagnoses"].as_array().map(Vec::len), Some(3), "{report}");
}

#[test]
fn files_that_cannot_be_checked_are_all_named() {
    let levels: String =
        (1..40).map(|n| format!("k{n}: &k{n} [*k{0}, *k{0}, *k{0}]\n", n - 1)).collect();
    let bomb = format!("k0: &k0 [1]\n{levels}services: {{web: {{command: *k39}}}}\n");
    let shop =
        Shop::with(&[("bad.yml", "services: [\n"), ("bomb.yml", &bomb), ("v1.yml", "web: {}\n")]);
    let output = shop.check(&["bad.yml", "none.yml", "bomb.yml", "v1.yml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    let said: Vec<&str> = text(&output.stderr).lines().collect();
    let begins = [
        "baton: bad.yml: is not a compose file: ",
        "baton: none.yml: No such file or directory",
        "baton: bomb.yml: is not a compose file: ",
        "baton: v1.yml: is not a compose file: it has no services",
    ];
    assert_eq!(said.len(), begins.len(), "{said:?}");
    for (line, begin) in said.iter().zip(begins) {
        assert!(line.starts_with(begin), "{line}");
    }
}

#[test]
fn what_is_not_followed_is_named() {
    let shop = Shop::with(&[
        ("compose.yml", "include: [other.yml]\nservices:\n  web: {extends: {service: base}}\n"),
        ("compose.override.yml", "services: {}\n"),
    ]);
    let output = shop.check(&["compose.yml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let whole =
        "is not followed: `docker compose config | baton check --compose -` checks the whole";
    let said = text(&output.stdout);
    for line in [
        format!("compose.yml  include=  {whole}"),
        format!("shop-web-1   extends=  {whole}"),
        format!("compose.yml  compose.override.yml beside it {whole}"),
    ] {
        assert!(said.contains(&line), "`{line}` is not in: {said}");
    }
}
