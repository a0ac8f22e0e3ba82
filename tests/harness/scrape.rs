//! A scrape of metrics, read as strictly as the format is written down, and more so: what no reader
//! may stumble over is a failure here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::raw::exchange;

/// Prometheus text 0.0.4, or OpenMetrics 1.0 where it ends with `# EOF`.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// By name and labels, as written.
    samples: BTreeMap<String, f64>,
    /// The families and their types.
    families: BTreeMap<String, String>,
}

impl Scrape {
    /// What is told there now.
    ///
    /// # Panics
    /// Where it is not, or the text is wrong.
    pub async fn of(address: SocketAddr) -> Self {
        let request = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        let answer = exchange(address, request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Scrape::read(answer.split_once("\r\n\r\n").expect("a body").1)
    }

    /// # Panics
    /// Where the text is wrong.
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "no line end at the end");
        let mut reader =
            Reader { is_open_metrics: text.ends_with("\n# EOF\n"), ..Reader::default() };
        for line in text.lines() {
            reader.line(line);
        }
        assert_eq!(reader.is_open_metrics, reader.is_over);
        let scrape = Scrape { samples: reader.samples, families: reader.families };
        scrape.check_histograms();
        scrape
    }

    /// The sum of a metric over its series with all of these labels, each as `name="value"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let series = self.samples.iter().filter(|(series, _)| name_of(series) == name);
        let matching = series.filter(|(series, _)| {
            let (_, found) = series.split_once('{').unwrap_or((series, ""));
            labels.iter().all(|label| found.trim_end_matches('}').split(',').any(|l| l == *label))
        });
        matching.map(|(_, value)| value).sum()
    }

    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// # Panics
    /// Where a counter, or a part of a histogram, is less than it was, or gone.
    pub fn assert_nothing_fell_since(&self, before: &Scrape) {
        let gauge =
            |series: &str| before.families.get(name_of(series)).is_some_and(|kind| kind == "gauge");
        for (series, was) in before.samples.iter().filter(|(series, _)| !gauge(series)) {
            let is = self.samples.get(series);
            assert!(is.is_some_and(|is| is >= was), "{series} was {was} and is {is:?}");
        }
    }

    fn check_histograms(&self) {
        let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        for (series, value) in &self.samples {
            let Some((head, bound)) = series.split_once("le=\"") else { continue };
            let bound = bound.trim_end_matches("\"}");
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect(series) };
            let key = head.trim_end_matches([',', '{']).replace("_bucket", "_count");
            buckets.entry(key).or_default().push((bound, *value));
        }
        for (series, mut counts) in buckets {
            counts.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(counts.is_sorted_by(|a, b| a.1 <= b.1), "{series}: {counts:?}");
            let (bound, all) = counts.last().copied().expect("a bucket");
            assert!(bound.is_infinite(), "{series} has no last bucket");
            let count = if series.contains('{') { format!("{series}}}") } else { series };
            assert_eq!(self.samples.get(&count), Some(&all), "{count}");
        }
    }
}

#[derive(Debug, Default)]
struct Reader {
    is_open_metrics: bool,
    is_over: bool,
    family: String,
    kind: String,
    helped: BTreeSet<String>,
    families: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        assert!(!self.is_over, "after the end: {line}");
        if line == "# EOF" {
            self.is_over = true;
        } else if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(!text.is_empty() && self.helped.insert(name.to_owned()), "{line}");
            name.clone_into(&mut self.family);
            self.kind.clear();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, self.family, "its help comes first, and nothing between");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(self.families.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            kind.clone_into(&mut self.kind);
        } else {
            self.sample(line);
        }
    }

    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (series, ""),
        };
        let is_name = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        assert!(is_name(name), "{line}");
        let suffixes: &[&str] = match self.kind.as_str() {
            "counter" if self.is_open_metrics => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.iter().any(|s| name == format!("{}{s}", self.family)), "{line}");
        assert_eq!(self.kind == "counter", name.ends_with("_total"), "{line}");
        let mut seen = BTreeSet::new();
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").expect(line);
            assert!(is_name(name) && seen.insert(name.to_owned()), "{line}");
            let value = value.strip_suffix('"').unwrap_or(value);
            assert!(!value.contains(['"', ',']), "the tests ask for no such name: {line}");
        }
        let value: f64 = value.parse().expect(line);
        assert!(value >= 0.0 && value.is_finite(), "{line}");
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
}

fn name_of(series: &str) -> &str {
    series.split('{').next().unwrap_or_default()
}
