//! Static files: what a route with a `root` answers.
//!
//! A worker thread serves all its clients on one runtime, and must not wait for a disk. So files are
//! first opened and read as far as the kernel has them in memory (RESOLVE_CACHED, RWF_NOWAIT), which does
//! not wait; only what is left goes to a few threads beside. A body goes out in chunks, each read once
//! the client has room for it.

mod conditions;
mod head;
mod root;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use tokio::sync::Semaphore;

use self::conditions::{Wanted, wanted};
use self::head::Representation;
pub use self::root::Roots;
pub use self::root::open_beneath;
use self::root::{File, Now, Opened, open_now};
use super::local::Local;
use super::message::RequestHead;
use super::page::Page;
use super::record::Record;
use super::relay::{Downstream, taken};
use super::request::Outcome;
use super::route_options::Encoding;
use super::table::normal_path;
use super::target::encode;

/// Most bytes of a body that are in memory for one client.
const CHUNK: usize = 64 * 1024;
/// Threads beside each worker thread that wait for a disk.
const READERS: usize = 4;
/// What a directory is answered with.
const INDEX: &[u8] = b"index.html";
/// The only hidden name that is meant for others (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// The files of one worker thread.
#[derive(Debug)]
pub struct Files {
    roots: Arc<Roots>,
    readers: Arc<Semaphore>,
}

/// A file, and how it is to be sent.
#[derive(Debug)]
struct Found {
    file: File,
    name: Vec<u8>,
    encoding: Option<Encoding>,
}

impl Files {
    pub fn new(roots: Arc<Roots>) -> Self {
        Files { roots, readers: Arc::new(Semaphore::new(READERS)) }
    }

    /// The file that a request is for.
    ///
    /// # Errors
    /// The answer that needs no file.
    async fn find(&self, root: &Path, head: &RequestHead, target: &[u8]) -> Result<Found, Page> {
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Err(Page::ReadOnly);
        }
        // An older generation of workers cannot open what it was not started with.
        let root = self.roots.get(root).ok_or(Page::NO_ROOT)?;
        let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
        let path = normal_path(path).ok_or(Page::BAD_REQUEST)?;
        let mut name = path.strip_prefix(b"/").unwrap_or(&path).to_vec();
        if is_hidden(&name) {
            return Err(Page::NO_FILE);
        }
        if name.is_empty() || name.ends_with(b"/") {
            name.extend_from_slice(INDEX);
        }
        match self.open(root, &name).await? {
            Opened::Nothing => Err(Page::NO_FILE),
            Opened::Directory => Err(with_slash(head)),
            Opened::File(file) => Ok(self.best(root, head, file, name).await),
        }
    }

    /// The sibling that is compressed already in the way that the client likes best, where there is one
    /// that is not older than the file.
    async fn best(
        &self,
        root: &Arc<OwnedFd>,
        head: &RequestHead,
        file: File,
        name: Vec<u8>,
    ) -> Found {
        if head::may_have_siblings(&name) {
            for encoding in Encoding::all_accepted(&head.fields) {
                let sibling = [&name, &b"."[..], encoding.suffix().as_bytes()].concat();
                if let Ok(Opened::File(sibling)) = self.open(root, &sibling).await
                    && sibling.modified >= file.modified
                {
                    return Found { file: sibling, name, encoding: Some(encoding) };
                }
            }
        }
        Found { file, name, encoding: None }
    }

    async fn open(&self, root: &Arc<OwnedFd>, name: &[u8]) -> Result<Opened, Page> {
        let opened = match open_now(root, name) {
            Ok(Now::WouldBlock) => {
                let (root, name) = (root.clone(), name.to_vec());
                self.beside(move || open_beneath(&root, &name)).await
            }
            Ok(Now::Done(opened)) => Ok(opened),
            Err(error) => Err(error),
        };
        opened.map_err(|error| {
            tracing::debug!("static file {}: {error}", String::from_utf8_lossy(name));
            match error.kind() {
                io::ErrorKind::PermissionDenied => Page::NOT_READABLE,
                _ => Page::BAD_DISK,
            }
        })
    }

    /// At most a chunk; fewer bytes only at the end of the file.
    async fn read(&self, file: &mut Option<File>, offset: u64, length: u64) -> io::Result<Bytes> {
        let wanted = usize::try_from(length).map_or(CHUNK, |length| length.min(CHUNK));
        let mut buffer = vec![0; wanted];
        let Some(open) = file.as_ref() else { return Err(io::ErrorKind::NotFound.into()) };
        match open.read_now(&mut buffer, offset)? {
            Now::Done(read) if read > 0 => {
                buffer.truncate(read);
                return Ok(buffer.into());
            }
            // At the end, or nothing of it is in memory.
            Now::Done(_) | Now::WouldBlock => {}
        }
        let Some(taken) = file.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let read = self.beside(move || {
            let read = taken.read(&mut buffer, offset)?;
            buffer.truncate(read);
            Ok((taken, Bytes::from(buffer)))
        });
        let (taken, data) = read.await?;
        *file = Some(taken);
        Ok(data)
    }

    /// On a thread that may wait for a disk.
    async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.readers.clone().acquire_owned().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held until it is done, even where the request has gone by then.
            let _turn = turn;
            work()
        });
        done.await.map_err(io::Error::other)?
    }
}

