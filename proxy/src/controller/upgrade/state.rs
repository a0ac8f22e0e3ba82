//! What crosses exec: everything that the controller cannot find out anew without somebody noticing.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::{self, Config, Mistakes};
use crate::controller::admin::answers::Handoff;
use crate::controller::docker::Container;
use crate::controller::generations::Launch;
use crate::controller::metrics::Totals;
use crate::controller::probe::Target;
use crate::controller::selector::Parts;
use crate::controller::steering::SteeringState;
use crate::controller::supervisor::WorkerState;
use crate::controller::ticket_keys::TicketKeys;
use crate::protocol::snapshot::Snapshot;
use crate::sys;

/// Raised when an older or newer program could misread it. Unknown fields are ignored, and new ones
/// have defaults.
pub const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub state_version: u32,
    pub started: SystemTime,
    /// Where the text of the configuration came from, and the text that is in force: an upgrade
    /// changes the program alone.
    pub config_file: PathBuf,
    pub config_text: String,
    pub control_socket: RawFd,
    /// Of the program that is becoming, and of those before it.
    pub executables: Executables,
    pub steering: SteeringState,
    pub last_generation: u64,
    /// Always there in a state that crosses.
    pub active: Option<WorkerState>,
    /// Oldest first.
    pub draining: Vec<WorkerState>,
    /// Newest first.
    pub handoffs: Vec<Handoff>,
    /// What workers route by until Docker has said what is true now.
    pub snapshot: Snapshot,
    /// Those that are there, and those that went a moment ago: requests for them wait.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// TLS sessions resume with the workers of the new program.
    pub ticket_keys: TicketKeys,
    /// What the prober has found, so that nobody is out of rotation until it is asked again.
    pub reachable: Vec<Target>,
    /// Counters go on from there.
    #[serde(default)]
    pub totals: Totals,
    /// Of the listener of `[metrics]`.
    #[serde(default)]
    pub metrics_socket: Option<RawFd>,
    pub next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executables {
    pub current: RawFd,
    /// What a rollback returns to.
    pub previous: Option<RawFd>,
    /// What was previous before `previous` was current: for the way back when a handoff fails.
    pub before: Option<RawFd>,
}

/// What the new program begins with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// A handoff to workers of its own, already in the journal. Where it fails, the program before
    /// it comes back.
    HandOver {
        journal: u64,
        begun: SystemTime,
        #[serde(default)]
        launch: Launch,
    },
    /// The other program's handoff failed.
    GoOn { journal: u64, error: String },
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("state: {0}")]
    Io(#[source] io::Error),
    #[error("state: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the state is of version {theirs}, and this program knows version {VERSION}")]
    Version { theirs: u32 },
    #[error("{0}")]
    Config(#[from] Mistakes),
}

/// Read first: the rest may have another shape.
#[derive(Deserialize)]
struct Version {
    state_version: u32,
}

impl State {
    /// # Errors
    /// When it is of another version, or not a state at all.
    pub fn parse(text: &[u8]) -> Result<Self, StateError> {
        let Version { state_version } = serde_json::from_slice(text)?;
        if state_version != VERSION {
            return Err(StateError::Version { theirs: state_version });
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Takes the state over from the program that this process was.
    ///
    /// # Errors
    /// As [`State::parse`].
    pub fn take(memfd: RawFd) -> Result<Self, StateError> {
        let mut text = Vec::new();
        let mut file = File::from(sys::own_inherited(memfd));
        file.read_to_end(&mut text).map_err(StateError::Io)?;
        let state = State::parse(&text)?;
        // They crossed this exec, and must not leak into workers.
        sys::cross_exec(&state.descriptors(), false).map_err(StateError::Io)?;
        Ok(state)
    }

    /// # Errors
    /// When this program understands the configuration differently from the one that wrote it.
    pub fn config(&self) -> Result<Config, Mistakes> {
        config::parse(&self.config_text, &self.config_file)
    }

    /// Every descriptor that has to cross, each once.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let Executables { current, previous, before } = self.executables;
        let mut all = vec![self.control_socket, current];
        if let SteeringState::Ebpf(parts) | SteeringState::TakingOver(parts) = self.steering {
            let Parts { layout: _, steering, addresses, sockets, counters, program } = parts;
            all.extend([steering, addresses, sockets, counters, program]);
        }
        all.extend(previous);
        all.extend(before);
        all.extend(self.metrics_socket);
        for WorkerState { process, .. } in self.draining.iter().chain(&self.active) {
            all.extend([process.channel, process.executable]);
            all.extend(process.listeners.iter().map(|bound| bound.socket));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_version_is_refused_by_number() {
        for (text, want) in [
            (
                r#"{"state_version": 2}"#,
                "the state is of version 2, and this program knows version 1",
            ),
            ("{}", "state: missing field `state_version` at line 1 column 2"),
            ("", "state: EOF while parsing a value at line 1 column 0"),
        ] {
            assert_eq!(State::parse(text.as_bytes()).expect_err(text).to_string(), want);
        }
    }

    #[test]
    fn a_state_that_is_cut_off_is_none() {
        let state = State {
            state_version: VERSION,
            started: SystemTime::UNIX_EPOCH,
            config_file: "/etc/baton/baton.toml".into(),
            config_text: "access_log = true\n".to_owned(),
            control_socket: 5,
            executables: Executables { current: 6, previous: Some(7), before: None },
            steering: SteeringState::Inherit { why: "a test".to_owned() },
            last_generation: 3,
            active: None,
            draining: Vec::new(),
            handoffs: Vec::new(),
            snapshot: Snapshot::default(),
            containers: vec![Container { id: "a".to_owned(), ..Container::default() }],
            ticket_keys: TicketKeys::new(SystemTime::UNIX_EPOCH),
            reachable: Vec::new(),
            totals: Totals::default(),
            metrics_socket: None,
            next: Next::GoOn { journal: 1, error: String::new() },
        };
        let text = serde_json::to_vec(&state).expect("a state");
        let whole = State::parse(&text).expect("the same state");
        assert_eq!((whole.containers, whole.last_generation), (state.containers, 3));
        for length in 0..text.len() {
            State::parse(&text[..length]).expect_err("it is cut off");
        }
    }
}
