//! HTTP/1.1 framing as both ends need it: heads over httparse, bodies by length, chunks or end of
//! stream (RFC 9112).

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Longest head, in bytes.
const MAX_HEAD: usize = 256 * 1024;
/// Fields of a head.
pub(crate) const MAX_FIELDS: usize = 512;
/// Longest line of a chunk size or trailer, in bytes.
const MAX_LINE: usize = 8 * 1024;
const READ_SIZE: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) enum WireError {
    Io(io::Error),
    /// The stream ended within what is named.
    Eof(&'static str),
    Malformed(String),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        WireError::Io(error)
    }
}

/// Fields in the order and spelling in which they came.
pub(crate) type Fields = Vec<(String, String)>;

/// The values of a field, its name without regard to case.
pub(crate) fn values<'a>(fields: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a str> {
    fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// The first value of a field.
pub(crate) fn first<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

/// Whether a comma list of tokens, such as Connection's, has this one.
pub(crate) fn has_token(fields: &Fields, name: &str, token: &str) -> bool {
    values(fields, name).flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    Length(u64),
    /// Bytes left of the current chunk; its line end is read with the next size.
    Chunked {
        left: u64,
        first: bool,
    },
    UntilEof,
    Done,
}

impl Body {
    /// What the fields of a message say; `otherwise` where they say nothing.
    pub(crate) fn from_fields(fields: &Fields, otherwise: Body) -> Result<Body, WireError> {
        let malformed = |text: &str| Err(WireError::Malformed(text.to_owned()));
        let chunked = has_token(fields, "transfer-encoding", "chunked");
        let mut lengths = values(fields, "content-length");
        match (chunked, lengths.next(), lengths.next()) {
            (true, None, _) => Ok(Body::Chunked { left: 0, first: true }),
            (true, Some(_), _) => malformed("Content-Length beside Transfer-Encoding"),
            (false, Some(_), Some(_)) => malformed("two Content-Length fields"),
            (false, Some(text), None) => match text.parse() {
                Ok(0) => Ok(Body::Done),
                Ok(length) => Ok(Body::Length(length)),
                Err(_) => malformed("Content-Length is not a number"),
            },
            (false, None, _) => Ok(otherwise),
        }
    }
}

