//! A program that changes the DNS: `PROGRAM present|cleanup NAME VALUE`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Change, DnsError, Record, text};

/// Of what the program says on stderr, in bytes: it becomes an error in a table.
const STDERR_LIMIT: u64 = 1000;
/// Where the environment has no PATH (execvp's default, and the administrator's programs).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub async fn run(
    program: &Path,
    limit: Duration,
    change: Change,
    record: &Record,
) -> Result<(), DnsError> {
    let failed = |reason: String| DnsError::Exec { program: program.to_owned(), reason };
    // A file, not a pipe: what the program leaves running behind it cannot hold us up.
    let mut stderr = tempfile::tempfile().map_err(|error| failed(error.to_string()))?;
    match spawn(program, limit, change, record, &stderr).await {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(failed(join(&status.to_string(), &said(&mut stderr)))),
        Ok(None) => {
            let slow = format!("killed after {} s", limit.as_secs());
            Err(failed(join(&slow, &said(&mut stderr))))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Its exit status; None when it took too long.
async fn spawn(
    program: &Path,
    limit: Duration,
    change: Change,
    record: &Record,
    stderr: &File,
) -> io::Result<Option<ExitStatus>> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from(DEFAULT_PATH));
    let mut child = Command::new(program)
        .arg(verb(change))
        .arg(text(&record.name))
        .arg(&record.value)
        .env_clear()
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr.try_clone()?)
        // So that what it starts can be ended with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let Ok(status) = timeout(limit, child.wait()).await else {
        // It may have ended this very moment.
        let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        child.wait().await?;
        return Ok(None);
    };
    status.map(Some)
}

fn verb(change: Change) -> &'static str {
    match change {
        Change::Present => "present",
        Change::CleanUp => "cleanup",
    }
}

/// Its stderr as one line; empty where it cannot be read.
fn said(stderr: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = stderr.rewind().and_then(|()| stderr.take(STDERR_LIMIT).read_to_end(&mut bytes));
    let text = read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn join(what: &str, said: &str) -> String {
    match said {
        "" => what.to_owned(),
        said => format!("{what}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn record() -> Record {
        let name = super::super::parse("_acme-challenge.example.com").expect("a name");
        Record { name, value: "value".to_owned() }
    }

    /// Runs a shell script, given its own directory.
    async fn run_script(text: &str, limit: Duration) -> (tempfile::TempDir, Result<(), String>) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("program");
        let text = text.replace("DIRECTORY", directory.path().to_str().expect("UTF-8"));
        std::fs::write(&program, format!("#!/bin/sh\n{text}\n")).expect("write");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).expect("chmod");
        let ran = run(&program, limit, Change::Present, &record()).await;
        let program = program.display().to_string();
        (directory, ran.map_err(|error| error.to_string().replace(&program, "PROGRAM")))
    }

    #[tokio::test]
    async fn it_has_three_arguments_and_no_environment_but_path() {
        let script = "echo \"$@\" > DIRECTORY/said; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | cut -d= -f1 >> DIRECTORY/said";
        let (directory, ran) = run_script(script, Duration::from_secs(10)).await;
        assert_eq!(ran, Ok(()));
        let said = std::fs::read_to_string(directory.path().join("said")).expect("read");
        assert_eq!(said, "present _acme-challenge.example.com value\nPATH\n");
    }

    #[tokio::test]
    async fn what_it_says_on_stderr_is_the_error() {
        for (script, want) in [
            ("echo no such >&2; echo zone >&2; exit 3", "PROGRAM: exit status: 3: no such zone"),
            ("exit 1", "PROGRAM: exit status: 1"),
        ] {
            let (_directory, ran) = run_script(script, Duration::from_secs(10)).await;
            assert_eq!(ran, Err(want.to_owned()));
        }
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_what_it_started() {
        let script = "echo waiting >&2; sleep 600 & echo $! > DIRECTORY/pid; wait";
        let (directory, ran) = run_script(script, Duration::from_secs(1)).await;
        assert_eq!(ran, Err("PROGRAM: killed after 1 s: waiting".to_owned()));
        let pid = std::fs::read_to_string(directory.path().join("pid")).expect("read");
        let gone = timeout(Duration::from_secs(10), gone(pid.trim()));
        gone.await.expect("it is killed too");
    }

    /// Waits until the process is, or is dead and waits for whoever inherits it.
    async fn gone(pid: &str) {
        loop {
            match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
                Ok(stat) if !stat.contains(") Z ") => tokio::task::yield_now().await,
                Ok(_) | Err(_) => return,
            }
        }
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let (program, limit, record) =
            (Path::new("/nonexistent/program"), Duration::from_secs(1), record());
        let ran = run(program, limit, Change::CleanUp, &record).await;
        assert_eq!(
            ran.expect_err("no such program").to_string(),
            "/nonexistent/program: No such file or directory (os error 2)"
        );
    }
}
