use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use time::Duration;

use super::acme::Issued;
use super::*;
use crate::config::Acme as AcmeSettings;

fn state_dir() -> TempDir {
    tempfile::tempdir().expect("temporary directory")
}

fn open(state_dir: &TempDir) -> Certificates {
    Certificates::open(state_dir.path()).expect("open")
}

fn wanted(pattern: &str, tls: RouteTls) -> Wanted {
    Wanted { pattern: pattern.parse().expect(pattern), tls, is_up: true, wish: Wish::default() }
}

fn names(assembled: &Assembled) -> Vec<&[String]> {
    assembled.certificates.iter().map(|certificate| certificate.names.as_slice()).collect()
}

/// A handshake in memory: does a client that trusts the CA file take it for this host?
fn handshake(
    ca_file: &Path,
    certificate: &snapshot::Certificate,
    host: &str,
) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).expect("CA file")).expect("root");
    let client = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .expect("chain");
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).expect("key");
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("certificate");
    let host = ServerName::try_from(host.to_owned()).expect("host");
    let mut client = rustls::ClientConnection::new(Arc::new(client), host).expect("client");
    let mut server = rustls::ServerConnection::new(Arc::new(server)).expect("server");
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("client writes");
        server.read_tls(&mut wire.as_slice()).expect("server reads");
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("server writes");
        }
        client.read_tls(&mut wire.as_slice()).expect("client reads");
        client.process_new_packets()?;
    }
    Ok(())
}

/// Files as an operator would have them, from a CA of his own.
fn write_files(directory: &TempDir, name: &str, now: OffsetDateTime) -> CertificateFiles {
    let root = issue::root("Example CA", now).expect("root");
    let key = KeyPair::from_pem(&root.key_pem).expect("key");
    let issuer = Issuer::from_ca_cert_pem(&root.chain_pem, key).expect("issuer");
    let leaf = issue::leaf(name, &issuer, now).expect("leaf");
    let file = |suffix: &str| directory.path().join(format!("{}.{suffix}", name.replace('*', "_")));
    let files = CertificateFiles { cert: file("crt"), key: file("key") };
    fs::write(&files.cert, leaf.chain_pem).expect("write");
    fs::write(&files.key, leaf.key_pem).expect("write");
    files
}

#[test]
fn who_has_the_certificate_of_a_host() {
    use RouteTls::*;
    let local = |name: &str| Some(Source::LocalCa(name.into()));
    for (pattern, tls, file_covers, want) in [
        ("app.example.com", Auto, false, Some(Source::Nobody)),
        ("app.example.com", Auto, true, Some(Source::File)),
        ("app.example.com", Local, true, local("app.example.com")),
        ("app.example.com", Off, true, Some(Source::Nobody)),
        ("app.test", Auto, false, local("app.test")),
        ("app.test", Auto, true, Some(Source::File)),
        ("app.test", Off, false, Some(Source::Nobody)),
        ("a.b.localhost", Auto, false, local("a.b.localhost")),
        ("db.internal", Auto, false, local("db.internal")),
        ("localhost", Auto, false, local("localhost")),
        ("grafana", Auto, false, local("grafana")),
        ("latest", Auto, false, local("latest")),
        ("app.latest", Auto, false, Some(Source::Nobody)),
        ("*.app.test", Auto, false, local("*.app.test")),
        ("*.example.com", Auto, false, Some(Source::Nobody)),
        ("*.example.com", Local, false, local("*.example.com")),
        ("*.test", Auto, false, None),
        ("192.0.2.1", Auto, false, Some(Source::Nobody)),
        ("192.0.2.1", Local, false, local("192.0.2.1")),
        ("2001:db8::1", Auto, false, Some(Source::Nobody)),
        ("2001:db8::1", Local, false, local("2001:db8::1")),
        ("app.test.*", Auto, false, None),
        (r"~^app\d\.test$", Local, false, None),
        (r"~^app\d\.test$", Off, false, Some(Source::Nobody)),
    ] {
        let got = source(&wanted(pattern, tls), file_covers, &AcmeSettings::default()).ok();
        assert_eq!(got, want, "{pattern} {tls:?} {file_covers}");
    }
}

