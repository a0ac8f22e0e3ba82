//! What was measured, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::measure::{Figures, Results, RowResults, Sample};
use super::row::Work;
use super::statistics::Median;

/// A table in Markdown for each row.
pub fn text(results: &Results) -> String {
    let mut text = format!("{} rounds of {} s each\n", results.rounds, results.seconds);
    for (name, version) in &results.proxies {
        let _ = writeln!(text, "* {name}: {version}");
    }
    for row in &results.rows {
        let _ = writeln!(text, "\n**{}**\n\n{}", row.name, head(row));
        for ((name, _), samples) in results.proxies.iter().zip(&row.samples) {
            let _ = writeln!(text, "{}", line(name, row, samples));
        }
    }
    text
}

fn head(row: &RowResults) -> &'static str {
    match row.work {
        Work::Idle { .. } => "| | KiB per connection | memory, MiB |\n| --- | --: | --: |",
        _ => {
            "| | CPU µs per request | requests/s | core busy | p50, ms | p99, ms | memory, MiB |\n\
             | --- | --: | --: | --: | --: | --: | --: |"
        }
    }
}

/// One measurement with a failure makes the whole line void.
fn line(name: &str, row: &RowResults, samples: &[Sample]) -> String {
    if let Some(reason) = samples.iter().find_map(|sample| sample.as_ref().err()) {
        return format!("| {name} | void: {} |", reason.lines().next().unwrap_or_default());
    }
    let cell = |get: fn(&Figures) -> Option<f64>, digits| cell(samples, get, digits);
    let memory = cell(|f| Some(f.memory / 1024.0), 1);
    match row.work {
        Work::Idle { .. } => format!("| {name} | {} | {memory} |", cell(|f| f.per_connection, 1)),
        _ => format!(
            "| {name} | {} | {} | {} | {} | {} | {memory} |",
            cell(|f| f.cpu, 1),
            cell(|f| f.per_second, 0),
            cell(|f| f.busy.map(|share| share * 100.0), 0),
            cell(|f| f.p50.map(|time| time / 1000.0), 2),
            cell(|f| f.p99.map(|time| time / 1000.0), 2),
        ),
    }
}

/// The median, and how far the measurements are from it at most.
fn cell(samples: &[Sample], get: fn(&Figures) -> Option<f64>, digits: usize) -> String {
    let values = samples.iter().filter_map(|sample| get(sample.as_ref().ok()?));
    match Median::of(values) {
        Some(Median { middle, spread }) => format!("{middle:.digits$} ±{:.0} %", spread * 100.0),
        None => "–".to_owned(),
    }
}

pub fn json(results: &Results) -> Value {
    let proxies: Vec<Value> = results
        .proxies
        .iter()
        .map(|(name, version)| json!({ "name": name, "version": version }))
        .collect();
    let rows: Vec<Value> = results.rows.iter().map(|row| json_row(results, row)).collect();
    let (rounds, seconds) = (results.rounds, results.seconds);
    json!({ "rounds": rounds, "seconds": seconds, "proxies": proxies, "rows": rows })
}

fn json_row(results: &Results, row: &RowResults) -> Value {
    let measured: serde_json::Map<String, Value> = results
        .proxies
        .iter()
        .zip(&row.samples)
        .map(|((name, _), samples)| ((*name).to_owned(), samples.iter().map(json_sample).collect()))
        .collect();
    json!({ "name": row.name, "measured": measured })
}

fn json_sample(sample: &Sample) -> Value {
    match sample {
        Err(reason) => json!({ "void": reason }),
        Ok(figures) => json!({
            "requests_per_second": figures.per_second,
            "p50_us": figures.p50,
            "p99_us": figures.p99,
            "cpu_us_per_request": figures.cpu,
            "core_busy": figures.busy,
            "memory_kib": figures.memory,
            "kib_per_connection": figures.per_connection,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(samples: Vec<Sample>) -> Results {
        let work = Work::Closed { http1: true, clients: 1, streams: 1 };
        let row = RowResults { name: "plain", work, samples: vec![samples] };
        let proxies = vec![("baton", "baton 1".to_owned())];
        Results { rounds: 2, seconds: 1, proxies, rows: vec![row] }
    }

    fn figures(cpu: f64) -> Figures {
        let per_second = Some(1000.0);
        Figures {
            cpu: Some(cpu),
            per_second,
            p50: Some(1500.0),
            memory: 2048.0,
            ..Figures::default()
        }
    }

    #[test]
    fn a_line_has_medians_with_their_spread() {
        let text = text(&results(vec![Ok(figures(40.0)), Ok(figures(60.0))]));
        let line = "| baton | 50.0 ±20 % | 1000 ±0 % | – | 1.50 ±0 % | – | 2.0 ±0 % |";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn one_failure_voids_the_line() {
        let results = results(vec![Ok(figures(40.0)), Err("1 of 9 requests failed".to_owned())]);
        assert!(text(&results).contains("| baton | void: 1 of 9 requests failed |"));
        let measured = &json(&results)["rows"][0]["measured"]["baton"];
        assert_eq!(measured[0]["cpu_us_per_request"], 40.0);
        assert_eq!(measured[1]["void"], "1 of 9 requests failed");
    }
}
