//! TLS that ends at the upstream: the ClientHello says which, and every byte goes there as it came.

use std::future::pending;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::hold::{Lack, Patience, Waited};
use super::local::{Local, Peer};
use super::request::{ATTEMPTS, failed};
use super::transport::{Socket, Transport};
use super::tunnel::{End, Inside, Tunnel};
use super::upstream::Pool;
use super::upstream::balance::Tried;
use super::upstream::exchange::{Active, UpstreamError};
use crate::protocol::snapshot::{Intervention, UpstreamProtocol};

/// The path whose route has the upstreams: what is asked for nobody but they can read.
const PATH: &[u8] = b"/";

/// A fatal alert (RFC 8446 section 6), for a handshake of which we end nothing but this.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Alert {
    AccessDenied = 49,
    /// Nobody is there to go on with it.
    InternalError = 80,
    /// RFC 6066 section 3.
    UnrecognizedName = 112,
}

/// In the clear: no key was agreed on yet.
pub async fn refuse(socket: &mut Socket, alert: Alert) -> std::io::Result<()> {
    socket.write_all(&[21, 3, 3, 0, 2, 2, alert as u8]).await?;
    socket.shutdown().await
}

/// Serves a connection to `name` of which `hello` was read. The host may wait, as for a request.
pub async fn serve(
    local: Rc<Local>,
    peer: Peer,
    name: &str,
    mut socket: Socket,
    hello: BytesMut,
) -> std::io::Result<()> {
    let (upstream, _active, idle) = match open(&local, &peer, name).await {
        Ok(opened) => opened,
        Err(alert) => return refuse(&mut socket, alert).await,
    };
    let client = End::stream(Transport::Plain(socket), hello);
    let upstream = End::stream(upstream, BytesMut::new());
    let _tunnel = local.stats.tunnels.enter();
    let drain = local.drain.watch();
    Tunnel::new(client, upstream, Inside::Unknown).run(idle, &drain).await;
    Ok(())
}

type Opened = (Transport, Active, std::time::Duration);

async fn open(local: &Rc<Local>, peer: &Peer, name: &str) -> Result<Opened, Alert> {
    let idle = local.settings.timeouts.tunnel_idle;
    let mut patience = Patience::default();
    loop {
        let routing = local.routing();
        let host = routing.table.host(name.as_bytes()).ok_or(Alert::UnrecognizedName)?;
        let route = host.route(PATH).ok_or(Alert::UnrecognizedName)?;
        if route.options.as_ref().is_some_and(|options| !options.admits(peer.address.ip())) {
            return Err(Alert::AccessDenied);
        }
        let lack = match (&host.intervention, host.pause()) {
            (Some(Intervention::Maintenance(_)), _) => return Err(Alert::InternalError),
            (_, Some(rest)) => Lack::Paused(rest),
            (_, None) => match connect(local, peer, routing.pools.pool(route.pool)).await {
                Ok((transport, active)) => return Ok((transport, active, idle)),
                Err(lack) => lack,
            },
        };
        // A client that goes meanwhile is found out by the first write.
        let waited = patience.wait(local, (&routing, route), lack, pending()).await;
        if waited != Waited::News {
            return Err(Alert::InternalError);
        }
    }
}

async fn connect(local: &Rc<Local>, peer: &Peer, pool: &Pool) -> Result<(Transport, Active), Lack> {
    let mut tried = Tried::default();
    while tried.count() < ATTEMPTS {
        let client = || peer.address.ip();
        let picked = pool.pick(local.settings.balance, &tried, Instant::now(), client);
        let Some(index) = picked else { break };
        let member = &pool.members[index];
        let active = Active::enter(member.upstream.clone());
        let address = member.upstream.address;
        match local.connector.connect(address, UpstreamProtocol::Http, "").await {
            Ok(transport) => {
                member.upstream.succeeded();
                return Ok((transport, active));
            }
            Err(error) => failed(local, member, &UpstreamError::Connect(error)),
        }
        tried.add(index);
    }
    Err(if pool.members.is_empty() { Lack::Vacant } else { Lack::Refused })
}
