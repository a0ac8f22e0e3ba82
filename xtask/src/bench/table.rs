//! What was measured, for people and for programs.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::column::Column;
use super::measure::{Results, RowResults, Sample};
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

fn head(row: &RowResults) -> String {
    let columns = Column::of(row.work);
    let labels: Vec<&str> = columns.iter().map(|column| column.shown().0).collect();
    format!("| | {} |\n| --- |{}", labels.join(" | "), " --: |".repeat(columns.len()))
}

/// One measurement with a failure makes the whole line void.
fn line(name: &str, row: &RowResults, samples: &[Sample]) -> String {
    if let Some(reason) = samples.iter().find_map(|sample| sample.as_ref().err()) {
        return format!("| {name} | void: {} |", reason.lines().next().unwrap_or_default());
    }
    let cells: Vec<String> =
        Column::of(row.work).iter().map(|column| cell(samples, *column)).collect();
    format!("| {name} | {} |", cells.join(" | "))
}

/// The median, and how far the measurements are from it at most.
fn cell(samples: &[Sample], column: Column) -> String {
    let (_, unit, digits) = column.shown();
    let values = values(samples, column);
    match (Median::of(values.iter().copied()), values.len()) {
        (None, _) => "–".to_owned(),
        (Some(Median { middle, .. }), 1) => format!("{:.digits$}", middle / unit),
        (Some(Median { middle, spread }), _) => {
            format!("{:.digits$} ±{:.0} %", middle / unit, spread * 100.0)
        }
    }
}

fn values(samples: &[Sample], column: Column) -> Vec<f64> {
    samples.iter().filter_map(|sample| sample.as_ref().ok()?.get(column)).collect()
}

/// Of a line that is not void.
pub fn median(samples: &[Sample], column: Column) -> Option<Median> {
    let sound = samples.iter().all(Result::is_ok);
    Median::of(values(samples, column)).filter(|_| sound)
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
    let by_name = |what: &dyn Fn(&[Sample]) -> Value| -> Map<String, Value> {
        let lines = results.proxies.iter().zip(&row.samples);
        lines.map(|((name, _), samples)| ((*name).to_owned(), what(samples))).collect()
    };
    let measured = by_name(&|samples| samples.iter().map(json_sample).collect());
    let medians = by_name(&|samples| json_medians(row, samples));
    json!({ "name": row.name, "medians": medians, "measured": measured })
}

fn json_medians(row: &RowResults, samples: &[Sample]) -> Value {
    let each = Column::of(row.work).iter().filter_map(|column| {
        let Median { middle, spread } = median(samples, *column)?;
        let value = json!({ "middle": middle, "spread": spread });
        Some((column.json_key().to_owned(), value))
    });
    Value::Object(each.collect())
}

fn json_sample(sample: &Sample) -> Value {
    match sample {
        Err(reason) => json!({ "void": reason }),
        Ok(figures) => {
            let each =
                figures.all().map(|(column, value)| (column.json_key().to_owned(), value.into()));
            Value::Object(each.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::column::Figures;
    use super::super::row::Work;
    use super::*;

    fn results(samples: Vec<Sample>) -> Results {
        let work = Work::Closed { http1: true, clients: 1, streams: 1 };
        let row = RowResults { name: "plain".to_owned(), work, samples: vec![samples] };
        let proxies = vec![("baton", "baton 1".to_owned())];
        Results { rounds: 2, seconds: 1, proxies, rows: vec![row] }
    }

    fn figures(cpu: f64) -> Figures {
        Figures::default()
            .with(Column::Cpu, cpu)
            .with(Column::PerSecond, 1000.0)
            .with(Column::P50, 1500.0)
            .with(Column::Memory, 2048.0)
    }

    #[test]
    fn a_line_has_medians_with_their_spread() {
        let text = text(&results(vec![Ok(figures(40.0)), Ok(figures(60.0))]));
        let line = "| baton | 50.0 ±20 % | 1000 ±0 % | – | 1.50 ±0 % | – | 2.0 ±0 % |";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn one_measurement_has_no_spread() {
        let text = text(&results(vec![Ok(figures(40.0))]));
        assert!(text.contains("| baton | 40.0 | 1000 | – | 1.50 | – | 2.0 |"), "{text}");
    }

    #[test]
    fn one_failure_voids_the_line() {
        let results = results(vec![Ok(figures(40.0)), Err("1 of 9 requests failed".to_owned())]);
        assert!(text(&results).contains("| baton | void: 1 of 9 requests failed |"));
        let row = &json(&results)["rows"][0];
        let measured = &row["measured"]["baton"];
        assert_eq!(measured[0]["cpu_us_per_request"], 40.0);
        assert_eq!(measured[1]["void"], "1 of 9 requests failed");
        assert_eq!(row["medians"]["baton"], json!({}));
    }

    #[test]
    fn programs_get_medians_as_well() {
        let results = results(vec![Ok(figures(40.0)), Ok(figures(60.0))]);
        let medians = &json(&results)["rows"][0]["medians"]["baton"];
        assert_eq!(medians["cpu_us_per_request"], json!({ "middle": 50.0, "spread": 0.2 }));
    }
}
