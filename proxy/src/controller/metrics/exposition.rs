//! The text that Prometheus reads: its own format (0.0.4), and OpenMetrics 1.0 for whoever asks for it.
//!
//! Written here, and not by the prometheus-client crate: that one counts in the process that tells and
//! writes OpenMetrics alone. Our counters come from other processes, and what is left of the two
//! formats is this file.

use std::fmt::{Display, Write};

use http::HeaderValue;

use crate::protocol::stats::{BOUNDS_US, Durations};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// OpenMetrics where it is asked for, and nothing else is liked better.
    pub fn asked_for(accept: Option<&HeaderValue>) -> Self {
        let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let weight = |name: &str| {
            let media = accept.split(',').find(|media| media.trim().starts_with(name))?;
            let parameters = media.split(';').map(str::trim);
            let weight = parameters.filter_map(|parameter| parameter.strip_prefix("q=")).next();
            Some(weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0)))
        };
        let open_metrics = weight("application/openmetrics-text").unwrap_or(0.0);
        match open_metrics > 0.0 && open_metrics >= weight("text/plain").unwrap_or(0.0) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

pub type Labels<'a> = &'a [(&'static str, &'a str)];

#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

/// Metrics of one name.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    /// Of each sample.
    suffix: &'static str,
}

impl Exposition {
    pub fn new(format: Format) -> Self {
        Exposition { format, text: String::new() }
    }

    /// `name` is without the `_total` that its samples have.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        let suffix = if self.format == Format::Prometheus { "_total" } else { "" };
        self.head(&format!("{name}{suffix}"), "counter", help);
        Family { text: &mut self.text, name, suffix: "_total" }
    }

    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.head(name, "gauge", help);
        Family { text: &mut self.text, name, suffix: "" }
    }

    /// Of durations, in seconds.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.head(name, "histogram", help);
        Family { text: &mut self.text, name, suffix: "" }
    }

    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        write(&mut self.text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }
}

impl Family<'_> {
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line(self.suffix, labels, None, value);
    }

    pub fn durations(&mut self, labels: Labels<'_>, durations: &Durations) {
        let counts = durations.buckets.iter().copied().chain(std::iter::repeat(0));
        let mut sum = 0;
        for (bound, count) in BOUNDS_US.into_iter().zip(counts) {
            sum += count;
            self.line("_bucket", labels, Some(&format!("{:?}", seconds(bound))), sum);
        }
        self.line("_bucket", labels, Some("+Inf"), durations.count());
        self.line("_sum", labels, None, seconds(durations.sum_us));
        self.line("_count", labels, None, durations.count());
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: impl Display) {
        write(self.text, format_args!("{}{suffix}", self.name));
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (index, (name, value)) in labels.clone().enumerate() {
            let separator = if index == 0 { '{' } else { ',' };
            write(self.text, format_args!("{separator}{name}=\""));
            escape(self.text, value);
            self.text.push('"');
        }
        if labels.count() > 0 {
            self.text.push('}');
        }
        write(self.text, format_args!(" {value}\n"));
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn write(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string takes what it is given");
}

fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        use Format::{OpenMetrics, Prometheus};
        // What Prometheus 2.53 sends.
        let both = "application/openmetrics-text;version=1.0.0;q=0.5,\
                    application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,\
                    */*;q=0.2";
        for (accept, want) in [
            (None, Prometheus),
            (Some("*/*"), Prometheus),
            (Some("text/plain"), Prometheus),
            (Some("application/openmetrics-text"), OpenMetrics),
            (Some(both), OpenMetrics),
            (Some("text/plain, application/openmetrics-text; q=0.5"), Prometheus),
            (Some("application/openmetrics-text;q=0"), Prometheus),
        ] {
            let value = accept.map(HeaderValue::from_static);
            assert_eq!(Format::asked_for(value.as_ref()), want, "{accept:?}");
        }
    }

    fn written(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        let mut requests = exposition.counter("requests", "Requests.");
        requests.sample(&[("host", "a\"\\\n"), ("method", "read")], 3);
        exposition.gauge("open", "Open.").sample(&[], 1.5);
        let mut durations = Durations { buckets: vec![1, 0, 2], sum_us: 12_500 };
        durations.buckets.resize(BOUNDS_US.len() + 1, 0);
        durations.buckets[BOUNDS_US.len()] = 1;
        exposition.histogram("took", "Time.").durations(&[("host", "a")], &durations);
        exposition.finish()
    }

    #[test]
    fn samples_are_written_as_both_formats_have_them() {
        let text = written(Format::Prometheus);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[..9],
            [
                "# HELP requests_total Requests.",
                "# TYPE requests_total counter",
                r#"requests_total{host="a\"\\\n",method="read"} 3"#,
                "# HELP open Open.",
                "# TYPE open gauge",
                "open 1.5",
                "# HELP took Time.",
                "# TYPE took histogram",
                r#"took_bucket{host="a",le="0.001"} 1"#,
            ]
        );
        assert_eq!(
            lines[lines.len() - 6..],
            [
                r#"took_bucket{host="a",le="5.0"} 3"#,
                r#"took_bucket{host="a",le="10.0"} 3"#,
                r#"took_bucket{host="a",le="30.0"} 3"#,
                r#"took_bucket{host="a",le="+Inf"} 4"#,
                r#"took_sum{host="a"} 0.0125"#,
                r#"took_count{host="a"} 4"#,
            ]
        );
        let open_metrics = written(Format::OpenMetrics);
        let want = text.replace("# HELP requests_total", "# HELP requests");
        let want = want.replace("# TYPE requests_total", "# TYPE requests") + "# EOF\n";
        assert_eq!(open_metrics, want);
    }
}
