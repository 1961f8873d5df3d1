//! Events of what rules the gateway: the topology, whom it believes, and its own certificate.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use causeway_federation::{
    topology::diff,
    trust::{RevokedName, TrustDocument},
};

use super::{CertificateUrgency, Picture};
use crate::event::{EventKind, NewEvent, moment};

/// Most changes of a topology that are named; the rest are counted.
const MAX_CHANGES: usize = 8;

/// Tells of another topology, of zones that it empties, and of one that is refused.
pub(super) fn topology(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.snapshot.topology, &after.snapshot.topology);
    if (old.generation, &old.fingerprint) != (new.generation, &new.fingerprint) {
        let which = match new.generation {
            0 => format!("topology {} is in force", new.fingerprint),
            generation => format!("generation {generation} of the topology is in force"),
        };
        let by = after.applied_by.as_ref();
        let by = by.map_or_else(String::new, |by| format!(", applied at {by}"));
        let reason = after.applied_reason.as_ref();
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let changes = diff(old, new).changes;
        let named = changes.iter().take(MAX_CHANGES).map(ToString::to_string);
        let mut because: Vec<String> = named.collect();
        if let Some(more @ 1..) = changes.len().checked_sub(MAX_CHANGES) {
            because.push(format!("and {more} more changes"));
        }
        let because = match because.is_empty() {
            true => "nothing that counts has changed".to_owned(),
            false => because.join("; "),
        };
        let event = NewEvent::new(EventKind::TopologyApplied, format!("{which}{by}{reason}"));
        events.push(event.subject(new.fingerprint).because(because));
        drains(before, after, events);
    }
    if let Some(why) = &after.refused_topology
        && before.refused_topology.as_ref() != Some(why)
    {
        let text = "a topology is refused, and the one before it stays in force";
        events.push(NewEvent::new(EventKind::TopologyRefused, text).because(why));
    }
}

fn drains(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    for zone in after.snapshot.topology.zones.keys() {
        let (kind, text) = match (before.snapshot.drains(zone), after.snapshot.drains(zone)) {
            (false, true) => (EventKind::ZoneDrained, "is being emptied"),
            (true, false) => (EventKind::ZoneUndrained, "takes traffic again"),
            (true, true) | (false, false) => continue,
        };
        let because = "the topology says so";
        events.push(
            NewEvent::new(kind, format!("zone {zone} {text}"))
                .subject(zone)
                .because(because),
        );
    }
}

/// Tells of another trust document, and of each name that it revokes.
pub(super) fn trust(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let Some(new) = &after.trust else { return };
    let old = before.trust.as_ref();
    if old.is_some_and(|old| Arc::ptr_eq(old, new) || old.edition() == new.edition()) {
        return;
    }
    let text = format!("generation {} of the trust document is in force", new.edition());
    events.push(NewEvent::new(EventKind::TrustChanged, text).subject(new.edition()));
    let known = old.map(|old| revoked(old)).unwrap_or_default();
    for name in revoked(new).difference(&known) {
        let text = format!("certificates of {name} are revoked");
        let because = format!("generation {} of the trust document names it", new.edition());
        events.push(
            NewEvent::new(EventKind::Revoked, text)
                .subject(name)
                .because(because),
        );
    }
    let lists = |document: &TrustDocument| document.content().revocations.clone();
    if old.map(|old| lists(old)).unwrap_or_default() != lists(new) {
        let text = "the list of revoked certificates has changed";
        let because = format!("generation {} of the trust document brings it", new.edition());
        events.push(NewEvent::new(EventKind::Revoked, text).because(because));
    }
}

fn revoked(document: &TrustDocument) -> BTreeSet<String> {
    let name = |name: &RevokedName| match name {
        RevokedName::Zone(zone) => format!("zone {zone}"),
        RevokedName::Gateway(gateway) => format!("gateway {gateway}"),
    };
    let names = document.content().revoked_names.iter();
    names.map(|(revoked, _)| name(revoked)).collect()
}

/// Tells of the own certificate.
pub(super) fn certificate(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.certificate, &after.certificate);
    let ends = |validity: Option<(SystemTime, SystemTime)>| match validity {
        Some((_, end)) => format!("it is valid until {}", seconds(end)),
        None => "it does not end".to_owned(),
    };
    if old.validity != new.validity {
        let text = format!("the gateway has a new certificate; {}", ends(new.validity));
        events.push(NewEvent::new(EventKind::CertificateRenewed, text));
    }
    if let Some(why) = new.failure.as_ref().filter(|_| old.failure.is_none()) {
        let text = format!(
            "the gateway's certificate could not be renewed; {}",
            ends(new.validity)
        );
        events.push(NewEvent::new(EventKind::CertificateFailed, text).because(why));
    }
    if new.urgency > old.urgency {
        let (kind, text) = match new.urgency {
            CertificateUrgency::Calm => return,
            CertificateUrgency::Expiring => (EventKind::CertificateExpiring, "ends soon"),
            CertificateUrgency::Expired => {
                (EventKind::CertificateExpired, "has ended: no gateway accepts it")
            }
        };
        let text = format!("the gateway's certificate {text}; {}", ends(new.validity));
        events.push(NewEvent::new(kind, text).because(new.failure.clone().unwrap_or_default()));
    }
}

/// A moment in whole seconds.
fn seconds(at: SystemTime) -> String {
    let whole = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    moment(SystemTime::UNIX_EPOCH + Duration::from_secs(whole)).replace(".000", "")
}
