//! nginx-proxy's VIRTUAL_HOST_MULTIPORTS: several hosts, paths and ports of one container, as YAML
//! or JSON: host, then path, then `port`, `proto` and `dest`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Longer than any list of hosts that somebody writes, and short enough to be read at each rebuild.
const MAX_BYTES: usize = 64 * 1024;

/// One host and path, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub host: String,
    pub path: String,
    pub port: Option<String>,
    pub proto: Option<String>,
    pub dest: Option<String>,
}

/// What was read, and where in it something is not as it should be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Multiports {
    pub entries: Vec<Entry>,
    /// Place and problem.
    pub problems: Vec<(String, String)>,
}

type Hosts = BTreeMap<String, Option<BTreeMap<String, Value>>>;

/// # Errors
/// When the whole cannot be read: why.
pub(super) fn parse(text: &str) -> Result<Multiports, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let hosts: Hosts = serde_saphyr::from_str(text).map_err(|error| {
        let why = error.to_string();
        let line = why.lines().next().unwrap_or_default().trim_start_matches("error: ");
        format!("is not YAML of host, path and port: {line}")
    })?;
    let mut read = Multiports::default();
    for (host, paths) in hosts {
        read.host(&host, paths.unwrap_or_default());
    }
    Ok(read)
}

impl Multiports {
    fn host(&mut self, host: &str, keys: BTreeMap<String, Value>) {
        let (paths, options): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|(key, _)| is_path(key));
        for (option, _) in options {
            let problem = "is not a path: it must begin with `/`, `~` or `=`".to_owned();
            self.problems.push((format!("{host} {option}"), problem));
        }
        if paths.is_empty() {
            self.entries.push(Entry { host: host.into(), path: "/".into(), ..Entry::default() });
        }
        for (path, settings) in paths {
            self.path(host, path, settings);
        }
    }

    fn path(&mut self, host: &str, path: String, settings: Value) {
        let place = format!("{host}{path}");
        let mut entry = Entry { host: host.to_owned(), path, ..Entry::default() };
        let settings = match settings {
            Value::Null => serde_json::Map::new(),
            Value::Object(settings) => settings,
            _ => {
                let problem = "is not a map of port, proto and dest".to_owned();
                self.problems.push((place, problem));
                return;
            }
        };
        for (key, value) in settings {
            let target = match key.as_str() {
                "port" => &mut entry.port,
                "proto" => &mut entry.proto,
                "dest" => &mut entry.dest,
                _ => {
                    let problem = "is not one of port, proto and dest".to_owned();
                    self.problems.push((format!("{place} {key}"), problem));
                    continue;
                }
            };
            match scalar(value) {
                Ok(text) => *target = text.filter(|text| !text.is_empty()),
                Err(problem) => self.problems.push((format!("{place} {key}"), problem)),
            }
        }
        self.entries.push(entry);
    }
}

/// As VIRTUAL_PATH may begin.
fn is_path(key: &str) -> bool {
    key.starts_with(['/', '~', '='])
}

/// YAML makes a number of `8080` and text of `"8080"`: people write both.
fn scalar(value: Value) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.trim().to_owned())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err("is neither text nor a number".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, path: &str, port: &str, proto: &str, dest: &str) -> Entry {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Entry {
            host: host.into(),
            path: path.into(),
            port: text(port),
            proto: text(proto),
            dest: text(dest),
        }
    }

    #[test]
    fn hosts_paths_and_ports_are_read() {
        for (text, want) in [
            ("a.test:", vec![entry("a.test", "/", "", "", "")]),
            ("a.test: {}", vec![entry("a.test", "/", "", "", "")]),
            ("a.test:\n  /:\n", vec![entry("a.test", "/", "", "", "")]),
            (
                "a.test:\n  /:\n    port: 8080\n  /api:\n    port: \"9000\"\n    dest: /\n\
                 b.test:\n  /:\n    port: 53\n    proto: https\n",
                vec![
                    entry("a.test", "/", "8080", "", ""),
                    entry("a.test", "/api", "9000", "", "/"),
                    entry("b.test", "/", "53", "https", ""),
                ],
            ),
            (
                r#"{"a.test": {"/x/": {"port": 81, "dest": ""}}}"#,
                vec![entry("a.test", "/x/", "81", "", "")],
            ),
            ("'*.a.test': {'~^/v\\d': {port: 1}}", vec![entry("*.a.test", "~^/v\\d", "1", "", "")]),
        ] {
            let want = Multiports { entries: want, problems: Vec::new() };
            assert_eq!(parse(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_and_the_rest_stands() {
        for (text, entries, place, problem) in [
            ("a.test: {keepalive: 5}", 1, "a.test keepalive", "is not a path"),
            ("a.test: {/: 80, /x: {port: 1}}", 1, "a.test/", "is not a map"),
            ("a.test: {/: {prot: 80}}", 1, "a.test/ prot", "is not one of"),
            ("a.test: {/: {port: [80]}}", 1, "a.test/ port", "is neither"),
        ] {
            let read = parse(text).expect("it is YAML");
            assert_eq!(read.entries.len(), entries, "{text}");
            let [(found, why)] = read.problems.as_slice() else { panic!("{text}: {read:?}") };
            assert_eq!(found, place, "{text}");
            assert!(why.starts_with(problem), "{text}: {why}");
        }
    }

    #[test]
    fn bad_yaml_is_an_error_and_not_a_crash() {
        let deep = format!("a.test: {}{}", "{/: ".repeat(5000), "}".repeat(5000));
        let levels: String = (1..40)
            .map(|level| format!("k{level}: &k{level} [*k{0}, *k{0}, *k{0}]\n", level - 1))
            .collect();
        let bomb = format!("k0: &k0 [1]\n{levels}");
        let long = "a".repeat(MAX_BYTES + 1);
        for text in ["a.test: [", "- a.test", "a.test: 80", "80", &deep, &bomb, &long] {
            let shown: String = text.chars().take(40).collect();
            let error = parse(text).expect_err(&shown);
            assert!(error.starts_with("is ") && !error.contains('\n'), "{shown}: {error}");
        }
    }
}