#[test]
fn the_default_certificate_comes_first_and_is_kept() {
    let state_dir = state_dir();
    let first = open(&state_dir).assemble(&[], &Stock::default());
    let second = open(&state_dir).assemble(&[], &Stock::default());

    assert_eq!(names(&first), [&[] as &[String]]);
    assert_eq!(first.certificates, second.certificates);
    assert_eq!(first.reports[0].issuer, "baton default certificate");
    assert_eq!(first.reports[0].kind, CertificateKind::Default);
    assert_eq!(first.problems, []);
    assert!(!state_dir.path().join("local-ca/ca.pem").exists(), "a local CA nobody needs");
}

#[test]
fn clients_that_trust_the_local_ca_take_its_certificates() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    for (pattern, tls, host) in [
        ("app.test", RouteTls::Auto, "app.test"),
        ("localhost", RouteTls::Auto, "localhost"),
        ("my_app.internal", RouteTls::Auto, "my_app.internal"),
        ("app.example.com", RouteTls::Local, "app.example.com"),
        ("*.app.test", RouteTls::Auto, "any.app.test"),
        ("192.0.2.1", RouteTls::Local, "192.0.2.1"),
        ("2001:db8::1", RouteTls::Local, "2001:db8::1"),
    ] {
        let assembled = certificates.assemble(&[wanted(pattern, tls)], &Stock::default());
        assert_eq!(assembled.problems, [], "{pattern}");
        assert_eq!(assembled.trust, [Trust::Local], "{pattern}");
        let [_default, leaf] = assembled.certificates.as_slice() else { panic!("{pattern}") };
        assert_eq!(leaf.names, [pattern]);
        handshake(&certificates.local_ca_pem(), leaf, host).expect(host);
        handshake(&certificates.local_ca_pem(), leaf, "other.example.org").expect_err(host);
    }
}

#[test]
fn hosts_that_can_have_none_are_reported_and_the_others_stand() {
    let state_dir = state_dir();
    let assembled = open(&state_dir).assemble(
        &[
            wanted("app.test.*", RouteTls::Auto),
            wanted("app.test", RouteTls::Auto),
            wanted("app.example.com", RouteTls::Auto),
            wanted("-app.test", RouteTls::Auto),
        ],
        &Stock::default(),
    );
    assert_eq!(assembled.trust, [Trust::None, Trust::Local, Trust::None, Trust::None]);
    let problems: Vec<String> = assembled.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "app.test.*: no certificate can be issued for a pattern of this kind",
            "-app.test: not a name that clients can ask for",
        ]
    );
}

#[test]
fn secrets_are_the_owners_alone() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    certificates.assemble(&[wanted("*.app.test", RouteTls::Auto)], &Stock::default());
    assert!(certificates.local_ca.flush());
    for (file, want) in [
        ("default.pem", 0o600),
        ("local-ca", 0o700),
        ("local-ca/root.pem", 0o600),
        ("local-ca/ca.pem", 0o644),
        ("local-ca/leafs", 0o700),
        ("local-ca/leafs/+.app.test.pem", 0o600),
    ] {
        let metadata = state_dir.path().join(file).metadata().expect(file);
        assert_eq!(metadata.permissions().mode() & 0o777, want, "{file}");
    }
    assert!(!fs::read_to_string(certificates.local_ca_pem()).expect("ca.pem").contains("PRIVATE"));
}

