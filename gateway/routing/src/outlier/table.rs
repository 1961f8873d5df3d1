//! Memory of what has failed, and when that ejects something.

use std::{collections::BTreeMap, time::Duration};

use causeway_federation::{
    name::{PortName, ServiceName, Tags, ZoneName},
    topology::Outlier,
};

use super::{CarriedEjection, Ejected, EjectedPart, Ejection, FailureCounts, TriedPlace, TryFailure};

/// Longest time for which anything is ejected, unless its service says a longer one.
const MAX_EJECTED: Duration = Duration::from_secs(300);
/// Most doublings of the time of the first ejection.
const MAX_DOUBLINGS: u32 = 10;
/// Most instances, most places, and most clients that are remembered. Of a further one nothing is known.
pub(super) const MAX_RECORDS: usize = 10_000;

/// Ends of the tries of one client of a service, since its entry was made.
#[derive(Debug, Clone, Copy, Default)]
struct ClientTries {
    well: u64,
    failed: u64,
}

/// Failures in a row, and the ejections that they came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FailureRow {
    failures: FailureCounts,
    ejections: u32,
    /// Beginning and end of the last ejection.
    since: Duration,
    until: Duration,
    /// Instance of the first failure, and whether another one has failed since.
    first: u64,
    several: bool,
    /// Client of the first failure, and whether another one has met with one since.
    client: u64,
    several_clients: bool,
    /// Tries of that client before the row.
    before: ClientTries,
}

impl FailureRow {
    fn is_ejected(&self, now: Duration) -> bool {
        now < self.until
    }

    /// Takes up a failure; `true`: it is ejected with it. `tries`: those of its client before this one.
    fn failed(
        &mut self,
        (now, policy): (Duration, &Outlier),
        (failure, at): (TryFailure, TriedPlace<'_>),
        tries: ClientTries,
        is_enough: impl Fn(&Self) -> bool,
    ) -> bool {
        if self.is_ejected(now) {
            // Of what was under way before.
            return false;
        }
        if self.failures.total() == 0 {
            (self.first, self.several) = (at.instance, false);
            (self.client, self.several_clients, self.before) = (at.client, false, tries);
        }
        if self.first == 0 {
            // The row is another process's, of which this is not told.
            self.first = at.instance;
        }
        self.several |= at.instance != self.first;
        self.several_clients |= at.client != self.client;
        self.failures.add(failure);
        // One that has come back has a single chance: its row goes on.
        if self.failures.total() < policy.consecutive || !self.is_to_blame(tries) || !is_enough(self) {
            return false;
        }
        let longest = MAX_EJECTED.max(policy.eject);
        let time = policy
            .eject
            .saturating_mul(1 << self.ejections.min(MAX_DOUBLINGS));
        self.ejections = self.ejections.saturating_add(1);
        self.since = now;
        self.until = now.saturating_add(time.min(longest));
        true
    }

    /// Tells whether it is not the one client's requests that fail wherever they go: since the row began others have served it well
    /// more often than not.
    fn is_to_blame(&self, tries: ClientTries) -> bool {
        if self.several_clients || !self.failures.are_errors() {
            return true;
        }
        // Those before this failure, which is one of the row.
        let own = u64::from(self.failures.total()).saturating_sub(1);
        let well = tries.well.saturating_sub(self.before.well);
        let failed = tries
            .failed
            .saturating_sub(self.before.failed)
            .saturating_sub(own);
        well > failed
    }

    /// The row of what another process has ejected.
    fn carried(now: Duration, from: &CarriedEjection) -> Self {
        Self {
            failures: from.failures,
            ejections: from.times,
            since: now.saturating_sub(Duration::from_millis(from.began_ago)),
            until: now.saturating_add(Duration::from_millis(from.ends_in)),
            ..Self::default()
        }
    }

    fn ejection(&self, (at, zone): (&PortKey, &ZoneName), part: EjectedPart) -> Ejection {
        Ejection {
            service: at.0.clone(),
            port: at.1.clone(),
            zone: zone.clone(),
            part,
            since: self.since,
            until: self.until,
            failures: self.failures,
            times: self.ejections,
        }
    }
}

/// Service and its port.
type PortKey = (ServiceName, Option<PortName>);
type InstanceKey = (PortKey, ZoneName, u64);
type PlaceKey = (PortKey, ZoneName, Tags);

/// Memory of what has failed.
#[derive(Debug, Default)]
pub struct OutlierTable {
    pub(super) instances: BTreeMap<InstanceKey, FailureRow>,
    places: BTreeMap<PlaceKey, FailureRow>,
    /// Kept while there is anything above.
    clients: BTreeMap<(PortKey, u64), ClientTries>,
    /// Nothing changes before.
    next: Option<Duration>,
}

impl OutlierTable {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.places.is_empty()
    }

