//! Two trust domains as tests need them. For tests of this crate and, by the feature `test-util`, of those above it.

#![allow(clippy::unwrap_used, reason = "what fails in a test's set-up fails the test")]

use causeway_federation::topology::{Topology, parse};

use crate::ca;

/// The trust domain of most zones of [`partners`], and of its zone plant.
pub const OURS: &str = "acme.internal";
pub const THEIRS: &str = "partner.example";

/// Two trust domains, whose bundles hold these CAs: north is of [`OURS`], plant of [`THEIRS`], and east of `east`.
pub fn partners(east: &str, ours: &ca::Ca, theirs: &[&ca::Ca]) -> Topology {
    let indented = |ca: &ca::Ca| ca.roots_pem().trim_end().replace('\n', "\n      ");
    let theirs: Vec<_> = theirs.iter().map(|ca| indented(ca)).collect();
    let text = format!(
        "version: 1\ntrust_domain: {OURS}\napply_from: [east]\ntrust_domains:\n  {OURS}:\n    bundle: |\n      {}\n  {THEIRS}:\n    bundle: |\n      \
         {}\nzones:\n  east: {{ gateways: [gw.east:7800], trust_domain: {east} }}\n  north: {{ gateways: [gw.north:7800] }}\n  plant: {{ \
         gateways: [gw.plant:7800], trust_domain: {THEIRS} }}\n",
        indented(ours),
        theirs.join("\n      "),
    );
    let parsed = parse(&text, "test.yaml").unwrap_or_else(|findings| panic!("{findings:?}\n{text}"));
    parsed.topology
}
