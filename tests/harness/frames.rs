//! HTTP/2 as frames: a client that sends what no library would, and reads what it is answered.

use std::net::SocketAddr;
use std::time::Duration;

use baton_load::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

const LIMIT: Duration = Duration::from_secs(10);
/// RFC 9113 section 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 section 6).
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    /// RFC 9218 section 7.1.
    pub const PRIORITY_UPDATE: u8 = 0x10;
    /// Of no type that anybody has registered.
    pub const UNKNOWN: u8 = 0xbb;
}

/// Flags of frames.
pub mod flag {
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
    /// A request without a body, in one frame.
    pub const WHOLE: u8 = END_STREAM | END_HEADERS;
}

/// Error codes (RFC 9113 section 7).
pub mod code {
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings (RFC 9113 section 6.5.2).
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const UNKNOWN: u16 = 0xff;
}

/// The bytes of any frame, its length as it is.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a test's frame is small");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flags, stream, payload)
}

/// `block` as [`block`] makes it.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flags, stream, block)
}

pub fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    frame(kind::CONTINUATION, flags, stream, block)
}

/// The five bytes of a priority, in a frame of its own or in HEADERS.
pub fn dependency(on: u32, weight: u8) -> Vec<u8> {
    [&on.to_be_bytes()[..], &[weight]].concat()
}

pub fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(kind::PRIORITY, flag::NONE, stream, &dependency(on, weight))
}

/// Of another stream, on stream 0 (RFC 9218 section 7.1).
pub fn priority_update(of: u32, value: &str) -> Vec<u8> {
    frame(kind::PRIORITY_UPDATE, 0, 0, &[&of.to_be_bytes(), value.as_bytes()].concat())
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &code.to_be_bytes())
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let setting =
        |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let payload: Vec<u8> = values.iter().flat_map(setting).collect();
    frame(kind::SETTINGS, flag::NONE, 0, &payload)
}

pub fn ping(payload: u8) -> Vec<u8> {
    frame(kind::PING, flag::NONE, 0, &[payload; 8])
}

pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(kind::GOAWAY, flag::NONE, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &increment.to_be_bytes())
}

/// A header block of literals with new names, without indexing and without Huffman coding (RFC 7541
/// section 6.2.2): any octets are possible.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(0, name.as_bytes(), value.as_bytes())).collect()
}

/// One literal with a new name; `first` says how it is indexed: 0 not, 0x10 never, 0x40 it is.
pub fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[first], &string(name)[..], &string(value)].concat()
}

/// A string literal (RFC 7541 section 5.2).
pub fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = integer(0, 7, text.len());
    bytes.extend(text);
    bytes
}

/// An integer whose first octet has other bits above its prefix (RFC 7541 section 5.1).
pub fn integer(above: u8, prefix: u32, value: usize) -> Vec<u8> {
    let full = (1_usize << prefix) - 1;
    let octet = |value: usize| u8::try_from(value).expect("seven bits");
    if value < full {
        return vec![above | octet(value)];
    }
    let mut bytes = vec![above | octet(full)];
    let mut rest = value - full;
    while rest >= 128 {
        bytes.push(octet(rest % 128) | 128);
        rest /= 128;
    }
    bytes.push(octet(rest));
    bytes
}

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn is(&self, kind: u8, flags: u8) -> bool {
        self.kind == kind && self.flags & flags == flags
    }

    /// Ends its stream, with the last of a response.
    pub fn ends_stream(&self) -> bool {
        self.kind <= kind::HEADERS && self.flags & flag::END_STREAM != 0
    }

    /// The error code of RST_STREAM and GOAWAY.
    pub fn code(&self) -> Option<u32> {
        match self.kind {
            kind::RST_STREAM => self.number(0),
            kind::GOAWAY => self.number(4),
            _ => None,
        }
    }

    /// The last stream that GOAWAY names.
    pub fn last_stream(&self) -> Option<u32> {
        (self.kind == kind::GOAWAY).then(|| self.number(0))?
    }

    fn number(&self, at: usize) -> Option<u32> {
        self.payload.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The status of a response: it comes first, by the static table where it is in there, as three
    /// digits or in Huffman code otherwise (RFC 7541 appendix A). [`FrameClient::connect`] has asked
    /// for no dynamic table.
    pub fn status(&self) -> Option<u16> {
        if self.kind != kind::HEADERS {
            return None;
        }
        match self.payload.strip_prefix(&[0x20]).unwrap_or(&self.payload) {
            [index @ 0x88..=0x8e, ..] => {
                Some([200, 204, 206, 304, 400, 404, 500][usize::from(index - 0x88)])
            }
            [_, length, rest @ ..] if length & 0x80 != 0 => {
                digits(rest.get(..usize::from(length & 0x7f))?)
            }
            [_, 3, digits @ ..] => std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok(),
            _ => None,
        }
    }
}

