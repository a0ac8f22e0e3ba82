//! A compose file as YAML has it: what is in it, before any of it means something.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// Longer than any compose file that somebody writes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// Of aliases, once they are replaced by what they stand for.
const MAX_REPLAYED: usize = 100_000;

#[derive(Debug, Default, Deserialize)]
pub(super) struct File {
    pub name: Option<String>,
    #[serde(default)]
    services: Option<BTreeMap<String, Value>>,
    pub include: Option<IgnoredAny>,
    #[serde(default)]
    networks: Option<BTreeMap<String, Value>>,
}

/// # Errors
/// When it is not a compose file: why, in one line.
pub(super) fn parse(text: &str) -> Result<File, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let limits = serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED };
    // As compose has it: `on` is a word.
    let options = serde_saphyr::options! { alias_limits: limits, strict_booleans: true };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let why = error.to_string();
        let line = why.lines().next().unwrap_or_default().trim_start_matches("error: ");
        format!("is not a compose file: {line}")
    })?;
    match file.services {
        None if file.include.is_none() => Err("is not a compose file: it has no services".into()),
        _ => Ok(file),
    }
}

impl File {
    pub fn services(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.services.iter().flatten().map(|(name, service)| (name.as_str(), service))
    }

    /// What Docker calls a network of this file.
    pub fn network(&self, project: &str, name: &str) -> String {
        let declared = self.networks.as_ref().and_then(|networks| networks.get(name));
        let named = declared.and_then(|network| network.get("name")).and_then(Value::as_str);
        let external = declared.and_then(|network| network.get("external"));
        match (named, external) {
            (Some(named), _) => named.to_owned(),
            (None, Some(Value::Bool(true))) => name.to_owned(),
            (None, _) => format!("{project}_{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_with_what_they_share() {
        let file = parse(
            "x-common: &common\n  restart: always\n  labels: {a: on, b: yes}\nname: shop\n\
             services:\n  web:\n    <<: *common\n    image: web:1\n  db: !reset null\n\
             networks:\n  front: {name: edge}\n  out: {external: true}\n",
        )
        .expect("it is one");
        assert_eq!(file.name.as_deref(), Some("shop"));
        let services: Vec<_> = file.services().collect();
        let web = serde_json::json!({
            "restart": "always", "labels": {"a": "on", "b": "yes"}, "image": "web:1",
        });
        assert_eq!(services, [("db", &Value::Null), ("web", &web)]);
        for (network, want) in [("front", "edge"), ("out", "out"), ("default", "shop_default")] {
            assert_eq!(file.network("shop", network), want);
        }
    }

    #[test]
    fn what_is_not_a_compose_file_is_an_error_in_one_line() {
        let levels: String = (1..40)
            .map(|level| format!("k{level}: &k{level} [*k{0}, *k{0}, *k{0}]\n", level - 1))
            .collect();
        let bomb = format!("k0: &k0 [1]\n{levels}services: {{web: {{command: *k39}}}}\n");
        let deep = format!("services: {}{}", "{a: ".repeat(5000), "}".repeat(5000));
        let long = format!("services: {{}} #{}", "a".repeat(MAX_BYTES));
        for text in ["", "services: [", "- a", "services: [a]", "version: '3'", &bomb, &deep, &long]
        {
            let shown: String = text.chars().take(40).collect();
            let error = parse(text).expect_err(&shown);
            assert!(error.starts_with("is ") && !error.contains('\n'), "{shown}: {error}");
        }
    }
}
