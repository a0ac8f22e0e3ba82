//! The access log: one line per finished request, to stdout, never in the way of the data path.
//!
//! A thread gathers lines in a buffer of its own and hands it over to one writer thread. When
//! stdout does not keep up, lines are dropped and counted; requests do not wait for a log.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode, Version};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::Notify;

use super::message::RequestHead;
use super::stats::ThreadStats;
use crate::protocol::settings::AccessLog as Format;

/// Buffers that may wait for the writer thread.
const QUEUE: usize = 64;
/// A buffer is handed over at this size, in bytes, or when the thread has nothing else to do.
const BUFFER: usize = 32 * 1024;

/// Where all threads hand their lines to.
#[derive(Debug, Clone)]
pub struct Writer(SyncSender<Vec<u8>>);

/// Ends when every [`Writer`] is gone and everything is written.
pub type WriterThread = std::thread::JoinHandle<()>;

/// Starts the thread that writes to stdout.
///
/// # Errors
/// When the thread cannot be started.
pub fn start() -> std::io::Result<(Writer, WriterThread)> {
    let (sender, receiver) = sync_channel::<Vec<u8>>(QUEUE);
    let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || {
        let mut stdout = std::io::stdout().lock();
        for lines in receiver {
            // A closed stdout ends the log, not the service.
            if stdout.write_all(&lines).and_then(|()| stdout.flush()).is_err() {
                return;
            }
        }
    })?;
    Ok((Writer(sender), thread))
}

/// One thread's side of the log.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    writer: Writer,
    stats: Arc<ThreadStats>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    filled: Notify,
    clock: RefCell<Clock>,
}

/// What one line says.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Of the peer, or as a trusted proxy says.
    pub client: IpAddr,
    /// `None` when no head could be read.
    pub request: Option<&'a RequestHead>,
    pub tls: bool,
    /// `None` when the client left before an answer.
    pub status: Option<StatusCode>,
    /// Bytes of the response body that were sent.
    pub bytes: u64,
    pub duration: Duration,
    /// Name of the upstream that answered, and how long its head took.
    pub upstream: Option<(&'a str, Duration)>,
    pub attempts: u32,
}

impl AccessLog {
    pub fn new(format: Format, writer: Writer, stats: Arc<ThreadStats>) -> Self {
        AccessLog {
            format,
            writer,
            stats,
            buffer: RefCell::default(),
            lines: Cell::new(0),
            filled: Notify::new(),
            clock: RefCell::default(),
        }
    }

    pub fn write(&self, entry: &Entry<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        match self.format {
            Format::Off => return,
            Format::Combined => {
                let now = SystemTime::now();
                combined(&mut buffer, self.clock.borrow_mut().common_log(now), entry);
            }
            Format::Json => json(&mut buffer, SystemTime::now(), entry),
        }
        self.lines.set(self.lines.get() + 1);
        let full = buffer.len() >= BUFFER;
        drop(buffer);
        if full {
            self.hand_over();
        } else {
            self.filled.notify_one();
        }
    }

    /// Hands lines over whenever the thread gets round to it. Runs as one task of the thread.
    pub async fn run(&self) {
        loop {
            self.filled.notified().await;
            self.hand_over();
        }
    }

    pub fn hand_over(&self) {
        let lines = self.buffer.take();
        let count = self.lines.take();
        if lines.is_empty() {
            return;
        }
        match self.writer.0.try_send(lines) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.stats.log_lines_dropped.add(count);
            }
        }
    }
}

