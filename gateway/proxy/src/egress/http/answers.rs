//! Answers, as far as the capacity of instances is measured by them.

use causeway_routing::{
    capacity::{AwaitedAnswer, is_measured},
    outlier::TryFailure,
    route::Candidate,
    snapshot::Snapshot,
    target::Target,
};

use crate::http::verdict::TryVerdict;

/// Counts a request that is given to an instance, where that is asked for. What a client sends to a zone by its name is not steered, and so not
/// counted.
pub(super) fn awaited(snapshot: &Snapshot, target: &Target, candidate: &Candidate) -> Option<AwaitedAnswer> {
    let service = &target.service;
    let declared = snapshot.topology.services.get(service)?;
    if !is_measured(declared) || target.zone.is_some() {
        return None;
    }
    let answers = &snapshot.capacity.answers;
    answers.given(service, candidate.zone(&snapshot.zone), &candidate.tags)
}

/// Counts an answer. An error is none that shows what an instance can take, however fast it came, and nothing says that it has too much to do.
pub(super) fn count_answer(awaited: &AwaitedAnswer, verdict: TryVerdict) {
    match verdict {
        TryVerdict::Well => awaited.well(),
        TryVerdict::Overloaded
        | TryVerdict::Failed(TryFailure::Unavailable | TryFailure::Late | TryFailure::Reset) => {
            awaited.refused();
        }
        TryVerdict::Failed(TryFailure::Error) | TryVerdict::FailedLater => {}
    }
}
