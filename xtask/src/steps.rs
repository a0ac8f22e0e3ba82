//! A list of steps: each named as it begins, timed, and summed up at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

#[derive(Default)]
pub struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: &'static str,
    time: Duration,
    error: Option<String>,
}

impl Steps {
    /// Takes a step; None when it failed, which the summary will say.
    pub fn take<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n=== {name}");
        let start = Instant::now();
        let result = step();
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            println!("=== {name}: {error}");
        }
        self.done.push(Step { name, time: start.elapsed(), error });
        result.ok()
    }

    /// Prints the summary; fails when a step did.
    pub fn finish(self) -> Result<()> {
        println!("\n=== summary");
        for Step { name, time, error } in &self.done {
            let outcome = error.as_deref().unwrap_or("ok");
            println!("{name:<16}{:>8.1} s  {outcome}", time.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|step| step.time).sum();
        println!("{:<16}{:>8.1} s", "total", total.as_secs_f64());
        match self.done.iter().filter(|step| step.error.is_some()).count() {
            0 => Ok(()),
            1 => bail!("a step failed"),
            failed => bail!("{failed} steps failed"),
        }
    }
}
