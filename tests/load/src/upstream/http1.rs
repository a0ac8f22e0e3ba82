//! The upstream's HTTP/1.1: fields as they came, keep-alive, chunks, trailers, upgrade.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::endpoints;
use super::exchange::{Exchange, Field, Gone, Request};
use super::{Shared, begun};
use crate::target::Stream;
use crate::wire::{self, Body, Fields, Wire};

/// Rest of a request body that is read so that the connection can be kept, in bytes.
const MAX_UNREAD: u64 = 4 << 20;

pub(super) async fn serve(
    mut wire: Wire<Stream>,
    shared: Arc<Shared>,
    draining: watch::Receiver<bool>,
) -> Result<(), Gone> {
    serve_requests(&mut wire, &shared, draining).await?;
    // Over TLS the end has to be said: without it, it looks as if somebody had cut the stream.
    Ok(wire.stream.shutdown().await?)
}

async fn serve_requests(
    wire: &mut Wire<Stream>,
    shared: &Shared,
    mut draining: watch::Receiver<bool>,
) -> Result<(), Gone> {
    loop {
        let request = tokio::select! {
            biased;
            request = wire.head(parse) => request?,
            // As servers do: an idle connection is closed as soon as the server stops.
            () = begun(&mut draining) => return Ok(()),
        };
        let Some(request) = request else { return Ok(()) };
        if request.endpoint() == "ws" && wire::has_token(&request.fields, "upgrade", "websocket") {
            shared.requests.fetch_add(1, Relaxed);
            return websocket(wire, &request, &shared.name, draining).await;
        }
        let mut exchange = Http1::new(wire, request, draining.clone())?;
        endpoints::answer(shared, &mut exchange).await?;
        if !exchange.can_be_followed().await? {
            return Ok(());
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<(usize, Request)>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; wire::MAX_FIELDS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
    let fields = wire::fields(request.headers);
    let head = Request {
        version: if request.version == Some(0) { "HTTP/1.0" } else { "HTTP/1.1" },
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        authority: wire::first(&fields, "host").unwrap_or_default().to_owned(),
        fields,
    };
    Ok(Some((length, head)))
}

struct Http1<'a> {
    wire: &'a mut Wire<Stream>,
    request: Request,
    /// Of the request.
    body: Body,
    /// The client waits for `100 Continue`.
    expects: bool,
    out: BytesMut,
    framing: Framing,
    draining: watch::Receiver<bool>,
}

/// How the response's body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    AsIs,
    Chunked,
    /// HEAD, 204, 304: framed in the head alone.
    NoBody,
}

impl<'a> Http1<'a> {
    fn new(
        wire: &'a mut Wire<Stream>,
        request: Request,
        draining: watch::Receiver<bool>,
    ) -> Result<Self, Gone> {
        let body = Body::from_fields(&request.fields, Body::Done)?;
        let expects =
            body != Body::Done && wire::has_token(&request.fields, "expect", "100-continue");
        let (out, framing) = (BytesMut::new(), Framing::AsIs);
        Ok(Http1 { wire, request, body, expects, out, framing, draining })
    }

    fn closes(&self) -> bool {
        // A client that was never told to continue may or may not send its body.
        self.expects
            || *self.draining.borrow()
            || self.request.version == "HTTP/1.0"
            || wire::has_token(&self.request.fields, "connection", "close")
    }

    /// Reads what is left of the request, so that the next one can follow.
    async fn can_be_followed(mut self) -> Result<bool, Gone> {
        if self.closes() {
            return Ok(false);
        }
        let mut unread = 0;
        while let Some(piece) = self.read().await? {
            unread += piece.len() as u64;
            if unread > MAX_UNREAD {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn put_head(&mut self, status: u16, fields: &[Field<'_>]) {
        let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default());
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").expect("a string takes what it is given");
        }
        self.out.extend_from_slice(head.as_bytes());
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        self.wire.stream.write_all(&self.out.split()).await?;
        Ok(self.wire.stream.flush().await?)
    }
}

impl Exchange for Http1<'_> {
    fn request(&self) -> &Request {
        &self.request
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Gone> {
        if std::mem::take(&mut self.expects) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.flush().await?;
        }
        Ok(self.wire.body(&mut self.body, &mut Fields::new()).await?)
    }

    async fn informational(&mut self, status: u16, fields: &[Field<'_>]) -> Result<(), Gone> {
        self.put_head(status, fields);
        self.out.extend_from_slice(b"\r\n");
        self.flush().await
    }

    async fn head(
        &mut self,
        status: u16,
        fields: &[Field<'_>],
        length: Option<u64>,
    ) -> Result<(), Gone> {
        self.put_head(status, fields);
        let bodiless = self.request.method == "HEAD" || matches!(status, 204 | 304);
        match length {
            Some(length) if status != 204 => {
                self.out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
            }
            None if !bodiless => {
                self.framing = Framing::Chunked;
                self.out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            _ => {}
        }
        if bodiless {
            self.framing = Framing::NoBody;
        }
        if self.closes() {
            self.out.extend_from_slice(b"Connection: close\r\n");
        }
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), Gone> {
        match self.framing {
            Framing::NoBody => {}
            Framing::AsIs => self.out.extend_from_slice(&piece),
            // An empty chunk would be the last one.
            Framing::Chunked if piece.is_empty() => {}
            Framing::Chunked => {
                self.out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                self.out.extend_from_slice(&piece);
                self.out.extend_from_slice(b"\r\n");
            }
        }
        self.flush().await
    }

    async fn finish(&mut self, trailers: &[Field<'_>]) -> Result<(), Gone> {
        if self.framing == Framing::Chunked {
            let mut end = "0\r\n".to_owned();
            for (name, value) in trailers {
                write!(end, "{name}: {value}\r\n").expect("a string takes what it is given");
            }
            self.out.extend_from_slice(end.as_bytes());
            self.out.extend_from_slice(b"\r\n");
        }
        self.flush().await
    }
}

async fn websocket(
    wire: &mut Wire<Stream>,
    request: &Request,
    name: &str,
    mut draining: watch::Receiver<bool>,
) -> Result<(), Gone> {
    let key = request.field("sec-websocket-key").ok_or(Gone)?;
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nX-Upstream: {name}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    wire.stream.write_all(head.as_bytes()).await?;
    wire.stream.flush().await?;
    let early = wire.buffer.split().into();
    let mut socket =
        WebSocketStream::from_partially_read(&mut wire.stream, early, Role::Server, None).await;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    socket.send(message).await.map_err(|_| Gone)?;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(()),
            },
            () = begun(&mut draining) => {
                let frame = CloseFrame { code: CloseCode::Away, reason: "stopping".into() };
                socket.close(Some(frame)).await.map_err(|_| Gone)?;
                while let Some(Ok(_)) = socket.next().await {}
                return Ok(());
            }
        }
    }
}