/// Of what people keep beside what they serve (`.git`, `.env`), nothing is.
fn is_hidden(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/')
        .any(|segment| segment.starts_with(b".") && segment != WELL_KNOWN)
}

/// To the same place with a slash, where relative links of its index lead to the right places.
fn with_slash(head: &RequestHead) -> Page {
    let Some(normal) = normal_path(head.path()) else { return Page::BAD_REQUEST };
    let query = &head.target[head.path().len()..];
    let location = [&encode(&normal), &b"/"[..], query].concat();
    match HeaderValue::from_bytes(&location) {
        Ok(location) => Page::Elsewhere(StatusCode::MOVED_PERMANENTLY, location),
        Err(_) => Page::BAD_REQUEST,
    }
}

/// Answers from beneath `root`. `target` is what would go upstream.
///
/// # Errors
/// The page that is to be shown in place of a file.
pub async fn serve<D: Downstream>(
    local: &Local,
    root: &Path,
    (head, target): (&RequestHead, &[u8]),
    hsts: Option<&Bytes>,
    client: &mut D,
    record: &mut Record,
) -> Result<Outcome, Page> {
    let Found { file, name, encoding } = local.files.find(root, head, target).await?;
    let representation = Representation::new(&name, &file, encoding);
    let wanted = wanted(&head.fields, &representation.validators);
    let mut answer = match wanted {
        Wanted::Impossible => representation.unsatisfiable(),
        Wanted::AnotherOne => return Err(Page::PRECONDITION_FAILED),
        Wanted::All | Wanted::Part(..) | Wanted::Nothing => representation.head(wanted),
    };
    answer.hsts = hsts.cloned();
    record.progress.status = Some(answer.status);
    let (first, length) = match wanted {
        Wanted::All => (0, file.length),
        Wanted::Part(first, last) => (first, last - first + 1),
        Wanted::Nothing | Wanted::AnotherOne | Wanted::Impossible => (0, 0),
    };
    let is_empty = head.method == Method::HEAD || length == 0;
    if client.send_head(&answer, is_empty).is_err() {
        return Ok(Outcome::Broken);
    }
    let length = if is_empty { 0 } else { length };
    Ok(send(local, file, (first, length), client, record).await)
}

/// Sends a part of a file, as fast as the client takes it.
async fn send<D: Downstream>(
    local: &Local,
    file: File,
    (mut offset, mut left): (u64, u64),
    client: &mut D,
    record: &mut Record,
) -> Outcome {
    let limit = local.settings.timeouts.send_idle;
    let mut file = Some(file);
    while left > 0 {
        if taken(client, limit, D::poll_ready).await.is_err() {
            return Outcome::Broken;
        }
        let data = match local.files.read(&mut file, offset, left).await {
            Ok(data) if !data.is_empty() => data,
            // It became shorter while it was sent.
            Ok(_) => return Outcome::Broken,
            Err(error) => {
                tracing::warn!("static file: {error}");
                return Outcome::Broken;
            }
        };
        let length = data.len() as u64;
        (offset, left) = (offset + length, left - length);
        record.progress.bytes += length;
        client.send_data(data, left == 0);
    }
    match taken(client, limit, D::poll_flush).await {
        Ok(()) => Outcome::Done,
        Err(_) => Outcome::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names() {
        for (path, want) in [
            ("a/b", false),
            (".well-known/x", false),
            (".git/config", true),
            ("a/.env", true),
            ("a/..b", true),
            ("a.b", false),
        ] {
            assert_eq!(is_hidden(path.as_bytes()), want, "{path}");
        }
    }

    #[test]
    fn a_directory_gets_its_slash_and_leads_nowhere_else() {
        for (target, want) in [
            ("/a", "/a/"),
            ("/a?b=c", "/a/?b=c"),
            ("//evil.test", "/evil.test/"),
            ("/%2f/evil.test", "/evil.test/"),
            ("/\\evil.test", "/%5Cevil.test/"),
            ("/a%0d%0ab", "/a%0D%0Ab/"),
        ] {
            let head = RequestHead::new(Method::GET, target);
            let want = HeaderValue::from_static(want);
            assert_eq!(
                with_slash(&head),
                Page::Elsewhere(StatusCode::MOVED_PERMANENTLY, want),
                "{target}"
            );
        }
    }
}
