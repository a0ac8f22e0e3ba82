//! The closing tables: a row for each kind of client, and one for each act.

use std::fmt::Write as _;
use std::time::Duration;

use baton_load::{Kind, KindReport, Report};

use super::acts::{self, Done};

const INTO_STRING: &str = "a string takes what it is given";

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

pub(super) fn draw_acts(done: &[Done], report: &Report) -> String {
    let mut text = format!("{:<24} {:>9} {:>9}\n", "act", "failures", "took");
    for (act, failures) in done.iter().zip(acts::failures(done, report)) {
        let took = format!("{} ms", act.took.as_millis());
        write!(text, "{:<24} {failures:>9} {took:>9}", act.name).expect(INTO_STRING);
        if let Some(excuse) = act.excuse.filter(|_| failures > 0) {
            write!(text, "  {excuse}").expect(INTO_STRING);
        }
        text.push('\n');
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
    .expect(INTO_STRING);
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}
