//! House rules that neither the compiler nor clippy holds: sizes, the direction of dependencies, what the manifests say.
//!
//! Each test names every offender in one run. Function length is clippy's (`too_many_lines`, clippy.toml). Documents are held
//! in `tidy/documents.rs`, the names of types in `tidy/names.rs`, the beginnings of doc comments in `tidy/words.rs`.

#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/words.rs"]
mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Longest Rust file in lines, its tests included; generated code is exempt.
const MAX_FILE_LINES: usize = 500;
/// The crates of the workspace, bottom up, and which of the others each may use. ARCHITECTURE.md has the same table with reasons.
const LAYERS: [(&str, &[&str]); 17] = [
    ("proto", &[]),
    ("federation", &["proto"]),
    ("host", &[]),
    ("zone-sync", &["proto", "federation", "host"]),
    ("routing", &["federation"]),
    ("telemetry", &["federation", "host", "routing"]),
    (
        "identity",
        &["proto", "federation", "zone-sync", "host", "telemetry"],
    ),
    ("dns", &["federation", "host", "routing", "telemetry"]),
    ("history", &["federation", "host", "routing", "telemetry"]),
    (
        "tunnel",
        &["proto", "federation", "host", "routing", "telemetry", "identity"],
    ),
    (
        "authority",
        &["proto", "federation", "host", "telemetry", "identity"],
    ),
    (
        "instances",
        &[
            "proto",
            "federation",
            "zone-sync",
            "host",
            "routing",
            "telemetry",
            "identity",
            "dns",
        ],
    ),
    (
        "proxy",
        &[
            "proto",
            "federation",
            "host",
            "routing",
            "telemetry",
            "identity",
            "dns",
            "tunnel",
        ],
    ),
    (
        "control",
        &[
            "proto",
            "federation",
            "zone-sync",
            "host",
            "routing",
            "telemetry",
            "identity",
            "tunnel",
            "authority",
        ],
    ),
    (
        "api",
        &[
            "proto",
            "federation",
            "zone-sync",
            "host",
            "routing",
            "telemetry",
            "identity",
            "history",
            "tunnel",
            "instances",
            "control",
        ],
    ),
    (
        "",
        &[
            "proto",
            "federation",
            "host",
            "zone-sync",
            "routing",
            "telemetry",
            "identity",
            "dns",
            "history",
            "tunnel",
            "authority",
            "instances",
            "proxy",
            "control",
            "api",
        ],
    ),
    ("tests", &["proto", "federation", "zone-sync", "host"]),
];
/// Crates of values and decisions alone, which must not even have the means for anything else in their tree.
const PURE: [&str; 2] = ["causeway-federation", "causeway-routing"];
/// Means of I/O, tasks and logs.
const IMPURE: [&str; 7] = ["tokio", "tonic", "hyper", "quinn", "rustls", "redb", "tracing"];
/// The only crates that may name the QUIC library: what carries a stream is known to the tunnel crate alone, and `tests`
/// has peers that break the protocol.
const NAME_QUIC: [&str; 2] = ["causeway-tunnel", "causeway-tests"];
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

/// Gives the folder that a package's manifest lies in.
fn folder_of(package: &Value) -> PathBuf {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
    manifest.parent().expect("a manifest lies in a folder").to_owned()
}

fn dependencies(package: &Value) -> Vec<&str> {
    let list = package["dependencies"]
        .as_array()
        .expect("a list of dependencies");
    list.iter().filter_map(|d| d["name"].as_str()).collect()
}

/// Name of a package of the workspace as [`LAYERS`] has it; the program's is empty.
fn layer(package: &str) -> Option<&str> {
    match package.strip_prefix("causeway")? {
        "" => Some(""),
        rest => rest.strip_prefix('-'),
    }
}

#[test]
fn crates_use_only_the_layers_that_they_may() {
    let mut offenders = Vec::new();
    for package in &packages() {
        let name = package["name"].as_str().unwrap_or_default();
        let placed = LAYERS
            .iter()
            .find(|(layer_name, _)| Some(*layer_name) == layer(name));
        let Some((own, allowed)) = placed else {
            offenders.push(format!("{name}: say in LAYERS where it stands"));
            continue;
        };
        let used = dependencies(package).into_iter().filter_map(layer);
        // A crate's own tests may switch on what it keeps for tests.
        let strange = used.filter(|used| used != own && !allowed.contains(used));
        offenders.extend(strange.map(|used| format!("{name} uses {used}")));
    }
    assert_none("what each crate may use stands in LAYERS", &offenders);
}

#[test]
fn layers_are_listed_bottom_up() {
    let mut below = BTreeSet::new();
    let mut offenders = Vec::new();
    for (own, allowed) in LAYERS {
        let upward = allowed.iter().filter(|used| !below.contains(*used));
        offenders.extend(upward.map(|used| format!("{own} would use {used}")));
        below.insert(own);
    }
    assert_none("a layer uses only those below it", &offenders);
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
                entries.insert(name.to_owned(), explained || name.starts_with("causeway-"));
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
    let packages = packages();
    let folders: Vec<_> = packages.iter().map(folder_of).collect();
    // A crate may lie within another's folder; a file is of the innermost.
    let owner = |path: &Path| {
        let around = folders.iter().filter(|folder| path.starts_with(folder));
        around.max_by_key(|folder| folder.components().count())
    };
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let folder = folder_of(package);
        let sources: String = files("rs")
            .into_iter()
            .filter(|path| owner(path) == Some(&folder))
            .map(|path| fs::read_to_string(path).expect("read a Rust file"))
            .collect();
        for used in dependencies(package) {
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
fn only_the_tunnel_crate_names_the_quic_library() {
    let mut offenders = Vec::new();
    for package in &packages() {
        let name = package["name"].as_str().unwrap_or_default();
        let quic = dependencies(package)
            .into_iter()
            .filter(|used| used.starts_with("quinn"));
        if !NAME_QUIC.contains(&name) {
            offenders.extend(quic.map(|used| format!("{name}: {used}")));
        }
    }
    assert_none("a crate has streams and links from causeway-tunnel", &offenders);
}

#[test]
fn a_pure_crate_has_no_means_of_io_tasks_or_logs() {
    let mut offenders = Vec::new();
    for pure in PURE {
        let tree = cargo(&[
            "tree",
            "--package",
            pure,
            "--edges=normal",
            "--prefix=none",
            "--locked",
            "--offline",
        ]);
        let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        let held = IMPURE.iter().filter(|name| names.contains(*name));
        offenders.extend(held.map(|name| format!("{pure}: {name}")));
    }
    assert_none("a pure crate knows values and decisions alone", &offenders);
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
