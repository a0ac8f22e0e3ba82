//! Who follows the log of one host (`baton logs`): each line of it goes to a socket, too, and none waits
//! for that.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// At a time; the controller has a smaller limit for those that live.
const MAX_FOLLOWERS: usize = 64;
/// Longest line, in bytes: the kernel queues so much as a whole or not at all (its send buffers have
/// 208 KiB), so that lines of several threads and workers do not mix in one socket.
const MAX_LINE: usize = 16 * 1024;

/// All that follow; the same ones for all threads.
#[derive(Debug, Clone, Default)]
pub struct Followers(Arc<ArcSwap<Vec<Arc<Follower>>>>);

#[derive(Debug)]
struct Follower {
    /// In lower case, without a port.
    host: String,
    socket: UnixStream,
}

impl Followers {
    /// # Errors
    /// When the socket cannot be used.
    pub fn add(&self, host: String, socket: OwnedFd) -> io::Result<()> {
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let mut all = Vec::clone(&self.0.load());
        if all.len() < MAX_FOLLOWERS {
            all.push(Arc::new(Follower { host, socket }));
            self.0.store(Arc::new(all));
        }
        Ok(())
    }

    /// Closes all sockets: whoever asked for them is gone, or asks another controller.
    pub fn clear(&self) {
        self.0.store(Arc::default());
    }

    pub fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    /// Tells a line to those who follow this host. One that does not keep up misses lines; one that is
    /// gone is forgotten.
    pub fn tell(&self, host: &[u8], line: impl FnOnce() -> Vec<u8>) {
        let all = self.0.load();
        let mut theirs = all.iter().filter(|one| one.host.as_bytes() == host).peekable();
        if theirs.peek().is_none() {
            return;
        }
        let mut line = line();
        if line.len() > MAX_LINE {
            line.truncate(MAX_LINE - 1);
            line.push(b'\n');
        }
        for one in theirs {
            match (&one.socket).write(&line) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.forget(one),
            }
        }
    }

    fn forget(&self, gone: &Arc<Follower>) {
        self.0.rcu(|all| {
            all.iter().filter(|one| !Arc::ptr_eq(one, gone)).cloned().collect::<Vec<_>>()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn lines_of_one_host_come_whole_and_who_is_gone_is_forgotten() {
        let followers = Followers::default();
        let (mut near, far) = UnixStream::pair().expect("a pair");
        followers.add("a.test".to_owned(), far.into()).expect("added");
        followers.tell(b"b.test", || panic!("nobody follows it"));
        followers.tell(b"a.test", || vec![b'x'; MAX_LINE * 2]);
        let mut line = vec![0; MAX_LINE * 2];
        let length = near.read(&mut line).expect("a line");
        assert_eq!((length, line[length - 1]), (MAX_LINE, b'\n'));
        // Nobody reads: lines are left out, and the writer does not wait.
        for _ in 0..100 {
            followers.tell(b"a.test", || vec![b'x'; MAX_LINE]);
        }
        assert!(!followers.is_empty());
        drop(near);
        followers.tell(b"a.test", || b"x\n".to_vec());
        assert!(followers.is_empty());
    }
}
