//! openssl, for certificates that are not baton's own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// `cert.pem` and `key.pem` of a self-signed certificate for a name or an address.
pub fn self_signed(directory: &Path, name: &str) {
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-subj", &format!("/CN={name}")])
        .args(["-addext", &format!("subjectAltName={kind}:{name}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-days", "2", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
