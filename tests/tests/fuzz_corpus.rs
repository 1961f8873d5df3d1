//! Replays the kept corpus of every fuzz target through the code that is fuzzed, and its seeds, so that neither rots.
//! Finding new inputs is `make fuzz`'s.

#![allow(clippy::unwrap_used, reason = "what fails in a test program fails the test")]

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code)]
mod fuzz;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_input_of_the_corpus_still_passes() {
    let mut failed = Vec::new();
    for target in fuzz::TARGETS {
        let folder = corpus().join(target.name);
        for name in names(&folder) {
            let bytes = fs::read(folder.join(&name)).unwrap();
            if catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
                failed.push(format!("{}/{name}", target.name));
            }
        }
    }
    assert!(failed.is_empty(), "these inputs fail: {failed:#?}");
}

#[test]
fn every_seed_passes() {
    for target in fuzz::TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (_, bytes) in seeds {
            (target.run)(&bytes);
        }
    }
}

#[test]
fn every_folder_of_the_corpus_has_a_target() {
    let targets = fuzz::TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert_eq!(names(&corpus()), targets);
}
