//! The head of a response with a file: what it is, which version, and which part.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::conditions::{Validators, Wanted};
use super::root::File;
use crate::worker::message::{BodyLength, Fields, ResponseHead};
use crate::worker::route_options::{Encoding, is_text};

/// A file as it is sent.
#[derive(Debug)]
pub struct Representation {
    kind: String,
    pub validators: Validators,
    encoding: Option<Encoding>,
    varies: bool,
}

/// By the end of its name.
fn kind(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let kind = mime_guess::from_path(Path::new(&*name)).first_or_octet_stream();
    match (kind.type_(), kind.get_param("charset")) {
        (mime_guess::mime::TEXT, None) => format!("{kind}; charset=utf-8"),
        _ => kind.to_string(),
    }
}

/// Files of this kind get smaller, so that somebody may have put a compressed one beside it.
pub fn may_have_siblings(name: &[u8]) -> bool {
    let kind = kind(name);
    is_text(kind.as_bytes())
        || matches!(
            kind.as_str(),
            "font/ttf" | "font/otf" | "image/x-icon" | "image/bmp" | "application/octet-stream"
        )
}

impl Representation {
    pub fn new(name: &[u8], file: &File, encoding: Option<Encoding>) -> Self {
        Representation {
            kind: kind(name),
            validators: Validators {
                tag: tag(file.modified, file.length, encoding),
                modified: file.modified,
                length: file.length,
            },
            encoding,
            varies: may_have_siblings(name),
        }
    }

    pub fn head(&self, wanted: Wanted) -> ResponseHead {
        let Validators { tag, modified, length } = &self.validators;
        let mut fields = self.fields();
        put(&mut fields, ETAG, tag);
        put(&mut fields, LAST_MODIFIED, &httpdate::fmt_http_date(*modified));
        let (status, body) = match wanted {
            Wanted::Part(first, last) => {
                put(&mut fields, CONTENT_RANGE, &format!("bytes {first}-{last}/{length}"));
                (StatusCode::PARTIAL_CONTENT, BodyLength::Known(last - first + 1))
            }
            Wanted::Nothing => {
                fields.remove(CONTENT_TYPE);
                fields.remove(CONTENT_ENCODING);
                (StatusCode::NOT_MODIFIED, BodyLength::Empty)
            }
            _ => (StatusCode::OK, BodyLength::Known(*length)),
        };
        ResponseHead { status, fields: Fields::Map(fields), body, hsts: None }
    }

    pub fn unsatisfiable(&self) -> ResponseHead {
        let mut fields = HeaderMap::new();
        put(&mut fields, CONTENT_RANGE, &format!("bytes */{}", self.validators.length));
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        ResponseHead { status, fields: Fields::Map(fields), body: BodyLength::Known(0), hsts: None }
    }

    fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::with_capacity(8);
        put(&mut fields, CONTENT_TYPE, &self.kind);
        put(&mut fields, ACCEPT_RANGES, "bytes");
        if let Some(encoding) = self.encoding {
            put(&mut fields, CONTENT_ENCODING, encoding.as_str());
        }
        if self.varies {
            put(&mut fields, VARY, "Accept-Encoding");
        }
        fields
    }
}

fn put(fields: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        fields.insert(name, value);
    }
}

/// Another one when the file has been written, or is sent in another coding.
fn tag(modified: SystemTime, length: u64, encoding: Option<Encoding>) -> String {
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    match encoding {
        None => format!("\"{since:x}-{length:x}\""),
        Some(encoding) => format!("\"{since:x}-{length:x}-{}\"", encoding.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (name, want, siblings) in [
            ("a.html", "text/html; charset=utf-8", true),
            ("a/b.css", "text/css; charset=utf-8", true),
            ("a.JS", "text/javascript; charset=utf-8", true),
            ("a.json", "application/json", true),
            ("a.wasm", "application/wasm", true),
            ("a.png", "image/png", false),
            ("a.svg", "image/svg+xml", true),
            ("a.woff2", "font/woff2", false),
            ("a", "application/octet-stream", true),
            ("a.html\r\nX: y", "application/octet-stream", true),
        ] {
            assert_eq!(kind(name.as_bytes()), want, "{name}");
            assert_eq!(may_have_siblings(name.as_bytes()), siblings, "{name}");
        }
    }

    #[test]
    fn each_coding_has_a_tag_of_its_own() {
        let tags: std::collections::HashSet<String> =
            [None, Some(Encoding::Brotli), Some(Encoding::Gzip), Some(Encoding::Zstd)]
                .map(|encoding| tag(UNIX_EPOCH, 1, encoding))
                .into();
        assert_eq!(tags.len(), 4);
    }
}
