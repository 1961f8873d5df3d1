//! The tunnels that are up.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{link_word, milliseconds, moment};
use crate::admin::TunnelReading;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TunnelView {
    pub zone: String,
    pub gateway: String,
    /// `up`, `stalled` or `draining`.
    pub state: String,
    /// Tells whether this gateway dialled; else the peer did.
    pub dialled: bool,
    /// Index of the data thread that drives it.
    pub thread: usize,
    pub remote: SocketAddr,
    pub up_seconds: f64,
    pub rtt_ms: f64,
    /// Streams under way.
    pub streams: usize,
    /// The group that the keys were agreed with, such as `X25519MLKEM768`; absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_exchange: Option<String>,
    /// Tells whether that is a post-quantum one.
    #[serde(default)]
    pub post_quantum: bool,
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// The SPIFFE id of the certificate that the peer showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// End of that certificate, RFC 3339. The tunnel outlives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ends: Option<String>,
    /// Name and version of the peer's program, in its own words; absent where it told none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    pub congestion_window_bytes: u64,
    pub mtu_bytes: u16,
    pub sent_packets: u64,
    pub lost_packets: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

#[must_use]
pub fn tunnels(readings: &[TunnelReading]) -> Vec<TunnelView> {
    let mut views: Vec<_> = readings.iter().map(view).collect();
    let key = |v: &TunnelView| (v.zone.clone(), v.gateway.clone(), v.thread, !v.dialled, v.remote);
    views.sort_by_cached_key(key);
    views
}

fn view(reading: &TunnelReading) -> TunnelView {
    let (agreed, certificate) = (reading.negotiated, reading.certificate.as_ref());
    TunnelView {
        zone: reading.peer.zone.to_string(),
        gateway: reading.peer.gateway.to_string(),
        state: link_word(Some(reading.link)).to_owned(),
        dialled: reading.dialled,
        thread: reading.thread,
        remote: reading.remote,
        up_seconds: reading.up.as_secs_f64(),
        rtt_ms: milliseconds(reading.rtt),
        streams: reading.streams,
        key_exchange: agreed.map(|agreed| agreed.group_name()),
        post_quantum: agreed.is_some_and(|agreed| agreed.is_post_quantum()),
        cipher: agreed.map(|agreed| agreed.cipher_name()),
        identity: certificate.map(|(id, _)| id.to_string()),
        certificate_ends: certificate.map(|(_, end)| moment(*end)),
        program: (!reading.program.is_empty()).then(|| reading.program.clone()),
        congestion_window_bytes: reading.congestion_window_bytes,
        mtu_bytes: reading.mtu_bytes,
        sent_packets: reading.sent_packets,
        lost_packets: reading.lost_packets,
        sent_bytes: reading.sent_bytes,
        received_bytes: reading.received_bytes,
    }
}
