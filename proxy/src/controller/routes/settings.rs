//! The settings of one container: which it may have, from where, and which of two wins.

use std::collections::BTreeSet;

use super::options;
use crate::controller::docker::{Container, LABEL_PREFIX, NGINX_PROXY_PREFIX};

/// A setting that this version acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Host,
    Multiports,
    Port,
    Path,
    StripPrefix,
    Dest,
    Proto,
    Network,
    Weight,
    HealthPath,
    HealthInterval,
    HealthTimeout,
    HealthRise,
    HealthFall,
    HttpsMethod,
    HttpsPort,
    Tls,
    Hsts,
    NonGetRedirect,
    HttpOnMissing,
    DefaultRoot,
    CertName,
    VerifyClient,
    AcmeHost,
    SingleDomain,
    AcmeEmail,
    AcmeDirectory,
    AcmeTest,
    AcmeChallenge,
    AcmeProfile,
    AcmeChain,
    AcmeEabKid,
    AcmeEabSecret,
    AcmeKeySize,
}

impl Key {
    const ALL: [Key; 34] = [
        Key::Host,
        Key::Multiports,
        Key::Port,
        Key::Path,
        Key::StripPrefix,
        Key::Dest,
        Key::Proto,
        Key::Network,
        Key::Weight,
        Key::HealthPath,
        Key::HealthInterval,
        Key::HealthTimeout,
        Key::HealthRise,
        Key::HealthFall,
        Key::HttpsMethod,
        Key::HttpsPort,
        Key::Tls,
        Key::Hsts,
        Key::NonGetRedirect,
        Key::HttpOnMissing,
        Key::DefaultRoot,
        Key::CertName,
        Key::VerifyClient,
        Key::AcmeHost,
        Key::SingleDomain,
        Key::AcmeEmail,
        Key::AcmeDirectory,
        Key::AcmeTest,
        Key::AcmeChallenge,
        Key::AcmeProfile,
        Key::AcmeChain,
        Key::AcmeEabKid,
        Key::AcmeEabSecret,
        Key::AcmeKeySize,
    ];

    /// The label, after `baton.` or `baton.NAME.`.
    fn label(self) -> Option<&'static str> {
        match self {
            Key::Host => Some("host"),
            Key::Port => Some("port"),
            Key::Path => Some("path"),
            Key::StripPrefix => Some("strip_prefix"),
            Key::Proto => Some("proto"),
            Key::Network => Some("network"),
            Key::Weight => Some("weight"),
            Key::Tls => Some("tls"),
            Key::HealthPath => Some("health.path"),
            Key::HealthInterval => Some("health.interval"),
            Key::HealthTimeout => Some("health.timeout"),
            Key::HealthRise => Some("health.rise"),
            Key::HealthFall => Some("health.fall"),
            Key::Hsts => Some("hsts"),
            _ => None,
        }
    }

    /// nginx-proxy's label, after its prefix.
    fn foreign_label(self) -> Option<&'static str> {
        match self {
            Key::NonGetRedirect => Some("non-get-redirect"),
            Key::VerifyClient => Some("ssl_verify_client"),
            _ => None,
        }
    }

    /// The one that wins first.
    fn variables(self) -> &'static [&'static str] {
        match self {
            Key::Host => &["VIRTUAL_HOST"],
            Key::Multiports => &["VIRTUAL_HOST_MULTIPORTS"],
            Key::Port => &["VIRTUAL_PORT"],
            Key::Path => &["VIRTUAL_PATH"],
            Key::Dest => &["VIRTUAL_DEST"],
            Key::Proto => &["VIRTUAL_PROTO"],
            Key::HttpsMethod => &["HTTPS_METHOD"],
            Key::HttpsPort => &["EXTERNAL_HTTPS_PORT"],
            Key::Hsts => &["HSTS"],
            Key::NonGetRedirect => &["NON_GET_REDIRECT"],
            Key::HttpOnMissing => &["ENABLE_HTTP_ON_MISSING_CERT"],
            Key::DefaultRoot => &["DEFAULT_ROOT"],
            Key::CertName => &["CERT_NAME"],
            Key::AcmeHost => &["ACME_HOST", "LETSENCRYPT_HOST"],
            Key::SingleDomain => &["ACME_SINGLE_DOMAIN_CERTS", "LETSENCRYPT_SINGLE_DOMAIN_CERTS"],
            Key::AcmeEmail => &["ACME_EMAIL", "LETSENCRYPT_EMAIL"],
            Key::AcmeDirectory => &["ACME_CA_URI"],
            Key::AcmeTest => &["LETSENCRYPT_TEST"],
            Key::AcmeChallenge => &["ACME_CHALLENGE"],
            Key::AcmeProfile => &["ACME_CERT_PROFILE"],
            Key::AcmeChain => &["ACME_PREFERRED_CHAIN"],
            Key::AcmeEabKid => &["ACME_EAB_KID"],
            Key::AcmeEabSecret => &["ACME_EAB_HMAC_KEY"],
            Key::AcmeKeySize => &["ACME_KEYSIZE", "LETSENCRYPT_KEYSIZE"],
            // Labels alone.
            Key::StripPrefix | Key::Network | Key::Weight | Key::Tls | Key::VerifyClient => &[],
            Key::HealthPath | Key::HealthInterval | Key::HealthTimeout => &[],
            Key::HealthRise | Key::HealthFall => &[],
        }
    }

    /// Whether a router without it has the container's: facts about the container are inherited,
    /// those about a route are not.
    fn inherited(self) -> bool {
        !matches!(self, Key::Host | Key::Multiports | Key::Path | Key::StripPrefix | Key::Dest)
    }
}

