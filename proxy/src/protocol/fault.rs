//! Faults that a worker is given on purpose: how tests and the demo show that a handoff to a bad
//! worker is taken back. Only the control socket's owner can ask for one, for one upgrade.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Exits before it is ready.
    CrashAtStart,
    /// Never becomes ready.
    HangAtStart,
    /// Answers the readiness question with a 500.
    WrongAnswer,
    /// Knows the routes, and no upstream: answers requests with 503.
    Errors,
    /// Exits once it has accepted somebody.
    CrashInService,
}

impl Fault {
    /// As the command line has it.
    pub fn as_argument(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
