//! Runs over fuzzed bytes: for each target a `run` that takes anything and panics only on a bug, and `seeds`,
//! made from real values, that a corpus begins with.
//!
//! libFuzzer calls `run` from `targets/`; the workspace's tests include this file as a module and replay the whole corpus,
//! so that neither can rot. Only what the crates make public is called here.

pub mod registration;
pub mod registry;
pub mod requests;
pub mod stored;
pub mod sync;
pub mod topology;
pub mod trust;
pub mod tunnel;

/// A target: its name, which is also its folder in the corpus, and its two functions.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Name and content of each seed.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "registration",
        run: registration::run,
        seeds: registration::seeds,
    },
    Target {
        name: "registry",
        run: registry::run,
        seeds: registry::seeds,
    },
    Target {
        name: "requests",
        run: requests::run,
        seeds: requests::seeds,
    },
    Target {
        name: "stored",
        run: stored::run,
        seeds: stored::seeds,
    },
    Target {
        name: "sync",
        run: sync::run,
        seeds: sync::seeds,
    },
    Target {
        name: "topology",
        run: topology::run,
        seeds: topology::seeds,
    },
    Target {
        name: "trust",
        run: trust::run,
        seeds: trust::seeds,
    },
    Target {
        name: "tunnel",
        run: tunnel::run,
        seeds: tunnel::seeds,
    },
];
