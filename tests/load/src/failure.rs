//! What a client can feel, by cause.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite;

use crate::wire::WireError;

/// Why a request failed, as the client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The connection was refused, or its host unreachable.
    ConnectRefused,
    /// RST in place of bytes, or RST_STREAM over HTTP/2.
    Reset,
    /// The stream ended before the response did.
    Eof,
    /// No answer in time, connecting included.
    Timeout,
    /// A status that was not asked for.
    WrongStatus,
    /// A body or nonce of another request, or a damaged one.
    WrongBody,
    /// The handshake failed, or a record did.
    Tls,
    /// Bytes that the protocol does not allow.
    Protocol,
    /// HTTP/2: GOAWAY with a last stream below ours. A client may repeat it; this one does not.
    GoawayRefused,
    /// WebSocket: closed by the other end, in good order but unasked.
    Closed,
    /// Any other error of the socket.
    Io,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::ConnectRefused => "connect refused",
            Cause::Reset => "reset",
            Cause::Eof => "end of stream",
            Cause::Timeout => "timeout",
            Cause::WrongStatus => "wrong status",
            Cause::WrongBody => "wrong body",
            Cause::Tls => "TLS",
            Cause::Protocol => "protocol error",
            Cause::GoawayRefused => "refused by GOAWAY",
            Cause::Closed => "closed",
            Cause::Io => "i/o",
        })
    }
}

/// One failure, with what was seen of it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub cause: Cause,
    pub text: String,
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause, self.text)
    }
}

impl Failure {
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Failure { cause, text: text.into() }
    }

    pub(crate) fn timeout(what: &str) -> Self {
        Failure::new(Cause::Timeout, format!("no {what} in time"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::*;
        let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        let cause = match error.kind() {
            _ if tls => Cause::Tls,
            ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable => {
                Cause::ConnectRefused
            }
            ConnectionReset | ConnectionAborted | BrokenPipe => Cause::Reset,
            UnexpectedEof => Cause::Eof,
            TimedOut => Cause::Timeout,
            _ => Cause::Io,
        };
        Failure::new(cause, error.to_string())
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) => error.into(),
            WireError::Eof(what) => Failure::new(Cause::Eof, format!("in {what}")),
            WireError::Malformed(text) => Failure::new(Cause::Protocol, text),
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        let text = error.to_string();
        if error.is_io() {
            return error.into_io().map_or_else(|| Failure::new(Cause::Io, text), Into::into);
        }
        let cause = match error.reason() {
            _ if error.is_go_away() && error.is_remote() => match error.reason() {
                Some(h2::Reason::NO_ERROR) | None => Cause::GoawayRefused,
                Some(_) => Cause::Protocol,
            },
            Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => Cause::GoawayRefused,
            _ if error.is_reset() && error.is_remote() => Cause::Reset,
            _ => Cause::Protocol,
        };
        Failure::new(cause, text)
    }
}

impl From<tungstenite::Error> for Failure {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error;
        use tungstenite::error::ProtocolError;
        match error {
            Error::Io(error) => error.into(),
            Error::ConnectionClosed | Error::AlreadyClosed => {
                Failure::new(Cause::Closed, error.to_string())
            }
            Error::Http(response) => {
                Failure::new(Cause::WrongStatus, format!("{} to the upgrade", response.status()))
            }
            Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete,
            ) => Failure::new(Cause::Eof, error.to_string()),
            other => Failure::new(Cause::Protocol, other.to_string()),
        }
    }
}
