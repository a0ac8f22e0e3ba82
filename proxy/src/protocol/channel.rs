//! A frame channel over a unix stream socket: length-delimited JSON, descriptors by SCM_RIGHTS.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sys;

/// Most descriptors of one frame; the kernel's SCM_MAX_FD is 253.
pub const MAX_DESCRIPTORS: usize = 128;
/// Longest frame, in bytes. 2,000 containers with a certificate each take about 10 MiB.
const MAX_FRAME: usize = 256 << 20;
/// Length of the JSON and number of descriptors, each a big-endian u32.
const HEADER: usize = 8;
const READ_CHUNK: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the other end closed the channel")]
    Closed,
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    #[error("frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(usize),
    #[error("frame: {0}")]
    Json(#[from] serde_json::Error),
    #[error("frame announced {announced} descriptors and {received} came")]
    Descriptors { announced: usize, received: usize },
}

/// The writing half.
#[derive(Debug)]
pub struct Sender<T> {
    stream: Arc<UnixStream>,
    frame: PhantomData<fn(T)>,
}

/// The reading half.
#[derive(Debug)]
pub struct Receiver<T> {
    stream: Arc<UnixStream>,
    bytes: BytesMut,
    descriptors: VecDeque<OwnedFd>,
    frame: PhantomData<fn() -> T>,
}

/// Both halves over one connected stream socket.
pub fn channel<Out, In>(stream: UnixStream) -> (Sender<Out>, Receiver<In>) {
    resume(stream, &[])
}

/// As [`channel`], where bytes had been read of a frame that was not complete.
pub fn resume<Out, In>(stream: UnixStream, unread: &[u8]) -> (Sender<Out>, Receiver<In>) {
    let stream = Arc::new(stream);
    (
        Sender { stream: stream.clone(), frame: PhantomData },
        Receiver {
            stream,
            bytes: BytesMut::from(unread),
            descriptors: VecDeque::new(),
            frame: PhantomData,
        },
    )
}

impl<T> Receiver<T> {
    /// The socket of both halves.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What was read of a frame that is not complete.
    pub fn unread(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends one frame. Not cancel safe: a caller that drops the future has to drop the channel too.
    ///
    /// # Errors
    /// When the other end is gone, or a limit of this module is passed.
    pub async fn send(&mut self, frame: &T) -> Result<(), ChannelError> {
        self.send_with(frame, &[]).await
    }

    /// Sends one frame with descriptors, at most [`MAX_DESCRIPTORS`].
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub async fn send_with(
        &mut self,
        frame: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let mut bytes = vec![0; HEADER];
        serde_json::to_writer(&mut bytes, frame)?;
        let length = bytes.len() - HEADER;
        if length > MAX_FRAME {
            return Err(ChannelError::TooLong(length));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(ChannelError::Descriptors {
                announced: descriptors.len(),
                received: MAX_DESCRIPTORS,
            });
        }
        bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
        bytes[4..8].copy_from_slice(&(descriptors.len() as u32).to_be_bytes());

        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut rights: &[RawFd] = &raw;
        let mut rest: &[u8] = &bytes;
        while !rest.is_empty() {
            self.stream.writable().await?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let message = [ControlMessage::ScmRights(rights)];
                let control: &[ControlMessage<'_>] = if rights.is_empty() { &[] } else { &message };
                let data = [IoSlice::new(rest)];
                sendmsg::<()>(self.stream.as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None)
                    .map_err(io::Error::from)
            });
            match sent {
                Ok(n) => {
                    rest = &rest[n..];
                    // The kernel took them with the first byte.
                    rights = &[];
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(ChannelError::Closed);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// The next frame with its descriptors. Cancel safe.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] when the other end is gone; anything else means that the channel
    /// cannot be used any more.
    pub async fn receive(&mut self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.stream.readable().await?;
            match self.stream.try_io(Interest::READABLE, || read_some(&self.stream)) {
                Ok((data, descriptors)) => {
                    if data.is_empty() {
                        return Err(ChannelError::Closed);
                    }
                    self.bytes.extend_from_slice(&data);
                    self.descriptors.extend(descriptors);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(ChannelError::Closed);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        if self.bytes.len() < HEADER {
            return Ok(None);
        }
        let mut header = &self.bytes[..HEADER];
        let (length, announced) = (header.get_u32() as usize, header.get_u32() as usize);
        if length > MAX_FRAME {
            return Err(ChannelError::TooLong(length));
        }
        if self.bytes.len() < HEADER + length {
            self.bytes.reserve(HEADER + length - self.bytes.len());
            return Ok(None);
        }
        let received = self.descriptors.len();
        if announced > received {
            return Err(ChannelError::Descriptors { announced, received });
        }
        self.bytes.advance(HEADER);
        let json = self.bytes.split_to(length);
        let descriptors = self.descriptors.drain(..announced).collect();
        Ok(Some((serde_json::from_slice(&json)?, descriptors)))
    }
}

fn read_some(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut data = vec![0; READ_CHUNK];
    let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(&mut data)];
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            descriptors.extend(received.into_iter().map(sys::own_received));
        }
    }
    let length = message.bytes;
    data.truncate(length);
    Ok((data, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    type Halves = (Sender<String>, Receiver<String>);

    fn pair() -> (Halves, Halves) {
        let (a, b) = UnixStream::pair().expect("socketpair");
        (channel(a), channel(b))
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order() {
        let ((mut tx, _keep), (_keep2, mut rx)) = pair();
        let long = "x".repeat(1 << 20);
        let sent = [String::new(), "a".into(), long];
        let writing = async {
            for frame in &sent {
                tx.send(frame).await.expect("send");
            }
        };
        let reading = async {
            for want in &sent {
                let (got, descriptors) = rx.receive().await.expect("receive");
                assert_eq!(&got, want);
                assert!(descriptors.is_empty());
            }
        };
        tokio::join!(writing, reading);
    }

    #[tokio::test]
    async fn descriptors_come_with_their_frame() {
        let ((mut tx, _keep), (_keep2, mut rx)) = pair();
        let (mut near, far) = std::os::unix::net::UnixStream::pair().expect("socketpair");
        tx.send(&"without".into()).await.expect("send");
        tx.send_with(&"with".into(), &[far.as_fd()]).await.expect("send");
        drop(far);
        assert!(rx.receive().await.expect("first").1.is_empty());
        let (frame, mut descriptors) = rx.receive().await.expect("second");
        assert_eq!(frame, "with");
        let mut received = std::os::unix::net::UnixStream::from(descriptors.remove(0));
        received.write_all(b"hi").expect("write");
        drop(received);
        let mut text = String::new();
        near.read_to_string(&mut text).expect("read");
        assert_eq!(text, "hi");
    }

    #[tokio::test]
    async fn a_closed_peer_is_told_apart() {
        let ((tx, rx_keep), (_keep, mut rx)) = pair();
        drop((tx, rx_keep));
        assert!(matches!(rx.receive().await, Err(ChannelError::Closed)));
    }
}
