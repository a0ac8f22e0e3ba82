//! What of a configuration that was read again can go live in place, and what cannot.

use crate::config::Config;
use crate::protocol::settings::{TlsSettings, WorkerSettings};

/// The keys that differ and that the controller itself was started with.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    differing([
        ("handoff", old.handoff != new.handoff),
        ("state_dir", old.state_dir != new.state_dir),
        ("control_socket", old.control_socket != new.control_socket),
        ("docker.enabled", old.docker.enabled != new.docker.enabled),
        ("docker.endpoint", old.docker.endpoint != new.docker.endpoint),
    ])
}

/// The keys that differ and that workers are started with: they need a new generation. Everything
/// else (routes, certificate files, drain limits) goes live in place.
pub fn needs_generation(old: &Config, new: &Config) -> Vec<&'static str> {
    let was = &old.worker;
    // Each by its name, so that none is forgotten. The port follows the listeners.
    let WorkerSettings {
        threads,
        https_port: _,
        trusted_proxies,
        proxy_protocol,
        timeouts,
        limits,
        hold,
        sandbox,
        tls: TlsSettings { profile, strict_sni },
        access_log,
        static_roots,
        log_level,
        balance,
    } = &new.worker;
    differing([
        ("threads", was.threads != *threads),
        ("trusted_proxies", was.trusted_proxies != *trusted_proxies),
        ("proxy_protocol", was.proxy_protocol != *proxy_protocol),
        ("balance", was.balance != *balance),
        ("sandbox", was.sandbox != *sandbox),
        ("listen.http", old.listen.http != new.listen.http),
        ("listen.https", old.listen.https != new.listen.https),
        ("tls.profile", was.tls.profile != *profile),
        ("tls.strict_sni", was.tls.strict_sni != *strict_sni),
        ("timeouts", was.timeouts != *timeouts),
        ("limits", was.limits != *limits),
        ("hold", was.hold != *hold),
        ("log.access", was.access_log.format != access_log.format),
        ("log.sample", was.access_log.sample != access_log.sample),
        ("log.redact", was.access_log.redact != access_log.redact),
        ("route.root", was.static_roots != *static_roots),
        ("log.level", was.log_level != *log_level),
    ])
}

/// What the next generation is started with: it serves the routes of before, too, until it is told of the
/// new ones, and opens no directory later.
pub fn bridging(old: &Config, new: &Config) -> Config {
    let mut bridging = new.clone();
    let roots = &mut bridging.worker.static_roots;
    roots.extend(old.worker.static_roots.iter().cloned());
    roots.sort();
    roots.dedup();
    bridging
}

fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// The one line for people.
pub fn refusal(keys: &[&str]) -> String {
    format!("{} changed: restart baton to apply; nothing has changed", keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::access_log::Format;
    use std::time::Duration;

    #[test]
    fn what_a_change_costs() {
        type Edit = fn(&mut Config);
        let cases: [(Edit, &[&str], &[&str]); 7] = [
            (|_| {}, &[], &[]),
            (|c| c.drain.limit = Duration::from_secs(1), &[], &[]),
            (|c| c.listen.http.push(([0, 0, 0, 0], 80).into()), &[], &["listen.http"]),
            (|c| c.docker.endpoint = Some("unix:///x".into()), &["docker.endpoint"], &[]),
            (|c| c.worker.access_log.format = Format::Off, &[], &["log.access"]),
            (|c| c.worker.limits.streams += 1, &[], &["limits"]),
            (
                |c| {
                    c.worker.threads += 1;
                    c.state_dir = "/x".into();
                },
                &["state_dir"],
                &["threads"],
            ),
        ];
        for (edit, restart, generation) in cases {
            let (old, mut new) = (Config::default(), Config::default());
            edit(&mut new);
            assert_eq!(needs_restart(&old, &new), restart);
            assert_eq!(needs_generation(&old, &new), generation);
        }
    }

    #[test]
    fn the_next_generation_can_serve_the_routes_of_before() {
        let with = |roots: &[&str]| {
            let mut config = Config::default();
            config.worker.static_roots = roots.iter().map(Into::into).collect();
            config
        };
        let bridging = bridging(&with(&["/a", "/b"]), &with(&["/a", "/c"]));
        assert_eq!(bridging.worker.static_roots, with(&["/a", "/b", "/c"]).worker.static_roots);
    }

    #[test]
    fn the_refusal_says_what_to_do() {
        assert_eq!(
            refusal(&["state_dir"]),
            "state_dir changed: restart baton to apply; nothing has changed"
        );
    }
}
