//! House rules that neither the compiler nor clippy holds: sizes, the direction of dependencies, what the manifests say.
//!
//! Each test names every offender in one run. Function length is clippy's (`too_many_lines`, clippy.toml).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Longest Rust file in lines, its tests included; generated code is exempt.
const MAX_FILE_LINES: usize = 500;
/// The crates of the workspace, each of which may use only those before it.
const DIRECTION: [&str; 4] = [
    "causeway-proto",
    "causeway-zone-sync",
    "causeway",
    "causeway-tests",
];
/// Crates that must not be in the tree; deny.toml says why for each.
const FORBIDDEN: [&str; 4] = ["ring", "openssl-sys", "native-tls", "serde_yaml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies in the workspace")
        .to_owned()
}

/// Every file below the workspace with this extension, build output and hidden folders left out.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("read a folder of the workspace") {
            let path = entry.expect("read a folder entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    let own = files("rs").into_iter().filter(|p| !is_generated(p));
    own.map(|p| (p.clone(), fs::read_to_string(&p).expect("read a Rust file")))
        .collect()
}

fn is_generated(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "generated")
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn assert_none(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("run cargo");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {problem}", arguments[0]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The packages of the workspace as cargo itself reads their manifests.
fn packages() -> Vec<Value> {
    let text = cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&text).expect("read cargo metadata");
    metadata["packages"]
        .as_array()
        .expect("a list of packages")
        .clone()
}

fn dependencies(package: &Value) -> Vec<&str> {
    let list = package["dependencies"]
        .as_array()
        .expect("a list of dependencies");
    list.iter().filter_map(|d| d["name"].as_str()).collect()
}

#[test]
fn dependencies_point_one_way() {
    let packages = packages();
    let names: Vec<_> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let unplaced = names.iter().filter(|n| !DIRECTION.contains(n));
    let mut offenders: Vec<_> = unplaced
        .map(|n| format!("{n}: say in DIRECTION where it stands"))
        .collect();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let place = DIRECTION.iter().position(|d| *d == name);
        for used in dependencies(package) {
            let used_place = DIRECTION.iter().position(|d| *d == used);
            if used_place.is_some() && used_place >= place {
                offenders.push(format!("{name} uses {used}"));
            }
        }
    }
    assert_none(
        "dependencies point proto <- zone-sync <- gateway <- tests",
        &offenders,
    );
}

#[test]
fn no_rust_file_is_too_long() {
    let lengths = rust_files()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()));
    let offenders: Vec<_> = lengths
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", relative(&path)))
        .collect();
    assert_none(
        &format!("a file has at most {MAX_FILE_LINES} lines; split it by topic"),
        &offenders,
    );
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"));
    let offenders: Vec<_> = silent.map(|(path, _)| relative(&path)).collect();
    assert_none(
        "a Rust file begins with a `//!` comment: its purpose, and what it leaves to others",
        &offenders,
    );
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // Spelled in two parts, so that this file does not find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("to", "do!("),
        concat!("#[ig", "nore"),
    ];
    let mut offenders = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                offenders.push(format!("{}:{}: {}", relative(&path), number + 1, line.trim()));
            }
        }
    }
    assert_none(
        "what is to be done later is an issue, and a test that cannot run fails",
        &offenders,
    );
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let manifests = packages()
        .into_iter()
        .filter_map(|p| p["manifest_path"].as_str().map(PathBuf::from));
    let offenders: Vec<_> = manifests
        .filter(|path| {
            let text = fs::read_to_string(path).expect("read a manifest");
            !text.contains("[lints]\nworkspace = true")
        })
        .map(|path| relative(&path))
        .collect();
    assert_none("a manifest has `[lints] workspace = true`", &offenders);
}

/// `[workspace.dependencies]`, as name and whether a comment stands above its group of lines.
fn workspace_dependencies() -> BTreeMap<String, bool> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("read the root manifest");
    let section = manifest
        .split("[workspace.dependencies]\n")
        .nth(1)
        .expect("find the section");
    let mut explained = false;
    let mut entries = BTreeMap::new();
    for line in section.lines().take_while(|line| !line.starts_with('[')) {
        match line.split_once(" = ") {
            _ if line.starts_with('#') => explained = true,
            Some((name, _)) if !line.starts_with([' ', ']']) => {
                entries.insert(name.to_owned(), explained || DIRECTION.contains(&name));
            }
            _ if line.is_empty() => explained = false,
            _ => {}
        }
    }
    entries
}

#[test]
fn every_dependency_says_why_it_is_there_and_is_used() {
    let used: BTreeSet<String> = packages()
        .iter()
        .flat_map(|p| dependencies(p).into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut offenders = Vec::new();
    for (name, explained) in workspace_dependencies() {
        if !explained {
            offenders.push(format!("{name}: no comment above it"));
        }
        if !used.contains(&name) {
            offenders.push(format!("{name}: no crate uses it"));
        }
    }
    assert_none(
        "an entry of [workspace.dependencies] is explained and used",
        &offenders,
    );
}

#[test]
fn every_dependency_is_used_by_the_crate_that_names_it() {
    let mut offenders = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = PathBuf::from(package["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.parent().expect("a manifest lies in a folder");
        let sources: String = files("rs")
            .into_iter()
            .filter(|path| path.starts_with(folder))
            .map(|path| fs::read_to_string(path).expect("read a Rust file"))
            .collect();
        for used in dependencies(&package) {
            let identifier = used.replace('-', "_");
            if !sources.contains(&format!("{identifier}::"))
                && !sources.contains(&format!("use {identifier};"))
            {
                offenders.push(format!("{name}: {used}"));
            }
        }
    }
    assert_none("a crate names only dependencies that its code uses", &offenders);
}

#[test]
fn no_forbidden_crate_is_in_the_tree() {
    // Cargo.lock also names optional crates that nothing switches on, so the tree itself is asked.
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--edges=all",
        "--prefix=none",
        "--locked",
        "--offline",
    ]);
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let offenders: Vec<_> = FORBIDDEN
        .iter()
        .filter(|name| names.contains(*name))
        .map(|name| (*name).to_owned())
        .collect();
    assert_none("deny.toml bans these crates", &offenders);
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
            if !target.is_empty() && !outside && !folder.join(target).exists() {
                offenders.push(format!("{}: {link}", relative(&path)));
            }
        }
    }
    assert_none("a relative link leads to a file", &offenders);
}
