use std::path::Path;
use std::time::Duration;

use super::reader::{Keys, Reader};
use super::*;
use crate::protocol::access_log::Format;
use crate::protocol::settings::{Balance, TlsProfile};

pub(super) const EXAMPLE: &str = include_str!("../../../deploy/baton.toml");

fn parse(text: &str) -> Result<Config, Mistakes> {
    super::parse(text, Path::new("baton.toml"))
}

fn mistakes(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn nothing_means_defaults() {
    let config = parse("").expect("an empty file");
    assert_eq!(config, Config::default());
    assert_eq!(config.state_dir, Path::new("/var/lib/baton"));
    assert_eq!(config.control_socket, Path::new("/run/baton/control.sock"));
    assert_eq!(config.listen.http, ["[::]:80".parse().expect("address")]);
    assert_eq!(config.listen.https, ["[::]:443".parse().expect("address")]);
    assert!(config.docker.enabled);
    assert!(config.worker.threads >= 1);
    assert_eq!(config.worker.log_level, "info");
    assert_eq!(config.drain.limit, Duration::from_secs(600));
    assert_eq!(config.drain.tunnel_limit, Duration::from_secs(3600));
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        state_dir = "/s"
        control_socket = "/c.sock"
        threads = 3
        balance = "least-loaded"
        trusted_proxies = ["10.0.0.0/8", "::1"]

        [listen]
        http = ["127.0.0.1:8080", "[::1]:8080"]
        https = []

        [docker]
        enabled = false
        endpoint = "tcp://127.0.0.1:2375"

        [tls]
        profile = "modern"
        strict_sni = true
        certificate_dirs = ["/etc/letsencrypt"]
        [[tls.certificate]]
        cert = "/a.pem"
        key = "/a.key"

        [acme]
        agree_tos = true
        email = "root@example.com"
        directory = [
            "letsencrypt-staging",
            { url = "https://ca.example.com/directory", eab_kid = "kid", eab_hmac_key = "a2V5" },
        ]
        ca_file = "/ca.pem"
        challenges = ["tls-alpn-01", "dns-01"]
        automatic = false
        allow = ["*.example.com"]
        deny = ["x.example.com"]
        profile = "shortlived"
        preferred_chain = "ISRG Root X2"
        key = "rsa-3072"
        resolver = "192.0.2.53"
        preflight = false
        http_port = 8080
        tls_port = 8443

        [acme.dns]
        server = "127.0.0.1:5353"
        zone = "Example.com."
        key_name = "baton"
        key_secret = "c2VjcmV0"
        algorithm = "hmac-sha512"
        nameservers = ["::1"]
        propagation_limit = "30s"

        [drain]
        limit = "1m"
        tunnel_limit = "2m"

        [log]
        access = "json"
        level = "warn,baton::worker=debug"

        [timeouts]
        connect = "1500ms"

        [limits]
        header_bytes = "64KiB"
        body_bytes = "1GiB"
        streams = 7

        [[route]]
        host = "App.Example.com"
        path = "/app"
        strip_prefix = true
        upstreams = ["localhost:3000", "grpc://[::1]:3001"]
        tls = "local"

        [[route]]
        host = "*.example.com"
        upstreams = ["127.0.0.1:1"]
        "#,
    )
    .expect("a good file");

    assert_eq!(config.state_dir, Path::new("/s"));
    assert_eq!(config.control_socket, Path::new("/c.sock"));
    assert_eq!(config.worker.threads, 3);
    assert_eq!(config.worker.balance, Balance::LeastLoaded);
    let networks = ["10.0.0.0/8", "::1/128"].map(|n| n.parse().expect("network"));
    assert_eq!(config.worker.trusted_proxies, networks);
    let addresses = ["127.0.0.1:8080", "[::1]:8080"].map(|a| a.parse().expect("address"));
    assert_eq!(config.listen.http, addresses);
    assert_eq!(config.listen.https, []);
    assert!(!config.docker.enabled);
    assert_eq!(config.docker.endpoint.as_deref(), Some("tcp://127.0.0.1:2375"));
    assert_eq!(config.worker.tls.profile, TlsProfile::Modern);
    assert!(config.worker.tls.strict_sni);
    let files = CertificateFiles { cert: "/a.pem".into(), key: "/a.key".into() };
    assert_eq!(config.certificates, [files]);
    assert_eq!(config.certificate_dirs, [Path::new("/etc/letsencrypt")]);
    let directory = Directory::at;
    let want = Acme {
        agree_tos: true,
        email: Some("root@example.com".into()),
        directories: vec![
            directory("https://acme-staging-v02.api.letsencrypt.org/directory"),
            Directory {
                external_account: Some(ExternalAccount {
                    kid: "kid".into(),
                    hmac_key: b"key".to_vec(),
                }),
                ..directory("https://ca.example.com/directory")
            },
        ],
        ca_file: Some("/ca.pem".into()),
        challenges: vec![ChallengeKind::TlsAlpn01, ChallengeKind::Dns01],
        automatic: false,
        allow: vec![HostPattern::Leading(".example.com".into())],
        deny: vec![HostPattern::Exact("x.example.com".into())],
        profile: Some("shortlived".into()),
        preferred_chain: Some("ISRG Root X2".into()),
        key: KeyKind::Rsa3072,
        proof: Proof {
            resolver: Some("192.0.2.53:53".parse().expect("address")),
            preflight: false,
            http_port: 8080,
            tls_port: 8443,
            dns: Dns {
                provider: Some(DnsProvider::Update(DnsUpdate {
                    server: "127.0.0.1:5353".parse().expect("address"),
                    zone: Some("example.com".into()),
                    key_name: "baton".into(),
                    secret: Secret::Bytes(b"secret".to_vec()),
                    algorithm: TsigAlgorithm::HmacSha512,
                })),
                nameservers: vec!["[::1]:53".parse().expect("address")],
                propagation_limit: Duration::from_secs(30),
            },
        },
    };
    assert_eq!(config.acme, want);
    assert_eq!(config.drain.limit, Duration::from_secs(60));
    assert_eq!(config.drain.tunnel_limit, Duration::from_secs(120));
    assert_eq!(config.worker.access_log.format, Format::Json);
    assert_eq!(config.worker.log_level, "warn,baton::worker=debug");
    assert_eq!(config.worker.timeouts.connect, Duration::from_millis(1500));
    assert_eq!(config.worker.limits.header_bytes, 64 << 10);
    assert_eq!(config.worker.limits.body_bytes, 1 << 30);
    assert_eq!(config.worker.limits.streams, 7);

    let [app, wildcard] = config.routes.as_slice() else { panic!("two routes") };
    assert_eq!(app.host, HostPattern::Exact("app.example.com".into()));
    assert_eq!(app.path, PathPattern::Segments("/app".into()));
    assert_eq!(app.replace_prefix.as_deref(), Some("/"));
    assert_eq!(app.tls, RouteTls::Local);
    assert_eq!(app.upstreams[0].address, "127.0.0.1:3000".parse().expect("address"));
    assert_eq!(app.upstreams[1].protocol, UpstreamProtocol::Grpc);
    assert_eq!(wildcard.host, HostPattern::Leading(".example.com".into()));
    assert_eq!(wildcard.path, PathPattern::Segments("/".into()));
    assert_eq!(wildcard.replace_prefix, None);
    assert_eq!(wildcard.tls, RouteTls::Auto);
}

