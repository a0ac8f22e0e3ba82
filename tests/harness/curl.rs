//! curl, the client that everybody has.

use std::ffi::OsString;
use std::process::Command;

use crate::baton::Baton;

/// In seconds: nothing that a test asks takes longer.
const MAX_TIME: &str = "60";

/// A curl command in the making.
#[derive(Debug)]
pub struct Curl {
    arguments: Vec<OsString>,
}

/// What curl was answered.
#[derive(Debug)]
pub struct Answer {
    /// Of the final response; 0 when there was none.
    pub status: u16,
    /// `1.1` or `2`
    pub version: String,
    /// Every head, informational ones and trailers included, as curl has them.
    pub head: String,
    pub body: Vec<u8>,
    /// curl's own, 0 when all went well.
    pub exit: i32,
    pub stderr: String,
}

impl Curl {
    pub(crate) fn new(baton: &Baton, url: &str) -> Self {
        let curl = Curl { arguments: Vec::new() };
        let address =
            if url.starts_with("https:") { baton.https_address() } else { baton.http_address() };
        let curl = curl
            .args(["--silent", "--show-error", "--max-time", MAX_TIME])
            .args(["--connect-to", &format!("::{address}")]);
        let curl =
            if baton.ca_file().exists() { curl.arg("--cacert").arg(baton.ca_file()) } else { curl };
        curl.arg(url)
    }

    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(OsString::from));
        self
    }

    pub async fn run(self) -> Answer {
        tokio::task::spawn_blocking(|| self.run_blocking()).await.expect("curl was run")
    }

    fn run_blocking(self) -> Answer {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = |name| directory.path().join(name);
        let output = Command::new("curl")
            .args(["--write-out", "%{http_code} %{http_version}"])
            .arg("--dump-header")
            .arg(path("head"))
            .arg("--output")
            .arg(path("body"))
            .args(self.arguments)
            .output()
            .expect("curl is installed");
        let written = String::from_utf8_lossy(&output.stdout).into_owned();
        let (status, version) = written.split_once(' ').unwrap_or_default();
        Answer {
            status: status.parse().unwrap_or_default(),
            version: version.to_owned(),
            head: std::fs::read_to_string(path("head")).unwrap_or_default(),
            body: std::fs::read(path("body")).unwrap_or_default(),
            exit: output.status.code().unwrap_or(-1),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The values of a field over all heads, its name without regard to case.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The one value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.fields(name);
        assert!(fields.len() < 2, "{name} came {} times", fields.len());
        fields.first().copied()
    }

    /// The answer of an upstream's `/headers`.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e} in {} of {self:?}", self.text()))
    }
}
