//! nginx-proxy's global variables, in baton's own environment: what holds for hosts whose containers
//! say nothing else. Read once, at the start; a value that means nothing is reported and not heeded.

use super::routes::value::{boolean, email, https_method, redirect_status};
use crate::config::{Config, Hsts};
use crate::protocol::access_log::{Escape, Format, Template};
use crate::protocol::default_root::DefaultRoot;
use crate::protocol::pattern::HostPattern;
use crate::protocol::snapshot::HttpsMethod;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// PREFER_IPV6_NETWORK
    pub prefer_ipv6: bool,
    /// DEFAULT_EMAIL: where neither `acme.email` nor a container names one.
    pub email: Option<String>,
    pub defaults: Defaults,
    /// DEFAULT_HOST: where the configuration names none.
    pub default_host: Option<HostPattern>,
    /// LOG_FORMAT, LOG_FORMAT_ESCAPE, LOG_JSON, DISABLE_ACCESS_LOGS: where the configuration names no
    /// format.
    pub log_format: Option<Format>,
    /// One line each.
    pub problems: Vec<String>,
}

/// How a host is served that says nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// HTTPS_METHOD
    pub https: HttpsMethod,
    /// HSTS
    pub hsts: Hsts,
    /// NON_GET_REDIRECT
    pub non_get_redirect: u16,
    /// ENABLE_HTTP_ON_MISSING_CERT
    pub http_on_missing: bool,
    /// DEFAULT_ROOT
    pub default_root: DefaultRoot,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults {
            https: HttpsMethod::default(),
            // A year, as nginx-proxy has it.
            hsts: Hsts::Value("max-age=31536000".to_owned()),
            non_get_redirect: 301,
            http_on_missing: true,
            default_root: DefaultRoot::default(),
        }
    }
}

impl Environment {
    /// Of this process.
    pub fn read() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }

    /// Of any other.
    pub fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut environment = Environment::default();
        let mut reader = Reader { variable, problems: Vec::new() };
        let Environment { prefer_ipv6, email: own_email, defaults, default_host, .. } =
            &mut environment;
        reader.read("PREFER_IPV6_NETWORK", prefer_ipv6, boolean);
        reader.read("DEFAULT_EMAIL", own_email, |text| email(text).map(Some));
        reader.read("HTTPS_METHOD", &mut defaults.https, https_method);
        reader.read("HSTS", &mut defaults.hsts, Hsts::parse);
        reader.read("NON_GET_REDIRECT", &mut defaults.non_get_redirect, redirect_status);
        reader.read("ENABLE_HTTP_ON_MISSING_CERT", &mut defaults.http_on_missing, boolean);
        reader.read("DEFAULT_ROOT", &mut defaults.default_root, DefaultRoot::parse);
        reader.read("DEFAULT_HOST", default_host, |text| host_pattern(text).map(Some));
        environment.log_format = log_format(&mut reader);
        environment.problems = reader.problems;
        environment
    }

    /// Says what a configuration leaves open of what workers are started with.
    pub fn complete(&self, config: &mut Config) {
        if let Some(format) = self.log_format.as_ref().filter(|_| !config.access_log_is_set) {
            config.worker.access_log.format = format.clone();
        }
    }
}

fn log_format(reader: &mut Reader<impl Fn(&str) -> Option<String>>) -> Option<Format> {
    let (mut off, mut json) = (false, false);
    let (mut escape, mut format) = (Escape::default(), None);
    reader.read("DISABLE_ACCESS_LOGS", &mut off, boolean);
    reader.read("LOG_JSON", &mut json, boolean);
    reader.read("LOG_FORMAT_ESCAPE", &mut escape, Escape::parse);
    reader.read("LOG_FORMAT", &mut format, |text| {
        Template::parse(text)?;
        Ok(Some(Format::Template(text.to_owned(), escape)))
    });
    match (off, json) {
        (true, _) => Some(Format::Off),
        (false, true) => Some(Format::nginx_proxy_json()),
        (false, false) => format,
    }
}