#[test]
fn every_mistake_is_reported_at_once_in_the_order_of_the_file() {
    let text = r#"state_dri = "/x"
threads = "four"
[listen]
http = ["80", "[::]:80"]
https = ["[::]:80"]
[docker]
enable = true
[tls]
profile = "intermedate"
[limits]
streams = 0
"#;
    let want = r#"baton.toml:1: state_dri: unknown key; did you mean `state_dir`?
baton.toml:2: threads: expected a whole number, found string
baton.toml:4: listen.http: `80` is not an address with a port, as "[::]:443" or "127.0.0.1:8080"
baton.toml:5: listen.https: [::]:80 is an address of listen.http already
baton.toml:7: docker.enable: unknown key; did you mean `enabled`?
baton.toml:9: tls.profile: `intermedate` is not one of "modern", "intermediate"; did you mean `intermediate`?
baton.toml:11: limits.streams: 0 is out of range: 1 to 10000"#;
    assert_eq!(mistakes(text), want);
}

#[test]
fn each_mistake_has_its_sentence() {
    for (text, want) in [
        // Syntax.
        ("a = ", "1:5: not TOML: string values must be quoted, expected literal string"),
        ("threads = 1\nthreads = 2", "2:1: not TOML: duplicate key"),
        ("\n[listen\nhttp = []", "2:8: not TOML: unclosed table, expected `]`"),
        ("balance = \"ü\" x", "1:15: not TOML: unexpected key or value, expected newline, `#`"),
        // Keys.
        ("colour = 1", "1: colour: unknown key"),
        ("http = []", "1: http: unknown key; did you mean `listen.http`?"),
        ("[listen]\nhtps = []", "2: listen.htps: unknown key; did you mean `https`?"),
        (
            "[timeouts]\nheader-read = \"1s\"",
            "2: timeouts.header-read: unknown key; did you mean `header_read`?",
        ),
        ("limits.stream = 1", "1: limits.stream: unknown key; did you mean `streams`?"),
        ("[limit]", "1: limit: unknown key; did you mean `limits`?"),
        ("[listen]\nadmin = []", "2: listen.admin: not in this version"),
        // Types.
        ("state_dir = 1", "1: state_dir: expected a string, found integer"),
        ("docker = true", "1: docker: expected a section [docker], found boolean"),
        ("docker.enabled = 1", "1: docker.enabled: expected true or false, found integer"),
        ("listen.http = \"[::]:80\"", "1: listen.http: expected a list, found string"),
        ("listen.http = [80]", "1: listen.http: expected a string, found integer"),
        (
            "timeouts.connect = 5",
            "1: timeouts.connect: expected a duration, as \"500ms\", \"30s\", \"10m\" or \"1h\", found integer",
        ),
        (
            "limits.body_bytes = true",
            "1: limits.body_bytes: expected a size, as 65536 or \"64KiB\", found boolean",
        ),
        ("[route]\nhost = \"a\"", "1: route: there may be several: write [[route]]"),
        ("route = [1]", "1: route: expected a section [[route]], found integer"),
        // Values.
        ("state_dir = \"state\"", "1: state_dir: `state` is not an absolute path"),
        ("threads = 0", "1: threads: 0 is out of range: 1 to 1024"),
        ("threads = -1", "1: threads: -1 is out of range"),
        (
            "balance = \"random\"",
            "1: balance: `random` is not one of \"round-robin\", \"least-loaded\", \"client-address\"",
        ),
        (
            "trusted_proxies = [\"10.0.0.0/33\"]",
            "1: trusted_proxies: `10.0.0.0/33` is not a network, as \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        (
            "docker.endpoint = \"/var/run/docker.sock\"",
            "1: docker.endpoint: `/var/run/docker.sock` is neither unix:///PATH nor tcp://HOST:PORT",
        ),
        (
            "drain.limit = \"10\"",
            "1: drain.limit: `10` is not a duration, as \"500ms\", \"30s\", \"10m\" or \"1h\"",
        ),
        ("drain.limit = \"0s\"", "1: drain.limit: `0s` is out of range: more than 0, at most 366d"),
        (
            "log.level = \"inof\"",
            "1: log.level: `inof` is not one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"; did you mean `info`?",
        ),
        (
            "log.access = \"common\"",
            "1: log.access: `common` is not one of combined, json, nginx-proxy, nginx-proxy-json and \
             off, and has no $variable",
        ),
        ("log.access = \"$nothing\"", "1: log.access: `$nothing` has $nothing, which is not known"),
        (
            "[[route]]\nhost = \"a\"\nroot = \"/srv\"\nupstreams = [\"127.0.0.1:1\"]",
            "4: route.upstreams: there is a root: files, or upstreams, not both",
        ),
        (
            "log.escape = \"none\"",
            "1: log.escape: `none` would let clients forge lines: expected `default` or `json`",
        ),
        (
            "limits.header_bytes = \"2MiB\"",
            "1: limits.header_bytes: 2097152 is out of range: 1024 to 1048576",
        ),
        (
            "limits.body_bytes = \"1GB\"",
            "1: limits.body_bytes: `1GB` is not a size: expected bytes, or as \"32KiB\", \"1MiB\", \"1GiB\"",
        ),
        (
            "acme.directory = \"letsencrpt\"",
            "1: acme.directory: `letsencrpt` is neither an https URL nor one of \"letsencrypt\", \"letsencrypt-staging\", \"zerossl\", \"google\"",
        ),
        (
            "acme.directory = \"http://ca.example.com/dir\"",
            "1: acme.directory: `http://ca.example.com/dir` is neither an https URL nor one of \"letsencrypt\", \"letsencrypt-staging\", \"zerossl\", \"google\"",
        ),
        ("acme.directory = []", "1: acme.directory: empty"),
        (
            "acme.directory = [\"zerossl\", \"zerossl\"]",
            "1: acme.directory: names one of them twice",
        ),
        (
            "acme.challenges = [\"http01\"]",
            "1: acme.challenges: `http01` is not one of \"http-01\", \"tls-alpn-01\", \"dns-01\"; did you mean `http-01`?",
        ),
        (
            "\n[acme]\nchallenges = [\"dns-01\"]",
            "2: acme.challenges: dns-01 needs acme.dns.exec or acme.dns.server",
        ),
        (
            "acme.resolver = \"dns.example.com\"",
            "1: acme.resolver: `dns.example.com` is not an address, as \"192.0.2.53\" or \"127.0.0.1:5353\"",
        ),
        (
            "[acme.dns]\nexec = \"/a\"\nserver = \"::1\"",
            "1: acme.dns.exec: acme.dns.server is there too: one of them",
        ),
        (
            "[acme.dns]\nserver = \"::1\"\nkey_name = \"a\"",
            "1: acme.dns.key_secret: missing, and key_file as well",
        ),
        ("[acme.dns]\nserver = \"::1\"\nkey_file = \"/a\"", "1: acme.dns.key_name: missing"),
        (
            "[acme.dns]\nserver = \"::1\"\nkey_file = \"/a\"\nkey_secret = \"YQ==\"",
            "1: acme.dns.key_secret: acme.dns.key_file is there too: one of them",
        ),
        ("acme.dns.key_secret = \"a b\"", "1: acme.dns.key_secret: not base64"),
        ("acme.dns.zone = \"a..b\"", "1: acme.dns.zone: `a..b` is not a name in the DNS"),
        ("acme.eab_kid = \"a\"", "1: acme.eab_hmac_key: missing beside eab_kid"),
        ("acme.eab_hmac_key = \"+\"", "1: acme.eab_hmac_key: not base64url"),
        (
            "\n[acme]\ndirectory = [\"zerossl\", \"google\"]\neab_kid = \"a\"\neab_hmac_key = \"YQ\"",
            "2: acme.eab_kid: of which CA? In a list it stands with its CA: directory = [{ url = \"zerossl\", eab_kid = \"..\", eab_hmac_key = \"..\" }, \"letsencrypt\"]",
        ),
        ("acme.directory = [{ eab_kid = \"a\" }]", "1: acme.directory: url: missing"),
        (
            "acme.directory = [{ url = \"zerossl\", eab = \"a\" }]",
            "1: acme.directory: `eab` is not one of url, eab_kid, eab_hmac_key",
        ),
        ("acme.email = \"root\"", "1: acme.email: `root` is not an e-mail address"),
        ("acme.ca_file = \"ca.pem\"", "1: acme.ca_file: `ca.pem` is not an absolute path"),
        // Between keys.
        (
            "listen.http = [\"[::]:443\"]",
            "1: listen.https: [::]:443 is an address of listen.http already",
        ),
        ("listen.http = [\"[::]:8\",\n\"[::]:8\"]", "2: listen.http: [::]:8 is there twice"),
        (
            "\n[listen]\nhttp = []\nhttps = []",
            "2: listen: http and https are empty: nothing to listen on",
        ),
        ("[[tls.certificate]]\ncert = \"/a\"", "1: tls.certificate.key: missing"),
        ("[[tls.certificate]]\nkey = \"/a\"", "1: tls.certificate.cert: missing"),
    ] {
        assert_eq!(mistakes(text), format!("baton.toml:{want}"), "{text}");
    }
}

