//! The kinds of work that are measured.

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub work: Work,
    pub tls: bool,
    pub path: &'static str,
    /// A file whose content is posted.
    pub body: Option<&'static str>,
}

#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// As fast as answers come.
    Closed { http1: bool, clients: usize, streams: usize },
    /// New connections at this rate a second, one request over each.
    Connections { rate: usize },
    /// So many connections, one request over each, and then nothing.
    Idle { connections: usize },
}

const fn http2(name: &'static str, clients: usize, streams: usize, path: &'static str) -> Row {
    let work = Work::Closed { http1: false, clients, streams };
    Row { name, work, tls: true, path, body: None }
}

const fn http1(name: &'static str, tls: bool) -> Row {
    let work = Work::Closed { http1: true, clients: 32, streams: 1 };
    Row { name, work, tls, path: "/1k", body: None }
}

pub const ROWS: [Row; 8] = [
    http1("http1 plain 1 KiB", false),
    http1("http1 tls 1 KiB", true),
    http2("http2 tls 1 KiB", 16, 16, "/1k"),
    http2("http2 tls 100 KiB", 8, 4, "/100k"),
    http2("http2 tls 1 MiB", 4, 2, "/1m"),
    Row { body: Some("100k"), ..http2("http2 tls POST 100 KiB", 8, 4, "/post") },
    Row { work: Work::Connections { rate: 200 }, ..http2("new tls connection", 1, 1, "/1k") },
    Row { work: Work::Idle { connections: 1_000 }, ..http2("idle http2 tls", 1, 1, "/1k") },
];
