//! What a selector is made of, as descriptors: that is how it crosses an exec.

use std::convert::Infallible;

use aya::maps::MapError;
use baton_layout::VERSION;
use serde::{Deserialize, Serialize};

/// A selector as descriptors, or as whatever stands for them: numbers in the state that crosses an
/// exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts<T> {
    /// [`baton_layout::VERSION`] of who made them.
    pub layout: u32,
    pub steering: T,
    pub addresses: T,
    pub sockets: T,
    pub counters: T,
    pub program: T,
}

#[derive(Debug, thiserror::Error)]
pub enum Incompatible {
    #[error("selector: its maps have layout {theirs}, this version has {VERSION}")]
    Layout { theirs: u32 },
    #[error("selector: {0}")]
    Map(#[from] MapError),
}

impl<T> Parts<T> {
    pub fn as_ref(&self) -> Parts<&T> {
        let Parts { layout, steering, addresses, sockets, counters, program } = self;
        Parts { layout: *layout, steering, addresses, sockets, counters, program }
    }

    pub fn map<U>(self, mut each: impl FnMut(T) -> U) -> Parts<U> {
        let Ok(parts) = self.try_map(|part| Ok::<_, Infallible>(each(part)));
        parts
    }

    /// # Errors
    /// The first that `each` meets.
    pub fn try_map<U, E>(self, mut each: impl FnMut(T) -> Result<U, E>) -> Result<Parts<U>, E> {
        Ok(Parts {
            layout: self.layout,
            steering: each(self.steering)?,
            addresses: each(self.addresses)?,
            sockets: each(self.sockets)?,
            counters: each(self.counters)?,
            program: each(self.program)?,
        })
    }

    pub(super) fn check_layout(&self) -> Result<(), Incompatible> {
        match self.layout {
            VERSION => Ok(()),
            theirs => Err(Incompatible::Layout { theirs }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_that_crosses_an_exec_reads_back() {
        let parts = Parts {
            layout: VERSION,
            steering: 3,
            addresses: 4,
            sockets: 5,
            counters: 6,
            program: 7,
        };
        let text = serde_json::to_string(&parts).expect("json");
        assert_eq!(
            text,
            r#"{"layout":1,"steering":3,"addresses":4,"sockets":5,"counters":6,"program":7}"#
        );
        assert_eq!(serde_json::from_str::<Parts<i32>>(&text).expect("parts"), parts);
    }

    #[test]
    fn another_layout_is_refused() {
        let parts = Parts {
            layout: 9,
            steering: (),
            addresses: (),
            sockets: (),
            counters: (),
            program: (),
        };
        let refused = parts.check_layout().expect_err("layout 9");
        assert_eq!(refused.to_string(), "selector: its maps have layout 9, this version has 1");
    }
}
