//! The target that goes upstream.

use bytes::Bytes;

use super::message::RequestHead;
use super::table::{Replace, Route};

/// The target that goes upstream: as received, or with the route's prefix replaced.
pub fn target(route: &Route, head: &RequestHead, normal: &[u8]) -> Bytes {
    let Some(Replace { prefix, by }) = &route.replace else {
        return head.target.clone();
    };
    let (path, query) = head.target.split_at(head.path().len());
    // A path that only matched once it was decoded and its dots resolved goes up that way: as it was
    // received, its dots could lead out of the replacement.
    let encoded;
    let rest = if path == normal {
        path.strip_prefix(prefix.as_ref()).unwrap_or_default()
    } else {
        encoded = encode(normal.strip_prefix(prefix.as_ref()).unwrap_or_default());
        encoded.as_slice()
    };
    let slash = by.ends_with(b"/");
    let rest = if slash { rest.strip_prefix(b"/").unwrap_or(rest) } else { rest };
    let mut target = [by.as_ref(), rest].concat();
    if !target.starts_with(b"/") {
        target.insert(0, b'/');
    }
    target.extend_from_slice(query);
    target.into()
}

/// RFC 3986 section 3.3: what a path segment may hold stands, all else is percent-encoded.
pub fn encode(path: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte) {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    use crate::worker::hold::Waiting;
    use crate::worker::table::normal_path;

    #[test]
    fn prefixes_are_replaced() {
        for (prefix, replacement, received, want) in [
            ("/app/", "/", "/app/x?q=/app/", "/x?q=/app/"),
            ("/app", "/", "/app/x", "/x"),
            ("/app", "/", "/app", "/"),
            ("/app", "/v2", "/app/x", "/v2/x"),
            ("/app", "/", "/%61pp/x%20y", "/x%20y"),
            ("/app", "/", "//app//x", "/x"),
            ("/api/", "/v1/a/", "/api/../api/x", "/v1/a/x"),
        ] {
            let route = Route {
                pool: 0,
                hold: false,
                waiting: Waiting::default(),
                options: None,
                replace: Some(Replace {
                    prefix: prefix.as_bytes().into(),
                    by: replacement.as_bytes().into(),
                }),
            };
            let head = RequestHead::new(Method::GET, received);
            let normal = normal_path(head.path()).expect("inside the root").into_owned();
            assert_eq!(target(&route, &head, &normal), want, "{prefix} {replacement} {received}");
        }
    }
}
