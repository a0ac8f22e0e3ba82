//! One request and its response, whatever the protocol: what an endpoint can see and do.

use std::io;

use bytes::Bytes;

use crate::wire::{Fields, WireError};

/// The client is gone, or is to be told nothing more.
#[derive(Debug)]
pub(super) struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Gone
    }
}

impl From<WireError> for Gone {
    fn from(_: WireError) -> Self {
        Gone
    }
}

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Gone
    }
}

/// A request's head as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) version: &'static str,
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// `:authority`, or the Host field.
    pub(super) authority: String,
    pub(super) fields: Fields,
}

impl Request {
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(super) fn endpoint(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(n, _)| *n == name)
            .map(|p| p.1)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.query(name)?.parse().ok()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        crate::wire::first(&self.fields, name)
    }
}

pub(super) type Field<'a> = (&'a str, &'a str);

pub(super) trait Exchange {
    fn request(&self) -> &Request;

    /// The next piece of the request's body. The first call answers `Expect: 100-continue`.
    async fn read(&mut self) -> Result<Option<Bytes>, Gone>;

    /// A response with a 1xx status, before the final one.
    async fn informational(&mut self, status: u16, fields: &[Field<'_>]) -> Result<(), Gone>;

    /// The final response's head. Without a length the body ends where [`Exchange::finish`] says.
    async fn head(
        &mut self,
        status: u16,
        fields: &[Field<'_>],
        length: Option<u64>,
    ) -> Result<(), Gone>;

    /// A piece of the response's body, sent at once.
    async fn write(&mut self, piece: Bytes) -> Result<(), Gone>;

    /// The end of the response. Trailers need a body without a length.
    async fn finish(&mut self, trailers: &[Field<'_>]) -> Result<(), Gone>;
}
