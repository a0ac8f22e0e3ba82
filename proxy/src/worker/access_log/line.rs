//! One line of the access log, in each of its formats. Nothing that a client sent can end a value or a
//! line.

use std::borrow::Cow;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine;
use http::{StatusCode, Version};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::Entry;
use super::redact::redacted;
use crate::protocol::access_log::{Escape, Piece, Template, Variable};
use crate::worker::message::RequestHead;

/// Status of a request whose client left before an answer, as nginx has it.
const CLIENT_LEFT: u16 = 499;

/// What one line is made from beside the entry.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    pub now: SystemTime,
    /// Of [`Clock`].
    pub time_local: &'a str,
    pub redact: &'a [String],
    pub generation: u64,
}

const COMMON_LOG_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[day]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// Formats a time once a second.
#[derive(Debug, Default)]
pub struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    pub fn common_log(&mut self, now: SystemTime) -> &str {
        let second = super::seconds(now);
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = OffsetDateTime::from(now).format(COMMON_LOG_TIME).unwrap_or_default();
        }
        &self.text
    }
}

/// Apache's combined format; host, duration and upstream follow, as nginx-proxy's users know it.
pub fn combined(out: &mut Vec<u8>, setting: &Setting<'_>, entry: &Entry<'_>) {
    let _ = write!(out, "{} - - [{}] \"", entry.client.to_canonical(), setting.time_local);
    if let Some(request) = entry.request {
        let _ = write!(out, "{} ", request.method);
        quoted(out, &redacted(&request.target, setting.redact));
        let _ = write!(out, " {}", version(request.version));
    }
    let _ = write!(out, "\" {} {} ", status(entry), entry.bytes);
    for name in ["referer", "user-agent"] {
        out.push(b'"');
        quoted(out, &field(entry, name, setting.redact).unwrap_or(Cow::Borrowed(b"-")));
        out.extend_from_slice(b"\" ");
    }
    out.push(b'"');
    quoted(out, entry.request.map_or(b"-", |request| &request.authority));
    let _ = write!(out, "\" {:.3} ", entry.duration.as_secs_f64());
    quoted(out, entry.upstream.map_or("-", |upstream| upstream.name).as_bytes());
    out.push(b'\n');
}

pub fn json(out: &mut Vec<u8>, setting: &Setting<'_>, entry: &Entry<'_>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let request = entry.request;
    let field = |name| field(entry, name, setting.redact).map(|value| text(&value));
    let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
    let line = serde_json::json!({
        "time": iso8601(setting.now),
        "client": entry.client.to_canonical().to_string(),
        "method": request.map(|request| request.method.as_str()),
        "scheme": scheme(entry),
        "host": request.map(|request| text(&request.authority)),
        "target": request.map(|request| text(&redacted(&request.target, setting.redact))),
        "protocol": request.map(|request| version(request.version)),
        "tls": entry.tls,
        "status": status(entry),
        "bytes": entry.bytes,
        "duration_ms": milliseconds(entry.duration),
        "upstream": entry.upstream.map(|upstream| upstream.name),
        "upstream_address": entry.upstream.map(|upstream| upstream.address.to_string()),
        "upstream_ms": entry.upstream.map(|upstream| milliseconds(upstream.head_after)),
        "attempts": entry.attempts,
        "generation": setting.generation,
        "referer": field("referer"),
        "user_agent": field("user-agent"),
    });
    let _ = writeln!(out, "{line}");
}

/// As a format of nginx says.
pub fn template(
    out: &mut Vec<u8>,
    (template, escape): (&Template, Escape),
    setting: &Setting<'_>,
    entry: &Entry<'_>,
) {
    for piece in &template.0 {
        let value = match piece {
            Piece::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                continue;
            }
            Piece::Field(name) => field(entry, name, setting.redact).unwrap_or_default(),
            Piece::Value(variable) => value(*variable, setting, entry),
        };
        match escape {
            Escape::Default if value.is_empty() => out.push(b'-'),
            Escape::Default => hexed(out, &value),
            Escape::Json => json_text(out, &value),
        }
    }
    out.push(b'\n');
}

