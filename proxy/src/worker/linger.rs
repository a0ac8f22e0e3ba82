//! The end of a connection, so that the last thing sent arrives.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::transport::Transport;

/// How long, and for how many bytes, the client may go on sending before the connection is closed
/// under it. Closed at once, the kernel would answer those bytes by a reset, and the reset would
/// destroy what is on its way to the client (RFC 9112 section 9.6).
const LIMIT: Duration = Duration::from_secs(2);
const LIMIT_BYTES: usize = 1 << 20;
/// Bytes at a time.
const SCRATCH: usize = 4096;

/// Says that nothing more comes, and lets the client say its last.
pub async fn close(transport: &mut Transport) {
    // Whatever goes wrong, the connection is over.
    let _ = timeout(LIMIT, shut_and_drain(transport)).await;
}

async fn shut_and_drain(transport: &mut Transport) -> io::Result<()> {
    transport.shutdown().await?;
    let mut scratch = vec![0; SCRATCH];
    let mut drained = 0;
    while drained < LIMIT_BYTES {
        match transport.read(&mut scratch).await? {
            0 => break,
            read => drained += read,
        }
    }
    Ok(())
}