#[test]
fn a_leaf_is_kept_over_a_restart_until_two_thirds_of_its_life() {
    let state_dir = state_dir();
    let app = [wanted("app.test", RouteTls::Auto)];
    let start = OffsetDateTime::now_utc();
    let mut certificates = open(&state_dir);
    let first = certificates.assemble_at(&app, &Stock::default(), start);
    let chain = |assembled: &Assembled| assembled.certificates[1].chain_pem.clone();
    assert!(certificates.local_ca.flush());

    let later = open(&state_dir).assemble_at(&app, &Stock::default(), start + Duration::days(59));
    assert_eq!(chain(&later), chain(&first));

    let due = OffsetDateTime::from(first.next_change);
    assert!(due > start + Duration::days(59) && due < start + Duration::days(61), "{due}");
    let renewed = certificates.assemble_at(&app, &Stock::default(), due);
    assert_ne!(chain(&renewed), chain(&first));
    assert_eq!(renewed.problems, []);
    assert!(certificates.local_ca.flush());
    let restarted = open(&state_dir).assemble_at(&app, &Stock::default(), due);
    assert_eq!(chain(&restarted), chain(&renewed));
}

#[test]
fn a_lost_ca_is_replaced_and_its_leafs_too() {
    let state_dir = state_dir();
    let app = [wanted("app.test", RouteTls::Auto)];
    open(&state_dir).assemble(&app, &Stock::default());
    fs::remove_file(state_dir.path().join("local-ca/root.pem")).expect("remove");

    let mut certificates = open(&state_dir);
    let assembled = certificates.assemble(&app, &Stock::default());
    handshake(&certificates.local_ca_pem(), &assembled.certificates[1], "app.test").expect("new");
    let [problem] = assembled.problems.as_slice() else { panic!("{:?}", assembled.problems) };
    assert_eq!(problem.reason, "not the root that is in use; set aside as ca.pem.bad-1");
}

#[test]
fn a_root_is_replaced_before_its_leafs_would_outlive_it() {
    let state_dir = state_dir();
    let app = [wanted("app.test", RouteTls::Auto)];
    let start = OffsetDateTime::now_utc();
    let mut certificates = Certificates::open_at(state_dir.path(), start).expect("open");
    certificates.assemble_at(&app, &Stock::default(), start);
    let late = start + issue::ROOT_LIFE - Duration::days(30);
    let assembled = certificates.assemble_at(&app, &Stock::default(), late);
    assert_eq!(assembled.trust, [Trust::Local]);
    assert!(
        assembled.problems[0].reason.starts_with("the root expires"),
        "{:?}",
        assembled.problems
    );
}

#[test]
fn a_torn_or_foreign_file_is_set_aside_and_reported() {
    let state_dir = state_dir();
    let app = [wanted("app.test", RouteTls::Auto)];
    open(&state_dir).assemble(&app, &Stock::default());
    let leafs = state_dir.path().join("local-ca/leafs");
    let leaf = leafs.join("app.test.pem");

    let whole = fs::read_to_string(&leaf).expect("leaf");
    fs::write(&leaf, &whole[..whole.len() / 2]).expect("tear");
    let torn = open(&state_dir).assemble(&app, &Stock::default());
    assert_eq!(torn.trust, [Trust::Local]);
    assert_eq!(torn.problems.len(), 1, "{:?}", torn.problems);
    assert_eq!(
        fs::read_to_string(leafs.join("app.test.pem.bad-1")).expect("kept").len(),
        whole.len() / 2
    );

    let foreign = write_files(&state_dir, "app.test", OffsetDateTime::now_utc());
    let foreign = fs::read_to_string(foreign.cert).expect("cert")
        + &fs::read_to_string(foreign.key).expect("key");
    fs::write(&leaf, &foreign).expect("replace");
    let replaced = open(&state_dir).assemble(&app, &Stock::default());
    assert_eq!(replaced.trust, [Trust::Local]);
    assert_eq!(
        replaced.problems[0].to_string(),
        format!(
            "{}: not a certificate of the local CA for app.test; set aside as app.test.pem.bad-2",
            leaf.display()
        )
    );
    assert_eq!(fs::read_to_string(leafs.join("app.test.pem.bad-2")).expect("kept"), foreign);
}

