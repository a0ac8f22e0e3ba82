//! Instructions in user space that baton's worker takes for a request: a figure that a busy machine does not
//! change, held against a baseline that is committed.
//!
//! Requests come one after the other: how many a worker finds at a time is chance, and changes what each
//! of them takes.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::baton_load::{BatonLoad, Clients};
use super::callgrind::Callgrind;
use super::ground::Ground;
use super::h2load::H2load;
use super::proxy::{Proxy, version_of};
use super::row::{Row, Work};
use crate::process::{Profile, root, strip};

/// For h2load, beside its own patience.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of the shorter run; the longer one has three times as many.
const FEW: u64 = 200;
/// Each row is counted so often.
const ROUNDS: usize = 3;
/// A row may grow by so many percent before it fails.
const TOLERANCE: u64 = 5;

const fn row(name: &'static str, http1: bool) -> Row {
    Row::new(name, Work::Counted { http1, requests: FEW })
}

const ROWS: [Row; 4] = [
    row("http1 plain 1 KiB", true).plain(),
    row("http1 tls 1 KiB", true),
    row("http2 tls 1 KiB", false),
    row("http2 tls POST 1 KiB", false).path("/post").body("1k"),
];

/// Instructions for each request, by row.
type Counts = BTreeMap<String, u64>;

/// What is counted, and what becomes of it.
pub struct Counting {
    pub profile: Profile,
    pub accept: bool,
    pub with_peers: bool,
}

/// Counts, and says so. With `accept` the counts become the baseline; without, a row that has grown
/// fails.
pub fn instructions(
    baton: &Path,
    Counting { profile, accept, with_peers }: Counting,
    ground: &Ground<'_>,
) -> Result<()> {
    // Valgrind reads all that is there for debuggers before it begins, and takes longer than a worker has.
    let bare = ground.path().join("baton");
    strip(baton, &bare, ground.interrupt)?;
    let proxies = Proxy::all(&bare);
    let (baton, peers) = proxies.split_first().context("baton is always there")?;
    let counts = count(baton, ground)?;
    if with_peers {
        let peers = peers.iter().filter(|peer| peer.product.can_be_counted());
        peers.map(|peer| count(peer, ground)).collect::<Result<Vec<_>>>()?;
    }
    let here = place();
    let text = read_to_string(file()).with_context(|| file().display().to_string())?;
    let mut baselines: Value = serde_json::from_str(&text).context("xtask/instructions.json")?;
    let baseline = &mut baselines[profile.name()];
    if accept {
        *baseline = to_json(&counts, &here);
        let text = serde_json::to_string_pretty(&baselines)?;
        return super::write(&file(), &(text + "\n"));
    }
    let (before, of) = from_json(baseline).with_context(|| file().display().to_string())?;
    print!("{}", compared(&counts, &before));
    if of != here {
        println!("no comparison: the baseline is of {of}, and this is {here}");
        return Ok(());
    }
    let grown = grown(&counts, &before);
    if grown.is_empty() {
        return Ok(());
    }
    bail!(
        "{}; if that is what it has to cost, say why in the commit that changes the baseline: \
         cargo xtask bench --instructions --profile {} --accept",
        grown.join(", "),
        profile.name()
    )
}

