//! Single values of containers' settings, and of nginx-proxy's global variables: what they mean, or
//! the sentence for what means nothing. Its subject is the value.

use std::time::Duration;

use crate::config::{Directory, RouteTls, VerifyClient, is_email, time_span};
use crate::protocol::snapshot::HttpsMethod;

pub(in crate::controller) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither `true` nor `false`".to_owned()),
    }
}

/// Of what the configuration's `tls` may be, containers have other words for all but this.
pub(in crate::controller) fn passthrough(text: &str) -> Result<RouteTls, String> {
    match text {
        "passthrough" => Ok(RouteTls::Passthrough),
        _ => Err("is not `passthrough`".to_owned()),
    }
}

pub(in crate::controller) fn span(text: &str) -> Result<Duration, String> {
    time_span(text).map_err(|_| "is not a duration from 1ms to 366d, as 30s or 10m".to_owned())
}

/// As [`span`]; a bare number is seconds.
pub(in crate::controller) fn seconds(text: &str) -> Result<Duration, String> {
    span(text).or_else(|problem| span(&format!("{text}s")).map_err(|_| problem))
}

/// Of requests.
pub(in crate::controller) fn count(text: &str, least: u32) -> Result<u32, String> {
    const MOST: u32 = 1_000_000;
    match text.parse() {
        Ok(number) if (least..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("is not a number of requests: expected {least} to {MOST}")),
    }
}

pub(in crate::controller) fn https_method(text: &str) -> Result<HttpsMethod, String> {
    match text.to_ascii_lowercase().as_str() {
        "redirect" => Ok(HttpsMethod::Redirect),
        "noredirect" => Ok(HttpsMethod::NoRedirect),
        "nohttp" => Ok(HttpsMethod::NoHttp),
        "nohttps" => Ok(HttpsMethod::NoHttps),
        _ => Err("is not one of redirect, noredirect, nohttp and nohttps".to_owned()),
    }
}

pub(in crate::controller) fn redirect_status(text: &str) -> Result<u16, String> {
    match text {
        "301" => Ok(301),
        "307" => Ok(307),
        "308" => Ok(308),
        _ => Err("is not one of 301, 307 and 308".to_owned()),
    }
}

pub(in crate::controller) fn email(text: &str) -> Result<String, String> {
    match is_email(text) {
        true => Ok(text.to_owned()),
        false => Err("is not an e-mail address".to_owned()),
    }
}

pub(super) fn verify_client(text: &str) -> Result<VerifyClient, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Ok(VerifyClient::Required),
        "optional" => Ok(VerifyClient::Optional),
        "off" => Ok(VerifyClient::Off),
        _ => Err("is not one of on, optional and off".to_owned()),
    }
}

pub(super) fn directory(text: &str) -> Result<Directory, String> {
    Directory::parse(text).map_err(|_| "is not the https URL of an ACME directory".to_owned())
}

/// What no file name, label or CA could take for something else.
/// Text that is shown and compared, and nothing more.
pub(super) fn any(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

pub(super) fn word(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    match text.bytes().all(is_plain) && !text.starts_with('.') {
        true => Ok(text.to_owned()),
        false => Err("has more in it than letters, digits, `-`, `_` and dots".to_owned()),
    }
}