#[test]
fn files_cover_names_and_parents() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    let now = OffsetDateTime::now_utc();
    let files = ["app.example.com", "*.example.org"].map(|name| write_files(&state_dir, name, now));
    assert_eq!(certificates.set_files(&files, &[]), []);
    let hosts = [
        ("app.example.com", Trust::Public),
        ("www.example.com", Trust::None),
        ("a.example.org", Trust::Public),
        ("a.b.example.org", Trust::None),
        ("example.org", Trust::None),
        ("*.example.org", Trust::Public),
    ];
    let assembled = certificates
        .assemble(&hosts.map(|(host, _)| wanted(host, RouteTls::Auto)), &Stock::default());
    assert_eq!(assembled.trust, hosts.map(|(_, trust)| trust));
    let want: [&[String]; 3] = [&[], &["app.example.com".into()], &["*.example.org".into()]];
    assert_eq!(names(&assembled), want);
    assert_eq!(assembled.reports[0].issuer, "Example CA");
}

#[test]
fn a_name_stands_in_one_certificate_only() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    let now = OffsetDateTime::now_utc();
    assert_eq!(certificates.set_files(&[write_files(&state_dir, "app.example.com", now)], &[]), []);
    let assembled =
        certificates.assemble(&[wanted("app.example.com", RouteTls::Local)], &Stock::default());
    let [_default, leaf] = assembled.certificates.as_slice() else { panic!("two certificates") };
    handshake(&certificates.local_ca_pem(), leaf, "app.example.com").expect("the local CA's");
}

