//! Pebble, Let's Encrypt's CA for tests, and the DNS server that it asks.
//!
//! It rejects 5 % of nonces on purpose and takes its time to look, unless a test says otherwise.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::baton::Baton;
use crate::openssl;
use crate::ports::free_addresses;
use crate::wait::until;

const START_LIMIT: Duration = Duration::from_secs(20);

/// How a Pebble shall be.
#[derive(Debug, Clone)]
pub struct PebbleOptions {
    /// `false`: it looks at once.
    pub sleeps: bool,
    /// Seconds that a certificate lives.
    pub life: u64,
    /// External accounts, as key id and base64url key; with one, an account needs such a binding.
    pub external_accounts: Vec<(String, String)>,
    /// A DNS server that it asks in place of its own.
    pub resolver: Option<SocketAddr>,
    /// Roots beside the first one, each with a chain of its own for every certificate.
    pub alternate_roots: usize,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        PebbleOptions {
            sleeps: true,
            life: 90 * 24 * 3600,
            external_accounts: Vec::new(),
            resolver: None,
            alternate_roots: 0,
        }
    }
}

#[derive(Debug)]
pub struct Pebble {
    ca: Process,
    dns: Process,
    api: SocketAddr,
    management: SocketAddr,
    dns_management: SocketAddr,
    dns_address: SocketAddr,
    /// Where it looks, plain and by TLS.
    ports: [u16; 2],
    directory: TempDir,
}

/// Ended with its handle.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Pebble {
    /// One that looks at this baton's ports.
    pub async fn start(baton: &Baton) -> Self {
        Self::start_with(baton, PebbleOptions::default()).await
    }

    pub async fn start_with(baton: &Baton, options: PebbleOptions) -> Self {
        let directory =
            tempfile::Builder::new().prefix("baton-pebble-").tempdir().expect("temp dir");
        let [api, management, dns_address, dns_management] = free_addresses();
        openssl::self_signed(directory.path(), "127.0.0.1");
        let config = config(baton, &options, api, management);
        std::fs::write(directory.path().join("pebble.json"), config.to_string()).expect("write");
        let dns = challtestsrv(directory.path(), dns_address, dns_management);
        let ca = pebble(directory.path(), &options, dns_address);
        let ports = [baton.http_address().port(), baton.https_address().port()];
        let pebble =
            Pebble { ca, dns, api, management, dns_management, dns_address, ports, directory };
        pebble.wait_ready().await;
        pebble
    }

    /// URL of the directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.api)
    }

    /// Where its ACME API answers.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// What its own endpoint is trusted by.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// The keys of `[acme]` that lead to it. Nothing is asked before an order.
    pub fn acme(&self) -> String {
        format!("{}\npreflight = false\nresolver = \"{}\"", self.acme_alone(), self.dns_address)
    }

    /// The same, for a host that asks first.
    pub fn acme_with_preflight(&self) -> String {
        format!("{}\nresolver = \"{}\"", self.acme_alone(), self.dns_address)
    }

    /// Without a resolver.
    pub fn acme_alone(&self) -> String {
        let [http, tls] = self.ports;
        format!(
            "[acme]\nagree_tos = true\ndirectory = {:?}\nca_file = {:?}\n\
             http_port = {http}\ntls_port = {tls}",
            self.directory(),
            self.ca_file()
        )
    }

    /// A file with the root that its certificates are trusted by.
    pub fn root_file(&self) -> PathBuf {
        self.numbered_root_file(0)
    }

    /// The same of an alternate chain; the default one has the number 0.
    pub fn numbered_root_file(&self, number: usize) -> PathBuf {
        let path = self.directory.path().join(format!("root-{number}.pem"));
        let pem = self.management(&format!("roots/{number}"));
        std::fs::write(&path, pem.stdout).expect("write");
        path
    }

    /// Orders that were placed since its start.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order").count()
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("pebble.log")).unwrap_or_default()
    }

    /// The address that a name has from now on; without it all names have 127.0.0.1.
    pub fn resolve(&self, name: &str, address: &str) {
        self.set_dns("add-a", &json!({"host": format!("{name}."), "addresses": [address]}));
    }

    /// All names have 127.0.0.1 again, as far as this one goes.
    pub fn resolve_normally(&self, name: &str) {
        self.set_dns("clear-a", &json!({"host": format!("{name}.")}));
    }

    /// Where its DNS server takes orders.
    pub fn dns_management(&self) -> SocketAddr {
        self.dns_management
    }

    /// Where its DNS server answers.
    pub fn dns(&self) -> SocketAddr {
        self.dns_address
    }

    /// An order of the DNS server's management interface.
    pub fn set_dns(&self, what: &str, order: &Value) {
        let url = format!("http://{}/{what}", self.dns_management);
        let output = curl(&["--data", &order.to_string(), &url]);
        assert!(output.status.success(), "{what} {order}: {output:?}");
    }

    /// Whether the certificate of this serial number is `Valid` or `Revoked`.
    pub fn status_of(&self, serial: &str) -> String {
        let serial = serial.trim_start_matches('0').to_lowercase();
        let answer = self.management(&format!("cert-status-by-serial/{serial}"));
        let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
        answer["Status"].as_str().expect("a status").to_owned()
    }

    fn management(&self, path: &str) -> Output {
        let ca_file = self.ca_file();
        let ca_file = ca_file.to_str().expect("temp dirs are UTF-8");
        curl(&["--cacert", ca_file, &format!("https://{}/{path}", self.management)])
    }

    async fn wait_ready(&self) {
        until("Pebble's start", START_LIMIT, async || {
            let dns = curl(&[&format!("http://{}/", self.dns_management)]);
            // 7 is curl's word for a refused connection.
            let dns_is_up = dns.status.code() != Some(7);
            (dns_is_up && self.management("roots/0").status.success()).then_some(())
        })
        .await;
    }

    /// Stops it, as a CA that is down.
    pub fn stop(&mut self) {
        drop(self.ca.0.kill());
        drop(self.ca.0.wait());
    }

    /// Pids of the CA and of the DNS server.
    pub fn pids(&self) -> [u32; 2] {
        [self.ca.0.id(), self.dns.0.id()]
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = ["dns.log", "pebble.log"].map(|name| {
                std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
            });
            eprintln!("--- what Pebble and its DNS server said\n{}---", said.concat());
        }
    }
}

