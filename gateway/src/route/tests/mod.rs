//! What the decision's tests share; `rules` go filter by filter, `invariants` hold for any input.

mod invariants;
mod rules;

use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::testbed;

fn orders() -> Target {
    Target::service(testbed::service("orders"))
}

/// The decision with its reasons, from a fixed seed.
fn decide(snapshot: &Snapshot, target: Target) -> Decision {
    route(
        snapshot,
        &Request::explained(target),
        &mut SmallRng::seed_from_u64(1),
    )
}

/// Candidates as words: `own{}` or `west/gw1{version=v2}`.
fn words(decision: &Decision) -> Vec<String> {
    let word = |candidate: &Candidate| match candidate {
        Candidate::Local { tags } => format!("own{tags}"),
        Candidate::Remote { gateway, tags } => format!("{gateway}{tags}"),
    };
    decision.candidates.iter().map(word).collect()
}

/// Every reason about `subject`, as words.
fn why(decision: &Decision, subject: &str) -> Vec<&'static str> {
    let about = |reason: &&Reason| reason.subject.to_string() == subject;
    decision
        .reasons
        .iter()
        .filter(about)
        .map(|reason| reason.why.word())
        .collect()
}