fn value<'a>(variable: Variable, setting: &Setting<'a>, entry: &'a Entry<'_>) -> Cow<'a, [u8]> {
    let request = entry.request;
    let target = || request.map(|request| redacted(&request.target, setting.redact));
    match variable {
        Variable::Request => request.map(|request| request_line(request, setting)).into_value(),
        Variable::RequestMethod => request.map(|request| request.method.as_str()).into_value(),
        Variable::RequestUri => target().unwrap_or_default(),
        Variable::Uri => request.map(RequestHead::path).into_value(),
        Variable::Args | Variable::QueryString => {
            target().map(|target| query(&target)).unwrap_or_default()
        }
        Variable::ServerProtocol => request.map(|request| version(request.version)).into_value(),
        Variable::Host => request.map(host).into_value(),
        Variable::HttpHost => request.map(|request| &request.authority[..]).into_value(),
        Variable::RemoteUser => request.and_then(user).into_value(),
        Variable::RemoteAddr => entry.client.to_canonical().to_string().into_value(),
        Variable::Scheme => scheme(entry).into_value(),
        Variable::Https => entry.tls.map(|_| "on").into_value(),
        Variable::SslProtocol => entry.tls.into_value(),
        Variable::Status => status(entry).to_string().into_value(),
        Variable::BodyBytesSent => entry.bytes.to_string().into_value(),
        Variable::RequestTime => seconds(entry.duration).into_value(),
        Variable::RequestId => request_id().into_value(),
        Variable::Attempts => entry.attempts.to_string().into_value(),
        Variable::Generation => setting.generation.to_string().into_value(),
        Variable::TimeLocal => setting.time_local.into_value(),
        Variable::TimeIso8601 => iso8601(setting.now).into_value(),
        Variable::Msec => {
            let since = setting.now.duration_since(SystemTime::UNIX_EPOCH);
            seconds(since.unwrap_or_default()).into_value()
        }
        Variable::UpstreamName => entry.upstream.map(|upstream| upstream.name).into_value(),
        Variable::UpstreamAddr => {
            entry.upstream.map(|upstream| upstream.address.to_string()).into_value()
        }
        Variable::UpstreamHeaderTime => {
            entry.upstream.map(|upstream| seconds(upstream.head_after)).into_value()
        }
        // Its answer is relayed as it comes: it takes as long as the client is given it.
        Variable::UpstreamResponseTime => {
            entry.upstream.map(|_| seconds(entry.duration)).into_value()
        }
    }
}

/// What a variable can be made from; what is not there is empty.
trait IntoValue<'a> {
    fn into_value(self) -> Cow<'a, [u8]>;
}

impl<'a> IntoValue<'a> for &'a str {
    fn into_value(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
}

impl<'a> IntoValue<'a> for &'a [u8] {
    fn into_value(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self)
    }
}

impl<'a> IntoValue<'a> for String {
    fn into_value(self) -> Cow<'a, [u8]> {
        Cow::Owned(self.into_bytes())
    }
}

impl<'a> IntoValue<'a> for Vec<u8> {
    fn into_value(self) -> Cow<'a, [u8]> {
        Cow::Owned(self)
    }
}

impl<'a, T: IntoValue<'a>> IntoValue<'a> for Option<T> {
    fn into_value(self) -> Cow<'a, [u8]> {
        self.map(IntoValue::into_value).unwrap_or_default()
    }
}

fn request_line(request: &RequestHead, setting: &Setting<'_>) -> Vec<u8> {
    let target = redacted(&request.target, setting.redact);
    let method = request.method.as_str().as_bytes();
    [method, b" ", &target, b" ", version(request.version).as_bytes()].concat()
}

fn query<'a>(target: &[u8]) -> Cow<'a, [u8]> {
    match memchr::memchr(b'?', target) {
        Some(start) => Cow::Owned(target[start + 1..].to_vec()),
        None => Cow::default(),
    }
}

