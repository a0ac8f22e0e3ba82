//! What each endpoint answers.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::Shared;
use super::exchange::{Exchange, Field, Gone};
use crate::pattern;

pub(super) async fn answer<E: Exchange>(shared: &Shared, exchange: &mut E) -> Result<(), Gone> {
    shared.requests.fetch_add(1, Relaxed);
    let request = exchange.request().clone();
    let name = shared.name.as_str();
    let nonce = request.field("x-nonce").unwrap_or_default();
    let fields: &[Field<'_>] = &[("X-Upstream", name), ("X-Nonce", nonce)];
    let grpc = request.field("content-type").is_some_and(|t| t.starts_with("application/grpc"));
    if grpc {
        return grpc_echo(exchange, fields).await;
    }
    match request.endpoint() {
        "echo" => echo(exchange, fields).await,
        "bytes" => bytes(exchange, fields, request.number("n").unwrap_or_default()).await,
        "sink" => sink(exchange, fields).await,
        "headers" => {
            let head = json!({
                "version": request.version,
                "method": request.method,
                "target": request.target,
                "authority": request.authority,
                "fields": request.fields,
            });
            whole(exchange, 200, fields, head.to_string()).await
        }
        "slow" => {
            pause(request.number("ms")).await;
            whole(exchange, 200, fields, format!("{name} {nonce}\n")).await
        }
        "sse" => events(exchange, fields, request.number("n"), request.number("ms")).await,
        "trailers" => {
            exchange.head(200, &[fields, &[("Trailer", "X-Checked")]].concat(), None).await?;
            exchange.write(Bytes::from(format!("{name} {nonce}\n"))).await?;
            exchange.finish(&[("X-Checked", "yes")]).await
        }
        "status" => {
            let status = request.number("code").and_then(|code| u16::try_from(code).ok());
            let status = status.filter(|s| (200..600).contains(s)).unwrap_or(400);
            whole(exchange, status, fields, format!("{status}\n")).await
        }
        "early-hints" => {
            exchange.informational(103, &[("Link", "</style.css>; rel=preload; as=style")]).await?;
            whole(exchange, 200, fields, format!("{name} {nonce}\n")).await
        }
        "reset" => Err(Gone),
        "cut" => {
            let length = request.number("n").unwrap_or(100);
            exchange.head(200, fields, Some(2 * length)).await?;
            send_pattern(exchange, length).await?;
            Err(Gone)
        }
        "health" => health(shared, exchange, fields, request.query("set")).await,
        _ => whole(exchange, 200, fields, format!("{name} {nonce}\n")).await,
    }
}

async fn whole<E: Exchange>(
    exchange: &mut E,
    status: u16,
    fields: &[Field<'_>],
    body: String,
) -> Result<(), Gone> {
    exchange.head(status, fields, Some(body.len() as u64)).await?;
    exchange.write(body.into()).await?;
    exchange.finish(&[]).await
}

async fn echo<E: Exchange>(exchange: &mut E, fields: &[Field<'_>]) -> Result<(), Gone> {
    let length = exchange.request().field("content-length").and_then(|l| l.parse().ok());
    // The first piece before the head, so that `100 Continue` comes before `200 OK`.
    let first = exchange.read().await?;
    exchange.head(200, fields, length).await?;
    let mut next = first;
    while let Some(piece) = next {
        exchange.write(piece).await?;
        next = exchange.read().await?;
    }
    exchange.finish(&[]).await
}

async fn bytes<E: Exchange>(
    exchange: &mut E,
    fields: &[Field<'_>],
    length: u64,
) -> Result<(), Gone> {
    exchange.head(200, fields, Some(length)).await?;
    send_pattern(exchange, length).await?;
    exchange.finish(&[]).await
}

async fn send_pattern<E: Exchange>(exchange: &mut E, length: u64) -> Result<(), Gone> {
    let mut sent = 0;
    while sent < length {
        let piece = pattern::piece(sent, length - sent);
        sent += piece.len() as u64;
        exchange.write(piece).await?;
    }
    Ok(())
}

async fn sink<E: Exchange>(exchange: &mut E, fields: &[Field<'_>]) -> Result<(), Gone> {
    let mut check = pattern::Check::default();
    while let Some(piece) = exchange.read().await? {
        check.update(&piece);
    }
    let answer = json!({ "length": check.length(), "pattern": check.mismatch().is_none() });
    whole(exchange, 200, fields, answer.to_string()).await
}

async fn events<E: Exchange>(
    exchange: &mut E,
    fields: &[Field<'_>],
    count: Option<u64>,
    millis: Option<u64>,
) -> Result<(), Gone> {
    let kind = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")];
    exchange.head(200, &[fields, &kind].concat(), None).await?;
    for number in 0..count.unwrap_or(10) {
        if number > 0 {
            pause(millis).await;
        }
        exchange.write(Bytes::from(format!("id: {number}\ndata: event {number}\n\n"))).await?;
    }
    exchange.finish(&[]).await
}

async fn health<E: Exchange>(
    shared: &Shared,
    exchange: &mut E,
    fields: &[Field<'_>],
    set: Option<&str>,
) -> Result<(), Gone> {
    match set {
        Some("up") => shared.health.up.store(true, Relaxed),
        Some("down") => shared.health.up.store(false, Relaxed),
        _ => {}
    }
    let (status, text) = if shared.health.is_up() { (200, "up\n") } else { (503, "down\n") };
    whole(exchange, status, fields, text.to_owned()).await
}

/// As a gRPC server of unary and streaming calls does it; the path `/…/fail` fails without a body
/// ("trailers only").
async fn grpc_echo<E: Exchange>(exchange: &mut E, fields: &[Field<'_>]) -> Result<(), Gone> {
    let kind: &[Field<'_>] = &[("content-type", "application/grpc")];
    if exchange.request().endpoint() == "fail" {
        let status = [("grpc-status", "5"), ("grpc-message", "not found")];
        exchange.head(200, &[kind, &status].concat(), Some(0)).await?;
        return exchange.finish(&[]).await;
    }
    exchange.head(200, &[fields, kind].concat(), None).await?;
    while let Some(piece) = exchange.read().await? {
        exchange.write(piece).await?;
    }
    exchange.finish(&[("grpc-status", "0"), ("grpc-message", "")]).await
}

async fn pause(millis: Option<u64>) {
    tokio::time::sleep(Duration::from_millis(millis.unwrap_or(100))).await;
}
