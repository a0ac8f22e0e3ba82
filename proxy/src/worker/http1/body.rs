//! Bodies of HTTP/1.1 messages: where they end, and the chunked coding (RFC 9112 section 7.1).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::worker::message::Part;

/// Longest line of a chunk size with its extensions, in bytes.
const MAX_CHUNK_LINE: usize = 256;
/// Longest trailer section, in bytes.
const MAX_TRAILERS: usize = 8 * 1024;
/// Most trailer fields.
const MAX_TRAILER_FIELDS: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("malformed chunk size")]
    ChunkSize,
    #[error("malformed chunk end")]
    ChunkEnd,
    #[error("malformed trailers")]
    Trailers,
    #[error("connection ended within the body")]
    Truncated,
}

/// Reads one body out of a connection's buffer.
#[derive(Debug)]
pub enum Decoder {
    Done,
    /// So many bytes to come.
    Length(u64),
    Chunked(Chunk),
    /// Up to the end of the connection (responses alone).
    UntilEnd,
}

/// Where in the chunked coding a reader stands.
#[derive(Debug, Clone, Copy)]
pub enum Chunk {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
}

impl Decoder {
    pub fn is_done(&self) -> bool {
        matches!(self, Decoder::Done)
    }

    /// The next part that `buffer` holds; `None` when more bytes are needed or the body is done.
    ///
    /// # Errors
    /// When the coding is broken. Nothing after it can be trusted.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Part>, BodyError> {
        loop {
            match self {
                Decoder::Done => return Ok(None),
                Decoder::UntilEnd => {
                    return Ok((!buffer.is_empty()).then(|| Part::Data(buffer.split().freeze())));
                }
                Decoder::Length(left) => {
                    let Some(data) = take(buffer, left) else { return Ok(None) };
                    if *left == 0 {
                        *self = Decoder::Done;
                    }
                    return Ok(Some(Part::Data(data)));
                }
                Decoder::Chunked(Chunk::Size) => match take_chunk_size(buffer)? {
                    None => return Ok(None),
                    Some(0) => *self = Decoder::Chunked(Chunk::Trailers),
                    Some(size) => *self = Decoder::Chunked(Chunk::Data(size)),
                },
                Decoder::Chunked(Chunk::Data(left)) => {
                    let Some(data) = take(buffer, left) else { return Ok(None) };
                    if *left == 0 {
                        *self = Decoder::Chunked(Chunk::DataEnd);
                    }
                    return Ok(Some(Part::Data(data)));
                }
                Decoder::Chunked(Chunk::DataEnd) => {
                    let seen = buffer.len().min(2);
                    if buffer[..seen] != b"\r\n"[..seen] {
                        return Err(BodyError::ChunkEnd);
                    }
                    if seen < 2 {
                        return Ok(None);
                    }
                    buffer.advance(2);
                    *self = Decoder::Chunked(Chunk::Size);
                }
                Decoder::Chunked(Chunk::Trailers) => {
                    let Some(trailers) = take_trailers(buffer)? else { return Ok(None) };
                    *self = Decoder::Done;
                    return Ok((!trailers.is_empty()).then_some(Part::Trailers(trailers)));
                }
            }
        }
    }

    /// The connection ended.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] when the body had not.
    pub fn end(&mut self) -> Result<(), BodyError> {
        match self {
            Decoder::Done => Ok(()),
            Decoder::UntilEnd => {
                *self = Decoder::Done;
                Ok(())
            }
            Decoder::Length(_) | Decoder::Chunked(_) => Err(BodyError::Truncated),
        }
    }
}

fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    if buffer.is_empty() {
        return None;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    Some(buffer.split_to(length).freeze())
}

/// A chunk-size line. Extensions are dropped, as RFC 9112 section 7.1.1 lets a recipient do; they
/// must still be free of control characters.
fn take_chunk_size(buffer: &mut BytesMut) -> Result<Option<u64>, BodyError> {
    let window = &buffer[..buffer.len().min(MAX_CHUNK_LINE)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == MAX_CHUNK_LINE { Err(BodyError::ChunkSize) } else { Ok(None) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(BodyError::ChunkSize)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (number, extension) = line.split_at(digits);
    // 15 digits: the sum of a body stays far from overflow.
    if digits == 0 || digits > 15 {
        return Err(BodyError::ChunkSize);
    }
    // Bad white space before an extension, and no other control character.
    let blanks = extension.iter().take_while(|&&b| b == b' ' || b == b'\t').count();
    let extension = &extension[blanks..];
    let plain = extension.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f));
    if !(plain && (extension.is_empty() || extension.starts_with(b";"))) {
        return Err(BodyError::ChunkSize);
    }
    let size = number
        .iter()
        .fold(0u64, |sum, &digit| sum << 4 | u64::from((digit as char).to_digit(16).unwrap_or(0)));
    buffer.advance(end + 1);
    Ok(Some(size))
}

