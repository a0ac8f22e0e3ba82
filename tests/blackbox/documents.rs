//! What the documents name is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("in the repository").to_owned()
}

/// The tests that a document names, as `file::name` in backticks in a row of a table.
fn named(document: &str) -> BTreeSet<&str> {
    let rows = document.lines().filter(|line| line.starts_with('|'));
    let cells = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    cells.filter(|cell| cell.contains("::")).collect()
}

#[test]
fn the_comparison_names_tests_that_there_are() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let named = named(&readme);
    assert!(named.len() > 20, "{named:?}");
    let is_there = |test: &&str| {
        let (file, name) = test.split_once("::").expect("by its file");
        let file = root().join("tests").join("blackbox").join(format!("{file}.rs"));
        fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {name}(")))
    };
    let missing: Vec<_> = named.iter().filter(|test| !is_there(test)).collect();
    assert_eq!(missing, Vec::<&&str>::new());
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    let in_docs = fs::read_dir(root().join("docs")).expect("docs");
    let in_docs = in_docs.map(|entry| entry.expect("an entry").path());
    let mut lost = Vec::new();
    for document in documents.map(|name| root().join(name)).into_iter().chain(in_docs) {
        let Ok(text) = fs::read_to_string(&document) else { continue };
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let is_file = !path.is_empty() && !path.contains("://") && !path.contains(' ');
            if is_file && !document.parent().expect("in the repository").join(path).exists() {
                lost.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert_eq!(lost, Vec::<String>::new());
}
