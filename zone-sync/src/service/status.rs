//! State of zone sync for the admin API and the metrics.

use std::{collections::BTreeSet, time::Duration};

use causeway_federation::{
    catalog::Age,
    name::{GatewayId, ZoneName},
};
use serde::Serialize;

use crate::replica::Stamp;

/// Side that refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusingSide {
    /// This gateway refused.
    Local,
    /// The peer refused.
    Peer,
}

/// Something worth counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncEvent {
    /// A session was ended because of what one side did; `reason` is a fixed word.
    Refused {
        peer: GatewayId,
        side: RefusingSide,
        reason: &'static str,
    },
    /// A divergence: what was held of `origin` was not what it says, and is asked for anew.
    Diverged { origin: GatewayId },
    /// A message that only a newer program knows was passed over.
    PassedOver { peer: GatewayId },
    /// A session ended, with the bytes that it carried.
    SessionEnded {
        peer: GatewayId,
        bytes_sent: u64,
        bytes_received: u64,
    },
}

/// State of the stored catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Disk {
    /// Nothing is stored, as configured.
    Absent,
    /// All is on disk that is known, or about to be.
    Working,
    /// The last write failed; it is tried again.
    Failing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SyncStatus {
    pub origin: GatewayId,
    /// The newest version of the own record.
    pub own: Stamp,
    /// Exports in the own record.
    pub exports: usize,
    pub draining: bool,
    pub disk: Disk,
    /// Every gateway that has a session, had one, or whose record is held; in order.
    pub peers: Vec<PeerStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    pub peer: GatewayId,
    /// Time for which the session has lasted; `None` without one.
    pub connected_for: Option<Duration>,
    /// Time since it last gave a sign of life, in this session or through a relay; `None` if it never did since this
    /// process began.
    pub heard_ago: Option<Duration>,
    /// The sync protocol that is spoken with it.
    pub protocol: Option<u32>,
    /// The peer that passes its record on; `None` when it speaks for itself.
    pub via: Option<GatewayId>,
    /// Zones whose records it passes on to this gateway, as it was asked to.
    pub relays: BTreeSet<ZoneName>,
    /// Own versions that it does not hold, by its own account.
    pub lag: Option<u64>,
    /// Versions of its own record that it told of and that are not held here.
    pub behind: Option<u64>,
    /// The newest own version that the peer says it holds.
    pub acknowledged: Option<Stamp>,
    /// The version of the peer's record that is held here.
    pub held: Option<Stamp>,
    pub age: Option<Age>,
    /// Exports in the peer's record.
    pub exports: usize,
    #[serde(flatten)]
    pub totals: PeerTotals,
}

/// Of all sessions with one peer since this process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerTotals {
    /// HTTP/2 framing included.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Sessions that this gateway ended because of what the peer did, and the other way round.
    pub refused: u64,
    pub refused_by_peer: u64,
    /// The word for the latest refusal by either side.
    pub last_refusal: Option<&'static str>,
}

impl PeerTotals {
    pub(super) fn add(&mut self, sent: u64, received: u64) {
        self.bytes_sent += sent;
        self.bytes_received += received;
    }

    pub(super) fn refusal(&mut self, side: RefusingSide, reason: &'static str) {
        match side {
            RefusingSide::Local => self.refused += 1,
            RefusingSide::Peer => self.refused_by_peer += 1,
        }
        self.last_refusal = Some(reason);
    }
}
