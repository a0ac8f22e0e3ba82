//! The upstream's HTTP/2, over the h2 crate.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::endpoints;
use super::exchange::{Exchange, Field, Gone, Request};
use super::{Shared, begun};
use crate::client::http2::send;

/// A stream's window, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
/// The connection's: equal windows stall when one stream is not read.
const CONNECTION_WINDOW: u32 = 8 << 20;

pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
    mut draining: watch::Receiver<bool>,
) -> Result<(), Gone> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(stream)
        .await?;
    let mut streams = JoinSet::new();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = begun(&mut draining), if !told => {
                told = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        // The end comes once every stream has ended.
        let Some(accepted) = accepted else { return Ok(()) };
        let (request, respond) = accepted?;
        while streams.try_join_next().is_some() {}
        let shared = shared.clone();
        streams.spawn(async move {
            let mut exchange = Http2::new(request, respond);
            if endpoints::answer(&shared, &mut exchange).await.is_err() {
                exchange.reset();
            }
        });
    }
}

struct Http2 {
    request: Request,
    /// Of the request.
    body: h2::RecvStream,
    expects: bool,
    respond: h2::server::SendResponse<Bytes>,
    out: Option<h2::SendStream<Bytes>>,
    bodiless: bool,
}

impl Http2 {
    fn new(
        request: http::Request<h2::RecvStream>,
        respond: h2::server::SendResponse<Bytes>,
    ) -> Self {
        let (head, body) = request.into_parts();
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let fields = head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
        let request = Request {
            version: "HTTP/2",
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
            authority: head.uri.authority().map_or("", |a| a.as_str()).to_owned(),
            fields,
        };
        let expects = request.field("expect") == Some("100-continue");
        let bodiless = request.method == "HEAD";
        Http2 { request, body, expects, respond, out: None, bodiless }
    }

    fn reset(mut self) {
        match &mut self.out {
            Some(out) => out.send_reset(h2::Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    }
}

fn response(status: u16, fields: &[Field<'_>]) -> Result<Response<()>, Gone> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Gone)?;
    *response.headers_mut() = map(fields)?;
    Ok(response)
}

fn map(fields: &[Field<'_>]) -> Result<HeaderMap, Gone> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: HeaderName = name.parse().map_err(|_| Gone)?;
        map.append(name, value.parse().map_err(|_| Gone)?);
    }
    Ok(map)
}

impl Exchange for Http2 {
    fn request(&self) -> &Request {
        &self.request
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Gone> {
        if std::mem::take(&mut self.expects) {
            self.informational(100, &[]).await?;
        }
        let Some(piece) = self.body.data().await.transpose()? else { return Ok(None) };
        self.body.flow_control().release_capacity(piece.len())?;
        Ok(Some(piece))
    }

    async fn informational(&mut self, status: u16, fields: &[Field<'_>]) -> Result<(), Gone> {
        Ok(self.respond.send_informational(response(status, fields)?)?)
    }

    async fn head(
        &mut self,
        status: u16,
        fields: &[Field<'_>],
        length: Option<u64>,
    ) -> Result<(), Gone> {
        let mut response = response(status, fields)?;
        self.bodiless |= matches!(status, 204 | 304);
        if let Some(length) = length
            && status != 204
        {
            response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
        }
        let ends = self.bodiless || length == Some(0);
        let out = self.respond.send_response(response, ends)?;
        self.out = (!ends).then_some(out);
        Ok(())
    }

    async fn write(&mut self, piece: Bytes) -> Result<(), Gone> {
        match &mut self.out {
            Some(out) => Ok(send(out, piece, false).await?),
            None => Ok(()),
        }
    }

    async fn finish(&mut self, trailers: &[Field<'_>]) -> Result<(), Gone> {
        let Some(out) = &mut self.out else { return Ok(()) };
        if trailers.is_empty() {
            out.send_data(Bytes::new(), true)?;
        } else {
            out.send_trailers(map(trailers)?)?;
        }
        Ok(())
    }
}
