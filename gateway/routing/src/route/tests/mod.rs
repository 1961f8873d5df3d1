//! Helpers that the decision's tests share; `rules` go filter by filter, `invariants` hold for any input.

mod belonging;
mod compiled;
mod invariants;
mod keyed;
mod panic;
mod rules;
mod spill;

use crate::{snapshot::Link, testbed};
use rand::{SeedableRng, rngs::SmallRng};

use super::*;

fn orders() -> Target {
    Target::service(testbed::service("orders"))
}

/// The decision with its reasons, from a fixed seed.
fn decide(snapshot: &Snapshot, target: Target) -> FullDecision {
    route(snapshot, &Request::explained(target), SmallRng::seed_from_u64(1)).complete()
}

/// Candidates as words: `own{}` or `west/gw1{version=v2}`.
fn words(decision: &FullDecision) -> Vec<String> {
    decision.candidates.iter().map(word).collect()
}

fn word(candidate: &Candidate) -> String {
    match &candidate.place {
        Destination::Local => format!("own{}", candidate.tags),
        Destination::Remote { gateway } => format!("{gateway}{}", candidate.tags),
    }
}

/// Every reason about `subject`, as words.
fn why(decision: &FullDecision, subject: &str) -> Vec<&'static str> {
    let about = |reason: &&Reason| reason.subject.to_string() == subject;
    decision
        .reasons
        .iter()
        .filter(about)
        .map(|reason| reason.why.word())
        .collect()
}
