//! Holds `docs/security.md` to the truth: the tests that it names exist, and its table is the one that is tested.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use causeway_tests::matrix::{rows, table};

const PAGE: &str = include_str!("../../docs/security.md");
/// Number of underscores from which on a word in backticks is the name of a test.
const UNDERSCORES_OF_A_NAME: usize = 4;

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("read a folder of the workspace") {
        let path = entry.expect("read a folder entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_test_that_the_page_on_security_names_exists() {
    let names: BTreeSet<&str> = PAGE
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.matches('_').count() >= UNDERSCORES_OF_A_NAME)
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut files = Vec::new();
    for part in ["gateway", "zone-sync", "tests"] {
        rust_files(&root.join(part), &mut files);
    }
    let texts: Vec<String> = files
        .iter()
        .map(|path| fs::read_to_string(path).expect("read a Rust file"))
        .collect();
    let missing: Vec<_> = names
        .iter()
        .filter(|name| !texts.iter().any(|text| text.contains(&format!("fn {name}("))))
        .collect();
    assert!(missing.is_empty(), "there is no test {missing:?}");
}

#[test]
fn the_table_of_the_page_on_security_is_the_one_that_is_tested() {
    let table = table(&rows());
    assert!(
        PAGE.contains(&table),
        "docs/security.md should hold this table:\n{table}"
    );
}