/// A key that is further away than this from what was written is no help.
const NEAR: usize = 3;

/// The settings of one router: the container's own, or one of several under a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Router<'a> {
    container: &'a Container,
    name: Option<&'a str>,
}

/// A setting as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written<'a> {
    /// The variable or label.
    pub name: String,
    /// Trimmed, and not empty.
    pub value: &'a str,
    pub is_label: bool,
}

/// A label or variable that nothing is done with, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unused {
    pub name: String,
    pub why: String,
}

/// The container's own router, then those under names, sorted.
pub(super) fn routers(container: &Container) -> Vec<Router<'_>> {
    let names: BTreeSet<&str> = labels(container)
        .filter_map(|label| match classify(label) {
            Label::Known { router } => router,
            _ => None,
        })
        .collect();
    let named = names.into_iter().map(|name| Router { container, name: Some(name) });
    std::iter::once(own(container)).chain(named).collect()
}

/// The container's own.
pub(super) fn own(container: &Container) -> Router<'_> {
    Router { container, name: None }
}

impl<'a> Router<'a> {
    pub fn name(self) -> Option<&'a str> {
        self.name
    }

    /// Where `key` is written, the one that wins first.
    pub fn written(self, key: Key) -> Vec<Written<'a>> {
        let mut found = Vec::new();
        if let Some(label) = key.label() {
            if let Some(name) = self.name {
                found.extend(self.label(format!("{LABEL_PREFIX}{name}.{label}")));
            }
            if self.name.is_none() || key.inherited() {
                found.extend(self.label(format!("{LABEL_PREFIX}{label}")));
            }
        }
        if self.name.is_none() || key.inherited() {
            found.extend(key.foreign_label().and_then(|label| self.foreign_label(label)));
            let env = &self.container.env;
            let variables = key.variables().iter();
            found.extend(
                variables.filter_map(|name| written((*name).to_owned(), env.get(*name), false)),
            );
        }
        found
    }

    /// What is written of options, a router's own word before the container's.
    pub fn options(self) -> Vec<(options::Key, Written<'a>)> {
        let own = self.name.map(|name| format!("{LABEL_PREFIX}{name}."));
        let prefixes = own.into_iter().chain([LABEL_PREFIX.to_owned()]);
        let labels = prefixes.flat_map(|prefix| self.options_under(&prefix));
        let variables = options::VARIABLES.into_iter().filter_map(|(name, key)| {
            Some((key, written(name.to_owned(), self.container.env.get(name), false)?))
        });
        let foreign = options::FOREIGN
            .into_iter()
            .filter_map(|(label, key)| Some((key, self.foreign_label(label)?)));
        labels.chain(foreign).chain(variables).collect()
    }

    fn options_under(self, prefix: &str) -> Vec<(options::Key, Written<'a>)> {
        let labels = self.container.labels.iter();
        let found = labels.filter_map(|(label, value)| {
            let key = options::Key::of(label.strip_prefix(prefix)?)?;
            Some((key, written(label.clone(), Some(value), true)?))
        });
        found.collect()
    }

    fn foreign_label(self, label: &str) -> Option<Written<'a>> {
        self.label(format!("{NGINX_PROXY_PREFIX}{label}"))
    }

    fn label(self, name: String) -> Option<Written<'a>> {
        let value = self.container.labels.get(&name);
        written(name, value, true)
    }
}