fn take_trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, BodyError> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut slots = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let (length, trailers) = match httparse::parse_headers(buffer, &mut slots) {
        Ok(httparse::Status::Complete((length, headers))) => (length, trailer_map(headers)?),
        Ok(httparse::Status::Partial) if buffer.len() > MAX_TRAILERS => {
            return Err(BodyError::Trailers);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BodyError::Trailers),
    };
    let bare =
        memchr::memchr_iter(b'\n', &buffer[..length]).any(|at| at == 0 || buffer[at - 1] != b'\r');
    if bare || length > MAX_TRAILERS {
        return Err(BodyError::Trailers);
    }
    buffer.advance(length);
    Ok(Some(trailers))
}

fn trailer_map(headers: &[httparse::Header<'_>]) -> Result<HeaderMap, BodyError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for header in headers {
        let name =
            HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| BodyError::Trailers)?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| BodyError::Trailers)?;
        if is_trailer(&name) {
            map.append(name, value);
        }
    }
    Ok(map)
}

/// RFC 9110 section 6.5.1: fields that frame, route, authenticate or control a message are not
/// trailers; they are dropped.
pub fn is_trailer(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "transfer-encoding"
            | "content-length"
            | "host"
            | "connection"
            | "keep-alive"
            | "upgrade"
            | "te"
            | "trailer"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "proxy"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "forwarded"
            | "x-forwarded-for"
            | "x-real-ip"
    )
}

/// The line before a chunk's data.
pub fn put_chunk_size(out: &mut BytesMut, size: usize) {
    use std::fmt::Write;
    // Writing to a BytesMut cannot fail.
    let _ = write!(out, "{size:x}\r\n");
}

/// The last chunk, with trailers where there are some.
pub fn put_last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| is_trailer(name)) {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(
        mut decoder: Decoder,
        text: &str,
    ) -> Result<(String, Option<HeaderMap>, bool), BodyError> {
        // Byte by byte: no state may depend on how the bytes came in.
        let (mut buffer, mut data, mut trailers) = (BytesMut::new(), String::new(), None);
        for byte in text.bytes() {
            buffer.put_u8(byte);
            while let Some(part) = decoder.decode(&mut buffer)? {
                match part {
                    Part::Data(bytes) => data.push_str(std::str::from_utf8(&bytes).expect("utf-8")),
                    Part::Trailers(map) => trailers = Some(map),
                }
            }
        }
        Ok((data, trailers, decoder.is_done()))
    }

    #[test]
    fn chunked_bodies_decode() {
        for (text, want, done) in [
            ("0\r\n\r\n", "", true),
            ("3\r\nabc\r\n0\r\n\r\n", "abc", true),
            ("3;x=y\r\nabc\r\nA \r\n0123456789\r\n00\r\n\r\n", "abc0123456789", true),
            ("3\r\nab", "ab", false),
        ] {
            let (data, trailers, is_done) = all(Decoder::Chunked(Chunk::Size), text).expect(text);
            assert_eq!((data.as_str(), is_done), (want, done), "{text:?}");
            assert!(trailers.is_none());
        }
        let (_, trailers, done) =
            all(Decoder::Chunked(Chunk::Size), "0\r\nA: b\r\nContent-Length: 3\r\n\r\n")
                .expect("ok");
        let trailers = trailers.expect("trailers");
        assert!(done && trailers.len() == 1 && trailers["a"] == "b");
    }

    #[test]
    fn broken_chunks_are_refused() {
        for text in [
            "\r\n",
            "x\r\n",
            "3\nabc",
            "3\r\nabcd",
            "3\r\nabc\n",
            " 3\r\nabc",
            "+3\r\nabc",
            "0x3\r\nabc",
            "3\r\r\nabc",
            "3\u{c}\r\nabc",
            "-1\r\n",
            "3 4\r\nabc",
            "3;\u{1}\r\nabc",
            "1000000000000000\r\n",
            "0\r\nA b: c\r\n\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n x\r\n\r\n",
        ] {
            assert!(all(Decoder::Chunked(Chunk::Size), text).is_err(), "{text:?}");
        }
        let endless = format!("3;{}", "x".repeat(300));
        assert!(all(Decoder::Chunked(Chunk::Size), &endless).is_err());
    }

    #[test]
    fn a_body_of_known_length_leaves_what_follows() {
        let mut buffer = BytesMut::from("abcdef");
        let mut decoder = Decoder::Length(4);
        let part = decoder.decode(&mut buffer).expect("decodes");
        assert!(matches!(part, Some(Part::Data(data)) if data == "abcd"));
        assert!(decoder.is_done());
        assert_eq!(buffer, "ef");
    }

    #[test]
    fn the_end_of_the_connection_ends_only_what_it_may() {
        assert!(Decoder::UntilEnd.end().is_ok());
        assert!(Decoder::Done.end().is_ok());
        assert_eq!(Decoder::Length(1).end(), Err(BodyError::Truncated));
        assert_eq!(Decoder::Chunked(Chunk::Size).end(), Err(BodyError::Truncated));
    }
}
