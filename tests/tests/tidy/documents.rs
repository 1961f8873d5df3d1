//! Rules for documents: links and paths lead somewhere, and the map of the code is short and has the layers that are held.

use std::{collections::BTreeSet, fs, path::Path};

use super::{LAYERS, assert_none, files, relative, root};

/// Most words of ARCHITECTURE.md, so that it is read: what is longer belongs in docs/ or beside the code.
const MAX_ARCHITECTURE_WORDS: usize = 2_500;

/// Layers as the table of ARCHITECTURE.md has them: each crate with those that it may use.
fn layers_of_the_map(map: &str) -> Vec<(String, Vec<String>)> {
    let table = map.split("| crate | ").nth(1).expect("find the table of layers");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut layers: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[1]
            .trim_start_matches('[')
            .split(']')
            .next()
            .unwrap_or_default();
        let name = if name == "causeway" { "" } else { name };
        let used = match cells[3] {
            "nothing" => Vec::new(),
            "all above" => layers.iter().map(|(above, _)| above.clone()).collect(),
            some => some.split(", ").map(str::to_owned).collect(),
        };
        layers.push((name.to_owned(), used));
    }
    layers
}

fn architecture() -> String {
    fs::read_to_string(root().join("ARCHITECTURE.md")).expect("read ARCHITECTURE.md")
}

#[test]
fn the_map_has_the_layers_that_are_held() {
    let held: Vec<(String, Vec<String>)> = LAYERS
        .iter()
        .map(|(name, used)| ((*name).to_owned(), used.iter().map(|u| (*u).to_owned()).collect()))
        .collect();
    assert_eq!(
        layers_of_the_map(&architecture()),
        held,
        "ARCHITECTURE.md has the table of LAYERS, in the same order"
    );
}

#[test]
fn the_map_is_short() {
    let text = architecture();
    let words = text
        .split_whitespace()
        .filter(|word| word.contains(char::is_alphanumeric))
        .count();
    assert!(
        words <= MAX_ARCHITECTURE_WORDS,
        "ARCHITECTURE.md has {words} words; more than {MAX_ARCHITECTURE_WORDS} belong in docs/ or beside the code"
    );
}

#[test]
fn paths_that_documents_name_exist() {
    let tops = [
        "gateway/",
        "zone-sync/",
        "proto/",
        "tests/",
        "docs/",
        "packaging/",
        "topologies/",
    ];
    let mut offenders = Vec::new();
    for path in files("md") {
        let text = fs::read_to_string(&path).expect("read a document");
        for code in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = tops.iter().any(|top| code.starts_with(top)) && !code.contains([' ', '*', '<']);
            if is_path && !root().join(code).exists() {
                offenders.push(format!("{}: {code}", relative(&path)));
            }
        }
    }
    assert_none("a document names files that there are", &offenders);
}

/// Names under which the headings of a document can be linked to, as GitHub makes them.
fn anchors(document: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(document).expect("read a document");
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| -> String {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(name).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut offenders = Vec::new();
    for path in files("md") {
        let text = fs::read_to_string(&path).expect("read a document");
        let folder = path.parent().expect("a document lies in a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split(['#', ' ']).next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if outside {
                continue;
            }
            let meant = if target.is_empty() {
                path.clone()
            } else {
                folder.join(target)
            };
            let chapter = link.split_once('#').map(|(_, chapter)| chapter);
            let leads = meant.exists() && chapter.is_none_or(|chapter| anchors(&meant).contains(chapter));
            if !leads {
                offenders.push(format!("{}: {link}", relative(&path)));
            }
        }
    }
    assert_none(
        "a relative link leads to a file, and to a heading in it",
        &offenders,
    );
}