/// What changes counts and is no change of ours: the compiler, and the instructions that it and
/// libraries may choose from.
fn place() -> String {
    let compiler = version_of(Command::new("rustc").arg("--version"));
    let wide = if has_avx2() { " with AVX2" } else { "" };
    format!("{compiler}, {}{wide}", std::env::consts::ARCH)
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

fn file() -> PathBuf {
    root().join("xtask/instructions.json")
}

fn count(proxy: &Proxy, ground: &Ground<'_>) -> Result<Counts> {
    println!("{}, {}", proxy, proxy.version);
    let mut callgrind = Callgrind::start(proxy, ground)?;
    let mut counts = Counts::new();
    for row in &ROWS {
        let each = each(row, &mut callgrind, ground).context(row.name)?;
        println!("  {:<24}{each:>10} instructions each", row.name);
        counts.insert(row.name.to_owned(), each);
    }
    Ok(counts)
}

/// What one more request takes: what the connection takes falls out of the difference. What happens
/// beside requests as time passes can only add, so the least of several counts is taken.
fn each(row: &Row, callgrind: &mut Callgrind<'_>, ground: &Ground<'_>) -> Result<u64> {
    // Fills pools and caches.
    requests(row, FEW, callgrind, ground)?;
    let (mut short, mut long) = (u64::MAX, u64::MAX);
    for _ in 0..ROUNDS {
        short = short.min(requests(row, FEW, callgrind, ground)?);
        long = long.min(requests(row, 3 * FEW, callgrind, ground)?);
    }
    Ok(long.saturating_sub(short) / (2 * FEW))
}

/// Instructions since the last requests.
fn requests(
    row: &Row,
    requests: u64,
    callgrind: &mut Callgrind<'_>,
    ground: &Ground<'_>,
) -> Result<u64> {
    let http1 = matches!(row.work, Work::Counted { http1: true, .. });
    let row = Row { work: Work::Counted { http1, requests }, ..*row };
    let address = callgrind.address(row.tls);
    let report = if http1 && row.tls {
        // h2load was seen to hang there, on a busy machine.
        let clients = Clients { keep_alive: 1, requests: Some(requests), ..Clients::default() };
        BatonLoad::start(&clients, address, PATIENCE, ground)?.finish(ground)?
    } else {
        H2load::start(&row, address, PATIENCE, ground)?.finish(ground)?
    };
    let report = report.unless_failed()?;
    if report.requests != requests {
        bail!("{} of {requests} requests were made", report.requests);
    }
    callgrind.count()
}

fn to_json(counts: &Counts, place: &str) -> Value {
    json!({ "of": place, "instructions_per_request": counts })
}

fn from_json(baseline: &Value) -> Result<(Counts, String)> {
    let of = baseline["of"].as_str().context("it does not say of what")?.to_owned();
    let rows = baseline["instructions_per_request"].as_object().context("no counts")?;
    let count = |(name, count): (&String, &Value)| Some((name.clone(), count.as_u64()?));
    Ok((rows.iter().filter_map(count).collect(), of))
}

/// Rows that have grown, or that the baseline does not know, or that are gone.
fn grown(counts: &Counts, baseline: &Counts) -> Vec<String> {
    let gone = baseline.keys().filter(|name| !counts.contains_key(*name));
    let gone = gone.map(|name| format!("{name} is gone"));
    let worse = counts.iter().filter_map(|(name, count)| match baseline.get(name) {
        None => Some(format!("{name} is new")),
        Some(before) if count * 100 > before * (100 + TOLERANCE) => {
            Some(format!("{name} has grown from {before} to {count}"))
        }
        Some(_) => None,
    });
    worse.chain(gone).collect()
}

fn compared(counts: &Counts, baseline: &Counts) -> String {
    let line = |(name, count): (&String, &u64)| {
        let before = baseline.get(name).copied().unwrap_or_default();
        let change = (*count as f64 / before.max(1) as f64 - 1.0) * 100.0;
        format!("{name:<24}{before:>10} -> {count:>10} {change:>+6.1} %\n")
    };
    counts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[(&str, u64)]) -> Counts {
        rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn a_row_fails_that_has_grown_or_that_only_one_side_has() {
        let before = counts(&[("plain", 1000), ("tls", 2000)]);
        let check = |rows: &[(&str, u64)], expected: &[&str]| {
            assert_eq!(grown(&counts(rows), &before), expected, "{rows:?}");
        };
        check(&[("plain", 1000), ("tls", 2000)], &[]);
        check(&[("plain", 1050), ("tls", 500)], &[]);
        check(&[("plain", 1051), ("tls", 2000)], &["plain has grown from 1000 to 1051"]);
        check(&[("plain", 1000)], &["tls is gone"]);
        check(&[("plain", 1000), ("tls", 2000), ("idle", 1)], &["idle is new"]);
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let rows = counts(&[("plain", 1000)]);
        let json = to_json(&rows, "rustc 1");
        assert_eq!(from_json(&json).expect("a baseline"), (rows, "rustc 1".to_owned()));
        assert!(from_json(&json!({})).is_err());
    }

    #[test]
    fn the_committed_baselines_have_all_rows() {
        let text = include_str!("../../instructions.json");
        let baselines: Value = serde_json::from_str(text).expect("JSON");
        let mut names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        for profile in [Profile::Dev, Profile::Release] {
            let (baseline, _) = from_json(&baselines[profile.name()]).expect("a baseline");
            assert_eq!(baseline.keys().map(String::as_str).collect::<Vec<_>>(), names);
        }
    }
}