#[test]
fn each_mistake_of_a_route_has_its_sentence() {
    for (keys, want) in [
        ("upstreams = [\"127.0.0.1:1\"]", "1: route.host: missing"),
        ("host = \"a\"", "1: route.upstreams: missing"),
        ("host = \"a\"\nupstreams = []", "3: route.upstreams: empty"),
        (
            "host = \"a b\"\nupstreams = [\"127.0.0.1:1\"]",
            "2: route.host: `a b` is not a host name: expected letters, digits, `-`, `_` and dots",
        ),
        (
            "host = \"a\"\npath = \"x\"\nupstreams = [\"127.0.0.1:1\"]",
            "3: route.path: `x` is not a path: it must begin with `/`, `=/` or `~`",
        ),
        (
            "host = \"a\"\npath = \"~x\"\nstrip_prefix = true\nupstreams = [\"127.0.0.1:1\"]",
            "4: route.strip_prefix: a path that is a regular expression has no prefix",
        ),
        (
            "host = \"a\"\nupstreams = [\"b:1\"]",
            "3: route.upstreams: `b:1` names a host: names are not resolved in this version, write its IP address",
        ),
        (
            "host = \"a\"\nupstreams = [\"localhost:1\", \"127.0.0.1:1\"]",
            "3: route.upstreams: 127.0.0.1:1 is there twice",
        ),
        (
            "host = \"a\"\nupstreams = [\"127.0.0.1:1\"]\ntls = \"locl\"",
            "4: route.tls: `locl` is not one of \"acme\", \"local\", \"off\", \"passthrough\"; did you mean `local`?",
        ),
        (
            "host = \"a\"\nupstream = [\"127.0.0.1:1\"]",
            "1: route.upstreams: missing\nbaton.toml:3: route.upstream: unknown key; did you mean `upstreams`?",
        ),
        (
            "host = \"a\"\nupstreams = [\"127.0.0.1:1\"]\n[[route]]\nhost = \"A\"\npath = \"/\"\nupstreams = [\"127.0.0.1:2\"]",
            "4: route: host a with path / has a route in line 1 already",
        ),
    ] {
        assert_eq!(mistakes(&format!("[[route]]\n{keys}")), format!("baton.toml:{want}"), "{keys}");
    }
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let missing = Path::new("/nonexistent/baton.toml");
    let error = load(Some(missing)).expect_err("a missing file").to_string();
    assert_eq!(
        error,
        "/nonexistent/baton.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn a_file_is_loaded() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("baton.toml");
    std::fs::write(&file, "threads = 5").expect("write");
    assert_eq!(load(Some(&file)).expect("a good file").worker.threads, 5);
}

/// Every `#key = ...` and `#[section]` without its `#`; prose has a blank there.
pub(super) fn uncommented(text: &str) -> String {
    let bare = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| bare(line) + "\n").collect()
}