fn curl(arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "10"]).args(arguments);
    command.output().expect("curl is installed")
}

fn config(
    baton: &Baton,
    options: &PebbleOptions,
    api: SocketAddr,
    management: SocketAddr,
) -> Value {
    let accounts: serde_json::Map<String, Value> =
        options.external_accounts.iter().map(|(id, key)| (id.clone(), json!(key))).collect();
    json!({"pebble": {
        "listenAddress": api.to_string(),
        "managementListenAddress": management.to_string(),
        "certificate": "cert.pem",
        "privateKey": "key.pem",
        "httpPort": baton.http_address().port(),
        "tlsPort": baton.https_address().port(),
        "ocspResponderURL": "",
        "externalAccountBindingRequired": !accounts.is_empty(),
        "externalAccountMACKeys": accounts,
        "domainBlocklist": ["blocked.example.com"],
        "certificateValidityPeriod": options.life,
    }})
}

fn pebble(directory: &Path, options: &PebbleOptions, dns: SocketAddr) -> Process {
    let mut command = Command::new("pebble");
    command.args([
        "-config",
        "pebble.json",
        "-dnsserver",
        &options.resolver.unwrap_or(dns).to_string(),
    ]);
    command.env("PEBBLE_ALTERNATE_ROOTS", options.alternate_roots.to_string());
    if !options.sleeps {
        command.env("PEBBLE_VA_NOSLEEP", "1");
    }
    spawn(command, directory, "pebble.log")
}

fn challtestsrv(directory: &Path, dns: SocketAddr, management: SocketAddr) -> Process {
    let mut command = Command::new("pebble-challtestsrv");
    command
        .args(["-dns01", &dns.to_string(), "-management", &management.to_string()])
        .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
        .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
    spawn(command, directory, "dns.log")
}

fn spawn(mut command: Command, directory: &Path, log: &str) -> Process {
    let log = File::create(directory.join(log)).expect("log file");
    let child = command
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run `cargo xtask test`"));
    Process(child)
}
