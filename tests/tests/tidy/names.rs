//! Holds that a type name stands for one thing wherever it can be imported.

use std::collections::BTreeMap;

use super::{assert_none, relative, rust_files};

/// The topology file as it is written, name for name as the model that it becomes.
const TWIN_OF_THE_MODEL: &str = "zone-sync/federation/src/topology/raw.rs";
/// Ends of paths of code that only tests use.
const APART: [&str; 3] = ["tests.rs", "testing.rs", "testbed.rs"];

fn is_held(path: &str) -> bool {
    path != TWIN_OF_THE_MODEL
        && !path.contains("tests/")
        && !path.contains("/benches/")
        && !APART.iter().any(|end| path.ends_with(end))
}

/// The type that a line declares for others to import: `pub(in crate::a) struct Name<T> {`.
fn declared(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let kinds = ["struct", "enum", "trait", "type"];
    let kind = words.iter().take(3).position(|word| kinds.contains(word))?;
    words
        .get(kind + 1)?
        .split(|letter: char| !letter.is_alphanumeric())
        .next()
}

#[test]
fn a_type_name_that_can_be_imported_stands_for_one_thing() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in rust_files() {
        let path = relative(&path);
        if !is_held(&path) {
            continue;
        }
        // Indented are the modules of tests, and the types that belong to a trait.
        let top = text.lines().filter(|line| line.starts_with("pub"));
        for name in top.filter_map(declared) {
            places.entry(name.to_owned()).or_default().push(path.clone());
        }
    }
    assert!(
        places.len() > 500,
        "only {} types were found: this test is blind",
        places.len()
    );
    let shared = places.iter().filter(|(_, paths)| paths.len() > 1);
    let offenders: Vec<String> = shared
        .map(|(name, paths)| format!("{name}: {}", paths.join(", ")))
        .collect();
    assert_none(
        "a type name says of what it is, so that no two types share it",
        &offenders,
    );
}
