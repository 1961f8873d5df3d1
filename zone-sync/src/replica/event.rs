//! Events that go into a replica besides messages, and those that come out.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use causeway_federation::{
    catalog::{Age, Export, ShiftFigures},
    edition::{Edition, Fingerprint},
    name::{GatewayId, ZoneName},
};

use super::{refusal::SyncRefusal, wire::Stamp};

/// Something changed at this gateway.
#[derive(Debug, Clone)]
pub enum LocalChange {
    /// Everything that the zone exports now. Nothing is told to peers before this has come once, even if it is empty.
    Exports(Vec<Export>),
    Draining(bool),
    /// The topology in force: its fingerprint and its zones. Sessions with other zones end, their records are forgotten.
    Topology {
        fingerprint: Fingerprint,
        zones: BTreeSet<ZoneName>,
    },
    /// Generation of the topology in force; 0 when it was read from a file.
    TopologyGeneration(u64),
    /// A change of who is trusted, with the document that says so now: records that are held and that nobody who
    /// is trusted signed are forgotten.
    Trust(Edition),
    /// Connections that were ended since that document was taken up, because their other side was believed no more.
    TrustEnded(u64),
    /// Figures on shifts that are under way.
    Shifts(Arc<[ShiftFigures]>),
    /// The answer to [`ReplicaEvent::Outdated`]: a later incarnation, already stored.
    Incarnation(u64),
}

/// Something that the caller has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaEvent {
    /// A newer record of this origin is in the catalog.
    RecordChanged { origin: GatewayId },
    /// This origin's record is believed more, or less, than before.
    AgeChanged { origin: GatewayId, age: Age },
    /// This origin's record is gone.
    Forgotten { origin: GatewayId },
    /// The session with `peer` is over as soon as what `poll_transmit` gives for it is sent.
    Refused { peer: GatewayId, refusal: SyncRefusal },
    /// The peer ended the session.
    RefusedByPeer {
        peer: GatewayId,
        /// A word of [`SyncRefusal::reason`], or `other`.
        reason: &'static str,
        message: String,
    },
    /// `peer` holds a later version of the own record than this process ever wrote: the store was lost or put back.
    /// The caller stores `incarnation` and hands it in as [`LocalChange::Incarnation`].
    Outdated { peer: GatewayId, incarnation: u64 },
    /// Exports that no peer would accept were left out of the own record.
    ExportsLeftOut { count: usize },
    /// A record of `origin` that `peer` passed on was refused; the session goes on.
    RelayRefused {
        peer: GatewayId,
        origin: GatewayId,
        refusal: SyncRefusal,
    },
    /// `by` refused the own record, which somebody passed on to it; the word came through `via`.
    OwnRefused {
        by: GatewayId,
        via: GatewayId,
        reason: &'static str,
        message: String,
    },
    /// A divergence: what was held of `origin` was not what `peer` says it is; the whole record was asked for.
    Diverged { origin: GatewayId, peer: GatewayId },
    /// A message of a peer with a newer program is not known here, and was passed over.
    PassedOver { peer: GatewayId },
    /// The own key cannot sign; nobody passes the own record on.
    NotSigned { cause: String },
}

/// State of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    pub connected: Instant,
    pub heard: Instant,
    /// The protocol that is spoken; `None` before the peer's hello.
    pub protocol: Option<u32>,
    /// The newest own version that the peer says it holds.
    pub acknowledged: Stamp,
    /// The newest version that the peer told of its own record.
    pub advertised: Option<Stamp>,
    /// Zones whose records the peer passes on, as it was asked to.
    pub asked: BTreeSet<ZoneName>,
    /// Zones whose records the peer asked for.
    pub wanted: BTreeSet<ZoneName>,
}
