//! Checks shared out among the gateways of a zone: which instances this gateway checks, what the others said of the rest,
//! and what they are still to be told. Pure; who carries it between gateways is `attach`'s.
//!
//! A gateway that is cut off from the others checks everything and tells nobody: its view counts for it alone. One that
//! cannot connect to an instance that another gateway finds healthy *doubts* it: it checks that instance itself, for
//! itself alone, until a check passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use causeway_federation::registry::{InstanceKey, MAX_INSTANCES_PER_ZONE};
use causeway_routing::snapshot::Health;

use super::checker;

/// Most instances whose health is kept: all that can register, and as many fixed ones.
const MAX_TOLD: usize = 2 * MAX_INSTANCES_PER_ZONE;

/// Number of instances that are gone and may be remembered in any case, so that they are not looked through all the time.
const SPARE_TOLD: usize = 1_000;

/// Finding of a gateway about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub health: Health,
    /// Reason why it last failed; empty when it did not.
    pub failure: String,
    /// The gateway that found it.
    pub gateway: String,
}

/// Finding about an instance as the zone was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedFinding {
    pub verdict: Finding,
    /// Time at which this gateway heard it.
    pub since: Instant,
}

/// Duty of this gateway towards an instance whose service is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Checks it, and tells the others if there are any.
    Check,
    /// Checks it for itself, as it could not connect to it; another gateway checks it for the zone.
    Doubt,
    /// Goes by what another gateway says.
    Watch,
}

/// This gateway's part in the zone's checks.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    /// This gateway among others; empty when it is alone by its configuration.
    own: String,
    /// Every gateway that is present, this one included; `None` while cut off.
    gateways: Option<BTreeSet<String>>,
    /// Last finding about each instance that the zone was told.
    told: BTreeMap<InstanceKey, SharedFinding>,
    doubted: BTreeSet<InstanceKey>,
    /// Findings that this gateway has still to tell: the latest of each instance.
    reports: BTreeMap<InstanceKey, Finding>,
}

impl Sharing {
    /// For a gateway that is the only one of its zone.
    #[must_use]
    pub(crate) fn alone() -> Self {
        Self::default()
    }

