//! WebSocket clients: a tunnel held open, messages there and back.

use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Client;
use crate::failure::{Cause, Failure};
use crate::target::Stream;

type Tunnel = WebSocketStream<Stream>;

/// Largest message, in bytes.
const MAX_MESSAGE: u64 = 2048;

pub(super) async fn run(mut client: Client) {
    let mut tunnel = None;
    while let Some(began) = client.turn().await {
        client.left -= 1;
        let limit = client.plan.timeout;
        let outcome = timeout(limit, round_trip(&mut client, &mut tunnel))
            .await
            .unwrap_or_else(|_| Err(Failure::timeout("echo")));
        if outcome.is_err() {
            tunnel = None;
        }
        client.count(began, outcome.map(|()| "websocket".to_owned())).await;
    }
    if let Some(tunnel) = tunnel {
        let began = Instant::now();
        let closed = timeout(client.plan.timeout, close(tunnel)).await;
        if let Err(failure) = closed.unwrap_or_else(|_| Err(Failure::timeout("close"))) {
            client.tally.count(began.elapsed(), Err(failure));
        }
    }
}

async fn round_trip(client: &mut Client, tunnel: &mut Option<Tunnel>) -> Result<(), Failure> {
    let open = match tunnel.take() {
        Some(open) => open,
        None => connect(client).await?,
    };
    let open = tunnel.insert(open);
    let size = client.random.below(MAX_MESSAGE) as usize;
    let message = Message::text(format!("{:016x}{:.<size$}", client.random.draw(), ""));
    open.send(message.clone()).await?;
    match open.next().await {
        Some(Ok(echo)) if echo == message => Ok(()),
        Some(Ok(Message::Close(frame))) => {
            Err(Failure::new(Cause::Closed, format!("close frame {frame:?}")))
        }
        Some(Ok(other)) => {
            let text: String = format!("{other:?}").chars().take(80).collect();
            Err(Failure::new(Cause::WrongBody, text))
        }
        Some(Err(error)) => Err(error.into()),
        None => Err(Failure::new(Cause::Eof, "before an echo")),
    }
}

async fn connect(client: &Client) -> Result<Tunnel, Failure> {
    let stream = client.connect("http/1.1").await?;
    // The scheme only says that it is a WebSocket: the stream is already there, TLS or not.
    let url = format!("ws://{}{}ws", client.target.host, client.plan.base);
    let (tunnel, _) = tokio_tungstenite::client_async(url, stream).await?;
    Ok(tunnel)
}

/// The closing handshake: a tunnel that cannot be closed in order was torn.
async fn close(mut tunnel: Tunnel) -> Result<(), Failure> {
    tunnel.close(None).await?;
    while let Some(message) = tunnel.next().await {
        match message {
            Ok(_) | Err(tungstenite::Error::ConnectionClosed) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