#[test]
fn the_example_as_it_is_means_defaults() {
    assert_eq!(parse(EXAMPLE).expect("the example"), Config::default());
}

#[test]
fn the_example_shows_the_defaults() {
    let mut config = parse(&uncommented(EXAMPLE)).expect("the example, uncommented");
    // What the file calls an example.
    assert_eq!(config.routes.len(), 2);
    config.routes.clear();
    config.worker.static_roots.clear();
    assert_eq!(config.certificates.len(), 1);
    config.certificates.clear();
    assert!(config.docker.endpoint.take().is_some());
    assert_eq!(config.metrics.page.take(), Some(true));
    config.worker.threads = Config::default().worker.threads;
    config.access_log_is_set = false;

    assert_eq!(config, Config::default());
}

#[test]
fn the_example_has_every_key() {
    let text = uncommented(EXAMPLE);
    let (_, Keys { known, met }) =
        Reader::read(&text, Path::new("baton.toml"), sections::config).expect("the example");
    let missing: Vec<_> = known.iter().filter(|key| !met.contains(key)).collect();
    assert!(missing.is_empty(), "deploy/baton.toml lacks {missing:?}");
    assert!(known.contains(&"route.tls".to_owned()), "sections in lists count: {known:?}");
}

#[test]
fn the_status_page_is_for_this_host_unless_somebody_says_so() {
    let has_page =
        |keys: &str| parse(&format!("[metrics]\n{keys}")).expect("valid").metrics.has_page();
    for (keys, want) in [
        ("", false),
        ("listen = \"127.0.0.1:9180\"", true),
        ("listen = \"[::1]:9180\"", true),
        ("listen = \"10.0.0.1:9180\"", false),
        ("listen = \"10.0.0.1:9180\"\npage = true", true),
        ("listen = \"127.0.0.1:9180\"\npage = false", false),
    ] {
        assert_eq!(has_page(keys), want, "{keys}");
    }
}

