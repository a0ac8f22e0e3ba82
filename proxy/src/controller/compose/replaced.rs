//! What of nginx-proxy's stack stands in a compose file, and what becomes of it
//! (docs/nginx-proxy.md has the same words).

use super::service::{Mount, Service};

/// A part of the stack that baton takes the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    NginxProxy,
    Nginx,
    DockerGen,
    AcmeCompanion,
}

/// By the last part of the image's name.
const IMAGES: [(&str, Part); 5] = [
    ("nginx-proxy", Part::NginxProxy),
    ("docker-gen", Part::DockerGen),
    ("acme-companion", Part::AcmeCompanion),
    ("letsencrypt-nginx-proxy-companion", Part::AcmeCompanion),
    ("nginx-proxy-letsencrypt", Part::AcmeCompanion),
];

/// Where each part is a container of its own, acme-companion finds the others by these.
const LABELS: [(&str, Part); 4] = [
    ("com.github.nginx-proxy.nginx", Part::Nginx),
    ("com.github.nginx-proxy.docker-gen", Part::DockerGen),
    ("com.github.jrcs.letsencrypt_nginx_proxy_companion.nginx_proxy", Part::Nginx),
    ("com.github.jrcs.letsencrypt_nginx_proxy_companion.docker_gen", Part::DockerGen),
];

impl Part {
    pub fn of(service: &Service) -> Option<Self> {
        let image = service.container.image.as_deref().map(repository).unwrap_or_default();
        let by_image = IMAGES.iter().find(|(name, _)| *name == image).map(|(_, part)| *part);
        by_image.or_else(|| {
            let found = LABELS.iter().find(|(label, _)| service.labels.contains(*label));
            found.map(|(_, part)| *part)
        })
    }

    pub fn replaced_by(self) -> &'static str {
        match self {
            Part::NginxProxy | Part::Nginx => "baton serves ports 80 and 443 itself",
            Part::DockerGen => "baton watches Docker itself: there is no template",
            Part::AcmeCompanion => {
                "baton orders certificates itself, once acme.agree_tos is true in its configuration"
            }
        }
    }
}

/// `registry:5000/owner/NAME:tag@digest`
fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    last.split_once(':').map_or(last, |(name, _)| name)
}

/// What becomes of something of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing is lost, and this is how.
    Kept(String),
    /// It does not work, and what to use instead.
    Lost(String),
}

