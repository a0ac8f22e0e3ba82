//! Claims about what both halves know: frames, patterns, lines of passwords.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::text;
use crate::protocol::frame::{FromWorker, ToWorker};
use crate::protocol::options::basic_auth::{credentials, label_credentials};
use crate::protocol::pattern::{HostPattern, PathPattern};
use crate::protocol::snapshot::{self, Snapshot};
use crate::worker::host_book::HostBook;
use crate::worker::table::{Table, normal_host};

/// A frame that is read is written as one that says the same; a snapshot compiles, whatever it says.
pub fn frames(bytes: &[u8]) {
    again::<FromWorker>(bytes);
    if let Some(ToWorker::Snapshot(snapshot)) = again::<ToWorker>(bytes) {
        let _ = Table::compile(*snapshot, &mut HostBook::new(1));
    }
}

/// JSON that is read, and written, and read.
pub fn again<T: Serialize + DeserializeOwned>(json: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(json).ok()?;
    let written = serde_json::to_string(&read).expect("what was read is written");
    let again: T = serde_json::from_str(&written).expect("what was written is read");
    let rewritten = serde_json::to_string(&again).expect("it is written again");
    assert_eq!(written, rewritten);
    Some(read)
}

/// A pattern is read again as it is shown, and the worker finds a host under the name of its pattern.
pub fn patterns(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(path) = PathPattern::from_virtual_path(text) {
        assert_eq!(PathPattern::from_virtual_path(&path.to_string()), Ok(path));
    }
    let Ok(host) = text.parse::<HostPattern>() else { return };
    assert_eq!(host.to_string().parse(), Ok(host.clone()));
    let name = match &host {
        HostPattern::Exact(name) if name.contains(':') => format!("[{name}]"),
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Leading(suffix) => format!("x{suffix}"),
        HostPattern::Trailing(prefix) => format!("{prefix}x"),
        HostPattern::Regex(_) => return,
    };
    let entry = snapshot::Host::new(&host.to_string(), Vec::new());
    let snapshot = Snapshot { hosts: vec![entry], ..Snapshot::default() };
    let (table, problems) = Table::compile(snapshot, &mut HostBook::new(1));
    assert!(problems.is_empty(), "{problems:?}");
    for authority in [name.clone(), name.to_uppercase(), format!("{name}:8443")] {
        assert!(table.host(&normal_host(authority.as_bytes())).is_some(), "{authority}");
    }
}

/// What is taken of a file is taken again from its own lines, and nothing of the rest is said.
pub fn htpasswd(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    for read in [credentials(text), label_credentials(text)] {
        let lines = read.good.iter().map(|one| format!("{}:{}\n", one.user, one.hash));
        let again = credentials(&lines.collect::<String>());
        assert_eq!((again.good, again.bad), (read.good, Vec::new()));
        let shown = read.bad.iter().all(|bad| bad.is_ascii() && bad.len() < 200);
        assert!(shown, "{:?}", read.bad);
    }
}