    /// For a gateway that shares the checks with others as soon as it hears of them.
    #[must_use]
    pub(crate) fn among(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            ..Self::default()
        }
    }

    #[must_use]
    pub(crate) fn duty(&self, key: &InstanceKey) -> Duty {
        let Some(gateways) = &self.gateways else {
            return Duty::Check;
        };
        if checker(gateways.iter().map(String::as_str), key).is_none_or(|gateway| gateway == self.own) {
            Duty::Check
        } else if self.doubted.contains(key) {
            Duty::Doubt
        } else {
            Duty::Watch
        }
    }

    /// Last finding about an instance that the zone was told; `None` while cut off, as it may long be different.
    #[must_use]
    pub(crate) fn told(&self, key: &InstanceKey) -> Option<&SharedFinding> {
        self.gateways.as_ref().and_then(|_| self.told.get(key))
    }

    /// Everything that the zone knows, on joining the others. What was to be told before is told again if it is still so.
    pub(crate) fn join(
        &mut self,
        now: Instant,
        gateways: BTreeSet<String>,
        verdicts: impl IntoIterator<Item = (InstanceKey, Finding)>,
    ) {
        let told = verdicts.into_iter().take(MAX_TOLD);
        self.told = told
            .map(|(key, verdict)| (key, SharedFinding { verdict, since: now }))
            .collect();
        self.doubted.clear();
        self.reports.clear();
        self.set_gateways(gateways);
    }

    /// The gateways that are present now.
    pub(crate) fn set_gateways(&mut self, mut gateways: BTreeSet<String>) {
        // The others may not know of this one yet, and double work is better than none.
        gateways.insert(self.own.clone());
        self.gateways = Some(gateways);
    }

    /// The others cannot be heard: from now on everything is checked here.
    pub(crate) fn cut_off(&mut self) {
        self.gateways = None;
        self.doubted.clear();
        self.reports.clear();
    }

    /// Takes in what another gateway found, or what the store gave back of this gateway's own words.
    pub(crate) fn hear(&mut self, now: Instant, key: InstanceKey, verdict: Finding) {
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(&key) {
            return;
        }
        if verdict.health != Health::Healthy {
            // It gets no traffic either way.
            self.doubted.remove(&key);
        }
        self.told.insert(key, SharedFinding { verdict, since: now });
    }

    /// After each check of an instance that is this gateway's to check: tells the others if they think otherwise.
    pub(crate) fn found(&mut self, now: Instant, key: &InstanceKey, health: Health, failure: &str) {
        if self.gateways.is_none() || health == Health::Unknown {
            return;
        }
        if self
            .told
            .get(key)
            .is_some_and(|told| told.verdict.health == health)
        {
            return;
        }
        let verdict = Finding {
            health,
            failure: match health {
                Health::Unhealthy => failure.to_owned(),
                _ => String::new(),
            },
            gateway: self.own.clone(),
        };
        self.hear(now, key.clone(), verdict.clone());
        self.reports.insert(key.clone(), verdict);
    }

    /// This gateway could not connect to an instance that it watches.
    pub(crate) fn doubt(&mut self, key: &InstanceKey) {
        self.doubted.insert(key.clone());
    }

    /// The instance passed this gateway's own check.
    pub(crate) fn trust(&mut self, key: &InstanceKey) {
        self.doubted.remove(key);
    }

    /// Drops what was said of an instance: this gateway, which checks it, looks anew.
    pub(crate) fn forget(&mut self, key: &InstanceKey) {
        self.told.remove(key);
        self.doubted.remove(key);
        self.reports.remove(key);
    }

    /// Drops what was said of instances that are gone, once that is more than what is here.
    pub(crate) fn prune(&mut self, here: usize, is_here: impl Fn(&InstanceKey) -> bool) {
        if self.told.len() > 2 * here + SPARE_TOLD {
            self.told.retain(|key, _| is_here(key));
        }
    }

    #[must_use]
    pub(crate) fn has_report(&self) -> bool {
        !self.reports.is_empty()
    }

    /// The next thing to tell the others.
    pub(crate) fn take_report(&mut self) -> Option<(InstanceKey, Finding)> {
        self.reports.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::ServiceName;

    use super::*;

    fn key(n: usize) -> InstanceKey {
        InstanceKey {
            service: ServiceName::new("orders").unwrap(),
            id: format!("10.0.0.{n}:80"),
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn verdict(health: Health) -> Finding {
        Finding {
            health,
            failure: String::new(),
            gateway: "gw2".to_owned(),
        }
    }

    /// One instance that is gw1's to check, and one that is gw2's.
    fn mine_and_theirs() -> (InstanceKey, InstanceKey) {
        let of = |gateway| {
            (0..)
                .map(key)
                .find(|key| checker(["gw1", "gw2"], key) == Some(gateway))
        };
        (of("gw1").unwrap(), of("gw2").unwrap())
    }

    #[test]
    fn a_gateway_alone_or_cut_off_checks_everything_and_tells_nobody() {
        let (mine, theirs) = mine_and_theirs();
        let mut sharing = Sharing::among("gw1");
        for _ in 0..2 {
            for key in [&mine, &theirs] {
                assert_eq!(sharing.duty(key), Duty::Check);
                sharing.found(Instant::now(), key, Health::Healthy, "");
            }
            assert!(!sharing.has_report());
            sharing.join(Instant::now(), names(&["gw2"]), []);
            assert_eq!(
                (sharing.duty(&mine), sharing.duty(&theirs)),
                (Duty::Check, Duty::Watch)
            );
            sharing.cut_off();
        }
        assert_eq!(Sharing::alone().duty(&theirs), Duty::Check);
    }

    #[test]
    fn what_the_zone_knows_already_is_not_told_again() {
        let (mine, _) = mine_and_theirs();
        let mut sharing = Sharing::among("gw1");
        sharing.join(
            Instant::now(),
            names(&["gw1", "gw2"]),
            [(mine.clone(), verdict(Health::Healthy))],
        );
        sharing.found(Instant::now(), &mine, Health::Unknown, "");
        sharing.found(Instant::now(), &mine, Health::Healthy, "");
        assert!(!sharing.has_report());
        sharing.found(Instant::now(), &mine, Health::Unhealthy, "answered 503");
        sharing.found(Instant::now(), &mine, Health::Unhealthy, "answered 503");
        let (key, told) = sharing.take_report().unwrap();
        assert_eq!(
            (key, told.failure.as_str(), told.gateway.as_str()),
            (mine.clone(), "answered 503", "gw1")
        );
        assert!(!sharing.has_report());
        // Another gateway thought that the instance was its own, and contradicts.
        sharing.hear(Instant::now(), mine.clone(), verdict(Health::Healthy));
        sharing.found(Instant::now(), &mine, Health::Unhealthy, "answered 503");
        assert!(sharing.has_report());
    }

    #[test]
    fn a_doubt_lasts_until_a_check_passes_or_the_zone_shares_it() {
        let (_, theirs) = mine_and_theirs();
        let mut sharing = Sharing::among("gw1");
        sharing.join(
            Instant::now(),
            names(&["gw1", "gw2"]),
            [(theirs.clone(), verdict(Health::Healthy))],
        );
        sharing.doubt(&theirs);
        assert_eq!(sharing.duty(&theirs), Duty::Doubt);
        sharing.hear(Instant::now(), theirs.clone(), verdict(Health::Healthy));
        assert_eq!(sharing.duty(&theirs), Duty::Doubt);
        sharing.trust(&theirs);
        assert_eq!(sharing.duty(&theirs), Duty::Watch);
        sharing.doubt(&theirs);
        sharing.hear(Instant::now(), theirs.clone(), verdict(Health::Unhealthy));
        assert_eq!(sharing.duty(&theirs), Duty::Watch);
        assert_eq!(sharing.told(&theirs).unwrap().verdict.health, Health::Unhealthy);
    }
}
