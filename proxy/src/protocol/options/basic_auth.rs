//! Who may come with a password: lines as in an htpasswd file, each a name and a hash.

use std::fmt;

use serde::{Deserialize, Serialize};

/// More than anybody keeps in such a file.
const MAX_LINES: usize = 1000;
/// Longest line, in bytes.
const MAX_LINE: usize = 512;
/// What one look at a password may cost: about a second, and 128 MiB. A container chooses its hashes,
/// and everybody's requests pay for them.
const MAX_BCRYPT_COST: u32 = 14;
const MAX_SHA_ROUNDS: u32 = 500_000;
const MAX_ARGON2_KIB: u32 = 128 * 1024;
/// Memory times passes, in KiB.
const MAX_ARGON2_WORK: u64 = 1 << 20;
const MAX_ARGON2_LANES: u32 = 16;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub user: String,
    /// As the line has it: [`HashKind`] says which kinds there are.
    pub hash: String,
}

impl fmt::Debug for Credential {
    // Hashes are guessed offline: they must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What is left of the lines, and what is wrong with others: by their number, never their text.
#[derive(Debug, PartialEq, Eq)]
pub struct Credentials {
    pub good: Vec<Credential>,
    pub bad: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    Bcrypt,
    Argon2,
    /// `$5$` and `$6$`
    ShaCrypt,
}

/// Lines of a file.
pub fn credentials(text: &str) -> Credentials {
    let mut read = Credentials { good: Vec::new(), bad: Vec::new() };
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if read.good.len() == MAX_LINES {
            read.bad.push(format!("has more than {MAX_LINES} lines: the rest is left out"));
            break;
        }
        match Credential::parse(line) {
            Ok(credential) => read.good.push(credential),
            Err(problem) => read.bad.push(format!("has a line {} that {problem}", index + 1)),
        }
    }
    read
}

/// Lines of a label: commas part them, too. Those within an argon2 hash do not.
pub fn label_credentials(text: &str) -> Credentials {
    let mut lines = String::new();
    for piece in text.split(',') {
        if !lines.is_empty() {
            // A hash has no colon, and a new line has one.
            lines.push(if piece.contains(':') { '\n' } else { ',' });
        }
        lines.push_str(piece);
    }
    credentials(&lines)
}

impl Credential {
    /// `user:hash`
    ///
    /// # Errors
    /// The end of a sentence that begins with the line, and holds nothing of it.
    pub fn parse(line: &str) -> Result<Self, String> {
        if line.len() > MAX_LINE {
            return Err(format!("is longer than {MAX_LINE} bytes"));
        }
        let (user, hash) = line.split_once(':').ok_or_else(|| "is not user:hash".to_owned())?;
        if user.is_empty() || user.chars().any(char::is_control) {
            return Err("has no usable name".to_owned());
        }
        HashKind::of(hash)?;
        Ok(Credential { user: user.to_owned(), hash: hash.to_owned() })
    }
}

impl HashKind {
    /// # Errors
    /// As [`Credential::parse`].
    pub fn of(hash: &str) -> Result<Self, String> {
        let parts: Vec<&str> = hash.split('$').collect();
        match parts.as_slice() {
            ["", "2a" | "2b" | "2y", cost, rest] => bcrypt(cost, rest),
            ["", "argon2i" | "argon2d" | "argon2id", "v=19", parameters, _, _] => {
                argon2(parameters)
            }
            ["", "5" | "6", _, _] => Ok(HashKind::ShaCrypt),
            ["", "5" | "6", rounds, _, _] => sha_crypt(rounds),
            ["", "apr1" | "1", ..] => Err(format!("has an MD5 hash: {MAKE_ANOTHER}")),
            _ if hash.starts_with("{SHA}") => Err(format!("has a bare SHA-1 hash: {MAKE_ANOTHER}")),
            _ => Err(format!("has no hash of bcrypt, argon2 or SHA-crypt: {MAKE_ANOTHER}")),
        }
    }
}

const MAKE_ANOTHER: &str = "make one with `htpasswd -B`";

fn bcrypt(cost: &str, rest: &str) -> Result<HashKind, String> {
    let is_whole = rest.len() == 53 && cost.len() == 2;
    match cost.parse::<u32>() {
        Ok(4..=MAX_BCRYPT_COST) if is_whole => Ok(HashKind::Bcrypt),
        Ok(cost) if cost > MAX_BCRYPT_COST => {
            Err(format!("has a bcrypt cost of {cost}: at most {MAX_BCRYPT_COST}"))
        }
        _ => Err("has a bcrypt hash that is not whole".to_owned()),
    }
}

