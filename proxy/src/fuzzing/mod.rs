//! What is claimed of everything that parses what others wrote: functions that take any bytes and
//! panic where a claim does not hold. `cargo xtask fuzz` searches with them, and the unit test below
//! holds them to the seeds and to some changes of each. In no build that users get.

mod controller;
mod protocol;
#[cfg(test)]
mod smoke;
mod worker;

/// Panics where a claim does not hold.
pub type Claim = fn(&[u8]);

/// By the names of the files in `fuzz/fuzz_targets` and the directories in `fuzz/seeds`.
pub const CLAIMS: &[(&str, Claim)] = &[
    ("acme", controller::acme),
    ("chunks", worker::chunks),
    ("compose", controller::compose),
    ("config", controller::config),
    ("docker", controller::docker),
    ("forwarded", worker::forwarded),
    ("frames", protocol::frames),
    ("htpasswd", protocol::htpasswd),
    ("paths", worker::paths),
    ("patterns", protocol::patterns),
    ("proxy_protocol", worker::proxy_protocol),
    ("request", worker::request),
    ("response", worker::response),
    ("routes", controller::routes),
    ("stored", controller::stored),
    ("websocket", worker::websocket),
];

/// Holds the claim of this name to these bytes.
///
/// # Panics
/// Where it does not hold, or there is none of this name.
pub fn check(name: &str, bytes: &[u8]) {
    let claim = CLAIMS.iter().find(|(known, _)| *known == name);
    claim.expect("a claim for each target").1(bytes);
}

/// What is no text is no input of most parsers.
fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}
