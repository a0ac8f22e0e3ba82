//! One large body up or down, every byte of it checked.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::client::http1::final_head;
use crate::client::http2::{self, Connection};
use crate::failure::{Cause, Failure};
use crate::pattern::{self, Check};
use crate::target::Target;
use crate::wire::{Body, Fields, Wire};

/// Without a byte for so long, a transfer has failed.
const IDLE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

#[derive(Debug, Clone, Copy)]
pub struct Transferred {
    pub bytes: u64,
    pub took: Duration,
}

/// How fast a transfer goes.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    /// Bytes a second.
    rate: Option<u64>,
    /// Where it waits, and what for.
    hold: Option<(u64, watch::Receiver<bool>)>,
}

impl Pace {
    /// As fast as it can.
    pub fn free() -> Self {
        Pace { began: Instant::now(), rate: None, hold: None }
    }

    /// At so many bytes a second.
    pub fn at(rate: u64) -> Self {
        Pace { rate: Some(rate), ..Self::free() }
    }

    /// Goes no further than these bytes until it is told to.
    #[must_use]
    pub fn hold_at(self, bytes: u64, released: watch::Receiver<bool>) -> Self {
        Pace { hold: Some((bytes, released)), ..self }
    }

    async fn after(&self, bytes: u64) {
        if let Some(rate) = self.rate {
            let due = self.began + Duration::from_secs_f64(bytes as f64 / rate as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        if let Some((_, released)) = self.hold.as_ref().filter(|(at, _)| bytes >= *at) {
            // Nobody is left to tell: it goes on.
            let _ = released.clone().wait_for(|released| *released).await;
        }
    }
}

/// GETs `/bytes?n=` and compares it with the pattern.
///
/// # Errors
/// As a client feels it.
pub async fn download(
    target: &Target,
    protocol: Protocol,
    bytes: u64,
    pace: Pace,
) -> Result<Transferred, Failure> {
    let path = format!("/bytes?n={bytes}");
    let check = match protocol {
        Protocol::Http1 => download_http1(target, &path, &pace).await?,
        Protocol::Http2 => download_http2(target, &path, &pace).await?,
    };
    if let Some(at) = check.mismatch() {
        return Err(Failure::new(Cause::WrongBody, format!("byte {at} is another")));
    }
    if check.length() != bytes {
        return Err(Failure::new(Cause::WrongBody, format!("{} of {bytes}", check.length())));
    }
    Ok(Transferred { bytes, took: pace.began.elapsed() })
}

async fn download_http1(target: &Target, path: &str, pace: &Pace) -> Result<Check, Failure> {
    let mut wire = Wire::new(target.connect("http/1.1").await?);
    let host = &target.host;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    wire.stream.write_all(head.as_bytes()).await?;
    wire.stream.flush().await?;
    let head = in_time(final_head(&mut wire)).await?;
    expect_ok(head.status)?;
    let mut body = Body::from_fields(&head.fields, Body::UntilEof)?;
    let (mut check, mut trailers) = (Check::default(), Fields::new());
    while let Some(piece) = in_time(wire.body(&mut body, &mut trailers)).await? {
        check.update(&piece);
        pace.after(check.length()).await;
    }
    Ok(check)
}

async fn download_http2(target: &Target, path: &str, pace: &Pace) -> Result<Check, Failure> {
    let connection = Connection::new(target.connect("h2").await?).await?;
    let mut requests = connection.requests.clone().ready().await?;
    let request = http2::request(target, Method::GET, path)?;
    let (response, _) = requests.send_request(request, true)?;
    let (head, mut stream) = in_time(response).await?.into_parts();
    expect_ok(head.status.as_u16())?;
    let mut check = Check::default();
    while let Some(piece) = in_time(async { stream.data().await.transpose() }).await? {
        check.update(&piece);
        pace.after(check.length()).await;
        stream.flow_control().release_capacity(piece.len())?;
    }
    Ok(check)
}

/// POSTs the pattern to `/sink`, which compares it with its own.
///
/// # Errors
/// As a client feels it.
pub async fn upload(
    target: &Target,
    protocol: Protocol,
    bytes: u64,
    pace: Pace,
) -> Result<Transferred, Failure> {
    let answer = match protocol {
        Protocol::Http1 => upload_http1(target, bytes, &pace).await?,
        Protocol::Http2 => upload_http2(target, bytes, &pace).await?,
    };
    let want = serde_json::json!({ "length": bytes, "pattern": true });
    match serde_json::from_slice::<serde_json::Value>(&answer) {
        Ok(got) if got == want => Ok(Transferred { bytes, took: pace.began.elapsed() }),
        _ => {
            let text = format!("{} in place of {want}", answer.escape_ascii());
            Err(Failure::new(Cause::WrongBody, text))
        }
    }
}

async fn upload_http1(target: &Target, bytes: u64, pace: &Pace) -> Result<Vec<u8>, Failure> {
    let mut wire = Wire::new(target.connect("http/1.1").await?);
    let head = format!(
        "POST /sink HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n",
        target.host
    );
    wire.stream.write_all(head.as_bytes()).await?;
    let mut sent = 0;
    while sent < bytes {
        let piece = pattern::piece(sent, bytes - sent);
        in_time(wire.stream.write_all(&piece)).await?;
        sent += piece.len() as u64;
        pace.after(sent).await;
    }
    in_time(wire.stream.flush()).await?;
    let head = in_time(final_head(&mut wire)).await?;
    expect_ok(head.status)?;
    let mut body = Body::from_fields(&head.fields, Body::UntilEof)?;
    let mut whole = Vec::new();
    while let Some(piece) = in_time(wire.body(&mut body, &mut Fields::new())).await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

async fn upload_http2(target: &Target, bytes: u64, pace: &Pace) -> Result<Vec<u8>, Failure> {
    let connection = Connection::new(target.connect("h2").await?).await?;
    let mut requests = connection.requests.clone().ready().await?;
    let request = http2::request(target, Method::POST, "/sink")?;
    let (response, mut body) = requests.send_request(request, bytes == 0)?;
    let mut sent = 0;
    while sent < bytes {
        let piece: Bytes = pattern::piece(sent, bytes - sent);
        sent += piece.len() as u64;
        in_time(http2::send(&mut body, piece, sent == bytes)).await?;
        pace.after(sent).await;
    }
    let (head, mut stream) = in_time(response).await?.into_parts();
    expect_ok(head.status.as_u16())?;
    let mut whole = Vec::new();
    while let Some(piece) = in_time(async { stream.data().await.transpose() }).await? {
        stream.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

fn expect_ok(status: u16) -> Result<(), Failure> {
    if status == 200 { Ok(()) } else { Err(Failure::new(Cause::WrongStatus, status.to_string())) }
}

async fn in_time<T, E: Into<Failure>>(
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(IDLE, step).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_) => Err(Failure::timeout("progress")),
    }
}
