//! Bytes as they are: a client that sends what no library would, and an upstream that keeps what it
//! was sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const LIMIT: Duration = Duration::from_secs(10);

/// Sends these bytes on a connection of their own and returns everything up to the end of the
/// stream, which a reset is too.
///
/// # Panics
/// When the connection is not closed in time.
pub async fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    exchange_within(LIMIT, address, bytes).await
}

/// As [`exchange`], with a limit of its own.
///
/// # Panics
/// As [`exchange`].
pub async fn exchange_within(
    limit: Duration,
    address: SocketAddr,
    bytes: impl AsRef<[u8]>,
) -> String {
    let answer = async {
        let mut stream = TcpStream::connect(address).await.expect("baton listens");
        // It may close before it has read all: what it answered counts.
        drop(stream.write_all(bytes.as_ref()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        answer
    };
    let answer = tokio::time::timeout(limit, answer).await;
    String::from_utf8_lossy(&answer.expect("baton closes the connection")).into_owned()
}

/// An upstream that gives every request the same answer and keeps every byte that it was sent.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Answers so after each end of a head, and keeps the connection.
    pub async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let address = listener.local_addr().expect("bound");
        let received = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, answer, received.clone()));
        Recorder { address, received, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything so far, over all connections.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received_bytes()).into_owned()
    }

    pub fn received_bytes(&self) -> Vec<u8> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, answer: &'static str, received: Arc<Mutex<Vec<u8>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(record(stream, answer, received.clone()));
    }
}

async fn record(mut stream: TcpStream, answer: &'static str, received: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 16 * 1024];
    let mut seen = Vec::new();
    while let Ok(length) = stream.read(&mut buffer).await
        && length > 0
    {
        let new = &buffer[..length];
        received.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(new);
        seen.extend_from_slice(new);
        while let Some(end) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
            let block: Vec<u8> = seen.drain(..end + 4).collect();
            // The end of a chunked body looks like the end of a head: one answer for each request,
            // and that once its body is there.
            if String::from_utf8_lossy(&block).to_lowercase().contains("transfer-encoding: chunked")
            {
                continue;
            }
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
