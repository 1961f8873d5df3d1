//! Capabilities: what a peer's program can do beyond the first version of the tunnel protocol, as its hello tells.

use std::collections::BTreeSet;

use super::credit;

/// Most capabilities of a peer that are kept.
const MAX_CAPABILITIES: usize = 32;
/// Longest capability that is kept.
const MAX_CAPABILITY_BYTES: usize = 32;

/// Capability of answering for connections to instances that the peer has opened itself.
pub const OPENED: &str = "opened";
/// Capability of telling the ports of a service apart by their names.
pub const PORTS: &str = "ports";

/// Capability of telling what clients ask for.
pub const DEMAND: &str = "demand";
/// Capability of answering for pages of the admin API.
pub const PAGE: &str = "page";

/// Capabilities of this program: the kinds of streams that it serves, by the names of their headers, and what else it does.
pub(super) const OWN: [&str; 11] = [
    "ca",
    "connect",
    credit::CAPABILITY,
    DEMAND,
    OPENED,
    PAGE,
    PORTS,
    "sync",
    "topology",
    "trust",
    credit::WINDOWS_CAPABILITY,
];

/// Words from a peer's hello; those of a later program may be unknown here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<String>);

impl Capabilities {
    /// Keeps what a hello tells, within bounds.
    #[must_use]
    pub fn heard(told: Vec<String>) -> Self {
        let short = |word: &String| word.len() <= MAX_CAPABILITY_BYTES;
        Self(told.into_iter().take(MAX_CAPABILITIES).filter(short).collect())
    }

    /// Tells whether the peer has this one.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.0.contains(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_tells_is_kept_within_bounds() {
        let mut told: Vec<_> = (0..100).map(|number| format!("word{number}")).collect();
        told.insert(0, "x".repeat(MAX_CAPABILITY_BYTES + 1));
        let kept = Capabilities::heard(told);
        assert_eq!(kept.0.len(), MAX_CAPABILITIES - 1);
        assert!(kept.has("word0") && !kept.has("word99"));
    }

    #[test]
    fn this_program_tells_no_more_than_is_kept() {
        let own = Capabilities::heard(OWN.map(str::to_owned).to_vec());
        assert!(OWN.iter().all(|word| own.has(word)));
    }
}
