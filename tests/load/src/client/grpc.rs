//! Unary calls of gRPC, as far as they differ from any HTTP/2 request (gRPC over HTTP2, PROTOCOL-HTTP2.md).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::pattern;

/// Any: the upstream echoes messages whatever the method is called.
pub(super) const PATH: &str = "/baton.Echo/Unary";
/// Beside the nonce, in bytes.
const FILLER: usize = 100;

/// One message with its prefix: not compressed, and how long.
pub(super) fn message(nonce: &str) -> Bytes {
    let length = (nonce.len() + FILLER) as u32;
    let prefix = [&[0][..], &length.to_be_bytes()].concat();
    [&prefix, nonce.as_bytes(), &pattern::bytes(FILLER)].concat().into()
}

pub(super) fn add_fields(fields: &mut HeaderMap) {
    fields.insert("content-type", HeaderValue::from_static("application/grpc"));
    fields.insert("te", HeaderValue::from_static("trailers"));
}