fn written(name: String, value: Option<&String>, is_label: bool) -> Option<Written<'_>> {
    let value = value?.trim();
    (!value.is_empty()).then_some(Written { name, value, is_label })
}

/// What the container says to baton and baton does not listen to.
pub(super) fn unused(container: &Container) -> Vec<Unused> {
    let variables = container.env.iter().filter(|(name, value)| {
        !value.trim().is_empty()
            && !Key::ALL.iter().any(|key| key.variables().contains(&name.as_str()))
            && !options::VARIABLES.iter().any(|(known, _)| known == name)
    });
    let foreign = container.labels.keys().filter(|label| {
        label.strip_prefix(NGINX_PROXY_PREFIX).is_some_and(|label| {
            !Key::ALL.iter().any(|key| key.foreign_label() == Some(label))
                && !options::FOREIGN.iter().any(|(known, _)| *known == label)
        })
    });
    let later = variables.map(|(name, _)| name).chain(foreign);
    later
        .map(|name| Unused { name: name.clone(), why: "is not supported yet".to_owned() })
        .chain(labels(container).filter_map(|label| {
            let why = match classify(label) {
                Label::Known { .. } => return None,
                Label::Unknown => unknown(label),
            };
            Some(Unused { name: format!("{LABEL_PREFIX}{label}"), why })
        }))
        .collect()
}

fn labels(container: &Container) -> impl Iterator<Item = &str> {
    container.labels.keys().filter_map(|label| label.strip_prefix(LABEL_PREFIX))
}

/// Whether what stands behind a variable or label may be a secret.
pub(in crate::controller) fn is_secret(setting: &str) -> bool {
    let is_option = |label: &str| options::Key::of(label).is_some_and(|key| key.is_secret());
    let Some(label) = setting.strip_prefix(LABEL_PREFIX) else {
        return Key::AcmeEabSecret.variables().contains(&setting);
    };
    is_option(label) || label.split_once('.').is_some_and(|(_, label)| is_option(label))
}

enum Label<'a> {
    Known { router: Option<&'a str> },
    Unknown,
}

fn classify(label: &str) -> Label<'_> {
    if is_known(label) {
        return Label::Known { router: None };
    }
    match label.split_once('.') {
        Some((router, key)) if !router.is_empty() && is_known(key) => {
            Label::Known { router: Some(router) }
        }
        _ => Label::Unknown,
    }
}

fn is_known(key: &str) -> bool {
    Key::ALL.iter().any(|known| known.label() == Some(key)) || options::Key::of(key).is_some()
}

/// Names the nearest key, with the router's name where the label has one.
fn unknown(label: &str) -> String {
    let (router, key) = label.rsplit_once('.').unwrap_or(("", label));
    let whole = near(label).map(|(distance, known)| (distance, known.to_owned()));
    let part = near(key)
        .filter(|_| !router.is_empty())
        .map(|(distance, known)| (distance, format!("{router}.{known}")));
    match whole.into_iter().chain(part).min() {
        Some((_, known)) => format!("is not known; the nearest is `{LABEL_PREFIX}{known}`"),
        None => "is not known".to_owned(),
    }
}

