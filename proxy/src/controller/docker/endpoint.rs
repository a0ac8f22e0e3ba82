//! Where the daemon listens, and what to tell a person when it cannot be reached.

use std::env;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";
/// Podman's socket of one user, under XDG_RUNTIME_DIR.
const PODMAN_USER_SOCKET: &str = "podman/podman.sock";
/// The event stream of a quiet daemon carries nothing for hours: the kernel finds a dead peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// `host:port`, in the clear.
    Tcp(String),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an endpoint: expected unix:///path or tcp://host:port")]
pub struct EndpointError(String);

/// A connection to the daemon.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    /// The configured one, else DOCKER_HOST, else the first usual socket that exists.
    ///
    /// Asked before every connect: Podman's sockets come and go with its service.
    ///
    /// # Errors
    /// When what is configured is not an endpoint.
    pub fn choose(configured: Option<&str>) -> Result<Endpoint, EndpointError> {
        let host = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        match configured.or(host.as_deref()) {
            Some(text) => text.parse(),
            None => Ok(usual(env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from), |path| {
                may_be_there(path.try_exists())
            })),
        }
    }

    /// # Errors
    /// As the kernel has it; [`Endpoint::explain`] puts it into words.
    pub async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                let keepalive =
                    TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok(Box::new(stream))
            }
        }
    }

    /// What a failed connect means, and what to do about it.
    pub fn explain(&self, error: &io::Error) -> String {
        match (self, error.kind()) {
            (Endpoint::Unix(path), io::ErrorKind::PermissionDenied) => {
                format!("{self}: permission denied: {}", permission_advice(path))
            }
            (Endpoint::Unix(_), io::ErrorKind::NotFound) => format!(
                "{self}: there is no such socket: start Docker (`systemctl start docker`), or name \
                 its socket in `docker.endpoint`"
            ),
            (Endpoint::Unix(_), io::ErrorKind::ConnectionRefused) => {
                format!("{self}: no daemon listens there: start Docker (`systemctl start docker`)")
            }
            (Endpoint::Tcp(_), io::ErrorKind::ConnectionRefused) => {
                format!("{self}: no daemon listens there: start it, or correct `docker.endpoint`")
            }
            _ => format!("{self}: {error}"),
        }
    }
}

fn usual(runtime_dir: Option<PathBuf>, exists: impl Fn(&Path) -> bool) -> Endpoint {
    let user_socket = runtime_dir.map(|directory| directory.join(PODMAN_USER_SOCKET));
    let candidates = [Some(DOCKER_SOCKET.into()), Some(PODMAN_SOCKET.into()), user_socket];
    let found = candidates.into_iter().flatten().find(|path: &PathBuf| exists(path));
    Endpoint::Unix(found.unwrap_or_else(|| DOCKER_SOCKET.into()))
}

/// Podman keeps its socket where only root may look: who may not is told that, not that there is no Docker.
fn may_be_there(seen: io::Result<bool>) -> bool {
    seen.unwrap_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn permission_advice(path: &Path) -> String {
    let group = std::fs::metadata(path)
        .ok()
        .map(|metadata| Gid::from_raw(metadata.gid()))
        .and_then(|gid| Group::from_gid(gid).ok().flatten())
        .map(|group| group.name);
    let user = User::from_uid(Uid::effective()).ok().flatten();
    let user = user.map_or_else(|| Uid::effective().to_string(), |user| user.name);
    match group.as_deref() {
        // Nobody should be told to join the group root.
        Some("root") | None => {
            format!(
                "`{user}` may not use the socket: give it to a group of `{user}` (\"With Podman\" in \
                 docs/operations.md), or run baton as root; where that is so, SELinux or AppArmor \
                 refuses it: see `journalctl -k`"
            )
        }
        Some(group) => format!(
            "the socket belongs to the group `{group}`: run `usermod -aG {group} {user}`, then \
             start baton again; where it is in that group, SELinux or AppArmor refuses it: see \
             `journalctl -k`"
        ),
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || EndpointError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Endpoint::Unix(path.into()))
            } else {
                Err(error())
            };
        }
        let rest = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://"));
        let address = rest.ok_or_else(error)?.trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(error)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(error());
        }
        Ok(Endpoint::Tcp(address.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse() {
        for (text, want) in [
            ("unix:///run/d.sock", Some("unix:///run/d.sock")),
            ("tcp://127.0.0.1:2375", Some("tcp://127.0.0.1:2375")),
            ("tcp://[::1]:2375/", Some("tcp://[::1]:2375")),
            ("http://docker:2375", Some("tcp://docker:2375")),
            ("unix://run/d.sock", None),
            ("ssh://host", None),
            ("tcp://host", None),
            ("tcp://host:port", None),
            ("tcp://:2375", None),
            ("/var/run/docker.sock", None),
            ("", None),
        ] {
            let endpoint = text.parse::<Endpoint>().ok().map(|endpoint| endpoint.to_string());
            assert_eq!(endpoint.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn the_first_usual_socket_that_exists() {
        for (there, want) in [
            (&[DOCKER_SOCKET, PODMAN_SOCKET][..], DOCKER_SOCKET),
            (&[PODMAN_SOCKET, "/run/user/7/podman/podman.sock"], PODMAN_SOCKET),
            (&["/run/user/7/podman/podman.sock"], "/run/user/7/podman/podman.sock"),
            (&[], DOCKER_SOCKET),
        ] {
            let exists = |path: &Path| there.iter().any(|there| Path::new(there) == path);
            assert_eq!(usual(Some("/run/user/7".into()), exists), Endpoint::Unix(want.into()));
        }
    }

    #[test]
    fn a_socket_that_nobody_else_may_see_is_there() {
        for (seen, want) in [
            (Ok(true), true),
            (Ok(false), false),
            (Err(io::ErrorKind::PermissionDenied), true),
            (Err(io::ErrorKind::NotADirectory), false),
        ] {
            assert_eq!(may_be_there(seen.map_err(io::Error::from)), want, "{seen:?}");
        }
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let directory = tempfile::tempdir().expect("tempdir");
        let endpoint = Endpoint::Unix(directory.path().join("docker.sock"));
        for (kind, advice) in [
            (io::ErrorKind::NotFound, "systemctl start docker"),
            (io::ErrorKind::ConnectionRefused, "no daemon listens"),
            (io::ErrorKind::PermissionDenied, "may not use the socket"),
        ] {
            let text = endpoint.explain(&kind.into());
            assert!(text.starts_with("unix://") && text.contains(advice), "{text}");
        }
    }
}