/// A byte stream and what was read of it but not used.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    pub(crate) buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Wire { stream, buffer: BytesMut::new() }
    }

    /// Reads once; 0 is the end of the stream. Cancel safe.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_SIZE);
        self.stream.read_buf(&mut self.buffer).await
    }

    /// The next head, or `None` where the stream ends before its first byte. `parse` says how long
    /// the head is, or `None` while it is not whole.
    pub(crate) async fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(usize, T)>, httparse::Error>,
    ) -> Result<Option<T>, WireError> {
        loop {
            match parse(&self.buffer) {
                Ok(Some((length, head))) => {
                    self.buffer.advance(length);
                    return Ok(Some(head));
                }
                Ok(None) if self.buffer.len() > MAX_HEAD => {
                    return Err(WireError::Malformed("head too long".to_owned()));
                }
                Ok(None) => {}
                Err(error) => {
                    let start = &self.buffer[..self.buffer.len().min(80)];
                    let text = format!("{error} in a head: {}", start.escape_ascii());
                    return Err(WireError::Malformed(text));
                }
            }
            if self.fill().await? == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(None) } else { Err(WireError::Eof("a head")) };
            }
        }
    }

    /// The next piece of the body, or `None` at its end. Trailer fields go to `trailers`.
    pub(crate) async fn body(
        &mut self,
        body: &mut Body,
        trailers: &mut Fields,
    ) -> Result<Option<Bytes>, WireError> {
        loop {
            match body {
                Body::Done => return Ok(None),
                Body::Length(left) => {
                    let piece = self.piece(*left).await?;
                    let left = *left - piece.len() as u64;
                    *body = if left == 0 { Body::Done } else { Body::Length(left) };
                    return Ok(Some(piece));
                }
                Body::UntilEof => {
                    if self.buffer.is_empty() && self.fill().await? == 0 {
                        *body = Body::Done;
                        return Ok(None);
                    }
                    return Ok(Some(self.buffer.split().freeze()));
                }
                Body::Chunked { left: 0, first } => {
                    let first = *first;
                    *body = self.next_chunk(first, trailers).await?;
                }
                Body::Chunked { left, .. } => {
                    let piece = self.piece(*left).await?;
                    *left -= piece.len() as u64;
                    return Ok(Some(piece));
                }
            }
        }
    }

    async fn piece(&mut self, left: u64) -> Result<Bytes, WireError> {
        if self.buffer.is_empty() && self.fill().await? == 0 {
            return Err(WireError::Eof("a body"));
        }
        let length = left.min(self.buffer.len() as u64) as usize;
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn next_chunk(&mut self, first: bool, trailers: &mut Fields) -> Result<Body, WireError> {
        if !first && !self.line().await?.is_empty() {
            return Err(WireError::Malformed("a chunk does not end where it should".to_owned()));
        }
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim_end();
        let left = u64::from_str_radix(digits, 16)
            .map_err(|_| WireError::Malformed(format!("chunk size `{line}`")))?;
        if left > 0 {
            return Ok(Body::Chunked { left, first: false });
        }
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                Some((name, value)) => trailers.push((name.to_owned(), value.trim().to_owned())),
                None if line.is_empty() => return Ok(Body::Done),
                None => return Err(WireError::Malformed(format!("trailer `{line}`"))),
            }
        }
    }

    async fn line(&mut self) -> Result<String, WireError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return match line.strip_suffix(b"\r\n") {
                    Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
                    None => Err(WireError::Malformed("a line ends without CR".to_owned())),
                };
            }
            if self.buffer.len() > MAX_LINE {
                return Err(WireError::Malformed("line too long".to_owned()));
            }
            if self.fill().await? == 0 {
                return Err(WireError::Eof("a chunk line"));
            }
        }
    }
}

/// Owned copies of what httparse found.
pub(crate) fn fields(headers: &[httparse::Header<'_>]) -> Fields {
    headers
        .iter()
        .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn read(bytes: &[u8], mut body: Body) -> Result<(Vec<u8>, Fields), String> {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(bytes).await.expect("fits the pipe");
        drop(client);
        let mut wire = Wire::new(server);
        let (mut whole, mut trailers) = (Vec::new(), Fields::new());
        loop {
            match wire.body(&mut body, &mut trailers).await {
                Ok(Some(piece)) => whole.extend_from_slice(&piece),
                Ok(None) => return Ok((whole, trailers)),
                Err(error) => return Err(format!("{error:?}")),
            }
        }
    }

    #[tokio::test]
    async fn bodies_are_read_as_framed() {
        let chunked = Body::Chunked { left: 0, first: true };
        for (bytes, body, want) in [
            ("hello more", Body::Length(5), Some("hello")),
            ("hel", Body::Length(5), None),
            ("hello", Body::UntilEof, Some("hello")),
            ("5\r\nhello\r\n0\r\n\r\n", chunked, Some("hello")),
            ("2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", chunked, Some("hello")),
            ("5\r\nhello\r\n", chunked, None),
            ("5\r\nhelloX\r\n0\r\n\r\n", chunked, None),
            ("5\nhello\r\n0\r\n\r\n", chunked, None),
            ("x\r\nhello\r\n0\r\n\r\n", chunked, None),
        ] {
            let got = read(bytes.as_bytes(), body).await.ok().map(|(whole, _)| whole);
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn trailers_are_kept() {
        let chunked = Body::Chunked { left: 0, first: true };
        let (_, trailers) = read(b"0\r\nA: b\r\n\r\n", chunked).await.expect("well formed");
        assert_eq!(trailers, [("A".to_owned(), "b".to_owned())]);
    }
}
