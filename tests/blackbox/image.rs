//! The image of deploy/docker, made of the binary under test, and run as its compose file says.

use std::path::{Path, PathBuf};
use std::process::Command;

use baton_tests::{Container, Docker, baton_binary, until};

use crate::stage::{LIMIT, text};

const IMAGE: &str = "baton-test-image";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_serves_containers_with_little_power_and_says_that_it_is_healthy() {
    let docker = Docker::connect();
    let context = tempfile::tempdir().expect("temp dir");
    build(&docker, context.path());
    let environment = [("VIRTUAL_HOST", "image.test"), ("VIRTUAL_PORT", "8080")];
    let app = docker.run_options("app", &environment, &[], &["--listen", "0.0.0.0:8080"]);
    // Between two containers a host's packet filter may stand: Docker opens it where it may write
    // rules, which the daemon of a test does not.
    let network = format!("--network=container:{}", app.name());
    let socket = docker.endpoint().trim_start_matches("unix://").to_owned();
    let name = format!("baton-test-{}-image", std::process::id());
    let mount = format!("{socket}:/var/run/docker.sock");
    let _baton = Container::started(&docker, &name);
    docker.do_it(&[
        "run",
        "--detach",
        "--name",
        &name,
        "--volume",
        &mount,
        &network,
        "--read-only",
        "--tmpfs=/run/baton",
        "--tmpfs=/tmp",
        "--cap-drop=ALL",
        "--cap-add=NET_BIND_SERVICE",
        "--cap-add=SETUID",
        "--cap-add=SETGID",
        "--security-opt=no-new-privileges:true",
        "--health-interval=1s",
        IMAGE,
    ]);
    until("its health", LIMIT, async || {
        let health = docker.do_it(&["inspect", "--format", "{{.State.Health.Status}}", &name]);
        (health == "healthy").then_some(())
    })
    .await;
    let resolve = format!("image.test:80:{}", app.address());
    let ask = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", &resolve];
    until("the route", LIMIT, async || {
        let output = Command::new("curl").args(ask).arg("http://image.test/").output();
        // To HTTPS, by a certificate of the local CA.
        (output.expect("curl").stdout == b"301").then_some(())
    })
    .await;
    let routes = docker.do_it(&["exec", &name, "/usr/bin/baton", "routes"]);
    assert!(routes.contains(app.name()), "{routes}");
    let status = docker.do_it(&["exec", &name, "/usr/bin/baton", "status"]);
    assert!(status.contains("user 65534, no capability"), "{status}");
}

/// What the Dockerfile does once the binary is compiled.
fn build(docker: &Docker, context: &Path) {
    let staged = Command::new(delivered("stage.sh"))
        .arg(baton_binary())
        .arg(context.join("image"))
        .output()
        .expect("stage.sh");
    assert!(staged.status.success(), "{staged:?}");
    let dockerfile = std::fs::read_to_string(delivered("Dockerfile")).expect("the Dockerfile");
    let (_, last) = dockerfile.split_once("\nFROM scratch\n").expect("its last stage");
    let last = format!("FROM scratch\n{last}").replace("--from=build /image ", "image ");
    std::fs::write(context.join("Dockerfile"), last).expect("a Dockerfile");
    docker.do_it(&["build", "--quiet", "--tag", IMAGE, text(context)]);
}

fn delivered(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/docker").join(name)
}