    /// The next moment at which something that is ejected comes back.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.next
    }

    /// Goes on with what another process has ejected.
    pub fn carry_on<'a>(&mut self, now: Duration, ejected: impl IntoIterator<Item = &'a CarriedEjection>) {
        for from in ejected {
            let (at, zone) = ((from.service.clone(), from.port.clone()), from.zone.clone());
            let row = FailureRow::carried(now, from);
            match &from.part {
                EjectedPart::Instance(number) => put(&mut self.instances, now, (at, zone, *number), row),
                EjectedPart::Zone(tags) => put(&mut self.places, now, (at, zone, tags.clone()), row),
            }
        }
        self.look_ahead(now);
    }

    /// Collects what another process is to go on with: what is ejected, and what has come back and not gone well since, whose next ejection
    /// is to be longer.
    #[must_use]
    pub fn carried(&self, now: Duration) -> Vec<CarriedEjection> {
        let was_ejected = |row: &FailureRow| row.ejections > 0;
        let mut all = Vec::new();
        for ((at, zone, number), row) in self.instances.iter().filter(|(_, row)| was_ejected(row)) {
            all.push(
                row.ejection((at, zone), EjectedPart::Instance(*number))
                    .carried(now),
            );
        }
        for ((at, zone, tags), row) in self.places.iter().filter(|(_, row)| was_ejected(row)) {
            all.push(
                row.ejection((at, zone), EjectedPart::Zone(tags.clone()))
                    .carried(now),
            );
        }
        all.sort_by_key(|one| one.ends_in == 0);
        all
    }

    /// Takes up that a try failed. Tells whether something was ejected with it.
    pub fn failed(
        &mut self,
        now: Duration,
        policy: &Outlier,
        failure: TryFailure,
        at: TriedPlace<'_>,
    ) -> bool {
        let mut changed = false;
        let tries = self.count(at, false);
        let key = (port_key(at), at.zone.clone(), at.instance);
        if at.instance != 0 && has_room(&mut self.instances, now, &key) {
            let row = self.instances.entry(key).or_default();
            changed |= row.failed((now, policy), (failure, at), tries, |_| true);
        }
        let key = (port_key(at), at.zone.clone(), at.tags.clone());
        if has_room(&mut self.places, now, &key) {
            let row = self.places.entry(key).or_default();
            // One bad instance among others says nothing of its zone.
            changed |= row.failed((now, policy), (failure, at), tries, |row| {
                row.several || at.healthy <= 1 || at.instance == 0
            });
        }
        self.look_ahead(now);
        changed
    }

    /// Takes up that a try went well. Tells whether something has come back with it.
    pub fn succeeded(&mut self, now: Duration, at: TriedPlace<'_>) -> bool {
        let mut changed = false;
        let key = (port_key(at), at.zone.clone(), at.instance);
        if self.instances.get(&key).is_some_and(|row| !row.is_ejected(now)) {
            self.instances.remove(&key);
        }
        let key = (port_key(at), at.zone.clone(), at.tags.clone());
        if let Some(row) = self.places.remove(&key) {
            changed = row.is_ejected(now);
        }
        self.count(at, true);
        if self.is_empty() {
            self.clients.clear();
        }
        self.look_ahead(now);
        changed
    }

    /// Counts a try with its client, and returns what was counted before.
    fn count(&mut self, at: TriedPlace<'_>, is_well: bool) -> ClientTries {
        let key = (port_key(at), at.client);
        if self.clients.len() >= MAX_RECORDS && !self.clients.contains_key(&key) {
            // Of rows under way it is not known then that others have served their clients well.
            self.clients.clear();
        }
        let tries = self.clients.entry(key).or_default();
        let before = *tries;
        match is_well {
            true => tries.well += 1,
            false => tries.failed += 1,
        }
        before
    }

    /// Collects what is ejected now.
    #[must_use]
    pub fn ejected(&mut self, now: Duration) -> Ejected {
        let mut list = Vec::new();
        for ((service, zone, number), row) in &self.instances {
            if row.is_ejected(now) {
                list.push(row.ejection((service, zone), EjectedPart::Instance(*number)));
            }
        }
        for ((service, zone, tags), row) in &self.places {
            if row.is_ejected(now) {
                list.push(row.ejection((service, zone), EjectedPart::Zone(tags.clone())));
            }
        }
        self.look_ahead(now);
        Ejected::of(list)
    }

    fn look_ahead(&mut self, now: Duration) {
        let rows = self.instances.values().chain(self.places.values());
        self.next = rows.filter(|row| row.is_ejected(now)).map(|row| row.until).min();
    }
}

fn port_key(at: TriedPlace<'_>) -> PortKey {
    (at.service.clone(), at.port.cloned())
}

fn put<K: Ord>(records: &mut BTreeMap<K, FailureRow>, now: Duration, key: K, row: FailureRow) {
    if has_room(records, now, &key) {
        records.insert(key, row);
    }
}

/// Makes room for a further record, by forgetting those that are not ejected.
fn has_room<K: Ord>(records: &mut BTreeMap<K, FailureRow>, now: Duration, key: &K) -> bool {
    if records.len() >= MAX_RECORDS && !records.contains_key(key) {
        records.retain(|_, row| row.is_ejected(now));
    }
    records.len() < MAX_RECORDS || records.contains_key(key)
}
