//! The closing table: one row for each kind of client.

use std::fmt::Write as _;
use std::time::Duration;

use baton_load::{Kind, KindReport, Report};

pub(super) fn draw(report: &Report) -> String {
    let mut text = format!(
        "\n{:<24} {:>9} {:>9} {:>7} {:>9} {:>9}\n",
        "protocol", "requests", "failures", "resets", "p50", "p99"
    );
    for (kind, felt) in &report.kinds {
        row(&mut text, *kind, felt);
    }
    text.push('\n');
    text
}

fn row(text: &mut String, kind: Kind, felt: &KindReport) {
    writeln!(
        text,
        "{:<24} {:>9} {:>9} {:>7} {:>9} {:>9}",
        kind.to_string(),
        felt.requests,
        felt.failed(),
        felt.torn(),
        millis(felt.latency.quantile(0.5)),
        millis(felt.latency.quantile(0.99)),
    )
    .expect("a string takes what it is given");
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}