#[test]
fn a_bad_file_is_named_and_the_others_stand() {
    let state_dir = state_dir();
    let now = OffsetDateTime::now_utc();
    let good = write_files(&state_dir, "good.example.com", now);
    let other = write_files(&state_dir, "other.example.com", now);
    let old = write_files(&state_dir, "old.example.com", now - Duration::days(100));
    let early = write_files(&state_dir, "early.example.com", now + Duration::days(1));
    let path = |name: &str| state_dir.path().join(name);
    fs::write(path("empty"), "").expect("write");
    fs::write(path("garbage"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("write");
    let pair = |cert: &Path, key: &Path| CertificateFiles { cert: cert.into(), key: key.into() };

    for (files, thing, reason) in [
        (
            pair(&path("missing"), &good.key),
            path("missing"),
            "cannot be read: No such file or directory (os error 2)",
        ),
        (
            pair(&good.cert, &path("missing")),
            path("missing"),
            "cannot be read: No such file or directory (os error 2)",
        ),
        (pair(&path("empty"), &good.key), path("empty"), "no certificate in it (expected PEM)"),
        (pair(&path("garbage"), &good.key), path("garbage"), "certificate does not parse"),
        (pair(&good.cert, &path("empty")), path("empty"), "no private key in it (expected PEM)"),
        (
            pair(&good.cert, &other.key),
            other.key.clone(),
            "private key does not match the certificate",
        ),
        (old.clone(), old.cert.clone(), "expired at "),
        (early.clone(), early.cert.clone(), "not valid before "),
    ] {
        let mut certificates = open(&state_dir);
        let problems = certificates.set_files(&[files, good.clone()], &[]);
        let [problem] = problems.as_slice() else { panic!("{reason}: {problems:?}") };
        assert_eq!(problem.thing, thing.display().to_string());
        assert!(problem.reason.starts_with(reason), "{} is not {reason}", problem.reason);
        let assembled =
            certificates.assemble(&[wanted("good.example.com", RouteTls::Auto)], &Stock::default());
        assert_eq!(assembled.trust, [Trust::Public], "{reason}");
        assert_eq!(assembled.reports[0].state, CertificateState::Failed);
        assert!(assembled.reports[0].last_error.is_some());
    }
}

#[test]
fn a_file_that_turns_bad_leaves_the_old_one_in_service_until_it_expires() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    let app = [wanted("app.example.com", RouteTls::Auto)];
    let files = [write_files(&state_dir, "app.example.com", OffsetDateTime::now_utc())];
    assert_eq!(certificates.set_files(&files, &[]), []);

    fs::write(&files[0].cert, "half a renew").expect("write");
    let problems = certificates.set_files(&files, &[]);
    assert_eq!(
        problems[0].reason,
        "no certificate in it (expected PEM); the certificate read before stays in service"
    );
    let assembled = certificates.assemble(&app, &Stock::default());
    assert_eq!(assembled.trust, [Trust::Public]);
    assert_eq!(assembled.reports[0].state, CertificateState::Valid);

    let expired = certificates.assemble_at(
        &app,
        &Stock::default(),
        OffsetDateTime::now_utc() + Duration::days(91),
    );
    assert_eq!(expired.trust, [Trust::None]);
    assert_eq!(expired.certificates.len(), 1);
    assert_eq!(expired.reports[0].state, CertificateState::Expired);

    assert_eq!(certificates.set_files(&[], &[]), []);
    assert_eq!(certificates.assemble(&app, &Stock::default()).trust, [Trust::None]);
}

/// What a CA has issued for these names, each in a certificate of its own.
fn stock(directory: &TempDir, names: &[&str], now: OffsetDateTime) -> Stock {
    let issued = names.iter().map(|name| {
        let files = write_files(directory, name, now);
        let text = |path: &Path| fs::read_to_string(path).expect("it was just written");
        let pair = Pair::parse(&text(&files.cert), &text(&files.key)).expect("a pair");
        let issued = Issued { pair: Arc::new(pair), origin: Default::default() };
        ((*name).to_owned(), issued)
    });
    Stock { issued: issued.collect(), ..Stock::default() }
}

fn agreed(acme: AcmeSettings) -> AcmeSettings {
    AcmeSettings { agree_tos: true, ..acme }
}

#[test]
fn who_may_be_ordered_for() {
    use RouteTls::*;
    let usual = || agreed(AcmeSettings::default());
    let asked = || AcmeSettings { automatic: false, ..usual() };
    let denied = || AcmeSettings { deny: vec!["*.example.com".parse().expect("it")], ..usual() };
    let order = |name: &str| Some(Source::Acme(vec![name.to_owned()]));
    for (acme, pattern, tls, want) in [
        (usual(), "app.example.com", Auto, order("app.example.com")),
        (usual(), "app.test", Auto, Some(Source::LocalCa("app.test".into()))),
        (usual(), "app.test", Acme, order("app.test")),
        (usual(), "192.0.2.1", Auto, Some(Source::Nobody)),
        (usual(), "192.0.2.1", Acme, order("192.0.2.1")),
        (usual(), "*.example.com", Auto, Some(Source::Nobody)),
        (usual(), "*.example.com", Acme, None),
        (usual(), "app.example.com", Off, Some(Source::Nobody)),
        (asked(), "app.example.com", Auto, Some(Source::Nobody)),
        (asked(), "app.example.com", Acme, order("app.example.com")),
        (denied(), "app.example.com", Auto, Some(Source::Nobody)),
        (denied(), "app.example.com", Acme, None),
        (AcmeSettings::default(), "app.example.com", Auto, Some(Source::Nobody)),
        (AcmeSettings::default(), "app.example.com", Acme, None),
    ] {
        let got = source(&wanted(pattern, tls), false, &acme).ok();
        assert_eq!(got, want, "{pattern} {tls:?}");
    }
}

#[test]
fn a_wildcard_in_hand_is_used_in_place_of_an_order() {
    let state_dir = state_dir();
    let now = OffsetDateTime::now_utc();
    let mut certificates = open(&state_dir);
    certificates.set_acme(agreed(AcmeSettings::default()));
    let stock = stock(&state_dir, &["*.example.com", "own.example.com"], now);
    let hosts = ["app.example.com", "own.example.com", "app.example.org"];
    let assembled = certificates.assemble(&hosts.map(|host| wanted(host, RouteTls::Auto)), &stock);
    assert_eq!(assembled.trust, [Trust::Public, Trust::Public, Trust::None]);
    let ids: Vec<&str> = assembled.desired.iter().map(Desired::id).collect();
    assert_eq!(ids, ["app.example.org", "own.example.com"]);
    let kinds: Vec<_> =
        assembled.reports.iter().map(|report| (report.kind, report.state)).collect();
    use CertificateState::{Pending, Valid};
    assert_eq!(
        kinds,
        [
            (CertificateKind::Acme, Valid),
            (CertificateKind::Acme, Pending),
            (CertificateKind::Acme, Valid),
            (CertificateKind::Default, Valid),
        ]
    );

    let late = now + Duration::days(91);
    let expired = certificates.assemble_at(&[wanted(hosts[0], RouteTls::Auto)], &stock, late);
    assert_eq!(expired.trust, [Trust::None]);
    assert_eq!(expired.desired[0].id(), "app.example.com");
    assert_eq!(expired.certificates.len(), 1);
}

#[test]
fn a_certificate_that_nobody_routes_any_more_is_not_served() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    certificates.set_acme(agreed(AcmeSettings::default()));
    let stock = stock(&state_dir, &["app.example.com"], OffsetDateTime::now_utc());
    let assembled = certificates.assemble(&[], &stock);
    assert_eq!((assembled.certificates.len(), assembled.desired.len()), (1, 0));
}

