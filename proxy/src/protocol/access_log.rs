//! What the access log says, and how people write it: formats with nginx's variables.

use serde::{Deserialize, Serialize};

/// Longest format, in bytes.
const MAX_FORMAT: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessLog {
    pub format: Format,
    /// One of so many requests has a line; those that fail (5xx) all have one.
    pub sample: u32,
    /// Parameters of queries whose values are not shown, in lower case; `*` is all of them.
    pub redact: Vec<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog { format: Format::default(), sample: 1, redact: Vec::new() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Combined,
    Json,
    Off,
    /// Text with variables in it, as [`Template::parse`] takes it.
    Template(String, Escape),
}

/// How bytes are written that could end a value or a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    /// `\xXX`, as nginx does it; an empty value is `-`.
    #[default]
    Default,
    /// As in a JSON string; an empty value is empty.
    Json,
}

impl Escape {
    /// nginx's `none` would let clients write lines of their own.
    ///
    /// # Errors
    /// The sentence for another word; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Escape::Default),
            "json" => Ok(Escape::Json),
            "none" => Err("would let clients forge lines: expected `default` or `json`".to_owned()),
            _ => Err("is neither `default` nor `json`".to_owned()),
        }
    }
}

/// nginx-proxy's own format.
pub const NGINX_PROXY: &str = "$host $remote_addr - $remote_user [$time_local] \"$request\" $status \
                               $body_bytes_sent \"$http_referer\" \"$http_user_agent\" \"$upstream_addr\"";

/// nginx-proxy's format where LOG_JSON is true.
pub const NGINX_PROXY_JSON: &str = concat!(
    r#"{"time_local":"$time_iso8601","client_ip":"$http_x_forwarded_for","#,
    r#""remote_addr":"$remote_addr","request":"$request","status":"$status","#,
    r#""body_bytes_sent":"$body_bytes_sent","request_time":"$request_time","#,
    r#""upstream_response_time":"$upstream_response_time","upstream_addr":"$upstream_addr","#,
    r#""http_referrer":"$http_referer","http_user_agent":"$http_user_agent","#,
    r#""request_id":"$request_id"}"#
);

impl Format {
    pub fn nginx_proxy() -> Self {
        Format::Template(NGINX_PROXY.to_owned(), Escape::Default)
    }

    pub fn nginx_proxy_json() -> Self {
        Format::Template(NGINX_PROXY_JSON.to_owned(), Escape::Json)
    }

    /// The name of a format, or a text with `$variables`.
    ///
    /// # Errors
    /// The sentence for what is neither; its subject is the text.
    pub fn parse(text: &str, escape: Escape) -> Result<Self, String> {
        match text {
            "combined" => Ok(Format::Combined),
            "json" => Ok(Format::Json),
            "off" => Ok(Format::Off),
            "nginx-proxy" => Ok(Format::nginx_proxy()),
            "nginx-proxy-json" => Ok(Format::nginx_proxy_json()),
            _ if text.contains('$') => {
                Template::parse(text)?;
                Ok(Format::Template(text.to_owned(), escape))
            }
            _ => {
                Err("is not one of combined, json, nginx-proxy, nginx-proxy-json and off, and has \
                      no $variable"
                    .to_owned())
            }
        }
    }
}

/// A format, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Value(Variable),
    /// A field of the request, in lower case.
    Field(String),
}

macro_rules! variables {
    ($($variable:ident $name:literal,)*) => {
        /// What can stand behind a `$`, beside `http_NAME`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Variable { $($variable,)* }

        /// By their names.
        pub const VARIABLES: &[(&str, Variable)] = &[$(($name, Variable::$variable),)*];
    };
}

variables! {
    Args "args",
    Attempts "attempts",
    BodyBytesSent "body_bytes_sent",
    Generation "generation",
    Host "host",
    HttpHost "http_host",
    Https "https",
    Msec "msec",
    QueryString "query_string",
    RemoteAddr "remote_addr",
    RemoteUser "remote_user",
    Request "request",
    RequestId "request_id",
    RequestMethod "request_method",
    RequestTime "request_time",
    RequestUri "request_uri",
    Scheme "scheme",
    ServerProtocol "server_protocol",
    SslProtocol "ssl_protocol",
    Status "status",
    TimeIso8601 "time_iso8601",
    TimeLocal "time_local",
    UpstreamAddr "upstream_addr",
    UpstreamHeaderTime "upstream_header_time",
    UpstreamName "upstream_name",
    UpstreamResponseTime "upstream_response_time",
    Uri "uri",
}

impl Template {
    /// Text with `$name` and `${name}` in it.
    ///
    /// # Errors
    /// The sentence for a variable that is not known; its subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_FORMAT {
            return Err(format!("is longer than {MAX_FORMAT} bytes"));
        }
        if text.contains(['\n', '\r']) {
            return Err("has more than one line".to_owned());
        }
        let mut parts = text.split('$');
        let mut pieces = Vec::new();
        push_text(&mut pieces, parts.next().unwrap_or_default());
        for part in parts {
            let (name, rest) = split_name(part)?;
            pieces.push(piece(name)?);
            push_text(&mut pieces, rest);
        }
        Ok(Template(pieces))
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// What follows a `$`: a name, and the rest.
fn split_name(part: &str) -> Result<(&str, &str), String> {
    if let Some(part) = part.strip_prefix('{') {
        return part.split_once('}').ok_or_else(|| "has a `${` without its `}`".to_owned());
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let end = part.bytes().position(|byte| !is_name(byte)).unwrap_or(part.len());
    Ok(part.split_at(end))
}

fn piece(name: &str) -> Result<Piece, String> {
    if let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) {
        return Ok(Piece::Value(*variable));
    }
    match name.strip_prefix("http_") {
        Some(field) if !field.is_empty() => {
            Ok(Piece::Field(field.replace('_', "-").to_ascii_lowercase()))
        }
        _ => Err(format!("has ${name}, which is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let text = |text: &str| Piece::Text(text.to_owned());
        let value = Piece::Value;
        for (format, want) in [
            ("$host", Ok(vec![value(Variable::Host)])),
            ("a${status}b", Ok(vec![text("a"), value(Variable::Status), text("b")])),
            ("$http_X_Forwarded_For", Ok(vec![Piece::Field("x-forwarded-for".to_owned())])),
            ("[$args]-$uri", {
                let args = [text("["), value(Variable::Args), text("]-")];
                Ok(args.into_iter().chain([value(Variable::Uri)]).collect())
            }),
            ("$sent_http_x", Err("has $sent_http_x, which is not known")),
            ("$", Err("has $, which is not known")),
            ("${host", Err("has a `${` without its `}`")),
            ("a\n$host", Err("has more than one line")),
        ] {
            let found = Template::parse(format).map(|template| template.0);
            assert_eq!(found, want.map_err(str::to_owned), "{format:?}");
        }
        for known in [NGINX_PROXY, NGINX_PROXY_JSON] {
            assert!(Template::parse(known).is_ok(), "{known}");
        }
    }

    #[test]
    fn names() {
        let parse = |text: &str| Format::parse(text, Escape::Json);
        assert_eq!(parse("combined"), Ok(Format::Combined));
        assert_eq!(parse("nginx-proxy"), Ok(Format::nginx_proxy()));
        assert_eq!(parse("$uri"), Ok(Format::Template("$uri".to_owned(), Escape::Json)));
        assert!(parse("common").is_err());
        assert!(Escape::parse("none").is_err_and(|why| why.contains("forge")));
    }
}
