//! Docker as its command line has it, and an image made of one program.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::binaries::{baton_binary, upstream_binary};

/// The upstream, with the libraries that it and baton ask for.
pub const IMAGE: &str = "baton-test-upstream";
/// The same with a HEALTHCHECK, once a second.
const CHECKED_IMAGE: &str = "baton-test-upstream-checked";

/// Containers started so far: their names differ between tests and between runs.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A Docker that answers, with the images in it.
#[derive(Debug, Clone)]
pub struct Docker {
    endpoint: String,
}

/// A container that goes away with its handle.
#[derive(Debug)]
pub struct Container {
    docker: Docker,
    name: String,
}

impl Docker {
    /// The one that `DOCKER_HOST` names, else the host's own.
    ///
    /// # Panics
    /// When none answers: `cargo xtask test` starts one.
    pub fn connect() -> Self {
        static SHARED: OnceLock<Docker> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                let endpoint = std::env::var("DOCKER_HOST");
                Self::at(&endpoint.unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned()))
            })
            .clone()
    }

    /// The one behind this endpoint.
    pub fn at(endpoint: &str) -> Self {
        let docker = Docker { endpoint: endpoint.to_owned() };
        let version = docker.output(&["version"]);
        assert!(
            version.status.success(),
            "no Docker at {endpoint}: run the tests by `cargo xtask test`, which starts one\n{}",
            String::from_utf8_lossy(&version.stderr)
        );
        docker.import_images();
        docker
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// An upstream that calls itself `name`, with this environment and these labels.
    pub fn run(
        &self,
        name: &str,
        environment: &[(&str, &str)],
        labels: &[(&str, &str)],
    ) -> Container {
        self.run_with(IMAGE, name, environment, labels, &[], &[])
    }

    /// The same with a HEALTHCHECK, and more arguments of `baton-upstream`.
    pub fn run_checked(
        &self,
        name: &str,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Container {
        self.run_with(CHECKED_IMAGE, name, environment, &[], &[], arguments)
    }

    /// The same with options of `docker run`.
    pub fn run_options(
        &self,
        name: &str,
        environment: &[(&str, &str)],
        options: &[&str],
        arguments: &[&str],
    ) -> Container {
        self.run_with(IMAGE, name, environment, &[], options, arguments)
    }

    fn run_with(
        &self,
        image: &str,
        name: &str,
        environment: &[(&str, &str)],
        labels: &[(&str, &str)],
        options: &[&str],
        arguments: &[&str],
    ) -> Container {
        let number = STARTED.fetch_add(1, Relaxed);
        let container = format!("baton-test-{}-{number}-{name}", std::process::id());
        let pair = |(key, value): &(&str, &str)| format!("{key}={value}");
        let environment: Vec<String> = environment.iter().map(pair).collect();
        let labels: Vec<String> = labels.iter().map(pair).collect();
        let mut command = vec!["run", "--detach", "--name", &container];
        command.extend(environment.iter().flat_map(|text| ["--env", text]));
        command.extend(labels.iter().flat_map(|text| ["--label", text]));
        command.extend(options);
        command.extend([image, "--name", name]);
        command.extend(arguments);
        let handle = Container { docker: self.clone(), name: container.clone() };
        self.do_it(&command);
        handle
    }

    /// A network that goes away with its handle.
    pub fn network(&self, name: &str) -> Network {
        let number = STARTED.fetch_add(1, Relaxed);
        let name = format!("baton-test-{}-{number}-{name}", std::process::id());
        self.do_it(&["network", "create", &name]);
        Network { docker: self.clone(), name }
    }

    /// Runs a docker command that has to succeed; what it printed.
    pub fn do_it(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {}: {stderr}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the docker command is installed")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(&self.endpoint).args(arguments).stdin(Stdio::null());
        command
    }

    fn import_images(&self) {
        let directory = tempfile::tempdir().expect("temp dir");
        let root = directory.path().join("root");
        stage(&upstream_binary(), &root);
        stage_libraries(&baton_binary(), &root);
        let archive = directory.path().join("image.tar");
        let tar =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
        assert!(tar.expect("tar is installed").success(), "tar");
        let archive = archive.to_str().expect("temp dirs are UTF-8");
        let entry = "ENTRYPOINT [\"/baton-upstream\"]";
        let check = "HEALTHCHECK --interval=1s --timeout=1s --retries=1 \
                     CMD [\"/baton-upstream\", \"--probe\", \"127.0.0.1:80\"]";
        let expose = "EXPOSE 80";
        self.do_it(&["import", "--change", entry, "--change", expose, archive, IMAGE]);
        self.do_it(&[
            "import",
            "--change",
            entry,
            "--change",
            expose,
            "--change",
            check,
            archive,
            CHECKED_IMAGE,
        ]);
    }
}

/// The program and the libraries that it asks for, where the loader looks.
fn stage(program: &Path, root: &Path) {
    fs::create_dir_all(root.join("tmp")).expect("temp dir");
    fs::copy(program, root.join("baton-upstream")).expect("the program");
    stage_libraries(program, root);
}

fn stage_libraries(program: &Path, root: &Path) {
    let ldd = Command::new("ldd").arg(program).output().expect("ldd is installed");
    for library in libraries(&String::from_utf8_lossy(&ldd.stdout)) {
        let inside = root.join(library.strip_prefix("/").expect("ldd prints absolute paths"));
        fs::create_dir_all(inside.parent().expect("a file has a directory")).expect("temp dir");
        fs::copy(&library, inside).expect("a library");
    }
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`
fn libraries(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

impl Container {
    /// One that a command of the test's own has started.
    pub fn started(docker: &Docker, name: &str) -> Self {
        Container { docker: docker.clone(), name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// SIGTERM, and SIGKILL after ten seconds.
    pub async fn stop(&self) {
        self.on_it(&["stop", "--time", "10"]).await;
    }

    pub async fn kill(&self) {
        self.on_it(&["kill"]).await;
    }

    pub async fn start(&self) {
        self.on_it(&["start"]).await;
    }

    pub async fn remove(&self) {
        self.on_it(&["rm", "--force"]).await;
    }

    /// A docker command on it, while the test's load goes on.
    pub async fn on_it(&self, command: &[&str]) {
        let (docker, name) = (self.docker.clone(), self.name.clone());
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let run = move || {
            let mut words: Vec<&str> = command.iter().map(String::as_str).collect();
            words.push(&name);
            docker.do_it(&words)
        };
        tokio::task::spawn_blocking(run).await.expect("docker was run");
    }

    /// Of its first process, as the host sees it.
    pub fn pid(&self) -> i32 {
        let text = self.docker.do_it(&["inspect", "--format", "{{.State.Pid}}", &self.name]);
        text.parse().expect("a number")
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let text = self.docker.do_it(&["inspect", "--format", format, &self.name]);
        let first = text.split_whitespace().next().expect("it has a network");
        first.parse().expect("an address")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.docker.output(&["logs", &self.name]);
            let [said, errors] = [&logs.stdout, &logs.stderr].map(|it| String::from_utf8_lossy(it));
            eprintln!("--- what {} said\n{said}{errors}---", self.name);
        }
        // It may be gone already, which is as well.
        drop(self.docker.output(&["rm", "--force", &self.name]));
    }
}

#[derive(Debug)]
pub struct Network {
    docker: Docker,
    name: String,
}

impl Network {
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.docker.output(&["network", "rm", &self.name]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let want = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), want.map(PathBuf::from));
    }
}
