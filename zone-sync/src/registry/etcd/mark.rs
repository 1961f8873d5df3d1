//! Mark of a lane: a key of etcd that each of its transactions must find as the lane last left it, and that the next one changes after any whose end
//! is not known. A transaction that was given up, and that a member carries out late, finds it changed and does nothing. Pure.
//!
//! It is a fencing token (M. Kleppmann, "How to do distributed locking", 2016) for one writer's own attempts: without it a deregistration that was
//! tried again at another member could undo a registration that was acknowledged since.

use causeway_proto::etcd::etcdserverpb::{
    RequestOp, ResponseOp, TxnRequest, TxnResponse, response_op::Response,
};

use super::write::{is_as_of, put, read};

/// State of the mark, as far as the lane knows.
#[derive(Debug)]
pub(super) struct LaneMark {
    key: Vec<u8>,
    /// Revision of its last change; 0: it is not in etcd.
    revision: i64,
    /// A transaction may still be carried out that was given up, so the next one changes the mark.
    is_spent: bool,
}

/// Meaning of an answer to a transaction with a mark.
#[derive(Debug, PartialEq)]
pub(super) enum MarkAnswer {
    /// The mark was as it was to be: these are the answers to the writes.
    Written(Vec<ResponseOp>),
    /// Nothing was written; the next transaction may be.
    Again,
}

impl LaneMark {
    /// A mark that is not in etcd yet.
    pub(super) fn new(key: Vec<u8>) -> Self {
        Self {
            key,
            revision: 0,
            is_spent: true,
        }
    }

    /// Tells whether the next transaction makes it, and has no room for writes: what finds it missing could be carried out whenever it is.
    #[must_use]
    pub(super) fn is_missing(&self) -> bool {
        self.revision == 0
    }

    /// The transaction that does `writes`, as it is sent for the `attempt`th time, from 0; a mark that is changed goes with `lease`.
    #[must_use]
    pub(super) fn transaction(&self, attempt: usize, lease: i64, writes: Vec<RequestOp>) -> TxnRequest {
        let changes = self.is_missing() || self.is_spent || attempt > 0;
        let mut success: Vec<_> = changes.then(|| put(&self.key, &[], lease)).into_iter().collect();
        if !self.is_missing() {
            success.extend(writes);
        }
        TxnRequest {
            compare: vec![is_as_of(&self.key, self.revision)],
            success,
            failure: vec![read(&self.key)],
        }
    }

    /// Takes up the answer to the last of `attempts` attempts.
    pub(super) fn answered(&mut self, attempts: usize, answer: TxnResponse) -> MarkAnswer {
        let mut responses = answer.responses;
        if !answer.succeeded {
            self.revision = match responses.pop().and_then(|response| response.response) {
                Some(Response::ResponseRange(range)) => range.kvs.first().map_or(0, |held| held.mod_revision),
                _ => 0,
            };
            self.is_spent = true;
            return MarkAnswer::Again;
        }
        let was_missing = self.is_missing();
        if was_missing || self.is_spent || attempts > 1 {
            self.revision = answer.header.map_or(0, |header| header.revision);
            self.is_spent = false;
            responses.drain(..responses.len().min(1));
        }
        match was_missing {
            true => MarkAnswer::Again,
            false => MarkAnswer::Written(responses),
        }
    }

    /// Takes up that it is not known what became of a transaction.
    pub(super) fn give_up(&mut self) {
        self.is_spent = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use causeway_proto::etcd::{
        etcdserverpb::{
            PutResponse, RangeResponse, ResponseHeader, compare::TargetUnion, request_op::Request,
        },
        mvccpb::KeyValue,
    };
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = b"writers/1/0";

    /// Keys with the value and revision of their last change: as much of etcd as a mark needs.
    #[derive(Debug, Default)]
    struct Store {
        revision: i64,
        keys: BTreeMap<Vec<u8>, (Vec<u8>, i64)>,
    }

    impl Store {
        fn carry_out(&mut self, txn: &TxnRequest) -> TxnResponse {
            let compare = &txn.compare[0];
            let held = self.keys.get(&compare.key).map_or(0, |(_, revision)| *revision);
            let succeeded = compare.target_union == Some(TargetUnion::ModRevision(held));
            let operations = if succeeded { &txn.success } else { &txn.failure };
            let writes = |operation: &RequestOp| matches!(operation.request, Some(Request::RequestPut(_)));
            self.revision += i64::from(operations.iter().any(writes));
            let answers = operations.iter().map(|operation| self.operate(operation));
            TxnResponse {
                responses: answers.collect(),
                succeeded,
                header: Some(ResponseHeader {
                    revision: self.revision,
                    ..ResponseHeader::default()
                }),
            }
        }

        fn operate(&mut self, operation: &RequestOp) -> ResponseOp {
            let response = match operation.request.as_ref().unwrap() {
                Request::RequestPut(put) => {
                    let held = (put.value.clone(), self.revision);
                    self.keys.insert(put.key.clone(), held);
                    Response::ResponsePut(PutResponse::default())
                }
                Request::RequestRange(range) => {
                    let held = self.keys.get(&range.key).map(|(_, revision)| KeyValue {
                        mod_revision: *revision,
                        ..KeyValue::default()
                    });
                    Response::ResponseRange(RangeResponse {
                        kvs: held.into_iter().collect(),
                        ..RangeResponse::default()
                    })
                }
                other => panic!("{other:?}"),
            };
            ResponseOp {
                response: Some(response),
            }
        }
    }

    /// Fate of one attempt: it is carried out and answered, carried out and its answer lost, or held up for later.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Answered,
        Unanswered,
        HeldUp,
    }

