//! Single values: what may stand behind a key, and the sentence for what may not.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::nearest::nearest;
use super::reader::Problem;

/// Longest duration that is taken: beyond it a slip of the unit is likelier than the wish.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
/// `sockaddr_un.sun_path` less the closing NUL (unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| expected("a string", value))
}

pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

/// A whole number within a range.
pub(super) fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| within(integer(value)?, &range)
}

/// Bytes within a range: a whole number, or text with a unit (`"32KiB"`).
pub(super) fn size<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| match value {
        DeValue::String(text) => {
            let bytes = parse_size(text).ok_or_else(|| {
                format!(
                    "`{text}` is not a size: expected bytes, or as \"32KiB\", \"1MiB\", \"1GiB\""
                )
            })?;
            within(bytes, &range)
        }
        DeValue::Integer(_) => within(integer(value)?, &range),
        other => Err(expected("a size, as 65536 or \"64KiB\"", other)),
    }
}

/// Empty text is none.
pub(super) fn optional<T>(
    parse: impl Fn(&DeValue<'_>) -> Result<T, Problem>,
) -> impl Fn(&DeValue<'_>) -> Result<Option<T>, Problem> {
    move |value| match value.as_str() {
        Some(text) if text.trim().is_empty() => Ok(None),
        _ => parse(value).map(Some),
    }
}

/// More than nothing, at most [`LONGEST`].
pub(super) fn duration(value: &DeValue<'_>) -> Result<Duration, Problem> {
    let text = value.as_str().ok_or_else(|| expected(DURATION_FORM, value))?;
    Ok(time_span(text)?)
}

/// A duration, or `"off"` for none.
pub(super) fn duration_or_off(value: &DeValue<'_>) -> Result<Duration, Problem> {
    if value.as_str() == Some("off") {
        return Ok(Duration::ZERO);
    }
    duration(value)
}

const DURATION_FORM: &str = "a duration, as \"500ms\", \"30s\", \"10m\" or \"1h\"";

/// A duration as text, here or on the command line.
///
/// # Errors
/// The sentence that says what is wrong.
pub fn time_span(text: &str) -> Result<Duration, String> {
    let duration =
        parse_duration(text).ok_or_else(|| format!("`{text}` is not {DURATION_FORM}"))?;
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("`{text}` is out of range: more than 0, at most 366d"));
    }
    Ok(duration)
}

/// A path that means the same whatever directory baton is started in.
pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let text = text(value)?;
    if Path::new(text).is_absolute() && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err(format!("`{text}` is not an absolute path").into())
    }
}

/// A path that a unix socket can be bound to.
pub(super) fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Problem> {
    let path = path(value)?;
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_BYTES {
        let problem = format!(
            "{length} bytes long; the kernel takes at most {SOCKET_PATH_BYTES} for a socket"
        );
        return Err(problem.into());
    }
    Ok(path)
}

/// An address to listen on.
pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port, as \"[::]:443\" or \"127.0.0.1:8080\"")
            .into()
    })
}

/// A network in CIDR form; a bare address is a network of one.
pub(super) fn network(value: &DeValue<'_>) -> Result<IpNet, Problem> {
    let text = text(value)?;
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(single).ok_or_else(|| {
        format!("`{text}` is not a network, as \"10.0.0.0/8\" or \"fd00::/8\"").into()
    })
}

/// Where Docker's API answers.
pub(super) fn docker_endpoint(value: &DeValue<'_>) -> Result<String, Problem> {
    let text = text(value)?;
    let unix = text.strip_prefix("unix://").is_some_and(|path| path.starts_with('/'));
    let tcp = text.strip_prefix("tcp://").is_some_and(|rest| {
        rest.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    });
    if unix || tcp {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is neither unix:///PATH nor tcp://HOST:PORT").into())
    }
}

/// Directives for tracing's filter: `info`, or `info,baton::worker=debug`.
pub(super) fn log_filter(value: &DeValue<'_>) -> Result<String, Problem> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = text(value)?;
    for directive in text.split(',').map(str::trim) {
        // A bare word that is no level would be taken for a module, and hide everything else.
        if directive.contains('=') {
            continue;
        }
        if !LEVELS.contains(&directive.to_ascii_lowercase().as_str()) {
            return Err(not_one_of(directive, &LEVELS));
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}`: {error}").into()),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&DeValue<'_>) -> Result<T, Problem> {
    move |value| {
        let word = text(value)?;
        choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            not_one_of(word, &names)
        })
    }
}

fn not_one_of(word: &str, names: &[&str]) -> Problem {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    Problem {
        text: format!("`{word}` is not one of {}", quoted.join(", ")),
        nearest: nearest(word, names.iter().copied()).map(str::to_owned),
    }
}

fn expected(what: &str, found: &DeValue<'_>) -> Problem {
    format!("expected {what}, found {}", found.type_str()).into()
}

fn integer(value: &DeValue<'_>) -> Result<u64, Problem> {
    let integer = value.as_integer().ok_or_else(|| expected("a whole number", value))?;
    u64::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| format!("{integer} is out of range").into())
}

fn within<T: TryFrom<u64>>(number: u64, range: &RangeInclusive<u64>) -> Result<T, Problem> {
    let problem = || {
        let (low, high) = (range.start(), range.end());
        Problem::from(format!("{number} is out of range: {low} to {high}"))
    };
    if !range.contains(&number) {
        return Err(problem());
    }
    T::try_from(number).map_err(|_| problem())
}

/// The number and the unit of `30s`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("30s", Some(Duration::from_secs(30))),
            ("10m", Some(Duration::from_secs(600))),
            ("1h", Some(Duration::from_secs(3600))),
            ("2 d", Some(Duration::from_secs(172_800))),
            ("30", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5s", None),
            ("1h30m", None),
            ("30S", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(parse_duration(text), want, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("512B", Some(512)),
            ("32KiB", Some(32 << 10)),
            ("1 MiB", Some(1 << 20)),
            ("3GiB", Some(3 << 30)),
            ("1kb", None),
            ("KiB", None),
            ("17179869184GiB", None),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }
}
