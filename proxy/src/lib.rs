//! baton: the HTTPS front door of one Linux host.
//!
//! Start with ARCHITECTURE.md. A connection is followed from top to bottom of [`worker`], a
//! container event from top to bottom of [`controller`]; the two never import each other and meet
//! in [`protocol`].

pub mod cli;
pub mod config;
pub mod controller;
pub mod demo;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod log;
pub mod manual;
pub mod protocol;
mod sys;
pub mod worker;