#[test]
fn what_a_container_lists_is_one_order() {
    let listed = |names: &[&str]| Asked::For(names.iter().map(|n| (*n).to_owned()).collect());
    let acme = agreed(AcmeSettings {
        automatic: false,
        deny: vec!["denied.example.com".parse().expect("pattern")],
        ..AcmeSettings::default()
    });
    let both = ["a.example.com", "b.example.com"];
    let order = |names: &[&str]| Ok(Source::Acme(names.iter().map(|n| (*n).to_owned()).collect()));
    for (agree_tos, host, asked, want) in [
        (true, "b.example.com", listed(&both), order(&both)),
        (true, "a.example.com", listed(&["a.example.com", "b.test"]), order(&["a.example.com"])),
        (
            true,
            "a.example.com",
            listed(&["denied.example.com", "a.example.com"]),
            order(&["a.example.com"]),
        ),
        (
            true,
            "denied.example.com",
            listed(&["denied.example.com", "a.example.com"]),
            Err("acme.allow and acme.deny do not permit an order".to_owned()),
        ),
        (true, "a.test", listed(&["a.test"]), Ok(Source::LocalCa("a.test".to_owned()))),
        (true, "192.0.2.1", listed(&["192.0.2.1"]), order(&["192.0.2.1"])),
        (true, "a.example.com", Asked::No, Ok(Source::Nobody)),
        (true, "a.example.com", Asked::Unsaid, Ok(Source::Nobody)),
        (
            false,
            "a.example.com",
            listed(&both),
            Err("ACME_HOST needs acme.agree_tos = true: nothing is ordered for a.example.com"
                .to_owned()),
        ),
    ] {
        let wish = Wish { asked, ..Wish::default() };
        let wanted = Wanted { wish, ..wanted(host, RouteTls::Auto) };
        let acme = AcmeSettings { agree_tos, ..acme.clone() };
        assert_eq!(source(&wanted, false, &acme), want, "{host}");
    }
}

