//! Values read from the running system at the moment that somebody asks: tunnels and the process itself. Plain structs,
//! so that what is made of them can be tested without a system to read.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_identity::SpiffeId;
use causeway_routing::snapshot::Link;
use causeway_tunnel::{Negotiated, Tunnel};
use causeway_zone_sync::replica::Stamp;
use rustix::process::{Resource, getrlimit};

use causeway_telemetry::Side;

/// Clock ticks per second in `/proc/self/stat`: 100 on every Linux platform (`USER_HZ`, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// One tunnel at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelReading {
    /// Tells this tunnel from every other of the process, for as long as it lives.
    pub id: usize,
    pub peer: GatewayId,
    pub link: Link,
    pub dialled: bool,
    pub thread: usize,
    pub remote: SocketAddr,
    pub up: Duration,
    pub rtt: Duration,
    pub streams: usize,
    /// Asks in a row that had no answer in time.
    pub unanswered: usize,
    /// Seconds that the peer's clock was ahead when the tunnel came up.
    pub clock_ahead: Option<f64>,
    /// Name and version of the peer's program, in its own words.
    pub program: String,
    /// Tells whether the peer keeps a registry that no other gateway of its zone has.
    pub own_registry: bool,
    /// `None` where it is not known.
    pub negotiated: Option<Negotiated>,
    /// The SPIFFE id of the peer's certificate, and when that ends.
    pub certificate: Option<(SpiffeId, SystemTime)>,
    /// Bytes that the peer has sent and that nobody here has taken yet.
    pub unread_bytes: u64,
    pub congestion_window_bytes: u64,
    pub mtu_bytes: u16,
    pub sent_packets: u64,
    pub lost_packets: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl TunnelReading {
    #[must_use]
    pub fn of(tunnel: &Tunnel) -> Self {
        let stats = tunnel.stats();
        let remote = tunnel.remote_address();
        Self {
            id: tunnel.id(),
            peer: tunnel.peer().clone(),
            link: tunnel.link(),
            dialled: tunnel.dialled(),
            thread: tunnel.thread(),
            remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
            up: tunnel.since().elapsed(),
            rtt: stats.rtt,
            streams: tunnel.streams().load(std::sync::atomic::Ordering::Relaxed),
            unanswered: tunnel.unanswered(),
            clock_ahead: tunnel.clock_ahead(),
            program: tunnel.program().to_owned(),
            own_registry: tunnel.keeps_own_registry(),
            negotiated: tunnel.negotiated(),
            certificate: tunnel.certificate().cloned(),
            unread_bytes: tunnel.unread_bytes(),
            congestion_window_bytes: stats.congestion_window_bytes,
            mtu_bytes: stats.mtu_bytes,
            sent_packets: stats.sent_packets,
            lost_packets: stats.lost_packets,
            sent_bytes: stats.sent_bytes,
            received_bytes: stats.received_bytes,
        }
    }
}

/// Reading of zone sync at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReadings {
    /// Record that this gateway tells the others; `None` before zone sync has begun.
    pub own: Option<OwnReading>,
    /// Every other gateway that was heard of, in order.
    pub peers: Vec<SyncReading>,
}

impl SyncReadings {
    #[must_use]
    pub fn of(&self, origin: &GatewayId) -> Option<&SyncReading> {
        self.peers.iter().find(|reading| reading.origin == *origin)
    }
}

/// The record of this gateway itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnReading {
    pub origin: GatewayId,
    pub stamp: Stamp,
    pub draining: bool,
}

/// Reading of zone sync about one other gateway, and of what was exchanged with it since this process began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReading {
    pub origin: GatewayId,
    /// Since its record was last heard of; `None`: read from disk and not heard since.
    pub heard_ago: Option<Duration>,
    /// Tells whether a sync session with it is open.
    pub session: bool,
    /// The sync protocol that is spoken with it; `None` without a session.
    pub protocol: Option<u32>,
    /// Own versions that it has not acknowledged; `None` without a session.
    pub lag_versions: Option<u64>,
    /// Versions of its record that it told of and that are not held here; `None` without a session.
    pub behind_versions: Option<u64>,
    /// HTTP/2 framing included.
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Number of refusals by side and reason.
    pub refusals: BTreeMap<(Side, &'static str), u64>,
    /// The latest of them.
    pub refused: Option<LatestRefusal>,
}

/// Latest refusal between this gateway and another, by either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatestRefusal {
    pub side: Side,
    pub reason: &'static str,
    pub ago: Duration,
}

/// This process; `None` where the system does not say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProcessReading {
    pub resident_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub open_files_limit: Option<u64>,
    pub cpu_seconds: Option<f64>,
    pub threads: Option<u64>,
}

impl ProcessReading {
    /// Reads `/proc`; all `None` where there is none.
    #[must_use]
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Reading the folder opens one file itself.
        let files = fs::read_dir("/proc/self/fd").ok();
        Self {
            resident_bytes: status_value(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024),
            open_files: files.map(|entries| (entries.count() as u64).saturating_sub(1)),
            open_files_limit: getrlimit(Resource::Nofile).current,
            cpu_seconds: cpu_seconds(&stat),
            threads: status_value(&status, "Threads:"),
        }
    }
}

fn status_value(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `utime + stime`, fields 14 and 15 of proc(5); counted after the program's name, which may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 10";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_files() {
        let reading = ProcessReading::now();
        assert!(reading.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(reading.open_files.is_some_and(|files| files > 0));
        assert!(reading.cpu_seconds.is_some());
    }
}
