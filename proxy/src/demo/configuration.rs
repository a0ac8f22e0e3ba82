//! The demo's configuration file, in a directory that goes away with it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use super::{EXTRA_HOST, HOST};

const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// What acts change in the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Variant {
    pub(super) extra_route: bool,
    /// Workers are started with this limit: a change of it needs a new generation.
    pub(super) more_streams: bool,
}

pub(super) struct Demo {
    directory: TempDir,
    upstreams: Vec<SocketAddr>,
    docker: bool,
}

impl Demo {
    pub(super) fn new(upstreams: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("baton-demo-")
            .tempdir()
            .context("temporary directory")?;
        Ok(Demo { directory, upstreams, docker: docker_answers() })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.path().join("baton.toml")
    }

    pub(super) fn control_socket(&self) -> PathBuf {
        self.path().join("control.sock")
    }

    pub(super) fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.state_dir().join("local-ca").join("ca.pem")
    }

    /// Where the controller's own output goes, so that it does not tear the progress bar.
    pub(super) fn log_file(&self) -> PathBuf {
        self.path().join("baton.log")
    }

    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, variant: Variant) -> anyhow::Result<()> {
        std::fs::write(self.config_file(), self.text(variant)).context("the demo's configuration")
    }

    /// Port 0 is a free port, which the controller tells by its admin socket.
    fn text(&self, variant: Variant) -> String {
        let mut text = format!(
            "state_dir = {:?}\ncontrol_socket = {:?}\n\n\
             [listen]\nhttp = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]\n\n\
             [docker]\nenabled = {}\n\n\
             [log]\naccess = \"off\"\n\n\
             [limits]\nstreams = {}\n",
            self.state_dir(),
            self.control_socket(),
            self.docker,
            if variant.more_streams { 200 } else { 100 },
        );
        add_route(&mut text, HOST, &self.upstreams);
        if variant.extra_route {
            add_route(&mut text, EXTRA_HOST, &self.upstreams);
        }
        text
    }
}

fn add_route(text: &mut String, host: &str, upstreams: &[SocketAddr]) {
    let upstreams: Vec<String> = upstreams.iter().map(SocketAddr::to_string).collect();
    write!(text, "\n[[route]]\nhost = {host:?}\nupstreams = {upstreams:?}\n")
        .expect("a string takes what it is given");
}

fn docker_answers() -> bool {
    std::env::var_os("DOCKER_HOST").is_some() || UnixStream::connect(DOCKER_SOCKET).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extra_route_comes_and_goes() {
        let demo = Demo::new(vec![([127, 0, 0, 1], 3000).into()]).expect("temporary directory");
        let extra = Variant { extra_route: true, ..Variant::default() };
        assert!(demo.text(extra).contains("host = \"extra.localhost\""));
        let plain = demo.text(Variant::default());
        assert!(!plain.contains("extra"));
        assert!(plain.contains("upstreams = [\"127.0.0.1:3000\"]"));
    }
}
