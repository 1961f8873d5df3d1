//! Something that happened, in words and with a stable word for its kind.
//!
//! Adding a kind: a line in the table below with its word, what decides it in `picture/`, and a line in `docs/history.md`, which a test
//! compares with the table.

use std::time::{SystemTime, UNIX_EPOCH};

use causeway_host::moment::nearest_written;
use serde::{Deserialize, Serialize};

/// Longest text and longest cause, in bytes.
pub const MAX_TEXT_BYTES: usize = 600;
/// Longest name of a subject, in bytes.
const MAX_NAME_BYTES: usize = 300;
/// Most lines of an explanation that go along with an event.
const MAX_LINES: usize = 16;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal,)+) => {
        /// Kind of an event.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind {
            $($(#[$doc])* $kind,)+
        }

        impl EventKind {
            /// Every kind, in the order in which they are documented.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// The word in files, the API and commands.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)+
                }
            }
        }
    };
}

kinds! {
    /// This gateway has started.
    GatewayStarted = "gateway_started",
    /// It has taken the place of another process.
    GatewayTookOver = "gateway_took_over",
    /// It leaves its place to a successor.
    GatewayHandedOver = "gateway_handed_over",
    /// It ends.
    GatewayEnded = "gateway_ended",
    /// The first tunnel with a gateway is up.
    TunnelUp = "tunnel_up",
    /// The last tunnel with a gateway is gone, or counts as gone.
    TunnelDown = "tunnel_down",
    /// Nothing is heard on any tunnel with a gateway.
    TunnelStalled = "tunnel_stalled",
    /// It is heard again.
    TunnelHeard = "tunnel_heard",
    /// A gateway of another zone shuts down.
    PeerDraining = "peer_draining",
    /// A gateway was heard of for the first time.
    PeerSeen = "peer_seen",
    /// Nothing fresh is heard of a zone.
    ZoneSuspect = "zone_suspect",
    /// A zone was not heard of for too long, and is used no more.
    ZoneWithdrawn = "zone_withdrawn",
    /// A zone is heard of again.
    ZoneFresh = "zone_fresh",
    /// The topology empties a zone.
    ZoneDrained = "zone_drained",
    /// It does so no more.
    ZoneUndrained = "zone_undrained",
    /// A service goes to a later tier than before.
    FailoverBegun = "failover_begun",
    /// It is back at the tier of before.
    FailoverEnded = "failover_ended",
    /// Traffic begins to return to an earlier tier.
    FailbackBegun = "failback_begun",
    /// The earlier tier fell ill on the way back.
    FailbackBrokenOff = "failback_broken_off",
    /// A part of a service's traffic goes to a later tier.
    SpillBegun = "spill_begun",
    /// All of it goes to one tier again.
    SpillEnded = "spill_ended",
    /// A part of what is asked for is refused for want of capacity.
    ShedBegun = "shed_begun",
    /// All of it is served again.
    ShedEnded = "shed_ended",
    /// No zone can serve a service.
    HomeLost = "home_lost",
    /// One can again.
    HomeFound = "home_found",
    /// No instance of a service is healthy in any zone, and those that are ill are used.
    PanicBegun = "panic_begun",
    /// One is healthy again, or none is left.
    PanicEnded = "panic_ended",
    /// A shift has begun.
    ShiftBegun = "shift_begun",
    /// It has come to its next step.
    ShiftStep = "shift_step",
    /// It stays where it is.
    ShiftPaused = "shift_paused",
    /// Somebody has it go on.
    ShiftResumed = "shift_resumed",
    /// The split is what it was before.
    ShiftAborted = "shift_aborted",
    /// It has come to its end.
    ShiftDone = "shift_done",
    /// This gateway has taken its own share back.
    ShiftTakenBack = "shift_taken_back",
    /// Another topology is in force.
    TopologyApplied = "topology_applied",
    /// One was refused.
    TopologyRefused = "topology_refused",
    /// The gateway has a new certificate.
    CertificateRenewed = "certificate_renewed",
    /// It ends soon, and nobody has renewed it.
    CertificateExpiring = "certificate_expiring",
    /// It has ended.
    CertificateExpired = "certificate_expired",
    /// Renewing it has failed.
    CertificateFailed = "certificate_failed",
    /// A certificate or name is believed no more.
    Revoked = "revoked",
    /// Another trust document is in force.
    TrustChanged = "trust_changed",
    /// An instance was registered.
    InstanceAdded = "instance_added",
    /// It is gone.
    InstanceRemoved = "instance_removed",
    /// An instance passes its checks.
    InstanceHealthy = "instance_healthy",
    /// It fails them.
    InstanceUnhealthy = "instance_unhealthy",
    /// An instance is drained, or by another moment than before.
    InstanceDrained = "instance_drained",
    /// It serves again.
    InstanceUndrained = "instance_undrained",
    /// An instance, or a zone's instances, come after the others because they failed.
    Ejected = "ejected",
    /// They are asked like the others again.
    EjectionEnded = "ejection_ended",
    /// Events are missing: they came faster than they could be written, or the disk did not take them.
    EventsLost = "events_lost",
}

