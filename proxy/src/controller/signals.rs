//! The signals that the controller obeys.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP
    Reload,
    /// SIGTERM, SIGINT, SIGQUIT
    Stop,
    /// SIGUSR2
    Upgrade,
    /// SIGUSR1
    Leave,
}

/// All of them, caught from now on.
#[derive(Debug)]
pub struct Signals {
    hangup: Stream,
    terminate: Stream,
    interrupt: Stream,
    quit: Stream,
    user2: Stream,
    user1: Stream,
}

impl Signals {
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn catch() -> io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user2: signal(SignalKind::user_defined2())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The next one. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.hangup.recv() => Signal::Reload,
            Some(()) = self.terminate.recv() => Signal::Stop,
            Some(()) = self.interrupt.recv() => Signal::Stop,
            Some(()) = self.quit.recv() => Signal::Stop,
            Some(()) = self.user2.recv() => Signal::Upgrade,
            Some(()) = self.user1.recv() => Signal::Leave,
        }
    }
}