/// Without the port, in lower case.
pub fn host(request: &RequestHead) -> Vec<u8> {
    let authority = &request.authority[..];
    let end = match authority.iter().rposition(|&byte| byte == b':') {
        Some(colon) if authority[colon..].contains(&b']') => authority.len(),
        Some(colon) => colon,
        None => authority.len(),
    };
    authority[..end].to_ascii_lowercase()
}

/// The name of basic auth (RFC 7617).
fn user(request: &RequestHead) -> Option<Vec<u8>> {
    let (scheme, token) = request.fields.get("authorization")?.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut pair = base64::engine::general_purpose::STANDARD.decode(token.trim_ascii()).ok()?;
    pair.truncate(pair.iter().position(|&byte| byte == b':')?);
    Some(pair)
}

/// A field of the request; queries in a Referer are redacted as those of requests.
fn field<'a>(entry: &Entry<'a>, name: &str, redact: &[String]) -> Option<Cow<'a, [u8]>> {
    let request = entry.request?;
    if name == "host" {
        return Some(Cow::Borrowed(&request.authority));
    }
    let value = request.fields.get(name)?;
    Some(if name == "referer" { redacted(value, redact) } else { Cow::Borrowed(value) })
}

fn status(entry: &Entry<'_>) -> u16 {
    entry.status.map_or(CLIENT_LEFT, |status: StatusCode| status.as_u16())
}

fn scheme(entry: &Entry<'_>) -> &'static str {
    if entry.tls.is_some() { "https" } else { "http" }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

fn iso8601(time: SystemTime) -> String {
    let format = time::format_description::well_known::Rfc3339;
    OffsetDateTime::from(time).format(&format).unwrap_or_default()
}

/// 16 random bytes.
fn request_id() -> String {
    let mut bytes = [0; 16];
    // Without them the id is of no use, and the line is still one.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// As Apache writes a value that stands in quotes.
fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => out.push(byte),
            _ => {
                let _ = write!(out, "\\x{byte:02X}");
            }
        }
    }
}

/// As nginx writes a value anywhere.
fn hexed(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            b' '..=b'~' if !matches!(byte, b'"' | b'\\') => out.push(byte),
            _ => {
                let _ = write!(out, "\\x{byte:02X}");
            }
        }
    }
}