const COMMON_LOG_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);
const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Formats a time once a second.
#[derive(Debug, Default)]
struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    fn common_log(&mut self, now: SystemTime) -> &str {
        let second = seconds(now);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = OffsetDateTime::from(now).format(COMMON_LOG_TIME).unwrap_or_default();
        }
        &self.text
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The `Date` of a response (RFC 9110 section 5.6.7).
pub fn http_date() -> HeaderValue {
    thread_local! {
        static DATE: RefCell<(u64, HeaderValue)> =
            const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    DATE.with_borrow_mut(|(second, value)| {
        let now = SystemTime::now();
        if *second != seconds(now) {
            let text = OffsetDateTime::from(now).format(HTTP_DATE).unwrap_or_default();
            if let Ok(date) = HeaderValue::from_str(&text) {
                (*second, *value) = (seconds(now), date);
            }
        }
        value.clone()
    })
}

/// Apache's combined format; host, duration and upstream follow, as nginx-proxy's users know it.
fn combined(out: &mut Vec<u8>, time: &str, entry: &Entry<'_>) {
    let _ = write!(out, "{} - - [{time}] \"", entry.client.to_canonical());
    if let Some(request) = entry.request {
        let _ = write!(out, "{} ", request.method);
        quoted(out, &request.target);
        let _ = write!(out, " {}", version(request.version));
    }
    let status = entry.status.map_or(499, |status| status.as_u16());
    let _ = write!(out, "\" {status} {} ", entry.bytes);
    let field = |name| entry.request.and_then(|request| request.fields.get(name));
    for value in [field("referer"), field("user-agent")] {
        out.push(b'"');
        quoted(out, value.unwrap_or(b"-"));
        out.extend_from_slice(b"\" ");
    }
    out.push(b'"');
    quoted(out, entry.request.map_or(b"-", |request| &request.authority));
    let _ = write!(out, "\" {:.3} ", entry.duration.as_secs_f64());
    quoted(out, entry.upstream.map_or("-", |(name, _)| name).as_bytes());
    out.push(b'\n');
}

/// Nothing that a client sent can end a field or a line.
fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => {
                let _ = write!(out, "\\x{byte:02X}");
            }
        }
    }
}

fn json(out: &mut Vec<u8>, now: SystemTime, entry: &Entry<'_>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let request = entry.request;
    let field = |name| request.and_then(|request| request.fields.get(name)).map(text);
    let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    let time = OffsetDateTime::from(now)
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default();
    let line = serde_json::json!({
        "time": time,
        "client": entry.client.to_canonical().to_string(),
        "method": request.map(|request| request.method.as_str()),
        "scheme": if entry.tls { "https" } else { "http" },
        "host": request.map(|request| text(&request.authority)),
        "target": request.map(|request| text(&request.target)),
        "protocol": request.map(|request| version(request.version)),
        "status": entry.status.map_or(499, |status| status.as_u16()),
        "bytes": entry.bytes,
        "duration_ms": milliseconds(entry.duration),
        "upstream": entry.upstream.map(|(name, _)| name),
        "upstream_ms": entry.upstream.map(|(_, duration)| milliseconds(duration)),
        "attempts": entry.attempts,
        "referer": field("referer"),
        "user_agent": field("user-agent"),
    });
    let mut text = String::new();
    let _ = writeln!(text, "{line}");
    out.extend_from_slice(text.as_bytes());
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::http1::head::{HeadLimits, take_request};
    use bytes::BytesMut;

    #[test]
    fn lines_are_literal_and_cannot_be_forged() {
        let text = "GET /a\"b HTTP/1.1\r\nHost: h:1\r\nUser-Agent: x\"\t\\y\r\n\r\n";
        let limits = HeadLimits { bytes: 1000, fields: 10 };
        let parsed = take_request(&mut BytesMut::from(text), limits);
        let head = parsed.expect("parses").expect("whole").head;
        let entry = Entry {
            client: "::ffff:192.0.2.1".parse().expect("address"),
            request: Some(&head),
            tls: true,
            status: Some(StatusCode::OK),
            bytes: 12,
            duration: Duration::from_micros(1234),
            upstream: Some(("web-1", Duration::from_micros(1000))),
            attempts: 1,
        };
        let mut out = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        combined(&mut out, Clock::default().common_log(time), &entry);
        assert_eq!(
            String::from_utf8(out).expect("utf-8"),
            "192.0.2.1 - - [09/Sep/2001:01:46:40 +0000] \"GET /a\\\"b HTTP/1.1\" 200 12 \"-\" \
             \"x\\\"\\x09\\\\y\" \"h:1\" 0.001 web-1\n"
        );
        let mut out = Vec::new();
        json(&mut out, time, &entry);
        let value: serde_json::Value = serde_json::from_slice(&out).expect("json");
        assert_eq!(value["time"], "2001-09-09T01:46:40Z");
        assert_eq!(value["duration_ms"], 1.234);
        assert_eq!(value["user_agent"], "x\"\t\\y");
    }
}
