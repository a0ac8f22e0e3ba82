//! Host and path patterns as containers write them (nginx's server_name and location).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Bound on a compiled regular expression, in bytes: one container cannot exhaust the worker.
pub const REGEX_SIZE_LIMIT: usize = 256 * 1024;
/// Longest pattern, in bytes.
pub const PATTERN_LENGTH_LIMIT: usize = 1024;

/// What a host must look like. Names are lower case and have no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum HostPattern {
    /// A name or an IP address (IPv6 without brackets).
    Exact(String),
    /// `*.example.com`, kept as `.example.com`.
    Leading(String),
    /// `foo.bar.*`, kept as `foo.bar.`.
    Trailing(String),
    /// `~expression`, kept without the tilde; matched without regard to case.
    Regex(String),
}

/// What the path of a request must look like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathPattern {
    /// Textual, as nginx has it: `/app` also matches `/apple`.
    Prefix(String),
    /// Whole segments: `/app` matches `/app` and `/app/x`, not `/apple`.
    Segments(String),
    Exact(String),
    Regex(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("`{0}` is not a host name: expected letters, digits, `-`, `_` and dots")]
    Host(String),
    #[error("`{0}` is longer than {PATTERN_LENGTH_LIMIT} bytes")]
    TooLong(String),
    #[error("`{pattern}` is not a regular expression that can be used: {reason}")]
    Regex { pattern: String, reason: String },
    #[error("`{0}` is not a path: it must begin with `/`, `=/` or `~`")]
    Path(String),
}

/// The expression as both sides compile it.
///
/// # Errors
/// [`PatternError::Regex`] when it does not parse or is larger than [`REGEX_SIZE_LIMIT`].
pub fn compile(expression: &str, ignore_case: bool) -> Result<regex::bytes::Regex, PatternError> {
    regex::bytes::RegexBuilder::new(expression)
        .case_insensitive(ignore_case)
        .size_limit(REGEX_SIZE_LIMIT)
        .dfa_size_limit(REGEX_SIZE_LIMIT)
        .build()
        .map_err(|e| PatternError::Regex {
            pattern: expression.to_owned(),
            reason: e.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        })
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        if text.len() > PATTERN_LENGTH_LIMIT {
            return Err(PatternError::TooLong(text.chars().take(40).collect()));
        }
        if let Some(expression) = text.strip_prefix('~') {
            compile(expression, true)?;
            return Ok(HostPattern::Regex(expression.to_owned()));
        }
        let name = text.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if let Some(address) = ip_address(name) {
            return Ok(HostPattern::Exact(address));
        }
        let error = || PatternError::Host(text.to_owned());
        if let Some(rest) = name.strip_prefix("*.") {
            return if is_name(rest) {
                Ok(HostPattern::Leading(format!(".{rest}")))
            } else {
                Err(error())
            };
        }
        if let Some(rest) = name.strip_suffix(".*") {
            return if is_name(rest) {
                Ok(HostPattern::Trailing(format!("{rest}.")))
            } else {
                Err(error())
            };
        }
        if is_name(name) { Ok(HostPattern::Exact(name.to_owned())) } else { Err(error()) }
    }
}

fn ip_address(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string())
}

/// RFC 1123 host names, and underscores because compose service names have them.
fn is_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Leading(suffix) => write!(f, "*{suffix}"),
            HostPattern::Trailing(prefix) => write!(f, "{prefix}*"),
            HostPattern::Regex(expression) => write!(f, "~{expression}"),
        }
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.to_string()
    }
}

impl TryFrom<String> for HostPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl PathPattern {
    /// VIRTUAL_PATH: a textual prefix, `=/exact`, or `~regular expression`.
    ///
    /// # Errors
    /// [`PatternError`] naming the text.
    pub fn from_virtual_path(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        if text.len() > PATTERN_LENGTH_LIMIT {
            return Err(PatternError::TooLong(text.chars().take(40).collect()));
        }
        if let Some(expression) = text.strip_prefix('~') {
            let expression = expression.trim_start();
            compile(expression, false)?;
            return Ok(PathPattern::Regex(expression.to_owned()));
        }
        if let Some(exact) = text.strip_prefix('=') {
            let exact = exact.trim_start();
            return path(exact, text).map(PathPattern::Exact);
        }
        path(text, text).map(PathPattern::Prefix)
    }

    /// `baton.path`: whole segments.
    ///
    /// # Errors
    /// [`PatternError`] naming the text.
    pub fn from_label(text: &str) -> Result<Self, PatternError> {
        match Self::from_virtual_path(text)? {
            PathPattern::Prefix(prefix) => Ok(PathPattern::Segments(prefix)),
            other => Ok(other),
        }
    }
}

fn path(text: &str, whole: &str) -> Result<String, PatternError> {
    // Values are data: a control character or blank could only be an attempt at something else.
    if text.starts_with('/') && text.bytes().all(|b| b > b' ' && b != 0x7f) {
        Ok(text.to_owned())
    } else {
        Err(PatternError::Path(whole.to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Prefix(path) | PathPattern::Segments(path) => f.write_str(path),
            PathPattern::Exact(path) => write!(f, "={path}"),
            PathPattern::Regex(expression) => write!(f, "~{expression}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_parse() {
        use HostPattern::*;
        for (text, want) in [
            ("App.Example.COM", Some(Exact("app.example.com".into()))),
            ("app.example.com.", Some(Exact("app.example.com".into()))),
            (" a ", Some(Exact("a".into()))),
            ("*.example.com", Some(Leading(".example.com".into()))),
            ("foo.bar.*", Some(Trailing("foo.bar.".into()))),
            ("192.0.2.1", Some(Exact("192.0.2.1".into()))),
            ("[2001:DB8::1]", Some(Exact("2001:db8::1".into()))),
            (r"~^app\d+\.example\.com$", Some(Regex(r"^app\d+\.example\.com$".into()))),
            ("~(", None),
            ("a*.example.com", None),
            ("*", None),
            ("a..b", None),
            ("a b", None),
            ("a/b", None),
            ("a\nb", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<HostPattern>().ok(), want, "{text}");
        }
    }

    #[test]
    fn hosts_print_as_they_were_written() {
        for text in ["a.b", "*.a.b", "a.b.*", r"~^a\d$"] {
            assert_eq!(text.parse::<HostPattern>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn paths_parse() {
        use PathPattern::*;
        for (text, want) in [
            ("/", Some(Prefix("/".into()))),
            ("/app/", Some(Prefix("/app/".into()))),
            ("= /app", Some(Exact("/app".into()))),
            ("=/app", Some(Exact("/app".into()))),
            ("~ ^/(a|b)/", Some(Regex("^/(a|b)/".into()))),
            ("~(", None),
            ("app", None),
            ("/a b", None),
            ("", None),
        ] {
            assert_eq!(PathPattern::from_virtual_path(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn a_regex_is_bounded() {
        let error =
            format!("~{}", "(a{1000}){1000}").parse::<HostPattern>().expect_err("too large");
        assert!(matches!(error, PatternError::Regex { .. }), "{error}");
    }
}
