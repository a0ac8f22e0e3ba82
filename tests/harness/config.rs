//! A configuration file in the making.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Free ports of 127.0.0.1, no Docker and no access log, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    state_dir: Option<PathBuf>,
    listen: String,
    docker: String,
    top: String,
    sections: String,
    variables: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            state_dir: None,
            listen: "http = [\"127.0.0.1:0\"]\nhttps = [\"127.0.0.1:0\"]".to_owned(),
            docker: "enabled = false".to_owned(),
            top: String::new(),
            sections: String::new(),
            variables: Vec::new(),
        }
    }
}

impl Config {
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps its state there, not in the directory of its own.
    #[must_use]
    pub fn state_dir(mut self, path: &Path) -> Self {
        self.state_dir = Some(path.to_owned());
        self
    }

    /// Routes a host to these upstreams.
    #[must_use]
    pub fn route(self, host: &str, upstreams: &[impl ToString]) -> Self {
        self.route_with(host, upstreams, "")
    }

    /// The same, with more keys of `[[route]]`.
    #[must_use]
    pub fn route_with(self, host: &str, upstreams: &[impl ToString], more: &str) -> Self {
        let upstreams: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
        self.section(&format!("[[route]]\nhost = {host:?}\nupstreams = {upstreams:?}\n{more}"))
    }

    /// Answers a host by the files of a directory.
    #[must_use]
    pub fn files(self, host: &str, root: &Path, more: &str) -> Self {
        self.section(&format!("[[route]]\nhost = {host:?}\nroot = {root:?}\n{more}"))
    }

    /// Watches the Docker behind this endpoint.
    #[must_use]
    pub fn docker(mut self, endpoint: &str) -> Self {
        self.docker = format!("enabled = true\nendpoint = {endpoint:?}");
        self
    }

    /// The keys of `[listen]`.
    #[must_use]
    pub fn listen(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.listen);
        self
    }

    /// A key at the top, such as `threads = 1`.
    #[must_use]
    pub fn top(mut self, line: &str) -> Self {
        writeln!(self.top, "{line}").expect("a string takes what it is given");
        self
    }

    /// A section with its keys, such as `[limits]`.
    #[must_use]
    pub fn section(mut self, text: &str) -> Self {
        writeln!(self.sections, "\n{text}").expect("a string takes what it is given");
        self
    }

    /// Writes it as `baton.toml` into a directory, which everything that it names is in.
    pub fn write_to(&self, directory: &Path) -> PathBuf {
        let path = directory.join("baton.toml");
        std::fs::write(&path, self.text(directory)).expect("the configuration file");
        path
    }

    /// A variable of baton's own environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    pub(crate) fn text(&self, directory: &Path) -> String {
        let Config { state_dir, listen, docker, top, sections, .. } = self;
        let state_dir = state_dir.clone().unwrap_or_else(|| directory.join("state"));
        let log = if sections.contains("[log]") { "" } else { "\n[log]\naccess = \"off\"\n" };
        format!(
            "state_dir = {state_dir:?}\ncontrol_socket = {:?}\n{top}\n[listen]\n{listen}\n\n\
             [docker]\n{docker}\n{log}{sections}",
            directory.join("control.sock"),
        )
    }
}