fn near(key: &str) -> Option<(usize, &'static str)> {
    let known = Key::ALL.iter().filter_map(|key| key.label());
    let known = known.chain(options::LABELS);
    known
        .map(|known| (strsim::damerau_levenshtein(key, known), known))
        .filter(|(distance, known)| *distance <= NEAR.min(known.len() / 2))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(env: &[(&str, &str)], labels: &[(&str, &str)]) -> Container {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Container {
            env: env.iter().map(pair).collect(),
            labels: labels.iter().map(pair).collect(),
            ..Container::default()
        }
    }

    /// A row's star says that the variable is named in a diagnosis, and does nothing.
    #[test]
    fn the_table_of_nginx_proxy_is_true_of_every_variable() {
        let table = include_str!("../../../../docs/nginx-proxy.md");
        for variable in crate::controller::docker::VARIABLES {
            let named = format!("`{variable}`");
            let mut cells =
                table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
            let cell = cells.find(|cell| cell.contains(&named));
            let cell = cell.unwrap_or_else(|| panic!("{variable} is in no row"));
            let is_heeded = Key::ALL.iter().any(|key| key.variables().contains(variable))
                || options::VARIABLES.iter().any(|(known, _)| known == variable);
            assert_eq!(cell.ends_with('*'), !is_heeded, "{variable}: {cell}");
        }
    }

    #[test]
    fn a_label_wins_over_the_environment() {
        let container = container(&[("VIRTUAL_PORT", "1")], &[("baton.port", " 2 ")]);
        let own = routers(&container)[0];
        let values: Vec<&str> =
            own.written(Key::Port).iter().map(|written| written.value).collect();
        assert_eq!(values, ["2", "1"]);
    }

    #[test]
    fn what_is_empty_is_not_set() {
        let container = container(&[("VIRTUAL_PORT", "1")], &[("baton.port", " ")]);
        let own = routers(&container)[0];
        let names: Vec<String> =
            own.written(Key::Port).into_iter().map(|written| written.name).collect();
        assert_eq!(names, ["VIRTUAL_PORT"]);
    }

    #[test]
    fn a_router_inherits_facts_about_the_container_only() {
        let container = container(
            &[("VIRTUAL_PORT", "1"), ("VIRTUAL_PATH", "/x"), ("HTTPS_METHOD", "nohttp")],
            &[("baton.api.host", "a"), ("baton.api.port", "2"), ("baton.path", "/y")],
        );
        let routers = routers(&container);
        assert_eq!(
            routers.iter().map(|router| router.name()).collect::<Vec<_>>(),
            [None, Some("api")]
        );
        for (key, want) in [
            (Key::Host, &["a"][..]),
            (Key::Port, &["2", "1"]),
            (Key::Path, &[]),
            (Key::HttpsMethod, &["nohttp"]),
        ] {
            let written = routers[1].written(key);
            let values: Vec<&str> = written.iter().map(|written| written.value).collect();
            assert_eq!(values, want, "{key:?}");
        }
    }

    #[test]
    fn unknown_labels_name_the_nearest() {
        for (label, want) in [
            ("host", None),
            ("api.host", None),
            ("hots", Some("is not known; the nearest is `baton.host`")),
            ("api.prot", Some("is not known; the nearest is `baton.api.port`")),
            ("stripprefix", Some("is not known; the nearest is `baton.strip_prefix`")),
            ("api.health.rise", None),
            ("health.pth", Some("is not known; the nearest is `baton.health.path`")),
            ("teapot", Some("is not known")),
            ("x.y.z", Some("is not known")),
            (".host", Some("is not known; the nearest is `baton.host`")),
            ("sticky", None),
            ("drain", None),
            ("priority", None),
            ("timeout.response_head", None),
            (
                "timeout.response_haed",
                Some("is not known; the nearest is `baton.timeout.response_head`"),
            ),
            ("api.headers.set.X", None),
            ("headers.sett.X", Some("is not known; the nearest is `baton.headers.set.*`")),
        ] {
            let name = format!("baton.{label}");
            let found = unused(&container(&[], &[(&name, "1")]));
            let want = want.map(|why| Unused { name, why: why.to_owned() });
            assert_eq!(found.into_iter().next(), want, "{label}");
        }
    }

    #[test]
    fn variables_of_later_versions_are_named() {
        let container = container(
            &[("VIRTUAL_HOST", "a"), ("VIRTUAL_SOMETHING", "1"), ("CERT_NAME", "")],
            &[("com.github.nginx-proxy.nginx-proxy.keepalive", "1")],
        );
        let names: Vec<String> = unused(&container).into_iter().map(|unused| unused.name).collect();
        assert_eq!(names, ["VIRTUAL_SOMETHING", "com.github.nginx-proxy.nginx-proxy.keepalive"]);
    }
}
