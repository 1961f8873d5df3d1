//! Target `topology`: text as a topology file, from parsing to what is printed about it. Whatever the text is, there is a
//! topology or there are findings, and both can be shown.

use causeway_federation::topology::{self, Style};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let findings = match topology::parse(text, "fuzz.yaml") {
        Ok(parsed) => {
            assert!(
                topology::diff(&parsed.topology, &parsed.topology).is_empty(),
                "a topology differs from itself"
            );
            assert_eq!(parsed.warnings.errors(), 0, "a topology with errors was accepted");
            parsed.warnings
        }
        Err(findings) => {
            assert!(findings.errors() > 0, "a topology was refused without an error");
            findings
        }
    };
    assert!(findings.iter().count() <= topology::MAX_DIAGNOSTICS);
    for style in [Style::Plain, Style::Colour] {
        let shown = findings.render(style);
        assert_eq!(
            shown.is_empty(),
            findings.is_empty(),
            "findings are shown as nothing"
        );
    }
}

/// The examples of the repository, and the files that its tests know to be wrong.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    // This file is compiled in two packages, one folder apart.
    let root = if root.ends_with("fuzz/") {
        format!("{root}../../")
    } else {
        format!("{root}../")
    };
    ["topologies", "zone-sync/federation/tests/invalid"]
        .iter()
        .flat_map(|folder| {
            std::fs::read_dir(format!("{root}{folder}")).expect("read a folder of the repository")
        })
        .map(|entry| entry.expect("read a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(&path).expect("read a topology"))
        })
        .collect()
}
