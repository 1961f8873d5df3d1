//! Whole topology files: every example holds, and every mistake has a message that says what to do.
//!
//! `invalid/NAME.yaml` is read and all that is said about it is compared with `invalid/NAME.stderr`. Run with
//! `BLESS=1` to write the expected output anew, and read the difference before keeping it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use causeway_zone_sync::topology::{Diagnostics, Style, parse};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).expect("the folder is part of the repository");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no topologies", folder.display());
    paths
}

fn findings(path: &Path) -> Diagnostics {
    let text = fs::read_to_string(path).expect("a readable file");
    let name = path.file_name().expect("a file name").to_string_lossy();
    match parse(&text, &name) {
        Ok(parsed) => parsed.warnings,
        Err(findings) => findings,
    }
}

#[test]
fn every_example_holds_without_errors_or_warnings() {
    for path in files("../topologies") {
        let findings = findings(&path);
        assert!(findings.is_empty(), "{findings:?}");
    }
}

#[test]
fn every_mistake_is_reported_at_its_place_with_a_hint() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for path in files("tests/invalid") {
        let findings = findings(&path);
        assert!(!findings.is_empty(), "{} has nothing wrong with it", path.display());
        let shown = format!("{}{}\n", findings.render(Style::Plain), findings.summary());
        let expected_path = path.with_extension("stderr");
        if bless {
            fs::write(&expected_path, &shown).expect("a writable folder");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            different.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(different.is_empty(), "the output has changed:\n{}", different.join("\n"));
}
