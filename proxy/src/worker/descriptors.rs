//! Open files, of which a process has so many: how many connections they allow, and what is said and done
//! when there is none left.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use nix::errno::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::protocol::settings::Limits;

/// For what is no connection: listeners, runtimes, the channel.
const OWN: u64 = 128;
/// A connection of a client, and one to an upstream for it.
const EACH: u64 = 2;
/// Between two complaints of one thread: the lack comes back at once, as long as it lasts.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Takes as many descriptors as this process may have, and lowers the limit of connections to what they
/// allow: clients alone cannot use them up, and leave none for upstreams.
pub fn fit(limits: &mut Limits) {
    let (configured, may) = (limits.connections, raise());
    limits.connections = configured.min(connections_within(may));
    if limits.connections < configured {
        let connections = limits.connections;
        tracing::info!(
            "{connections} connections at most, not {configured}: {may} open files (LimitNOFILE)"
        );
    }
}

/// Soft limits are low for programs that use select; this one does not.
fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, ..limit };
    let reached = setrlimit(Resource::Nofile, most).map_or(limit.current, |()| limit.maximum);
    reached.unwrap_or(u64::MAX)
}

fn connections_within(descriptors: u64) -> usize {
    let connections = descriptors.saturating_sub(OWN) / EACH;
    usize::try_from(connections).unwrap_or(usize::MAX).max(1)
}

/// The process has none left (EMFILE), or the system (ENFILE).
pub fn are_used_up(error: &io::Error) -> bool {
    let codes = [Errno::EMFILE as i32, Errno::ENFILE as i32];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

/// Says that there are none left: clients that hold many could fill the log.
#[derive(Debug, Default)]
pub struct Complaint(Cell<Option<Instant>>);

impl Complaint {
    pub fn make(&self, error: &io::Error) {
        if self.is_due(Instant::now()) {
            tracing::error!(%error, "raise the limit of open files (LimitNOFILE)");
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let due = self.0.get().is_none_or(|last| now.duration_since(last) >= COMPLAINT);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_keep_their_half() {
        for (descriptors, want) in
            [(0, 1), (100, 1), (1024, 448), (20_000, 9936), (1_048_576, 524_224)]
        {
            assert_eq!(connections_within(descriptors), want, "{descriptors}");
        }
    }

    #[test]
    fn a_complaint_is_made_once_a_minute() {
        let (complaint, start) = (Complaint::default(), Instant::now());
        for (after, want) in [(0, true), (1, false), (59, false), (60, true), (61, false)] {
            let now = start + Duration::from_secs(after);
            assert_eq!(complaint.is_due(now), want, "{after}");
        }
    }
}
