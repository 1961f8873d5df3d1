//! Every metric of the gateway, in one struct without globals, so that several gateways can live in one process.

/// Which side of a tunnel or stream said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This gateway refused.
    Local,
    /// The peer refused.
    Peer,
}

/// Counters and gauges. Cheap to share in an `Arc`; every method is lock-free or takes a short read lock.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A tunnel was refused: `reason` is a fixed word such as `unknown_issuer`, `expired`, `wrong_zone`.
    pub fn tunnel_refused(&self, _side: Side, _reason: &'static str) {}
    /// A dial failed before any identity was checked: `reason` such as `timeout`, `resolve`.
    pub fn dial_failed(&self, _reason: &'static str) {}
    /// A stream was refused with a `RefusalReason`, as a word.
    pub fn stream_refused(&self, _side: Side, _reason: &'static str) {}
    /// A peer broke the tunnel protocol and was dropped.
    pub fn peer_broke_protocol(&self, _reason: &'static str) {}
    /// A routing decision, by service and the word for its reason (`own_zone`, `tier`, `no_candidate`, …).
    pub fn decided(&self, _service: &str, _reason: &'static str) {}
    /// A connection was moved to a further candidate before any instance had it.
    pub fn moved(&self, _service: &str, _why: &'static str) {}
    /// A connection began. Call `connection_closed` once for each.
    pub fn connection_opened(&self, _role: &'static str, _service: &str) {}
    /// A connection ended, with the bytes that it carried.
    pub fn connection_closed(
        &self,
        _role: &'static str,
        _service: &str,
        _outcome: &'static str,
        _up: u64,
        _down: u64,
    ) {
    }
    /// A health check ended.
    pub fn health_checked(&self, _service: &str, _ok: bool) {}
    /// A DNS query was answered: `kind` is `mesh`, `forwarded`, `cached` or `refused`.
    pub fn dns_answered(&self, _kind: &'static str, _rcode: &'static str) {}
    /// Zone sync bytes, `way` being `sent` or `received`.
    pub fn sync_bytes(&self, _way: &'static str, _bytes: u64) {}
    /// A peer broke the sync protocol or a limit.
    pub fn sync_refused(&self, _side: Side, _reason: &'static str) {}
    /// The topology was reloaded (`true`) or a bad file was refused (`false`).
    pub fn topology_reloaded(&self, _ok: bool) {}
}