/// What of a mount cannot work, or works how.
pub(super) fn mounted(mount: &Mount) -> Option<Fate> {
    let Mount { source, target } = mount;
    let is_at = |place: &str| {
        target.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let instead = if is_at("/etc/nginx/vhost.d") {
        "labels of the services say what a snippet said: baton.max_body, baton.timeout.*, \
         baton.headers.*, baton.allow, baton.redirect.* (docs/labels.md)"
    } else if is_at("/etc/nginx/conf.d") {
        "hosts that are no containers are [[route]] in the configuration, limits are [limits] and \
         [timeouts]"
    } else if is_at("/etc/nginx/proxy.conf") {
        "header fields are set by baton.request_headers.* and baton.headers.* (docs/labels.md), waits \
         by [timeouts]"
    } else if ["/etc/nginx/nginx.conf", "/etc/nginx/toplevel.conf.d", "/etc/nginx/stream.d"]
        .iter()
        .any(|place| is_at(place))
    {
        "the configuration has baton's own settings (deploy/baton.toml shows each)"
    } else if target.ends_with(".tmpl") || is_at("/etc/docker-gen/templates") {
        "there is no template: routes follow from what containers say"
    } else if is_at("/etc/nginx/certs") && mount.is_bind() {
        return Some(Fate::Kept(format!("read in place: tls.certificate_dirs = [\"{source}\"]")));
    } else if is_at("/etc/nginx/certs") {
        let how = "read in place: name the volume's directory in tls.certificate_dirs";
        return Some(Fate::Kept(how.to_owned()));
    } else if is_at("/usr/share/nginx/html/errors") && mount.is_bind() {
        return Some(Fate::Kept(format!("read in place: error_pages = \"{source}\"")));
    } else if is_at("/etc/nginx/htpasswd") && mount.is_bind() {
        return Some(Fate::Kept(format!("read in place: htpasswd_dir = \"{source}\"")));
    } else if is_at("/etc/nginx/htpasswd") {
        let how = "read in place: name the volume's directory in htpasswd_dir";
        return Some(Fate::Kept(how.to_owned()));
    } else {
        return None;
    };
    // The parts of the stack share what they generate by volumes; people mount what they wrote.
    if mount.is_bind() {
        return Some(Fate::Lost(format!("nginx snippets cannot work: {instead}")));
    }
    let volume = "what nginx-proxy and its companion generate there is not needed; nginx snippets \
                  cannot work";
    Some(Fate::Kept(format!("{volume}: {instead}")))
}

enum Global {
    Same,
    /// Where else it is set.
    Elsewhere(&'static str),
    /// Has no equal, and nothing is lost.
    Needless(&'static str),
    Lost(&'static str),
}

/// nginx-proxy's global variables.
const GLOBALS: [(&str, Global); 26] = [
    ("HTTPS_METHOD", Global::Same),
    ("HSTS", Global::Same),
    ("NON_GET_REDIRECT", Global::Same),
    ("ENABLE_HTTP_ON_MISSING_CERT", Global::Same),
    ("DEFAULT_EMAIL", Global::Same),
    ("PREFER_IPV6_NETWORK", Global::Same),
    ("DEFAULT_HOST", Global::Same),
    ("DEFAULT_ROOT", Global::Same),
    ("HTTP_PORT", Global::Elsewhere("listen.http takes addresses")),
    ("HTTPS_PORT", Global::Elsewhere("listen.https takes addresses")),
    ("ENABLE_IPV6", Global::Elsewhere("listen.http and listen.https take addresses")),
    ("TRUST_DOWNSTREAM_PROXY", Global::Elsewhere("trusted_proxies takes networks")),
    (
        "ENABLE_PROXY_PROTOCOL",
        Global::Elsewhere("proxy_protocol names the networks of the balancers"),
    ),
    ("SSL_POLICY", Global::Elsewhere("tls.profile is `modern` or `intermediate`")),
    (
        "TRUST_DEFAULT_CERT",
        Global::Needless("a host without a certificate of its own is answered 503 over HTTPS"),
    ),
    ("LOG_FORMAT", Global::Same),
    ("LOG_FORMAT_ESCAPE", Global::Same),
    ("LOG_JSON", Global::Same),
    ("DISABLE_ACCESS_LOGS", Global::Same),
    ("RESOLVERS", Global::Needless("nothing of the kind is needed")),
    ("DHPARAM_BITS", Global::Needless("nothing of the kind is needed")),
    ("DHPARAM_SKIP", Global::Needless("nothing of the kind is needed")),
    (
        "DOCKER_CONTAINER_FILTERS",
        Global::Lost("is not supported: every container that names a host is routed"),
    ),
    ("ACME_HTTP_CHALLENGE_LOCATION", Global::Needless("challenges are answered before any route")),
    ("SERVER_TOKENS", Global::Needless("baton never tells its version")),
    ("ACME_CA_URI", Global::Elsewhere("acme.directory names the CAs")),
];

pub(super) fn is_global(name: &str) -> bool {
    GLOBALS.iter().any(|(global, _)| *global == name)
}

/// What becomes of a global variable.
pub(super) fn global(name: &str) -> Option<Fate> {
    let (_, global) = GLOBALS.iter().find(|(global, _)| *global == name)?;
    Some(match global {
        Global::Same => Fate::Kept("same, in baton's own environment".to_owned()),
        Global::Elsewhere(place) => Fate::Kept(format!("in the configuration: {place}")),
        Global::Needless(why) => Fate::Kept((*why).to_owned()),
        Global::Lost(why) => Fate::Lost((*why).to_owned()),
    })
}

/// Variables of containers that baton does not have, and why not.
const FOREIGN: [(&str, Result<&str, &str>); 5] = [
    ("VIRTUAL_ROOT", Err("is only for fastcgi, which is not supported")),
    ("SERVER_TOKENS", Ok("baton never tells its version")),
    ("ACME_OCSP", Ok("CAs have ended OCSP")),
    (
        "ACMESH_DNS_API_CONFIG",
        Err("is not supported: [acme.dns] of the configuration runs a program, or sends updates"),
    ),
    ("LETSENCRYPT_RESTART_CONTAINER", Ok("nothing has to be restarted for a new certificate")),
];

/// What becomes of a variable of a container that baton has not.
pub(super) fn foreign(name: &str) -> Option<Fate> {
    let (_, fate) = FOREIGN.iter().find(|(foreign, _)| *foreign == name)?;
    Some(match fate {
        Ok(why) => Fate::Kept((*why).to_owned()),
        Err(why) => Fate::Lost((*why).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::docker::Container;

    /// As `docs/nginx-proxy.md` has it.
    #[test]
    fn the_table_of_nginx_proxys_own_variables_is_known() {
        let docs = include_str!("../../../../docs/nginx-proxy.md");
        let (_, rest) = docs.split_once("## The proxy's own environment").expect("the section");
        let (section, _) = rest.split_once("\n## ").expect("the next one");
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        for (variables, word) in rows.filter_map(|row| row[2..].split_once(" | ")) {
            for variable in
                variables.split(", ").map(|name| name.trim_matches(['`', '*', '|', ' ']))
            {
                let fate = global(variable).unwrap_or_else(|| panic!("{variable} is not known"));
                let same = Fate::Kept("same, in baton's own environment".to_owned());
                assert_eq!(fate == same, word.starts_with("same"), "{variable}");
            }
        }
    }

    #[test]
    fn parts_of_the_stack_are_known_by_image_or_label() {
        for (image, label, want) in [
            ("nginxproxy/nginx-proxy:1.7-alpine", "", Some(Part::NginxProxy)),
            ("ghcr.io/nginx-proxy/nginx-proxy@sha256:0", "", Some(Part::NginxProxy)),
            ("nginxproxy/acme-companion", "", Some(Part::AcmeCompanion)),
            ("jrcs/letsencrypt-nginx-proxy-companion:2", "", Some(Part::AcmeCompanion)),
            ("localhost:5000/docker-gen", "", Some(Part::DockerGen)),
            ("nginx:alpine", "com.github.nginx-proxy.nginx", Some(Part::Nginx)),
            ("nginx:alpine", "", None),
            ("me/my-nginx-proxy", "", None),
            ("", "", None),
        ] {
            let service = Service {
                container: Container { image: Some(image.to_owned()), ..Container::default() },
                labels: [label.to_owned()].into(),
                ..Service::default()
            };
            assert_eq!(Part::of(&service), want, "{image} {label}");
        }
    }

    #[test]
    fn what_people_wrote_for_nginx_is_lost_and_what_was_generated_is_not() {
        for (source, target, want) in [
            ("./vhost.d", "/etc/nginx/vhost.d", Some(true)),
            ("./a", "/etc/nginx/vhost.d/app.test", Some(true)),
            ("/srv/proxy.conf", "/etc/nginx/proxy.conf", Some(true)),
            ("./my.conf", "/etc/nginx/conf.d/my.conf", Some(true)),
            ("./nginx.tmpl", "/app/nginx.tmpl", Some(true)),
            ("vhost", "/etc/nginx/vhost.d", Some(false)),
            ("certs", "/etc/nginx/certs", Some(false)),
            ("./certs", "/etc/nginx/certs", Some(false)),
            ("./htpasswd", "/etc/nginx/htpasswd", Some(false)),
            ("/var/run/docker.sock", "/tmp/docker.sock", None),
            ("html", "/usr/share/nginx/html", None),
            ("./x", "/etc/nginx/conf.dx", None),
        ] {
            let mount = Mount { source: source.to_owned(), target: target.to_owned() };
            let is_lost = mounted(&mount).map(|fate| matches!(fate, Fate::Lost(_)));
            assert_eq!(is_lost, want, "{source}:{target}");
        }
    }
}
