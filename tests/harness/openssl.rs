//! openssl, for certificates that are not baton's own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A CA for clients: its certificate in `ca.pem`, and clients as it signs them.
#[derive(Debug)]
pub struct ClientCa(TempDir);

impl ClientCa {
    pub fn create() -> Self {
        let ca = ClientCa(tempfile::tempdir().expect("temp dir"));
        ca.openssl(
            "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=clients \
             -addext basicConstraints=critical,CA:TRUE -days 2 -keyout ca.key -out ca.pem",
        );
        ca
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `client.pem` and `client.key` of a client.
    #[must_use]
    pub fn with_client(self) -> Self {
        self.openssl(
            "req -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=client \
             -keyout client.key -out client.csr",
        );
        std::fs::write(self.file("client.ext"), "extendedKeyUsage=clientAuth\n").expect("write");
        self.openssl(
            "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile client.ext -out client.pem",
        );
        self
    }

    fn openssl(&self, arguments: &str) {
        openssl(self.0.path(), &arguments.split_whitespace().collect::<Vec<_>>());
    }
}

/// As [`self_signed`], with an RSA key of 2048 bits.
pub fn self_signed_rsa(directory: &Path, name: &str) {
    request_self_signed(directory, name, &["rsa:2048"]);
}

/// `cert.pem` and `key.pem` of a self-signed certificate for a name or an address.
pub fn self_signed(directory: &Path, name: &str) {
    request_self_signed(directory, name, &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
}

fn request_self_signed(directory: &Path, name: &str, key: &[&str]) {
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    let (subject, names) = (format!("/CN={name}"), format!("subjectAltName={kind}:{name}"));
    let mut arguments = vec!["req", "-x509", "-nodes", "-newkey"];
    arguments.extend(key);
    arguments.extend(["-subj", &subject, "-addext", &names]);
    arguments.extend(["-addext", "basicConstraints=critical,CA:FALSE", "-days", "365"]);
    arguments.extend(["-keyout", "key.pem", "-out", "cert.pem"]);
    openssl(directory, &arguments);
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    let output = command.args(arguments).current_dir(directory).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Common name of the subject of a certificate in a PEM file.
pub fn common_name(file: &Path) -> String {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-subject", "-nameopt", "multiline", "-in"])
        .arg(file)
        .output()
        .expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = text.lines().find_map(|line| line.trim().strip_prefix("commonName"));
    let name = name.and_then(|line| line.trim().strip_prefix("= "));
    name.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}

/// The serial number of the certificate that a new client of this name is shown, in hexadecimal.
pub fn shown_serial(address: SocketAddr, name: &str) -> String {
    let mut connect = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-serial"])
        .stdin(connect.stdout.take().expect("it is piped"))
        .output()
        .expect("openssl is installed");
    connect.wait().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let serial = text.trim().strip_prefix("serial=");
    serial.unwrap_or_else(|| panic!("{output:?}")).to_owned()
}