/// Three digits in Huffman code: 0 to 2 have five bits, the others six (RFC 7541 appendix B).
fn digits(code: &[u8]) -> Option<u16> {
    let bits: Vec<u16> = code
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)))
        .collect();
    let mut bits = bits.as_slice();
    let mut number = 0;
    for _ in 0..3 {
        let value =
            |length| bits.get(..length).map(|bits| bits.iter().fold(0, |sum, bit| sum * 2 + bit));
        let (digit, length) = match value(5)? {
            short @ 0..=2 => (short, 5),
            _ => (value(6)?.checked_sub(0b011001)? + 3, 6),
        };
        number = number * 10 + digit;
        bits = &bits[length..];
    }
    Some(number)
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let mut payload = vec![0; usize::try_from(length).expect("24 bits")];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame { kind, flags, stream: u32::from_be_bytes(id) & 0x7fff_ffff, payload })
}

/// A connection on which anything can be sent.
pub struct FrameClient {
    stream: baton_load::Stream,
}

impl FrameClient {
    /// Connects, in the clear with prior knowledge or by ALPN over TLS, and says nothing yet.
    pub async fn silent(target: &Target) -> Self {
        FrameClient { stream: target.connect("h2").await.expect("baton listens") }
    }

    /// As [`FrameClient::silent`], with the preface and these settings.
    pub async fn connect(target: &Target, values: &[(u16, u32)]) -> Self {
        Self::silent(target).await.greet(values).await
    }

    /// In the clear, with a kernel that takes no more than about so many bytes before they are read.
    pub async fn narrow(address: SocketAddr, bytes: u32, values: &[(u16, u32)]) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        let stream = socket.connect(address).await.expect("baton listens");
        FrameClient { stream: Box::new(stream) }.greet(values).await
    }

    async fn greet(mut self, values: &[(u16, u32)]) -> Self {
        let values = [&[(setting::HEADER_TABLE_SIZE, 0)], values].concat();
        assert!(self.send([PREFACE, &settings(&values)].concat()).await, "baton reads");
        self
    }

    /// Sends bytes as they are; whether the connection took them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let send = self.stream.write_all(bytes.as_ref());
        tokio::time::timeout(LIMIT, send).await.expect("baton reads or closes").is_ok()
    }

    /// The next frame; none at the end of the connection, which a reset is too.
    pub async fn read(&mut self) -> Option<Frame> {
        let frame = read_frame(&mut self.stream);
        tokio::time::timeout(LIMIT, frame).await.expect("a frame, or the end")
    }

    /// Sends so much that it may not be taken without answers being read, and returns the error with
    /// which the connection is ended; none where it ends without one.
    pub async fn flood(self, bytes: &[u8]) -> Option<u32> {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let sending = async {
            // The end of the connection is the reader's.
            drop(writer.write_all(bytes).await);
            std::future::pending::<()>().await;
        };
        let reading = async {
            loop {
                let frame = read_frame(&mut reader).await?;
                if let Some(code @ 1..) = frame.code().filter(|_| frame.kind == kind::GOAWAY) {
                    return Some(code);
                }
            }
        };
        let ended = async {
            tokio::select! { code = reading => code, () = sending => None }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("the connection is ended")
    }

    /// Reads up to the first frame that is looked for; none where the connection ends before it.
    pub async fn find(&mut self, mut wanted: impl FnMut(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Whether the connection serves on: a ping comes back.
    pub async fn is_alive(&mut self) -> bool {
        self.send(ping(0xaa)).await
            && self.find(|frame| frame.is(kind::PING, flag::ACK)).await.is_some()
    }

    /// Whether the stream ended as it should, not by a reset.
    pub async fn ends_orderly(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(LIMIT, self.stream.read(&mut byte));
        matches!(read.await.expect("an end"), Ok(0))
    }
}
