//! HTTP/1.1 clients: one that keeps its connection, one that does not.

use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Answer, Ask, Client};
use crate::failure::{Cause, Failure};
use crate::target::Stream;
use crate::wire::{self, Body, Fields, Wire};

pub(super) async fn keep_alive(mut client: Client) {
    let mut wire = None;
    while let Some((due, open)) = idle(&mut client, wire).await {
        let ask = client.ask();
        wire = attempt(&mut client, open, &ask, due, false).await;
    }
}

pub(super) async fn fresh(mut client: Client) {
    while let Some(due) = client.turn().await {
        let ask = client.ask();
        attempt(&mut client, None, &ask, due, true).await;
    }
}

/// Waits for the next request with an eye on the connection, as any client with a pool does: an end of
/// stream that is seen before the next request is sent is felt by nobody. One that comes later is.
/// When the request was due, and the connection if it is still there; `None` where no request comes.
async fn idle(
    client: &mut Client,
    wire: Option<Wire<Stream>>,
) -> Option<(Instant, Option<Wire<Stream>>)> {
    let Some(mut wire) = wire else { return Some((client.turn().await?, None)) };
    let began = Instant::now();
    let read = tokio::select! {
        biased;
        read = wire.fill() => read,
        due = client.turn() => return Some((due?, Some(wire))),
    };
    match read {
        Ok(0) | Err(_) => client.tally.closed_between(),
        Ok(_) => {
            let text = "bytes that answer no request";
            client.count(began, Err(Failure::new(Cause::Protocol, text))).await;
        }
    }
    Some((client.turn().await?, None))
}

/// One request, counted. Gives the connection back where it can be used again.
async fn attempt(
    client: &mut Client,
    wire: Option<Wire<Stream>>,
    ask: &Ask,
    began: Instant,
    close: bool,
) -> Option<Wire<Stream>> {
    let limit = client.plan.timeout;
    let outcome = timeout(limit, exchange(client, wire, ask, close))
        .await
        .unwrap_or_else(|_| Err(Failure::timeout("response")));
    let (checked, wire) = match outcome {
        Ok((answer, wire)) => (ask.check(answer), wire),
        Err(failure) => (Err(failure), None),
    };
    if wire.is_none() && checked.is_ok() && !close {
        client.tally.closed_between();
    }
    client.count(began, checked).await;
    wire
}

async fn exchange(
    client: &Client,
    wire: Option<Wire<Stream>>,
    ask: &Ask,
    close: bool,
) -> Result<(Answer, Option<Wire<Stream>>), Failure> {
    let mut wire = match wire {
        Some(wire) => wire,
        None => Wire::new(client.connect("http/1.1").await?),
    };
    wire.stream.write_all(&request(client, ask, close)).await?;
    wire.stream.flush().await?;
    let head = final_head(&mut wire).await?;
    let mut body = Body::from_fields(&head.fields, Body::UntilEof)?;
    let until_eof = body == Body::UntilEof;
    let mut whole = Vec::new();
    while let Some(piece) = wire.body(&mut body, &mut Fields::new()).await? {
        whole.extend_from_slice(&piece);
    }
    let reusable = !close && !until_eof && head.keeps_alive();
    let first = |name| wire::first(&head.fields, name).map(str::to_owned);
    let answer = Answer {
        status: head.status,
        nonce: first("x-nonce"),
        upstream: first("x-upstream"),
        grpc_status: None,
        body: whole,
    };
    Ok((answer, reusable.then_some(wire)))
}

fn request(client: &Client, ask: &Ask, close: bool) -> Vec<u8> {
    let method = if ask.body.is_some() { "POST" } else { "GET" };
    let mut head = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nX-Nonce: {}\r\n",
        ask.path, client.target.host, ask.nonce
    );
    if close {
        head.push_str("Connection: close\r\n");
    }
    if let Some(body) = &ask.body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), ask.body.as_deref().unwrap_or_default()].concat()
}

pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    version: u8,
    pub(crate) fields: Fields,
}

impl ResponseHead {
    fn keeps_alive(&self) -> bool {
        self.version == 1 && !wire::has_token(&self.fields, "connection", "close")
    }
}

/// The head of the final response; informational ones before it are passed over.
pub(crate) async fn final_head(wire: &mut Wire<Stream>) -> Result<ResponseHead, Failure> {
    loop {
        let head = wire.head(parse).await?;
        let head = head.ok_or_else(|| Failure::new(Cause::Eof, "before a response"))?;
        if head.status == 101 || head.status >= 200 {
            return Ok(head);
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(usize, ResponseHead)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; wire::MAX_FIELDS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes)? else { return Ok(None) };
    let head = ResponseHead {
        status: response.code.unwrap_or_default(),
        version: response.version.unwrap_or_default(),
        fields: wire::fields(response.headers),
    };
    Ok(Some((length, head)))
}