#[test]
fn one_certificate_serves_all_of_its_hosts_and_is_ordered_as_they_say() {
    let state_dir = state_dir();
    let now = OffsetDateTime::now_utc();
    let mut certificates = open(&state_dir);
    certificates.set_acme(agreed(AcmeSettings::default()));
    let wish = Wish {
        asked: Asked::For(vec!["a.example.com".to_owned(), "b.example.com".to_owned()]),
        email: Some("me@example.com".to_owned()),
        key: Some(crate::config::KeyKind::Rsa2048),
        profile: Some("shortlived".to_owned()),
        directory: crate::config::Directory::named("letsencrypt-staging"),
        challenge: Some(crate::config::ChallengeKind::TlsAlpn01),
        cert_name: None,
        preferred_chain: Some("Root X".to_owned()),
        external_account: None,
    };
    let hosts = ["a.example.com", "b.example.com"]
        .map(|name| Wanted { wish: wish.clone(), ..wanted(name, RouteTls::Auto) });
    // One of them has a certificate of its own, from before.
    let stock = stock(&state_dir, &["b.example.com"], now);
    let assembled = certificates.assemble(&hosts, &stock);
    assert_eq!(assembled.trust, [Trust::None, Trust::Public]);
    let desired = Desired {
        names: vec!["a.example.com".to_owned(), "b.example.com".to_owned()],
        directories: wish.directory.into_iter().collect(),
        email: wish.email,
        challenges: vec![crate::config::ChallengeKind::TlsAlpn01],
        profile: wish.profile,
        preferred_chain: wish.preferred_chain,
        key: crate::config::KeyKind::Rsa2048,
        is_up: true,
    };
    assert_eq!(assembled.desired, [desired]);
}

#[test]
fn a_certificate_that_nobody_renews_is_replaced_before_it_ends() {
    let state_dir = state_dir();
    let now = OffsetDateTime::now_utc();
    let mut certificates = open(&state_dir);
    certificates.set_acme(agreed(AcmeSettings::default()));
    let stock = stock(&state_dir, &["*.example.com"], now);
    let host = [wanted("a.example.com", RouteTls::Auto)];
    let ids = |assembled: Assembled| -> Vec<String> {
        assert_eq!(assembled.trust, [Trust::Public]);
        assembled.desired.iter().map(|desired| desired.id().to_owned()).collect()
    };
    let early = certificates.assemble_at(&host, &stock, now + Duration::days(50));
    let due = OffsetDateTime::from(early.next_change);
    assert!(due < now + Duration::days(61), "{due}");
    assert_eq!(ids(early), [""; 0]);
    assert_eq!(ids(certificates.assemble_at(&host, &stock, due)), ["a.example.com"]);
}

#[test]
fn a_named_certificate_is_used_and_no_other() {
    let state_dir = state_dir();
    let mut certificates = open(&state_dir);
    let now = OffsetDateTime::now_utc();
    // `*.example.org` is in `_.example.org.crt`.
    let files = ["shared.example.com", "*.example.org", "a.example.com"]
        .map(|name| write_files(&state_dir, name, now));
    assert_eq!(certificates.set_files(&files, &[]), []);
    for (host, cert_name, want) in [
        ("a.example.com", "shared.example.com", Ok("shared.example.com")),
        ("a.example.com", "_.example.org", Ok("*.example.org")),
        ("a.example.com", "www.example.org", Ok("*.example.org")),
        ("app.test", "shared.example.com", Ok("shared.example.com")),
        ("app.test", "missing.example.com", Err(())),
    ] {
        let named = Named { name: cert_name.to_owned(), by: "c".to_owned() };
        let wish = Wish { cert_name: Some(named.clone()), ..Wish::default() };
        let host = Wanted { wish, ..wanted(host, RouteTls::Auto) };
        let assembled = certificates.assemble(std::slice::from_ref(&host), &Stock::default());
        let name = host.pattern.to_string();
        let with_name = assembled.certificates.iter().filter(|c| c.names.contains(&name));
        let shown: Vec<&str> = with_name.map(|c| c.names[0].as_str()).collect();
        let problems: Vec<String> = assembled.problems.iter().map(ToString::to_string).collect();
        match want {
            Ok(certificate) => {
                assert_eq!((shown, assembled.trust), (vec![certificate], vec![Trust::Public]));
                assert_eq!(problems, [""; 0]);
            }
            Err(()) => {
                assert_eq!(assembled.trust, [Trust::None]);
                assert_eq!(assembled.missing, [(host.pattern.clone(), named)]);
            }
        }
    }
}