/// What stands between the quotes of a JSON string.
fn json_text(out: &mut Vec<u8>, value: &[u8]) {
    let text = String::from_utf8_lossy(value);
    // A string can always be written.
    let written = serde_json::to_vec(text.as_ref()).unwrap_or_default();
    out.extend_from_slice(written.get(1..written.len().saturating_sub(1)).unwrap_or_default());
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::access_log::{NGINX_PROXY, NGINX_PROXY_JSON, VARIABLES};
    use crate::worker::access_log::UpstreamEntry;
    use crate::worker::http1::head::{HeadLimits, take_request};
    use bytes::BytesMut;

    /// Everything in it tries to be more than a value.
    fn hostile() -> RequestHead {
        let text = "GET /a\"b?token=x HTTP/1.1\r\nHost: H:1\r\nUser-Agent: x\"\t\\y\r\n\
                    Referer: http://r/?token=y\r\nAuthorization: Basic YSIKYjpj\r\n\r\n";
        let limits = HeadLimits { bytes: 1000, fields: 10 };
        let parsed = take_request(&mut BytesMut::from(text), limits);
        parsed.expect("parses").expect("whole").head
    }

    fn entry(head: &RequestHead) -> Entry<'_> {
        Entry {
            client: "::ffff:192.0.2.1".parse().expect("address"),
            request: Some(head),
            tls: Some("TLSv1.3"),
            status: Some(StatusCode::OK),
            bytes: 12,
            duration: Duration::from_micros(1234),
            upstream: Some(UpstreamEntry {
                name: "web-1",
                address: "172.17.0.2:80".parse().expect("address"),
                head_after: Duration::from_micros(1000),
            }),
            attempts: 1,
        }
    }

    const TIME: u64 = 1_000_000_000;

    fn setting<'a>(redact: &'a [String]) -> Setting<'a> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(TIME);
        Setting { now, time_local: "09/Sep/2001:01:46:40 +0000", redact, generation: 7 }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("utf-8")
    }

    fn formatted(format: &str, escape: Escape, redact: &[String]) -> String {
        let parsed = Template::parse(format).expect(format);
        let head = hostile();
        written(|out| template(out, (&parsed, escape), &setting(redact), &entry(&head)))
    }

    #[test]
    fn lines_are_literal_and_cannot_be_forged() {
        let (head, now) = (hostile(), SystemTime::UNIX_EPOCH + Duration::from_secs(TIME));
        assert_eq!(Clock::default().common_log(now), setting(&[]).time_local);
        assert_eq!(
            written(|out| combined(out, &setting(&[]), &entry(&head))),
            "192.0.2.1 - - [09/Sep/2001:01:46:40 +0000] \"GET /a\\\"b?token=x HTTP/1.1\" 200 12 \
             \"http://r/?token=y\" \"x\\\"\\x09\\\\y\" \"H:1\" 0.001 web-1\n"
        );
        let line = written(|out| json(out, &setting(&[]), &entry(&head)));
        let value: serde_json::Value = serde_json::from_str(&line).expect("json");
        for (key, want) in [
            ("time", "2001-09-09T01:46:40Z".into()),
            ("duration_ms", serde_json::json!(1.234)),
            ("user_agent", "x\"\t\\y".into()),
            ("tls", "TLSv1.3".into()),
            ("upstream_address", "172.17.0.2:80".into()),
            ("generation", 7.into()),
        ] {
            assert_eq!(value[key], want, "{key}");
        }
        assert_eq!(
            formatted(NGINX_PROXY, Escape::Default, &[]),
            "h 192.0.2.1 - a\\x22\\x0Ab [09/Sep/2001:01:46:40 +0000] \
             \"GET /a\\x22b?token=x HTTP/1.1\" 200 12 \"http://r/?token=y\" \"x\\x22\\x09\\x5Cy\" \
             \"172.17.0.2:80\"\n"
        );
        let line = formatted(NGINX_PROXY_JSON, Escape::Json, &[]);
        let value: serde_json::Value = serde_json::from_str(&line).expect("json");
        assert_eq!(value["http_user_agent"], "x\"\t\\y");
        assert_eq!(value["request_id"].as_str().map(str::len), Some(32));
        assert_eq!(value["client_ip"], "");
    }

    #[test]
    fn every_variable_fits_a_line() {
        for (name, _) in VARIABLES {
            for escape in [Escape::Default, Escape::Json] {
                let line = formatted(&format!("\"${name}\""), escape, &[]);
                let inner = line.strip_suffix("\"\n").and_then(|line| line.strip_prefix('"'));
                let inner = inner.unwrap_or_else(|| panic!("{name}: {line:?}"));
                assert!(!inner.contains(['\n', '\r', '\0']), "{name}: {line:?}");
                let bare = inner.replace("\\\\", "").replace("\\\"", "");
                assert!(!bare.contains('"'), "{name}: {line:?}");
            }
        }
    }

    #[test]
    fn what_is_redacted_is_nowhere() {
        let names = ["token".to_owned()];
        let head = hostile();
        let every: String = VARIABLES.iter().map(|(name, _)| format!("${name} ")).collect();
        for line in [
            written(|out| combined(out, &setting(&names), &entry(&head))),
            written(|out| json(out, &setting(&names), &entry(&head))),
            formatted(&format!("{every} $http_referer"), Escape::Default, &names),
        ] {
            assert!(line.contains("token=(hidden)"), "{line}");
            assert!(!line.contains("token=x") && !line.contains("token=y"), "{line}");
        }
    }
}
