//! Counts doc comments that begin with a clause without a head ("What…", "Whether…", "Who…"), crate by crate.
//!
//! CONTRIBUTING.md says why a noun or a verb comes first. The numbers only go down: whoever passes by and mends some writes
//! the new number here.

use std::collections::BTreeMap;

use super::{assert_none, relative, rust_files};

/// Words that begin such a clause.
const CLAUSES: [&str; 10] = [
    "What", "Whether", "Who", "Whom", "Whose", "Which", "How", "Where", "When", "Why",
];
/// Folders of crates, and how many such comments are left in each. A file belongs to the longest that it lies in.
const CEILINGS: [(&str, usize); 17] = [
    ("gateway", 0),
    ("gateway/api", 0),
    ("gateway/authority", 0),
    ("gateway/control", 0),
    ("gateway/dns", 0),
    ("gateway/history", 0),
    ("gateway/host", 0),
    ("gateway/identity", 0),
    ("gateway/instances", 0),
    ("gateway/proxy", 0),
    ("gateway/routing", 0),
    ("gateway/telemetry", 0),
    ("gateway/tunnel", 0),
    ("proto", 0),
    ("tests", 0),
    ("zone-sync", 0),
    ("zone-sync/federation", 0),
];
/// A count may be this far below its ceiling, so that two changes at once need not agree on the number.
const SLACK: usize = 10;

/// The line numbers at which a doc comment begins with such a clause.
fn headless(text: &str) -> Vec<usize> {
    let is_doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
    let mut found = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().map(str::trim).enumerate() {
        let first = line.get(3..).unwrap_or_default().split_whitespace().next();
        let begins = is_doc(line) && !inside;
        if begins && first.is_some_and(|word| CLAUSES.contains(&word)) {
            found.push(number + 1);
        }
        inside = is_doc(line);
    }
    found
}

fn folder_of(path: &str) -> &'static str {
    let around = CEILINGS.iter().map(|(folder, _)| *folder).filter(|folder| {
        path.strip_prefix(folder)
            .is_some_and(|rest| rest.starts_with('/'))
    });
    around
        .max_by_key(|folder| folder.len())
        .expect("CEILINGS names the folder of every crate")
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    let mut counts: BTreeMap<&str, Vec<String>> = CEILINGS.map(|(folder, _)| (folder, Vec::new())).into();
    for (path, text) in rust_files() {
        let path = relative(&path);
        let found = counts.entry(folder_of(&path)).or_default();
        found.extend(headless(&text).iter().map(|line| format!("{path}:{line}")));
    }
    let mut offenders = Vec::new();
    for (folder, ceiling) in CEILINGS {
        let found = &counts[folder];
        if found.len() > ceiling {
            let last = found.iter().rev().take(3).cloned().collect::<Vec<_>>().join(", ");
            offenders.push(format!(
                "{folder}: {} and at most {ceiling}, such as {last}",
                found.len()
            ));
        } else if found.len() + SLACK < ceiling {
            offenders.push(format!(
                "{folder}: lower its ceiling from {ceiling} to {}",
                found.len()
            ));
        }
    }
    assert_none(
        "a doc comment begins with a noun or a verb, not with a clause",
        &offenders,
    );
}
