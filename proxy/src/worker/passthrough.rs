//! TLS that ends at the upstream: the ClientHello says which, and every byte goes there as it came.

use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::hold::{Lack, Patience, Waited};
use super::leaving::Leaving;
use super::local::{Local, Peer, Routing};
use super::request::{ATTEMPTS, failed};
use super::table::Route;
use super::transport::{Socket, Transport};
use super::tunnel::{End, Inside, Tunnel};
use super::upstream::balance::{Asker, Tried};
use super::upstream::exchange::{Active, UpstreamError};
use super::upstream::gate::Pass;
use crate::protocol::snapshot::Intervention;

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
    let Opened { transport, idle, leaving, _active, _pass } = match open(&local, &peer, name).await
    {
        Ok(opened) => opened,
        Err(alert) => return refuse(&mut socket, alert).await,
    };
    let client = End::stream(Transport::Plain(socket), hello);
    let upstream = End::stream(transport, BytesMut::new());
    let _tunnel = local.stats.tunnels.enter();
    let drain = local.drain.watch();
    Tunnel::new(client, upstream, Inside::Unknown).run(idle, &drain, leaving).await;
    Ok(())
}

/// A connection to an upstream, and what ends with it.
struct Opened {
    transport: Transport,
    /// How long nothing may move.
    idle: Duration,
    leaving: Option<Box<Leaving>>,
    _active: Active,
    _pass: Option<Pass>,
}

async fn open(local: &Rc<Local>, peer: &Peer, name: &str) -> Result<Opened, Alert> {
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
            (_, None) => match connect(local, peer, &routing, route).await {
                Ok(opened) => return Ok(opened),
                Err(Missed::Full) => return Err(Alert::InternalError),
                Err(Missed::Lack(lack)) => lack,
            },
        };
        // A client that goes meanwhile is found out by the first write.
        let waited = patience.wait(local, (&routing, route), lack, pending()).await;
        if waited != Waited::News {
            return Err(Alert::InternalError);
        }
    }
}

/// Why nobody was reached.
enum Missed {
    Lack(Lack),
    /// Too many connections wait for an upstream that has as many as it may.
    Full,
}

async fn connect(
    local: &Rc<Local>,
    peer: &Peer,
    routing: &Routing,
    route: &Route,
) -> Result<Opened, Missed> {
    let usual = &local.settings.timeouts;
    let options = route.options.as_deref();
    let timeouts = options.and_then(|options| options.timeouts(usual));
    let timeouts = timeouts.as_ref().unwrap_or(usual);
    let preamble = options.and_then(|options| options.preamble_for(peer, peer.address.ip()));
    let drain = options.and_then(|options| options.drain());
    let pool = routing.pools.pool(route.pool);
    let who = Asker::Connection(peer.address.ip());
    let mut tried = Tried::default();
    while tried.count() < ATTEMPTS {
        let picked = pool.pick(local.settings.balance, &tried, Instant::now(), &who);
        let Some(index) = picked else { break };
        let member = &pool.members[index];
        let pass = match (&member.gate, pool.queue) {
            (Some(gate), Some(queue)) => Some(gate.enter(queue).await.map_err(|_| Missed::Full)?),
            _ => None,
        };
        let active = Active::enter(member.upstream.clone());
        let address = member.upstream.address;
        match local.connector.bare(address, timeouts.connect, preamble.as_deref()).await {
            Ok(transport) => {
                member.upstream.succeeded();
                let leaving = drain.map(|limit| Leaving::watch(local, &member.upstream, limit));
                return Ok(Opened {
                    transport,
                    idle: timeouts.tunnel_idle,
                    leaving: leaving.map(Box::new),
                    _active: active,
                    _pass: pass,
                });
            }
            Err(error) => failed(local, member, &UpstreamError::Connect(error)),
        }
        tried.add(index);
    }
    let is_vacant = pool.members.is_empty();
    Err(Missed::Lack(if is_vacant { Lack::Vacant } else { Lack::Refused }))
}
