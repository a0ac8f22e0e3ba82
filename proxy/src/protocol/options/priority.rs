//! How urgent a response is (RFC 9218): what the `priority` field says, and what a route may say.

use serde::{Deserialize, Serialize};

/// A priority as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Priority {
    /// 0 is the most urgent, 7 the least.
    pub urgency: u8,
    /// Parts of it are of use before the whole is there.
    pub incremental: bool,
}

/// What a field says; what it does not say is somebody else's word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    pub urgency: Option<u8>,
    pub incremental: Option<bool>,
}

/// When a field is there, and says nothing of it (RFC 9218 section 4).
const DEFAULT: Priority = Priority { urgency: 3, incremental: false };

impl Priority {
    /// All responses share alike.
    pub const EQUAL: Priority = Priority { urgency: DEFAULT.urgency, incremental: true };

    /// A route's word: `off`, for all alike; `u=1` or `u=5, i`, as in a field, whatever others say.
    /// `None` is `on`: the client, the upstream and the kind of the response decide.
    ///
    /// # Errors
    /// The sentence for what is none of these; its subject is the text.
    pub fn of_route(text: &str) -> Result<Option<Self>, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" | "true" => return Ok(None),
            "off" | "false" => return Ok(Some(Self::EQUAL)),
            _ => {}
        }
        let is_known = |item: &str| Said::parse(item.as_bytes()) != Said::default();
        if !text.split(',').all(is_known) {
            return Err(
                "is neither on, off nor a priority as `u=1` or `u=5, i` (u is 0 to 7)".into()
            );
        }
        Ok(Some(Said::parse(text.as_bytes()).whole()))
    }
}

impl Said {
    /// Of a `priority` field. What is not understood is passed over, as section 4 asks for.
    pub fn parse(field: &[u8]) -> Self {
        let mut said = Said::default();
        for item in field.split(|byte| *byte == b',') {
            // Parameters of an item mean nothing here.
            let item = item.split(|byte| *byte == b';').next().unwrap_or_default();
            match item.trim_ascii() {
                [b'u', b'=', digit @ b'0'..=b'7'] => said.urgency = Some(digit - b'0'),
                b"i" | b"i=?1" => said.incremental = Some(true),
                b"i=?0" => said.incremental = Some(false),
                _ => {}
            }
        }
        said
    }

    /// Both words, where `self` comes first (RFC 9218 section 8).
    pub fn over(self, other: Said) -> Said {
        Said {
            urgency: self.urgency.or(other.urgency),
            incremental: self.incremental.or(other.incremental),
        }
    }

    /// With the defaults of the standard.
    pub fn whole(self) -> Priority {
        Priority {
            urgency: self.urgency.unwrap_or(DEFAULT.urgency),
            incremental: self.incremental.unwrap_or(DEFAULT.incremental),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (field, urgency, incremental) in [
            ("u=0", Some(0), None),
            ("u=7, i", Some(7), Some(true)),
            ("i=?0,u=2", Some(2), Some(false)),
            ("i=?1;x=1 , u=4;q", Some(4), Some(true)),
            ("u=1, u=6", Some(6), None),
            ("u=8", None, None),
            ("u=-1, i=1, U=2", None, None),
            ("u=10", None, None),
            ("u=2, \u{ff}", Some(2), None),
            ("", None, None),
        ] {
            assert_eq!(Said::parse(field.as_bytes()), Said { urgency, incremental }, "{field}");
        }
    }

    #[test]
    fn the_first_word_stands_and_the_standard_fills_up() {
        for (first, second, urgency, incremental) in
            [("u=1", "u=5, i", 1, true), ("i=?0", "u=5, i", 5, false), ("", "", 3, false)]
        {
            let said = Said::parse(first.as_bytes()).over(Said::parse(second.as_bytes()));
            assert_eq!(said.whole(), Priority { urgency, incremental }, "{first} {second}");
        }
    }

    #[test]
    fn words_of_a_route() {
        let priority = |urgency, incremental| Ok(Some(Priority { urgency, incremental }));
        for (text, want) in [
            ("on", Ok(None)),
            ("off", priority(3, true)),
            ("u=1", priority(1, false)),
            ("u=5, i", priority(5, true)),
            ("i", priority(3, true)),
            ("u=8", Err(())),
            ("u=1, x", Err(())),
            ("high", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(Priority::of_route(text).map_err(|_| ()), want, "{text}");
        }
    }
}
