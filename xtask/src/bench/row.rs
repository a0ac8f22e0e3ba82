//! The kinds of work that are measured.

use super::configs::{Setup, Upstream};

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub work: Work,
    pub setup: Setup,
    pub tls: bool,
    pub path: &'static str,
    /// A file whose content is posted.
    pub body: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    /// As fast as answers come.
    Closed { http1: bool, clients: usize, streams: usize },
    /// So many in all, one after the other over one connection.
    Counted { http1: bool, requests: u64 },
    /// New connections at this rate a second, one request over each.
    Connections { rate: usize },
    /// New connections that resume a TLS session, one request over each, and the next one when it is
    /// answered.
    Resumed { clients: usize },
    /// A message through each WebSocket, and the next one when its echo is there.
    Messages { sockets: usize },
    /// Unary calls of gRPC, as fast as answers come.
    Calls { clients: usize, streams: usize },
    /// So many connections, one request over each, and then nothing.
    Idle { connections: usize },
    /// From exec to the first answer, and then nothing.
    Start,
    /// At fixed rates: percentages of what the slowest proxy does in a closed loop.
    Paced { clients: usize, streams: usize, percentages: [u64; 3] },
    /// So many new configurations, one a second, under a load of this rate.
    Reloads { count: u64, rate: u64 },
}

impl Work {
    /// Once is enough where a measurement has its repetitions in itself.
    pub fn rounds(self, wanted: u64) -> u64 {
        if matches!(self, Work::Reloads { .. }) { 1 } else { wanted }
    }
}

impl Row {
    pub const fn new(name: &'static str, work: Work) -> Row {
        Row { name, work, setup: Setup::USUAL, tls: true, path: "/1k", body: None }
    }

    pub const fn plain(self) -> Row {
        Row { tls: false, ..self }
    }

    pub const fn path(self, path: &'static str) -> Row {
        Row { path, ..self }
    }

    pub const fn body(self, body: &'static str) -> Row {
        Row { body: Some(body), ..self }
    }

    const fn hosts(self, hosts: usize) -> Row {
        Row { setup: Setup { hosts, ..self.setup }, ..self }
    }

    const fn certificates(self) -> Row {
        Row { setup: Setup { certificates: true, ..self.setup }, ..self }
    }

    const fn threads(self, threads: usize) -> Row {
        Row { setup: Setup { threads, ..self.setup }, ..self }
    }

    const fn upstream(self, upstream: Upstream) -> Row {
        Row { setup: Setup { upstream, ..self.setup }, ..self }
    }

    const fn reloads(self) -> Row {
        Row { setup: Setup { reloads: true, ..self.setup }, ..self }
    }
}

const fn http1() -> Work {
    Work::Closed { http1: true, clients: 32, streams: 1 }
}

const fn http2(clients: usize, streams: usize) -> Work {
    Work::Closed { http1: false, clients, streams }
}

const PACED: Work = Work::Paced { clients: 16, streams: 16, percentages: [30, 60, 80] };

pub const ROWS: [Row; 19] = [
    Row::new("http1 plain 1 KiB", http1()).plain(),
    Row::new("http1 tls 1 KiB", http1()),
    Row::new("http2 tls 1 KiB", http2(16, 16)),
    Row::new("http2 tls 100 KiB", http2(8, 4)).path("/100k"),
    Row::new("http2 tls 1 MiB", http2(4, 2)).path("/1m"),
    Row::new("http2 tls POST 100 KiB", http2(8, 4)).path("/post").body("100k"),
    Row::new("new tls connection", Work::Connections { rate: 200 }),
    Row::new("resumed tls connection", Work::Resumed { clients: 4 }),
    Row::new("websocket messages", Work::Messages { sockets: 16 }).upstream(Upstream::WebSocket),
    Row::new("grpc unary", Work::Calls { clients: 8, streams: 8 }).upstream(Upstream::Grpc),
    Row::new("1,000 routes", http1()).plain().hosts(1_000),
    Row::new("10,000 routes", http1()).plain().hosts(10_000),
    Row::new("two threads", http2(16, 16)).threads(2),
    Row::new("idle http2 tls", Work::Idle { connections: 1_000 }),
    Row::new("5,000 idle http2 tls", Work::Idle { connections: 5_000 }),
    Row::new("size and start", Work::Start).hosts(200),
    Row::new("1,000 certificates", Work::Start).hosts(1_000).certificates(),
    Row::new("fixed rate", PACED),
    Row::new("20 reloads", Work::Reloads { count: 20, rate: 1_000 }).hosts(10).reloads(),
];
