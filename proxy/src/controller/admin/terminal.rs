//! Answers on a terminal: coloured, and shown again as they change.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::Duration;

/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);
/// Home, and everything behind it gone (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// How text goes out.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    is_terminal: bool,
    is_coloured: bool,
}

impl Terminal {
    /// Standard output. NO_COLOR (no-color.org) is obeyed.
    pub fn stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Terminal { is_terminal, is_coloured: is_terminal && !wants_none }
    }

    pub fn dressed(self, text: &str) -> String {
        if self.is_coloured { painted(text) } else { text.to_owned() }
    }

    /// Prints what `look` sees, and again whenever that is something else, until somebody ends it. An
    /// error is shown, too: the baton that is watched may be becoming another one.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn watch(
        self,
        mut look: impl FnMut() -> Result<String, String>,
        mut print: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut before = None;
        loop {
            let seen = look().unwrap_or_else(|error| format!("baton: {error}\n"));
            if before.as_ref() != Some(&seen) {
                let between = match (self.is_terminal, &before) {
                    (true, _) => CLEAR,
                    (false, Some(_)) => "\n",
                    (false, None) => "",
                };
                print(&format!("{between}{}", self.dressed(&seen)))?;
                before = Some(seen);
            }
            #[expect(clippy::disallowed_methods, reason = "this program has nothing else to do")]
            sleep(INTERVAL);
        }
    }
}

/// Colours the cells of tables that are states: those words stand between two blanks or more.
fn painted(text: &str) -> String {
    let mut painted = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        for (index, cell) in line.split("  ").enumerate() {
            if index > 0 {
                painted.push_str("  ");
            }
            let word = cell.trim_start();
            let _ = match colour(word) {
                Some(colour) => {
                    let blanks = &cell[..cell.len() - word.len()];
                    write!(painted, "{blanks}{colour}{word}{PLAIN}")
                }
                None => write!(painted, "{cell}"),
            };
        }
        painted.push_str(end);
    }
    painted
}

fn colour(word: &str) -> Option<&'static str> {
    match word {
        "up" | "valid" | "active" | "done" => Some(GREEN),
        "unhealthy" | "unready" | "expired" | "failed" | "gone" | "no_address" => Some(RED),
        "starting" | "stopping" | "waiting" | "paused" | "restarting" | "pending" | "draining"
        | "canary" | "under way" => Some(YELLOW),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_coloured_and_nothing_moves() {
        let text = "HOST    STATE\na.test  up\nup up   waiting  x\n        gone\n";
        let want = format!(
            "HOST    STATE\na.test  {GREEN}up{PLAIN}\nup up   {YELLOW}waiting{PLAIN}  x\n        \
             {RED}gone{PLAIN}\n"
        );
        assert_eq!(painted(text), want);
        let bare = [GREEN, RED, YELLOW, PLAIN].iter().fold(want, |bare, c| bare.replace(c, ""));
        assert_eq!(bare, text);
    }
}
