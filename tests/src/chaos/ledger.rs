//! Works out what each registry may hold, from what it was asked for and what it answered. Pure.
//!
//! After an acknowledgement an instance has one possible state. A request whose connection broke may or may not have
//! been carried out, which leaves two. One that was never answered may be carried out at any time, so nothing is asked
//! of that instance again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::Value;

use super::admin::Answer;

/// Name of an instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub zone: String,
    pub service: String,
    pub id: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} in {}", self.service, self.id, self.zone)
    }
}

/// Registration under a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    pub address: String,
    pub weight: u64,
    /// The tag `version`.
    pub version: String,
}

impl Content {
    /// As the admin API shows an instance; `None`: it is not one.
    #[must_use]
    pub fn shown(instance: &Value) -> Option<Self> {
        Some(Self {
            address: instance.get("address")?.as_str()?.to_owned(),
            weight: instance.get("weight")?.as_u64()?,
            version: instance.get("tags")?.get("version")?.as_str()?.to_owned(),
        })
    }
}

/// The outcome of one request as the ledger sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    Acknowledged,
    /// It was not carried out and will not be.
    NotDone,
    /// It was carried out, or never will be.
    Unknown,
    /// It may be carried out at any time.
    Late,
}

impl RequestOutcome {
    /// A gateway that answers with a server error may have carried the request out.
    #[must_use]
    pub fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Came(200..=299, _) => Self::Acknowledged,
            Answer::Came(400..=499, _) | Answer::NotSent => Self::NotDone,
            Answer::Came(..) | Answer::Late => Self::Late,
            Answer::Broken => Self::Unknown,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Entry {
    /// Every state that the instance may be in; `None`: not registered.
    possible: BTreeSet<Option<Content>>,
    retired: bool,
}

/// Everything that was asked of all registries.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: BTreeMap<Key, Entry>,
}

/// Numbers of instances by condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    pub registered: usize,
    pub gone: usize,
    pub uncertain: usize,
}

impl Ledger {
    /// A request to make an instance `wanted` (`None`: deregister it) had this outcome.
    pub fn asked(&mut self, key: &Key, wanted: Option<Content>, outcome: RequestOutcome) {
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            possible: BTreeSet::from([None]),
            retired: false,
        });
        match outcome {
            RequestOutcome::Acknowledged => entry.possible = BTreeSet::from([wanted]),
            RequestOutcome::NotDone => {}
            RequestOutcome::Unknown => drop(entry.possible.insert(wanted)),
            RequestOutcome::Late => {
                entry.possible.insert(wanted);
                entry.retired = true;
            }
        }
    }

    /// The instance has a lease that nobody renews: in the end it is gone, whatever was answered.
    pub fn lapses(&mut self, key: &Key) {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.possible = BTreeSet::from([None]);
    }

    /// Registration, if it is certain.
    #[must_use]
    pub fn certain(&self, key: &Key) -> Option<Content> {
        let possible = &self.entries.get(key)?.possible;
        possible.first().filter(|_| possible.len() == 1)?.clone()
    }

    /// Tells whether the instance must not be used any more, because an old request may still be carried out.
    #[must_use]
    pub fn is_retired(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.retired)
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        for entry in self.entries.values() {
            match (entry.possible.len(), entry.possible.first()) {
                (1, Some(Some(_))) => standing.registered += 1,
                (1, _) => standing.gone += 1,
                _ => standing.uncertain += 1,
            }
        }
        standing
    }

    /// Compares with everything that one zone's registry shows; a line for each instance that is not as it must be.
    #[must_use]
    pub fn faults(&self, zone: &str, shown: &BTreeMap<Key, Content>) -> Vec<String> {
        let own = self.entries.iter().filter(|(key, _)| key.zone == zone);
        let mut faults: Vec<_> = own
            .filter_map(|(key, entry)| fault(key, entry, shown.get(key)))
            .collect();
        let strangers = shown.keys().filter(|key| !self.entries.contains_key(key));
        faults.extend(strangers.map(|key| format!("{key} was never registered")));
        faults
    }
}

fn fault(key: &Key, entry: &Entry, shown: Option<&Content>) -> Option<String> {
    if entry.possible.contains(&shown.cloned()) {
        return None;
    }
    Some(match shown {
        None => format!("{key} was acknowledged and is lost: {:?}", entry.possible),
        Some(shown) if entry.possible.iter().all(Option::is_none) => {
            format!("{key} is gone and came back: {shown:?}")
        }
        Some(shown) => format!("{key} is {shown:?} and must be one of {:?}", entry.possible),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key {
            zone: "east".into(),
            service: "orders".into(),
            id: id.into(),
        }
    }

    fn content(weight: u64) -> Content {
        Content {
            address: "127.0.0.1:80".into(),
            weight,
            version: "v1".into(),
        }
    }

    fn faults(ledger: &Ledger, shown: Option<u64>) -> usize {
        let shown = shown.map(|weight| (key("a"), content(weight)));
        ledger.faults("east", &shown.into_iter().collect()).len()
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let mut ledger = Ledger::default();
        ledger.asked(&key("a"), Some(content(1)), RequestOutcome::Acknowledged);
        assert_eq!(faults(&ledger, Some(1)), 0);
        assert_eq!(faults(&ledger, Some(2)), 1);
        assert_eq!(faults(&ledger, None), 1);
        // A request that never went out changes nothing of that.
        ledger.asked(&key("a"), None, RequestOutcome::NotDone);
        assert_eq!(faults(&ledger, None), 1);
    }

    #[test]
    fn what_was_deregistered_must_not_come_back() {
        let mut ledger = Ledger::default();
        ledger.asked(&key("a"), Some(content(1)), RequestOutcome::Acknowledged);
        ledger.asked(&key("a"), None, RequestOutcome::Acknowledged);
        assert_eq!(faults(&ledger, None), 0);
        assert_eq!(faults(&ledger, Some(1)), 1);
    }

    #[test]
    fn a_broken_request_leaves_two_states_until_the_next_answer() {
        let mut ledger = Ledger::default();
        ledger.asked(&key("a"), Some(content(1)), RequestOutcome::Acknowledged);
        ledger.asked(&key("a"), Some(content(2)), RequestOutcome::Unknown);
        assert_eq!(faults(&ledger, Some(1)) + faults(&ledger, Some(2)), 0);
        assert_eq!(faults(&ledger, None), 1);
        ledger.asked(&key("a"), Some(content(3)), RequestOutcome::Acknowledged);
        assert_eq!(faults(&ledger, Some(2)), 1);
        assert!(!ledger.is_retired(&key("a")));
        ledger.asked(&key("a"), None, RequestOutcome::Late);
        assert!(ledger.is_retired(&key("a")));
    }

    #[test]
    fn an_instance_that_nobody_registered_is_a_fault() {
        assert_eq!(faults(&Ledger::default(), Some(1)), 1);
        assert_eq!(faults(&Ledger::default(), None), 0);
    }

    #[test]
    fn server_errors_and_silence_leave_a_request_open() {
        let came = |status| RequestOutcome::of(&Answer::Came(status, Value::Null));
        assert_eq!(came(204), RequestOutcome::Acknowledged);
        assert_eq!(came(404), RequestOutcome::NotDone);
        assert_eq!(came(503), RequestOutcome::Late);
        assert_eq!(RequestOutcome::of(&Answer::Broken), RequestOutcome::Unknown);
        assert_eq!(RequestOutcome::of(&Answer::NotSent), RequestOutcome::NotDone);
    }
}
