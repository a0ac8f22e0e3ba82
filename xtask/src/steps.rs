//! A list of steps: each named as it begins, timed, and summed up at the end.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: &'static str,
    time: Duration,
    outcome: Outcome,
}

enum Outcome {
    Good,
    LeftOut(&'static str),
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Good => f.write_str("ok"),
            Outcome::LeftOut(why) => write!(f, "left out: {why}"),
            Outcome::Failed(error) => f.write_str(error),
        }
    }
}

impl Steps {
    /// Takes a step; None when it failed, which the summary will say.
    pub fn take<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n=== {name}");
        let start = Instant::now();
        let result = step();
        let outcome = match &result {
            Ok(_) => Outcome::Good,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        if let Outcome::Failed(error) = &outcome {
            println!("=== {name}: {error}");
        }
        self.done.push(Step { name, time: start.elapsed(), outcome });
        result.ok()
    }

    /// Says, in the summary too, that a step was not taken.
    pub fn leave_out(&mut self, name: &'static str, why: &'static str) {
        println!("\n=== {name}: left out: {why}");
        self.done.push(Step { name, time: Duration::ZERO, outcome: Outcome::LeftOut(why) });
    }

    /// Prints the summary; fails when a step did.
    pub fn finish(self) -> Result<()> {
        println!("\n=== summary");
        for Step { name, time, outcome } in &self.done {
            println!("{name:<16}{:>8.1} s  {outcome}", time.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|step| step.time).sum();
        println!("{:<16}{:>8.1} s", "total", total.as_secs_f64());
        let failed = |step: &&Step| matches!(step.outcome, Outcome::Failed(_));
        match self.done.iter().filter(failed).count() {
            0 => Ok(()),
            1 => bail!("a step failed"),
            failed => bail!("{failed} steps failed"),
        }
    }
}
