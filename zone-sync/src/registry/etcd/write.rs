//! Writes to etcd as transactions: which comparisons guard a write, how many go into one transaction, and
//! what its answer means. Pure.
//!
//! Each write is a transaction of its own inside the larger one, so that one whose comparison fails does not stop the rest.

use causeway_proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    response_op::Response,
};
use causeway_proto::etcd::mvccpb::KeyValue;

/// Writes in one transaction. etcd takes 128 operations, of which a nested one counts against what the outer leaves: 100
/// and the lane's mark leave 27 for each write, and none has more than 2.
pub(crate) const MAX_WRITES: usize = 100;
/// Bytes in one transaction: a third of what etcd takes by default (1.5 MiB), because a claim names its value twice.
pub(super) const MAX_BYTES: usize = 512 << 10;

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    /// Whatever was there before is replaced.
    Put { value: Vec<u8>, lease: i64 },
    /// The same value under another lease, if the key is still as of `revision`; with `recreate` also if it is gone.
    Claim {
        value: Vec<u8>,
        lease: i64,
        revision: i64,
        recreate: bool,
    },
    /// Gone, if it is there; with `revision` only if it is still as of that.
    Delete { revision: Option<i64> },
}

/// Condition of every write in a gateway's session: this key has this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// A write as it goes into a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyedWrite<'a> {
    pub key: &'a [u8],
    pub write: &'a Write,
    pub fence: Option<&'a Fence>,
}

/// Outcome of one write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    /// It was done, at this revision.
    Done(i64),
    /// The comparison failed: this is what the key holds instead.
    Changed(Box<KeyValue>),
    /// The comparison failed, as of this revision the key is not there (or, for a deletion, is not as it was expected).
    Absent(i64),
    /// The session that it is of is over: nothing was done.
    Fenced,
}

impl Fence {
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

impl KeyedWrite<'_> {
    fn operation(&self) -> RequestOp {
        let operation = self.write.operation(self.key);
        match self.fence {
            Some(fence) => guarded(holds(fence), operation, None),
            None => operation,
        }
    }
}

impl Write {
    /// About how many bytes of a message it takes.
    #[must_use]
    pub(super) fn bytes(&self, key: &[u8]) -> usize {
        let (Self::Put { value, .. } | Self::Claim { value, .. }) = self else {
            return 2 * key.len();
        };
        2 * (key.len() + value.len())
    }

    fn operation(&self, key: &[u8]) -> RequestOp {
        match self {
            Self::Put { value, lease } => put(key, value, *lease),
            Self::Claim {
                value,
                lease,
                revision,
                recreate,
            } => {
                let otherwise = if *recreate {
                    guarded(is_absent(key), put(key, value, *lease), Some(read(key)))
                } else {
                    read(key)
                };
                guarded(is_as_of(key, *revision), put(key, value, *lease), Some(otherwise))
            }
            Self::Delete { revision } => {
                let guard = revision.map_or_else(|| exists(key), |revision| is_as_of(key, revision));
                guarded(guard, delete(key), None)
            }
        }
    }
}

/// Operations of a transaction that does all of these, each key at most once.
#[must_use]
pub(super) fn operations<'a>(writes: impl Iterator<Item = KeyedWrite<'a>>) -> Vec<RequestOp> {
    writes.map(|write| write.operation()).collect()
}

/// Outcome of each of [`operations`], in order, in a transaction of that revision; the iterator says of each whether it has a fence.
#[must_use]
pub(super) fn outcomes(
    revision: i64,
    responses: Vec<ResponseOp>,
    fenced: impl Iterator<Item = bool>,
) -> Vec<Written> {
    let each = responses.into_iter().zip(fenced);
    each.map(|(response, has_fence)| match response.response {
        Some(Response::ResponseTxn(nested)) if has_fence && !nested.succeeded => Written::Fenced,
        response => outcome(ResponseOp { response }, revision),
    })
    .collect()
}

fn outcome(response: ResponseOp, revision: i64) -> Written {
    match response.response {
        Some(Response::ResponseTxn(nested)) => match nested.responses.into_iter().next() {
            Some(first) => outcome(first, revision),
            None => Written::Absent(revision),
        },
        Some(Response::ResponseRange(range)) => match range.kvs.into_iter().next() {
            Some(value) => Written::Changed(Box::new(value)),
            None => Written::Absent(revision),
        },
        Some(Response::ResponsePut(_) | Response::ResponseDeleteRange(_)) => Written::Done(revision),
        None => Written::Absent(revision),
    }
}

fn operation(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// Puts a value, which goes with a lease; 0: with none.
pub(super) fn put(key: &[u8], value: &[u8], lease: i64) -> RequestOp {
    operation(Request::RequestPut(PutRequest {
        key: key.to_owned(),
        value: value.to_owned(),
        lease,
    }))
}

fn delete(key: &[u8]) -> RequestOp {
    operation(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.to_owned(),
        range_end: Vec::new(),
    }))
}

/// Reads a key.
pub(super) fn read(key: &[u8]) -> RequestOp {
    operation(Request::RequestRange(RangeRequest {
        key: key.to_owned(),
        ..RangeRequest::default()
    }))
}