    fn any_fate() -> impl Strategy<Value = Fate> {
        prop_oneof![Just(Fate::Answered), Just(Fate::Unanswered), Just(Fate::HeldUp)]
    }

    proptest! {
        #[test]
        fn an_attempt_that_comes_late_undoes_nothing_that_was_acknowledged_since(
            fates in prop::collection::vec(any_fate(), 1..60),
            arrivals in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 60),
            forgotten in prop::option::of(0..60usize),
        ) {
            let (mut store, mut mark) = (Store::default(), LaneMark::new(KEY.to_vec()));
            let mut late: Vec<TxnRequest> = Vec::new();
            let (mut number, mut attempt) = (0u8, 0);
            for (step, (fate, (place, arrives))) in fates.into_iter().zip(arrivals).enumerate() {
                if forgotten == Some(step) {
                    // Its lease ran out.
                    store.keys.remove(KEY);
                }
                let txn = mark.transaction(attempt, 7, vec![put(b"instance", &[number], 0)]);
                match fate {
                    Fate::Answered => {
                        let answer = store.carry_out(&txn);
                        if let MarkAnswer::Written(responses) = mark.answered(attempt + 1, answer) {
                            prop_assert_eq!(responses.len(), 1);
                            prop_assert_eq!(&store.keys[&b"instance"[..]].0, &[number]);
                            // Acknowledged: whatever still arrives must leave it.
                            for txn in &late {
                                store.carry_out(txn);
                                prop_assert_eq!(&store.keys[&b"instance"[..]].0, &[number]);
                            }
                            number += 1;
                        }
                        attempt = 0;
                        continue;
                    }
                    Fate::Unanswered => {
                        store.carry_out(&txn);
                    }
                    Fate::HeldUp => late.push(txn),
                }
                if arrives && !late.is_empty() {
                    let txn = late.remove(place.index(late.len()));
                    store.carry_out(&txn);
                }
                attempt += 1;
                if attempt == 3 {
                    mark.give_up();
                    (attempt, number) = (0, number + 1);
                }
            }
        }

        #[test]
        fn a_lane_that_is_answered_writes_within_three_transactions(forgotten in 0..6usize) {
            let (mut store, mut mark) = (Store::default(), LaneMark::new(KEY.to_vec()));
            for number in 0..6u8 {
                if forgotten == usize::from(number) {
                    store.keys.remove(KEY);
                }
                let written = (0..3).any(|_| {
                    let txn = mark.transaction(0, 7, vec![put(b"instance", &[number], 0)]);
                    let answer = store.carry_out(&txn);
                    matches!(mark.answered(1, answer), MarkAnswer::Written(_))
                });
                prop_assert!(written);
            }
        }
    }

    #[test]
    fn while_all_is_answered_the_mark_is_compared_and_not_written() {
        let (mut store, mut mark) = (Store::default(), LaneMark::new(KEY.to_vec()));
        let made = store.carry_out(&mark.transaction(0, 7, Vec::new()));
        assert_eq!(mark.answered(1, made), MarkAnswer::Again);
        let txn = mark.transaction(0, 7, vec![put(b"instance", &[1], 0)]);
        assert_eq!((txn.compare.len(), txn.success.len()), (1, 1));
        assert_eq!(mark.transaction(1, 7, Vec::new()).success.len(), 1);
    }
}