fn host_pattern(text: &str) -> Result<HostPattern, String> {
    text.parse().map_err(|_| "is not a host as VIRTUAL_HOST has them".to_owned())
}

struct Reader<F> {
    variable: F,
    problems: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn read<T>(&mut self, name: &str, target: &mut T, parse: impl Fn(&str) -> Result<T, String>) {
        let Some(text) = (self.variable)(name) else { return };
        match text.trim() {
            "" => {}
            text => match parse(text) {
                Ok(value) => *target = value,
                Err(problem) => {
                    self.problems.push(format!("environment: {name}={text} {problem}"));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::from(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_variable_is_heeded() {
        let want = Environment {
            prefer_ipv6: true,
            email: Some("me@example.com".to_owned()),
            defaults: Defaults {
                https: HttpsMethod::NoRedirect,
                hsts: Hsts::Off,
                non_get_redirect: 308,
                http_on_missing: false,
                default_root: DefaultRoot::Status(418),
            },
            default_host: "app.example.com".parse().ok(),
            log_format: Some(Format::Template("[$uri]".to_owned(), Escape::Json)),
            problems: Vec::new(),
        };
        let got = environment(&[
            ("PREFER_IPV6_NETWORK", "true"),
            ("DEFAULT_EMAIL", " me@example.com "),
            ("HTTPS_METHOD", "noredirect"),
            ("HSTS", "off"),
            ("NON_GET_REDIRECT", "308"),
            ("ENABLE_HTTP_ON_MISSING_CERT", "false"),
            ("DEFAULT_ROOT", "418"),
            ("DEFAULT_HOST", "app.example.com"),
            ("LOG_FORMAT", "[$uri]"),
            ("LOG_FORMAT_ESCAPE", "json"),
        ]);
        assert_eq!(got, want);
    }

    #[test]
    fn what_means_nothing_is_reported_and_the_default_stands() {
        for (name, value, want) in [
            ("HTTPS_METHOD", "always", "is not one of redirect, noredirect, nohttp and nohttps"),
            ("HSTS", "on", "is neither `off` nor a value with `max-age=SECONDS`"),
            ("NON_GET_REDIRECT", "302", "is not one of 301, 307 and 308"),
            ("ENABLE_HTTP_ON_MISSING_CERT", "1", "is neither `true` nor `false`"),
            ("DEFAULT_EMAIL", "me", "is not an e-mail address"),
            ("DEFAULT_ROOT", "200", "is not a status from 400 to 599"),
            ("DEFAULT_HOST", "*", "is not a host as VIRTUAL_HOST has them"),
            ("LOG_FORMAT", "$connection", "has $connection, which is not known"),
            (
                "LOG_FORMAT_ESCAPE",
                "none",
                "would let clients forge lines: expected `default` or `json`",
            ),
        ] {
            let problems = vec![format!("environment: {name}={value} {want}")];
            assert_eq!(
                environment(&[(name, value)]),
                Environment { problems, ..Environment::default() }
            );
        }
        assert_eq!(environment(&[("HSTS", " ")]), Environment::default());
    }

    #[test]
    fn the_log_is_as_the_environment_says_where_the_configuration_does_not() {
        let text = ("LOG_FORMAT", "$uri");
        for (variables, is_set, want) in [
            (vec![], false, Format::Combined),
            (vec![text], false, Format::Template("$uri".to_owned(), Escape::Default)),
            (vec![text, ("LOG_JSON", "true")], false, Format::nginx_proxy_json()),
            (vec![text, ("DISABLE_ACCESS_LOGS", "true")], false, Format::Off),
            (vec![text, ("DISABLE_ACCESS_LOGS", "false")], true, Format::Combined),
        ] {
            let mut config = Config { access_log_is_set: is_set, ..Config::default() };
            environment(&variables).complete(&mut config);
            assert_eq!(config.worker.access_log.format, want, "{variables:?}");
        }
    }
}
