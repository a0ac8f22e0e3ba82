//! How the scenarios ended, on each kernel.

use std::time::Duration;

/// One line of a machine: `ok|12.3|NAME|what was seen`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    good: bool,
    seconds: String,
    name: String,
    seen: String,
}

pub struct Outcome {
    pub scenarios: Vec<Scenario>,
    /// The machine has powered off, not been cut off.
    pub ended: bool,
    pub time: Duration,
}

impl Scenario {
    pub fn parse(text: &str) -> Vec<Self> {
        text.lines().filter_map(|line| Self::of(line.trim_end())).collect()
    }

    fn of(line: &str) -> Option<Self> {
        let mut parts = line.splitn(4, '|');
        let good = match parts.next()? {
            "ok" => true,
            "FAILED" => false,
            _ => return None,
        };
        let mut next = || parts.next().map(str::to_owned);
        Some(Scenario { good, seconds: next()?, name: next()?, seen: next()? })
    }
}

impl Outcome {
    /// A machine that told nothing has shown nothing.
    pub fn all_good(&self) -> bool {
        self.ended && !self.scenarios.is_empty() && self.scenarios.iter().all(|one| one.good)
    }
}

pub fn print(rows: &[(&str, Outcome)]) {
    println!("\n=== summary");
    for (kernel, outcome) in rows {
        for Scenario { good, seconds, name, seen } in &outcome.scenarios {
            let word = if *good { "ok" } else { "FAILED" };
            println!("{kernel:<15} {name:<28} {word:<7}{seconds:>7} s  {seen}");
        }
        let how = if outcome.ended { "powered off" } else { "CUT OFF" };
        println!("{kernel:<15} {:<28} {how:<12}{:.0} s", "", outcome.time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_beside_its_results_is_no_result() {
        let text = "hello\r\nok|1.5|install|by dpkg | twice\r\nFAILED|2|reload|no\nok|3\n";
        let scenario = |good, seconds: &str, name: &str, seen: &str| Scenario {
            good,
            seconds: seconds.to_owned(),
            name: name.to_owned(),
            seen: seen.to_owned(),
        };
        let want = [
            scenario(true, "1.5", "install", "by dpkg | twice"),
            scenario(false, "2", "reload", "no"),
        ];
        assert_eq!(Scenario::parse(text), want);
        let outcome = |text: &str| Outcome {
            scenarios: Scenario::parse(text),
            ended: true,
            time: Duration::ZERO,
        };
        assert!(!outcome("").all_good());
        assert!(!outcome(text).all_good());
        assert!(outcome("ok|1|a|b").all_good());
    }
}
