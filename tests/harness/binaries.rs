//! Where the built programs are: beside the tests that run.

use std::path::PathBuf;

/// `$BATON_BIN`, else the one of this build.
pub fn baton_binary() -> PathBuf {
    find("BATON_BIN", "baton", "cargo build")
}

/// `$BATON_UPSTREAM_BIN`, else the one of this build.
pub fn upstream_binary() -> PathBuf {
    find("BATON_UPSTREAM_BIN", "baton-upstream", "cargo build --package baton-load")
}

fn find(variable: &str, name: &str, build: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let test = std::env::current_exe().expect("the running test has a path");
    // target/PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).expect("tests run in target/PROFILE/deps");
    let path = profile.join(name);
    assert!(path.exists(), "{} is not there: run `{build}`", path.display());
    path
}
