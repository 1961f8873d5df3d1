//! Readers of a page: whoever may see everything, or any gateway of the federation, which is told of zones and services and of no instance.

use std::borrow::Cow;

use causeway_history::HistoryEvent;
use causeway_telemetry::{Check, Status};

use super::view::{EjectionView, ServiceView};

/// Groups of findings that are about zones and services. Others can name files, addresses and instances.
const OPEN_GROUPS: [&str; 3] = ["zones", "zone sync", "services"];

/// Beginnings of the kinds of events that are about zones and services. Others can name files, addresses and instances.
const OPEN_KINDS: [&str; 11] = [
    "gateway_",
    "tunnel_",
    "peer_",
    "zone_",
    "failover_",
    "failback_",
    "spill_",
    "shed_",
    "home_",
    "shift_",
    "topology_applied",
];

/// Reader that a page is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageReader {
    /// Somebody who may read everything here.
    Whole,
    /// Any gateway of the federation.
    Federation,
}

impl PageReader {
    /// A service as this reader sees it.
    pub(super) fn service(self, view: &ServiceView) -> Cow<'_, ServiceView> {
        let names_instances = view.ejected.iter().any(|ejection| ejection.instance.is_some());
        if self == Self::Whole || !names_instances {
            return Cow::Borrowed(view);
        }
        let ejected = self.ejections(view.ejected.clone());
        Cow::Owned(ServiceView {
            ejected,
            ..view.clone()
        })
    }

    /// Ejections as this reader sees them.
    pub(super) fn ejections(self, mut ejected: Vec<EjectionView>) -> Vec<EjectionView> {
        if self == Self::Federation {
            ejected.retain(|ejection| ejection.instance.is_none());
        }
        ejected
    }

    /// Events as this reader sees them. What `explain` said of them names instances.
    pub(super) fn events(self, mut events: Vec<HistoryEvent>) -> Vec<HistoryEvent> {
        if self == Self::Whole {
            return events;
        }
        events.retain(|event| OPEN_KINDS.iter().any(|kind| event.kind.starts_with(kind)));
        for event in &mut events {
            event.explained.clear();
        }
        events
    }

    /// Findings as this reader sees them: that something is not well, and of what is not about zones and services no more.
    pub(super) fn checks(self, mut checks: Vec<Check>) -> Vec<Check> {
        if self == Self::Whole {
            return checks;
        }
        let closed = |check: &&mut Check| !OPEN_GROUPS.contains(&check.group.as_str());
        for check in checks.iter_mut().filter(closed) {
            check.message.clear();
            check.hint = match check.status {
                Status::Ok => None,
                Status::Warn | Status::Fail => {
                    Some("whoever may read there is told more: `causeway check` in that zone".to_owned())
                }
            };
        }
        checks
    }
}

#[cfg(test)]
mod tests {
    use causeway_history::EventKind;

    use super::*;

    #[test]
    fn the_federation_is_told_what_happens_to_zones_and_services_and_of_no_instance() {
        let events: Vec<HistoryEvent> = EventKind::ALL
            .iter()
            .zip(1..)
            .map(|(kind, id)| HistoryEvent {
                id,
                time: "2026-11-30T16:00:00.000Z".to_owned(),
                zone: "east".to_owned(),
                gateway: "gw1".to_owned(),
                kind: kind.word().to_owned(),
                service: None,
                peer: None,
                subject: None,
                text: String::new(),
                because: None,
                count: 1,
                explained: vec!["instance 10.1.0.1:80 is asked first".to_owned()],
            })
            .collect();
        assert_eq!(PageReader::Whole.events(events.clone()), events);
        let told = PageReader::Federation.events(events.clone());
        assert!(told.iter().all(|event| event.explained.is_empty()));
        let words: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
        for open in [
            "tunnel_down",
            "failover_begun",
            "shift_aborted",
            "topology_applied",
        ] {
            assert!(words.contains(&open), "{open}");
        }
        let closed = [
            "instance",
            "eject",
            "certificate",
            "revoked",
            "trust",
            "topology_refused",
        ];
        for word in words {
            assert!(!closed.iter().any(|begin| word.starts_with(begin)), "{word}");
        }
        // Each beginning is that of a kind.
        for kind in OPEN_KINDS {
            assert!(events.iter().any(|event| event.kind.starts_with(kind)), "{kind}");
        }
    }

    #[test]
    fn the_federation_is_told_that_something_is_wrong_and_no_address_or_file() {
        let checks = || {
            vec![
                Check::warn("zones", "tunnels", "no tunnel to north", "is it running?"),
                Check::warn(
                    "clients",
                    "listeners",
                    "cannot listen on 10.0.0.1:80",
                    "who has it?",
                ),
                Check::ok(
                    "gateway",
                    "local sockets",
                    "listens at /var/lib/causeway/admin.sock",
                ),
            ]
        };
        let told = PageReader::Federation.checks(checks());
        assert_eq!(told[0], checks()[0]);
        assert_eq!((told[1].status, told[1].message.as_str()), (Status::Warn, ""));
        assert!(told[1].hint.as_ref().unwrap().contains("causeway check"));
        assert_eq!((told[2].message.as_str(), &told[2].hint), ("", &None));
        assert_eq!(PageReader::Whole.checks(checks()), checks());
    }
}