#[test]
fn where_metrics_are_told() {
    let read = |keys: &str| {
        let text = format!("[listen]\nhttp = [\"127.0.0.1:80\"]\n[metrics]\n{keys}");
        parse(&text).map(|config| config.metrics).map_err(|mistakes| mistakes.to_string())
    };
    let metrics = |listen: Option<&str>, hosts: &[&str]| Metrics {
        listen: listen.map(|address| address.parse().expect("address")),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        page: None,
    };
    for (keys, want) in [
        ("", Ok(metrics(None, &[]))),
        ("page = true", Ok(Metrics { page: Some(true), ..metrics(None, &[]) })),
        ("listen = \"\"", Ok(metrics(None, &[]))),
        (
            "listen = \"[::1]:9180\"\nhosts = [\"Metrics.test\"]",
            Ok(metrics(Some("[::1]:9180"), &["metrics.test"])),
        ),
        (
            "listen = \"127.0.0.1:80\"",
            Err("metrics.listen: 127.0.0.1:80 serves the public already (see `[listen]`)"),
        ),
        ("hosts = [\"*.test\"]", Err("metrics.hosts: a pattern is not taken here: name each host")),
    ] {
        let want = want.map_err(|problem| format!("baton.toml:4: {problem}"));
        assert_eq!(read(keys), want, "{keys}");
    }
}