/// Something that happened, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub kind: EventKind,
    pub service: Option<String>,
    /// Gateway of another zone.
    pub peer: Option<String>,
    /// Anything else that it is about: a zone, an instance, a tag set.
    pub subject: Option<String>,
    pub text: String,
    pub because: Option<String>,
    /// Lines of `explain` at that moment.
    pub explained: Vec<String>,
    /// Events that it stands for.
    pub count: u64,
}

impl NewEvent {
    #[must_use]
    pub fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            service: None,
            peer: None,
            subject: None,
            text: cut(text.into(), MAX_TEXT_BYTES),
            because: None,
            explained: Vec::new(),
            count: 1,
        }
    }

    #[must_use]
    pub fn service(self, service: impl ToString) -> Self {
        let service = Some(cut(service.to_string(), MAX_NAME_BYTES));
        Self { service, ..self }
    }

    #[must_use]
    pub fn peer(self, peer: impl ToString) -> Self {
        let peer = Some(cut(peer.to_string(), MAX_NAME_BYTES));
        Self { peer, ..self }
    }

    #[must_use]
    pub fn subject(self, subject: impl ToString) -> Self {
        let subject = Some(cut(subject.to_string(), MAX_NAME_BYTES));
        Self { subject, ..self }
    }

    /// Cause; an empty one is none.
    #[must_use]
    pub fn because(self, because: impl Into<String>) -> Self {
        let because = cut(because.into(), MAX_TEXT_BYTES);
        Self {
            because: (!because.is_empty()).then_some(because),
            ..self
        }
    }

    #[must_use]
    pub fn explained(self, lines: impl IntoIterator<Item = String>) -> Self {
        let lines = lines.into_iter().take(MAX_LINES);
        Self {
            explained: lines.map(|line| cut(line, MAX_NAME_BYTES)).collect(),
            ..self
        }
    }
}

/// Shortens a text at the border of a character, and takes what would make more than a line of it.
fn cut(text: String, most: usize) -> String {
    let mut text = match text.chars().any(char::is_control) {
        true => text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
        false => text,
    };
    if text.len() > most {
        let mut end = most - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// One event as it is kept and shown. Within version 1 of the API fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEvent {
    /// Counts up, over restarts.
    pub id: u64,
    /// RFC 3339 in UTC, to the millisecond.
    pub time: String,
    /// Zone and gateway that saw it.
    pub zone: String,
    pub gateway: String,
    /// Word of its [`EventKind`].
    pub kind: String,
    pub service: Option<String>,
    /// Gateway of another zone, as `zone/gateway`.
    pub peer: Option<String>,
    pub subject: Option<String>,
    pub text: String,
    pub because: Option<String>,
    /// Events that it stands for: more than one where so many of a kind came within a minute that they were summed up.
    #[serde(default = "one")]
    pub count: u64,
    /// Lines of `explain` at that moment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<String>,
}

fn one() -> u64 {
    1
}

/// A moment as events have it. All have the same length, so that their order is that of the moments.
#[must_use]
pub(crate) fn moment(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(nearest_written(at)).to_string()
}

/// Milliseconds since 1970 of a moment.
pub(crate) fn milliseconds(at: SystemTime) -> u64 {
    let since = nearest_written(at).duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;

    #[test]
    fn every_kind_has_its_own_word() {
        let words: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), EventKind::ALL.len());
        let plain = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        assert!(words.iter().all(|word| plain(word)), "{words:?}");
    }

    #[test]
    fn every_kind_is_in_the_documentation_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/history.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = page.split("| kind | what happened |").nth(1).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells = rows.map(|row| row.split('|').nth(1).unwrap());
        let documented: BTreeSet<&str> = cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        let words: BTreeSet<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(documented, words);
    }

    #[test]
    fn what_comes_from_outside_is_one_line_and_bounded() {
        let event = NewEvent::new(EventKind::TunnelDown, "ä".repeat(1_000)).because("two\nlines");
        assert!(event.text.len() <= MAX_TEXT_BYTES && event.text.ends_with('…'));
        assert_eq!(event.because.as_deref(), Some("two lines"));
        assert_eq!(NewEvent::new(EventKind::Revoked, "x").because("").because, None);
    }

    #[test]
    fn moments_sort_as_texts() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(moment(at(1_795_000_000_007)), "2026-11-18T11:06:40.007Z");
        assert_eq!(moment(at(u64::MAX)), "9999-12-31T23:59:59.000Z");
        assert!(moment(at(999)) < moment(at(1_000)));
    }
}