fn sha_crypt(rounds: &str) -> Result<HashKind, String> {
    match rounds.strip_prefix("rounds=").and_then(|number| number.parse::<u32>().ok()) {
        Some(1000..=MAX_SHA_ROUNDS) => Ok(HashKind::ShaCrypt),
        _ => Err(format!("has SHA-crypt rounds that are not 1000 to {MAX_SHA_ROUNDS}")),
    }
}

fn argon2(parameters: &str) -> Result<HashKind, String> {
    let number = |name: &str| -> Option<u32> {
        let mut parameters = parameters.split(',').filter_map(|pair| pair.split_once('='));
        parameters.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    let (Some(memory), Some(passes), Some(lanes)) = (number("m"), number("t"), number("p")) else {
        return Err("has an argon2 hash that is not whole".to_owned());
    };
    let work = u64::from(memory) * u64::from(passes);
    if memory > MAX_ARGON2_KIB || work > MAX_ARGON2_WORK || lanes > MAX_ARGON2_LANES {
        return Err(format!(
            "has an argon2 hash that costs too much: at most m={MAX_ARGON2_KIB}, m times t \
             {MAX_ARGON2_WORK} and p={MAX_ARGON2_LANES}"
        ));
    }
    Ok(HashKind::Argon2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2y$05$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const ARGON2: &str = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA";

    #[test]
    fn kinds_of_hashes() {
        for (hash, want) in [
            (BCRYPT, Ok(HashKind::Bcrypt)),
            (ARGON2, Ok(HashKind::Argon2)),
            ("$5$salt$hash", Ok(HashKind::ShaCrypt)),
            ("$6$rounds=5000$salt$hash", Ok(HashKind::ShaCrypt)),
            ("$6$rounds=999999999$salt$hash", Err("has SHA-crypt rounds")),
            ("$6$rounds=1$salt$hash", Err("has SHA-crypt rounds")),
            (
                "$2y$31$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                Err("has a bcrypt cost"),
            ),
            ("$2y$05$short", Err("has a bcrypt hash that is not whole")),
            (
                "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
                Err("has an argon2 hash that costs"),
            ),
            (
                "$argon2id$v=19$m=131072,t=4294967295,p=1$c2FsdHNhbHQ$aGFzaA",
                Err("has an argon2 hash that costs"),
            ),
            (
                "$argon2id$v=19$m=x,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
                Err("has an argon2 hash that is not"),
            ),
            ("$apr1$salt$hash", Err("has an MD5 hash")),
            ("{SHA}hash", Err("has a bare SHA-1 hash")),
            ("hunter2", Err("has no hash of")),
            ("", Err("has no hash of")),
        ] {
            match (HashKind::of(hash), want) {
                (Err(found), Err(want)) => assert!(found.starts_with(want), "{hash}: {found}"),
                (found, want) => assert_eq!(found, want.map_err(str::to_owned), "{hash}"),
            }
        }
    }

    #[test]
    fn lines_of_files_and_labels() {
        let users = |read: &Credentials| -> Vec<String> {
            read.good.iter().map(|credential| credential.user.clone()).collect()
        };
        let read =
            credentials(&format!("# a\n\nalice:{BCRYPT}\nbob:hunter2\n:x\n carol:{ARGON2}\n"));
        assert_eq!(users(&read), ["alice", "carol"]);
        assert_eq!(read.bad.len(), 2);
        assert!(read.bad[0].starts_with("has a line 4 that has no hash"), "{read:?}");

        let read = label_credentials(&format!("alice:{ARGON2},bob:{BCRYPT}, carol:{ARGON2}"));
        assert_eq!(
            (users(&read), read.bad.len()),
            (vec!["alice".into(), "bob".into(), "carol".into()], 0)
        );
        assert_eq!(read.good[0].hash, ARGON2);
        assert_eq!(label_credentials(&format!("a:{BCRYPT}\nb:{BCRYPT}")).good.len(), 2);
        let many = format!("a:{BCRYPT}\n").repeat(MAX_LINES + 1);
        assert_eq!((credentials(&many).good.len(), credentials(&many).bad.len()), (MAX_LINES, 1));
    }

    #[test]
    fn nothing_of_a_line_is_shown() {
        let secrets = "alice:hunter2\nhunter2\n{SHA}hunter2\na:$apr1$hunter2$x";
        let read = credentials(&format!("{secrets}\nbob:{BCRYPT}"));
        assert_eq!((read.good.len(), read.bad.len()), (1, 4));
        let shown = format!("{read:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(BCRYPT), "{shown}");
    }
}
