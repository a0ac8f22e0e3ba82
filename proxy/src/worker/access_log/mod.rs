//! The access log: one line per finished request, to stdout, never in the way of the data path.
//!
//! A thread gathers lines in a buffer of its own and hands it over to one writer thread. When
//! stdout does not keep up, lines are dropped and counted; requests do not wait for a log.

mod followers;
mod line;
mod redact;

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::Notify;

pub use self::followers::Followers;
use self::line::{Clock, Setting};
use super::message::RequestHead;
use super::stats::ThreadStats;
use crate::protocol::access_log::{AccessLog as Wish, Escape, Format, Template};

/// Buffers that may wait for the writer thread.
const QUEUE: usize = 64;
/// A buffer is handed over at this size, in bytes, or when the thread has nothing else to do.
const BUFFER: usize = 32 * 1024;

/// Where all threads hand their lines to.
#[derive(Debug, Clone)]
pub struct Writer {
    lines: SyncSender<Vec<u8>>,
    pub followers: Followers,
}

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
    Ok((Writer { lines: sender, followers: Followers::default() }, thread))
}

/// One thread's side of the log.
#[derive(Debug)]
pub struct AccessLog {
    format: Compiled,
    /// One of so many requests has a line.
    sample: u32,
    /// Requests since the last one that had.
    skipped: Cell<u32>,
    redact: Vec<String>,
    generation: u64,
    writer: Writer,
    stats: Arc<ThreadStats>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    filled: Notify,
    clock: RefCell<Clock>,
}

#[derive(Debug)]
enum Compiled {
    Off,
    Combined,
    Json,
    Template(Template, Escape),
}

/// What one line says.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Of the peer, or as a trusted proxy says.
    pub client: IpAddr,
    /// `None` when no head could be read.
    pub request: Option<&'a RequestHead>,
    /// The version; `None` without TLS.
    pub tls: Option<&'static str>,
    /// `None` when the client left before an answer.
    pub status: Option<StatusCode>,
    /// Bytes of the response body that were sent.
    pub bytes: u64,
    pub duration: Duration,
    /// The one that answered, or was asked last.
    pub upstream: Option<UpstreamEntry<'a>>,
    pub attempts: u32,
}

#[derive(Debug, Clone, Copy)]
pub struct UpstreamEntry<'a> {
    pub name: &'a str,
    pub address: SocketAddr,
    /// From the request to the head of its answer.
    pub head_after: Duration,
}

fn compiled(format: &Format) -> Compiled {
    match format {
        Format::Off => Compiled::Off,
        Format::Combined => Compiled::Combined,
        Format::Json => Compiled::Json,
        // The controller has parsed it before.
        Format::Template(text, escape) => match Template::parse(text) {
            Ok(template) => Compiled::Template(template, *escape),
            Err(_) => Compiled::Combined,
        },
    }
}

impl AccessLog {
    /// For a worker of this generation.
    pub fn new(wish: &Wish, generation: u64, writer: Writer, stats: Arc<ThreadStats>) -> Self {
        AccessLog {
            format: compiled(&wish.format),
            sample: wish.sample,
            skipped: Cell::new(0),
            redact: wish.redact.clone(),
            generation,
            writer,
            stats,
            buffer: RefCell::default(),
            lines: Cell::new(0),
            filled: Notify::new(),
            clock: RefCell::default(),
        }
    }

    pub fn write(&self, entry: &Entry<'_>) {
        self.tell_followers(entry);
        if matches!(self.format, Compiled::Off) || self.skips(entry.status) {
            return;
        }
        let mut buffer = self.buffer.borrow_mut();
        self.put_line(&mut buffer, entry);
        self.lines.set(self.lines.get() + 1);
        let full = buffer.len() >= BUFFER;
        drop(buffer);
        if full {
            self.hand_over();
        } else {
            self.filled.notify_one();
        }
    }

    /// Whoever follows a host sees all of its requests, whatever is logged of them.
    fn tell_followers(&self, entry: &Entry<'_>) {
        let followers = &self.writer.followers;
        let Some(request) = entry.request.filter(|_| !followers.is_empty()) else { return };
        followers.tell(&line::host(request), || {
            let mut line = Vec::new();
            self.put_line(&mut line, entry);
            line
        });
    }

    fn put_line(&self, out: &mut Vec<u8>, entry: &Entry<'_>) {
        let now = SystemTime::now();
        let mut clock = self.clock.borrow_mut();
        let setting = Setting {
            now,
            time_local: clock.common_log(now),
            redact: &self.redact,
            generation: self.generation,
        };
        match &self.format {
            // Off: for those who follow.
            Compiled::Off | Compiled::Combined => line::combined(out, &setting, entry),
            Compiled::Json => line::json(out, &setting, entry),
            Compiled::Template(template, escape) => {
                line::template(out, (template, *escape), &setting, entry);
            }
        }
    }

    /// Whether a sample leaves this request out: never one that failed.
    fn skips(&self, status: Option<StatusCode>) -> bool {
        if self.sample <= 1 || status.is_some_and(|status| status.is_server_error()) {
            return false;
        }
        let skipped = self.skipped.get() + 1;
        self.skipped.set(if skipped < self.sample { skipped } else { 0 });
        skipped < self.sample
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
        match self.writer.lines.try_send(lines) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.stats.log_lines_dropped.add(count);
            }
        }
    }
}

const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_leaves_no_failure_out() {
        let (sender, _receiver) = sync_channel(1);
        let stats = Arc::new(ThreadStats::new(0));
        let writer = Writer { lines: sender, followers: Followers::default() };
        let wish = Wish { sample: 3, ..Wish::default() };
        let log = AccessLog::new(&wish, 1, writer, stats);
        let ok = Some(StatusCode::OK);
        let skipped: Vec<bool> = (0..6).map(|_| log.skips(ok)).collect();
        assert_eq!(skipped, [true, true, false, true, true, false]);
        assert!(!log.skips(Some(StatusCode::BAD_GATEWAY)));
    }
}
