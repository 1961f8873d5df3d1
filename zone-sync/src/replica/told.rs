//! The account of what one peer has been told of one origin's record, what is on its way there, and what comes next.

use std::{sync::Arc, time::Instant};

use causeway_federation::catalog::{Record, encode, key_message};
use causeway_proto::sync as proto;
use prost::Message as _;

use super::{
    head::{self, BeatMark},
    limits::{MAX_PART_BYTES, SEND_BURST, SEND_INTERVAL, SNAPSHOT_AGAIN},
    pace::SyncPace,
    wire::{self, Stamp},
};

#[derive(Debug)]
pub(super) struct SendState {
    /// The newest version that the peer holds whole, by its own account.
    pub peer_holds: Stamp,
    /// Version that was sent and is not acknowledged. Further changes wait for the acknowledgement, and so gather into one delta.
    in_flight: Option<Stamp>,
    /// The record at the version that is in flight, and at the one that the peer holds: a relay makes its deltas of two
    /// records, as it has no history.
    sent: Option<Arc<Record>>,
    base: Option<Arc<Record>>,
    pace: SyncPace,
    /// Version that was last sent whole, and the time of that.
    whole: Option<(Stamp, Instant)>,
    /// A version that the peer refused; it is not sent again.
    pub refused: Stamp,
    /// The newest beat that the peer was told, or told of.
    pub beat: BeatMark,
}

impl SendState {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            peer_holds: Stamp::NONE,
            in_flight: None,
            sent: None,
            base: None,
            pace: SyncPace::new(now, SEND_INTERVAL, SEND_BURST),
            whole: None,
            refused: Stamp::NONE,
            beat: (0, 0),
        }
    }

    /// Tells whether something is to be sent to a peer, `newest` being the newest version there is.
    pub(super) fn lacks(&self, newest: Stamp) -> bool {
        self.in_flight.is_none() && self.peer_holds < newest && self.refused != newest
    }

    /// Time at which the pace allows another version, if that is not now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        self.pace.wait(now)
    }

    /// Time at which this version may be sent whole, if that is not now.
    pub(super) fn whole_again_at(&self, now: Instant, stamp: Stamp) -> Option<Instant> {
        let (_, at) = self.whole.filter(|(sent, _)| *sent == stamp)?;
        Some(at + SNAPSHOT_AGAIN).filter(|at| now < *at)
    }

    pub(super) fn sending(&mut self, now: Instant, stamp: Stamp, record: Option<&Arc<Record>>) {
        self.pace.take(now);
        self.in_flight = Some(stamp);
        self.sent = record.cloned();
    }

    pub(super) fn sending_whole(&mut self, now: Instant, stamp: Stamp, record: Option<&Arc<Record>>) {
        self.sending(now, stamp, record);
        self.whole = Some((stamp, now));
    }

    /// Takes the peer's word for what it holds. What is in flight and did not arrive is sent again, unless parts of it
    /// are `still_going`. `held` is the newest record there is, for the deltas of a relay.
    pub(super) fn acknowledged(&mut self, stamp: Stamp, still_going: bool, held: Option<&Arc<Record>>) {
        self.peer_holds = stamp;
        if still_going && self.in_flight.is_some_and(|sent| stamp < sent) {
            return;
        }
        self.in_flight = None;
        let known = [self.sent.take(), self.base.take(), held.cloned()];
        let is_it = |record: &Arc<Record>| Stamp::of(record) == stamp;
        self.base = known.into_iter().flatten().find(is_it);
    }

    /// The peer refused the version `stamp`.
    pub(super) fn refused(&mut self, stamp: Stamp) {
        self.refused = stamp;
        if self.in_flight == Some(stamp) {
            self.in_flight = None;
        }
    }

    /// Delta that a relay tells of `record` to a peer that has the one before; `None` when the whole is needed.
    pub(super) fn relayed_delta(&self, record: &Arc<Record>) -> Option<proto::Delta> {
        let base = self.base.as_ref()?;
        let fits = Stamp::of(base) == self.peer_holds && base.incarnation == record.incarnation;
        let known = base.signed.as_ref().filter(|_| fits)?;
        let mut delta = proto::Delta {
            origin: Some(wire::origin_message(&record.origin)),
            from_version: base.version,
            head: Some(head::signed_message(
                record.signed.as_ref()?,
                Some(&known.credential),
            )),
            ..proto::Delta::default()
        };
        let mut bytes = 0;
        for ((service, tags), now) in base.exports.changes(&record.exports) {
            match now {
                Some(export) => {
                    let foreign = record.exports.foreign(&service, &tags);
                    let encoded = foreign.map_or_else(|| encode(&export), |b| b.to_vec());
                    bytes += wire::element_bytes(encoded.len());
                    delta.changed.push(encoded);
                }
                None => {
                    let key = key_message(&service, &tags);
                    bytes += wire::element_bytes(key.encoded_len());
                    delta.removed.push(key);
                }
            }
            if bytes > MAX_PART_BYTES {
                return None;
            }
        }
        Some(delta)
    }
}
