//! Exchange between this gateway and another over zone sync.

use serde::{Deserialize, Serialize};

use crate::admin::SyncReading;

/// Since this process began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExchangeView {
    /// Versions of this gateway's record that the other has not acknowledged; absent without a session.
    pub lag_versions: Option<u64>,
    /// Versions of the other's record that this gateway has yet to get; absent without a session.
    pub behind_versions: Option<u64>,
    /// The sync protocol that the two speak; absent without a session.
    pub sync_protocol: Option<u32>,
    /// HTTP/2 framing included, QUIC and UDP not.
    pub sync_sent_bytes: u64,
    pub sync_received_bytes: u64,
    pub refusals: Vec<RefusalView>,
}

/// Count of one side's refusals for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusalView {
    /// `local`: this gateway refused what the other told; `peer`: the other way round.
    pub side: String,
    pub reason: String,
    pub count: u64,
    /// Since the latest refusal of all, on the entry that it belongs to.
    pub seconds_ago: Option<f64>,
}

#[must_use]
pub fn exchange(reading: &SyncReading) -> ExchangeView {
    let latest = reading.refused.as_ref();
    let refusal = |(&(side, reason), &count): (&(causeway_telemetry::Side, &str), &u64)| RefusalView {
        side: side.word().to_owned(),
        reason: reason.to_owned(),
        count,
        seconds_ago: latest
            .filter(|latest| (latest.side, latest.reason) == (side, reason))
            .map(|latest| latest.ago.as_secs_f64()),
    };
    ExchangeView {
        lag_versions: reading.lag_versions,
        behind_versions: reading.behind_versions,
        sync_protocol: reading.protocol,
        sync_sent_bytes: reading.sent_bytes,
        sync_received_bytes: reading.received_bytes,
        refusals: reading.refusals.iter().map(refusal).collect(),
    }
}
