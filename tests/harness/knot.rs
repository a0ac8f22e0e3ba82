//! Knot DNS: the zone `example.com` with a primary server that takes signed updates, and a secondary.
//!
//! Authoritative servers are asked at port 53, so that each has an address of 127.0.0.0/8 to itself.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::wait::until;

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "c2VjcmV0IG9mIHRoZSBrZXkgbmFtZWQgYmF0b24gLi4=";

#[derive(Debug)]
pub struct Knot {
    primary: Server,
    secondary: Server,
    directory: TempDir,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Knot {
    /// None, with the reason on stdout, where this user may not listen on port 53. With `notifies`
    /// the secondary hears of each change at once; without, only [`Knot::refresh`] brings it up to
    /// date.
    pub async fn start(notifies: bool) -> Option<Self> {
        let [primary, secondary] = addresses()?;
        let directory = tempfile::Builder::new().prefix("baton-knot-").tempdir().expect("temp dir");
        write_zone(directory.path(), [primary.ip(), secondary.ip()]);
        let notify = if notifies { "\n    notify: secondary" } else { "" };
        let primary_zone = format!("    file: zone{notify}\n    acl: [update, transfer]");
        let secondary_zone = "    file: copy\n    master: primary\n    acl: notify";
        let both = [primary, secondary];
        let primary = serve(directory.path(), "primary", both, &primary_zone);
        primary.wait_zone().await;
        // One that finds no primary to take the zone from does not ask again soon.
        let secondary = serve(directory.path(), "secondary", both, secondary_zone);
        secondary.wait_zone().await;
        Some(Knot { primary, secondary, directory })
    }

    pub fn primary(&self) -> SocketAddr {
        self.primary.address
    }

    pub fn secondary(&self) -> SocketAddr {
        self.secondary.address
    }

    /// The keys of `[acme]`, and `[acme.dns]`, that lead to it.
    pub fn acme(&self) -> String {
        format!(
            "resolver = \"{}\"\n[acme.dns]\nserver = \"{0}\"\nkey_name = \"baton\"\n\
             key_secret = \"{SECRET}\"",
            self.primary()
        )
    }

    /// What the server says of the TXT records of a name.
    pub fn texts(&self, server: SocketAddr, name: &str) -> String {
        ask(server, name, "TXT")
    }

    /// The secondary asks the primary for what is new.
    pub fn refresh(&self) {
        let socket = self.directory.path().join("secondary/knot.sock");
        let status = Command::new("knotc").arg("-s").arg(socket).arg("zone-refresh").status();
        assert!(status.expect("knotc is installed").success());
    }
}

impl Server {
    async fn wait_zone(&self) {
        let has_zone = || ask(self.address, "example.com", "SOA").contains("hostmaster");
        let what = format!("the zone at {}", self.address);
        until(&what, LIMIT, async || has_zone().then_some(())).await;
    }
}

fn ask(server: SocketAddr, name: &str, kind: &str) -> String {
    let mut command = Command::new("kdig");
    command.arg(format!("@{}", server.ip())).args(["+short", "+time=2", "+retry=0"]);
    let output = command.args([name, kind]).output().expect("kdig is installed");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two that nobody listens on.
fn addresses() -> Option<[SocketAddr; 2]> {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [low, high, ..] = std::process::id().to_le_bytes();
    let address = || {
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        // 127.0.x.y is what others use.
        SocketAddr::from((Ipv4Addr::new(127, high | 128, low, last), 53))
    };
    let pair = [address(), address()];
    match UdpSocket::bind(pair[0]) {
        Ok(_) => Some(pair),
        Err(error) => {
            println!("skipped: {}: {error}", pair[0]);
            None
        }
    }
}

fn write_zone(directory: &Path, [primary, secondary]: [IpAddr; 2]) {
    let zone = format!(
        "$ORIGIN example.com.\n$TTL 60\n\
         @ SOA ns1 hostmaster 1 3600 3600 86400 60\n\
         @ NS ns1\n@ NS ns2\nns1 A {primary}\nns2 A {secondary}\n\
         @ A 127.0.0.1\n* A 127.0.0.1\n\
         _acme-challenge.delegated CNAME proofs.elsewhere\n"
    );
    let own = directory.join("primary");
    std::fs::create_dir(&own).expect("a new directory");
    std::fs::write(own.join("zone"), zone).expect("write");
    std::fs::create_dir(directory.join("secondary")).expect("a new directory");
}

fn serve(
    directory: &Path,
    name: &str,
    [primary, secondary]: [SocketAddr; 2],
    zone: &str,
) -> Server {
    let own = directory.join(name);
    let address = if name == "primary" { primary } else { secondary };
    let at = |address: SocketAddr| format!("{}@{}", address.ip(), address.port());
    let config = format!(
        "server:\n    rundir: {own:?}\n    listen: {listen}\n\
         database:\n    storage: {own:?}\n\
         log:\n  - target: stderr\n    any: info\n\
         key:\n  - id: baton\n    algorithm: hmac-sha256\n    secret: {SECRET}\n\
         remote:\n  - id: primary\n    address: {primary_at}\n    via: {me}\n  - id: secondary\n    address: {secondary_at}\n    via: {me}\n\
         acl:\n  - id: update\n    key: baton\n    action: update\n\
         \x20 - id: transfer\n    address: {secondary_ip}\n    action: transfer\n\
         \x20 - id: notify\n    address: {primary_ip}\n    action: notify\n\
         zone:\n  - domain: example.com\n    storage: {own:?}\n{zone}\n",
        listen = at(address),
        me = address.ip(),
        primary_at = at(primary),
        secondary_at = at(secondary),
        primary_ip = primary.ip(),
        secondary_ip = secondary.ip(),
    );
    let file = own.join("knot.conf");
    std::fs::write(&file, config).expect("write");
    let log = File::create(own.join("log")).expect("log file");
    let child = Command::new("knotd")
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("knot is installed: run `cargo xtask test`");
    Server { address, child }
}
