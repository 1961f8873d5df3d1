//! Order of applied topologies, which everybody can tell alike.

use std::cmp::Reverse;

use super::TopologyDocument;
use crate::{
    edition::{Edition, Fingerprint},
    name::GatewayId,
};

/// Rank of a topology: of two, the greater one rules. Of two of one generation it is the one whose author has the lower name, and of
/// two that one gateway made the one with the lower fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopologyRank {
    generation: u64,
    lower_rules: Reverse<(Option<GatewayId>, [u8; Fingerprint::COMPARED_BYTES])>,
}

impl TopologyRank {
    pub(super) fn new(edition: Edition, by: Option<&GatewayId>) -> Self {
        let mut compared = [0; Fingerprint::COMPARED_BYTES];
        compared.copy_from_slice(edition.fingerprint.compared());
        Self {
            generation: edition.generation,
            lower_rules: Reverse((by.cloned(), compared)),
        }
    }

    pub(super) fn of(document: &TopologyDocument) -> Self {
        Self::new(document.edition(), Some(document.by()))
    }
}
