//! Signals by the names and numbers that Docker and Podman use for them.

use nix::sys::signal::Signal;

/// The first real-time signal as Docker counts them (glibc's SIGRTMIN).
const REAL_TIME_MIN: i32 = 34;
const REAL_TIME_MAX: i32 = 64;

/// The number of `15`, `TERM`, `SIGTERM` or `SIGRTMIN+3`.
pub fn number(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=REAL_TIME_MAX).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(REAL_TIME_MIN, offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        return real_time(REAL_TIME_MAX, offset);
    }
    format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
}

fn real_time(base: i32, offset: &str) -> Option<i32> {
    let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
    let number = base.checked_add(offset)?;
    (REAL_TIME_MIN..=REAL_TIME_MAX).contains(&number).then_some(number)
}

/// Whether a container that gets `signal` is on its way out. A reload (`docker kill -s HUP`) is not.
pub fn stops(signal: i32, own: Option<i32>) -> bool {
    const USUAL: [Signal; 4] = [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT, Signal::SIGQUIT];
    own == Some(signal) || USUAL.iter().any(|&usual| usual as i32 == signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("15", Some(15)),
            ("TERM", Some(15)),
            ("SIGTERM", Some(15)),
            ("sigquit", Some(3)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN-1", None),
            ("SIGRTMIN+x", None),
            ("0", None),
            ("65", None),
            ("HELLO", None),
            ("", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
    }

    #[test]
    fn a_reload_does_not_stop() {
        for (signal, own, want) in [
            ("TERM", None, true),
            ("KILL", None, true),
            ("INT", None, true),
            ("QUIT", None, true),
            ("HUP", None, false),
            ("USR2", None, false),
            ("HUP", Some("HUP"), true),
            ("RTMIN+3", Some("SIGRTMIN+3"), true),
            // A reload stays one where the stop signal is another.
            ("HUP", Some("QUIT"), false),
        ] {
            let signal = number(signal).expect("signal");
            assert_eq!(stops(signal, own.and_then(number)), want, "{signal} {own:?}");
        }
    }
}
