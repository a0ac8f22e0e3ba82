//! Where people ask for what the schedule does not have: a renewal, another try, a revocation.

use tokio::sync::{mpsc, oneshot};

/// Requests that wait their turn.
const QUEUE: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// An order now, although none is due.
    Renew,
    /// An order now, although it failed not long ago.
    Retry,
    /// The certificate is to be trusted no more.
    Revoke,
}

/// What somebody asks for, by a name that the certificate is for.
#[derive(Debug)]
pub struct Request {
    pub wish: Wish,
    pub name: String,
    pub reply: Reply,
}

/// What became of it, in one line.
pub type Answer = Result<String, String>;
pub type Reply = oneshot::Sender<Answer>;

/// The side of those who ask.
#[derive(Debug, Clone)]
pub struct Desk(mpsc::Sender<Request>);

impl Desk {
    pub fn open() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Desk(sender), receiver)
    }

    /// Waits for what becomes of it; none where nobody sees to certificates any more.
    pub async fn ask(&self, wish: Wish, name: String) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Request { wish, name, reply }).await.ok()?;
        answer.await.ok()
    }
}