#[test]
fn what_a_route_says_of_its_host() {
    let route = |more: &str| {
        let text = format!("[[route]]\nhost = \"a\"\nupstreams = [\"127.0.0.1:1\"]\n{more}");
        parse(&text).map(|config| {
            let route = &config.routes[0];
            (route.hsts.clone(), route.client_ca.clone(), route.client_auth)
        })
    };
    let hsts = |value: &str| Some(Hsts::Value(value.to_owned()));
    let ca = || Some(PathBuf::from("/ca.pem"));
    for (more, want) in [
        ("", (None, None, None)),
        ("hsts = \"off\"", (Some(Hsts::Off), None, None)),
        ("hsts = \"max-age=1; preload\"", (hsts("max-age=1; preload"), None, None)),
        ("hsts = 'Max-Age=\"1\"'", (hsts("Max-Age=\"1\""), None, None)),
        ("client_ca = \"/ca.pem\"", (None, ca(), None)),
        (
            "client_ca = \"/ca.pem\"\nclient_auth = \"optional\"",
            (None, ca(), Some(VerifyClient::Optional)),
        ),
        ("client_auth = \"required\"", (None, None, Some(VerifyClient::Required))),
    ] {
        assert_eq!(route(more).expect(more), want, "{more}");
    }
    for (more, want) in [
        ("hsts = \"on\"", "hsts: `on` is neither `off` nor a value with `max-age=SECONDS`"),
        (
            "hsts = \"max-age=x\"",
            "hsts: `max-age=x` is neither `off` nor a value with `max-age=SECONDS`",
        ),
        ("client_ca = \"ca.pem\"", "client_ca: `ca.pem` is not an absolute path"),
        ("client_auth = \"on\"", "client_auth: `on` is not one of \"required\", \"optional\""),
    ] {
        let mistakes = route(more).expect_err(more).to_string();
        assert_eq!(mistakes, format!("baton.toml:4: route.{want}"), "{more}");
    }
}
