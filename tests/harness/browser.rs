//! A browser: headless Chromium, told what to do by WebDriver (W3C Recommendation).

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// In seconds: one that starts for the first time takes its time.
const LIMIT: &str = "60";
/// Nothing but what it is told to open.
const QUIET: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
];

#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// With these arguments of Chromium's beside the usual ones.
    pub async fn start(arguments: &[&str]) -> Self {
        let (driver, address) = start_driver();
        let profile = tempfile::tempdir().expect("tempdir");
        let directory = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<_> =
            QUIET.iter().chain(arguments).copied().chain([directory.as_str()]).collect();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments},
        }}});
        let mut browser = Browser { driver, address, session: String::new(), _profile: profile };
        let answer = browser.order("/session", &wanted).await;
        let id = answer["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        browser
    }

    /// Opens a page, and returns once it has loaded.
    pub async fn go(&self, url: &str) {
        self.command("/url", &json!({ "url": url })).await;
    }

    /// What the body of a function returns, run in the page.
    pub async fn script(&self, body: &str) -> Value {
        self.command("/execute/sync", &json!({"script": body, "args": []})).await
    }

    /// As a person does: what is hidden cannot be clicked.
    pub async fn click(&self, selector: &str) {
        let wanted = json!({"using": "css selector", "value": selector});
        let found = self.command("/element", &wanted).await;
        let id = found.as_object().and_then(|ids| ids.values().next()).and_then(Value::as_str);
        let path = format!("/element/{}/click", id.expect("an element"));
        self.command(&path, &json!({})).await;
    }

    /// What a person prefers, `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        let order = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}});
        self.command("/goog/cdp/execute", &order).await;
    }

    /// In pixels.
    pub async fn resize(&self, width: u32, height: u32) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        let order = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.command("/goog/cdp/execute", &order).await;
    }

    async fn command(&self, path: &str, body: &Value) -> Value {
        self.order(&format!("{}{path}", self.session), body).await
    }

    /// By curl, as the server keeps its connections.
    async fn order(&self, path: &str, body: &Value) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", LIMIT, "--json"])
            .arg(body.to_string())
            .arg(format!("http://{}{path}", self.address));
        let output = tokio::task::spawn_blocking(move || curl.output()).await.expect("no panic");
        let output = output.expect("curl is installed");
        let mut answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ended with its session: a driver that is killed leaves Chromium behind.
        let session = format!("http://{}{}", self.address, self.session);
        let end = Command::new("curl")
            .args(["--silent", "--max-time", LIMIT, "--request", "DELETE", &session])
            .output();
        drop(end);
        let driver = i32::try_from(self.driver.id()).expect("a pid");
        let _ = kill(Pid::from_raw(driver), Signal::SIGTERM);
        drop(self.driver.wait());
    }
}

/// With the port that it chose.
fn start_driver() -> (Child, SocketAddr) {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver is installed");
    let said = BufReader::new(driver.stdout.take().expect("piped"));
    let port = said.lines().map_while(Result::ok).find_map(|line| {
        line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
    });
    (driver, ([127, 0, 0, 1], port.expect("it says its port")).into())
}