fn guarded(guard: Compare, then: RequestOp, otherwise: Option<RequestOp>) -> RequestOp {
    operation(Request::RequestTxn(TxnRequest {
        compare: vec![guard],
        success: vec![then],
        failure: otherwise.into_iter().collect(),
    }))
}

fn compare(key: &[u8], result: CompareResult, target: CompareTarget, union: TargetUnion) -> Compare {
    Compare {
        result: result.into(),
        target: target.into(),
        key: key.to_owned(),
        target_union: Some(union),
    }
}

fn holds(fence: &Fence) -> Compare {
    compare(
        &fence.key,
        CompareResult::Equal,
        CompareTarget::Value,
        TargetUnion::Value(fence.value.clone()),
    )
}

/// Compares the revision of a key's last change; that of a key which is not there is 0.
pub(super) fn is_as_of(key: &[u8], revision: i64) -> Compare {
    compare(
        key,
        CompareResult::Equal,
        CompareTarget::Mod,
        TargetUnion::ModRevision(revision),
    )
}

fn is_absent(key: &[u8]) -> Compare {
    compare(
        key,
        CompareResult::Equal,
        CompareTarget::Version,
        TargetUnion::Version(0),
    )
}

fn exists(key: &[u8]) -> Compare {
    compare(
        key,
        CompareResult::Greater,
        CompareTarget::Version,
        TargetUnion::Version(0),
    )
}

#[cfg(test)]
mod tests {
    use causeway_proto::etcd::etcdserverpb::{PutResponse, RangeResponse, ResponseHeader, TxnResponse};

    use super::*;

    fn answer(responses: Vec<ResponseOp>) -> TxnResponse {
        TxnResponse {
            header: Some(ResponseHeader {
                revision: 9,
                ..ResponseHeader::default()
            }),
            succeeded: true,
            responses,
        }
    }

    fn response(response: Response) -> ResponseOp {
        ResponseOp {
            response: Some(response),
        }
    }

    fn fence() -> Fence {
        Fence {
            key: b"sessions/gw1".to_vec(),
            value: b"7".to_vec(),
        }
    }

    /// etcd's own count (`checkTxnRequest`): the longest list of each level, against what the levels above left.
    fn within(txn: &TxnRequest, left: usize) -> bool {
        let here = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
        let operations = txn.success.iter().chain(&txn.failure);
        here <= left
            && operations.into_iter().all(|operation| match &operation.request {
                Some(Request::RequestTxn(nested)) => within(nested, left - here),
                _ => true,
            })
    }

    #[test]
    fn a_full_transaction_has_no_more_operations_than_etcd_takes() {
        let claim = Write::Claim {
            value: vec![1],
            lease: 2,
            revision: 3,
            recreate: true,
        };
        let keys: Vec<_> = (0..MAX_WRITES).map(|n| n.to_string().into_bytes()).collect();
        let fence = fence();
        // The lane's mark goes first.
        let mut success = vec![put(b"writers/1/0", &[], 0)];
        success.extend(operations(keys.iter().map(|key| KeyedWrite {
            key,
            write: &claim,
            fence: Some(&fence),
        })));
        let txn = TxnRequest {
            compare: vec![is_as_of(b"writers/1/0", 1)],
            success,
            failure: vec![read(b"writers/1/0")],
        };
        assert!(within(&txn, 128));
    }

    #[test]
    fn a_claim_that_must_not_recreate_has_no_way_to_put_an_absent_key() {
        let puts = |recreate| {
            let claim = Write::Claim {
                value: vec![1],
                lease: 2,
                revision: 3,
                recreate,
            };
            format!("{:?}", claim.operation(b"k"))
                .matches("RequestPut")
                .count()
        };
        assert_eq!((puts(false), puts(true)), (1, 2));
    }

    #[test]
    fn every_outcome_is_told_at_its_place() {
        let held = KeyValue {
            mod_revision: 4,
            ..KeyValue::default()
        };
        let range = |kvs| {
            response(Response::ResponseRange(RangeResponse {
                kvs,
                ..RangeResponse::default()
            }))
        };
        let put = || response(Response::ResponsePut(PutResponse::default()));
        let nested = |inner| response(Response::ResponseTxn(answer(inner)));
        let past = response(Response::ResponseTxn(TxnResponse {
            succeeded: false,
            ..answer(Vec::new())
        }));
        let each = vec![
            put(),
            nested(vec![put()]),
            nested(vec![nested(vec![put()])]),
            nested(vec![range(vec![held.clone()])]),
            nested(vec![nested(vec![range(Vec::new())])]),
            nested(Vec::new()),
            past.clone(),
            past,
        ];
        let fenced = (0..each.len()).map(|place| place == 7);
        let told = outcomes(9, each, fenced);
        let expected = [
            Written::Done(9),
            Written::Done(9),
            Written::Done(9),
            Written::Changed(Box::new(held)),
            Written::Absent(9),
            Written::Absent(9),
            Written::Absent(9),
            Written::Fenced,
        ];
        assert_eq!(told, expected);
    }
}
