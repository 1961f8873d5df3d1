//! The other gateways' records, how old each is, and the catalog that they make together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use causeway_federation::{
    catalog::{Age, Catalog, CatalogEntry, ExportsDigest, Record},
    name::{GatewayId, ZoneName},
    signing::{Credential, Purpose, Signed, Unproven, Verifier},
};
use causeway_proto::sync as proto;

use super::{
    Ages,
    head::{self, Beat, BeatMark},
    limits::{FORGET, MAX_INCARNATION, MAX_PEERS, RELAY_DELAY},
    wire::{self, Stamp},
};

/// Times at which a record's age changes, by this gateway's own clock.
#[derive(Debug, Clone, Copy)]
struct Believed {
    /// `None`: not heard since this process began.
    fresh_until: Option<Instant>,
    withdrawn_at: Instant,
}

impl Believed {
    fn age(&self, now: Instant) -> Age {
        if now >= self.withdrawn_at {
            Age::Withdrawn
        } else if self.fresh_until.is_some_and(|until| now < until) {
            Age::Fresh
        } else {
            Age::Suspect
        }
    }

    /// Time at which a record that was found to be of this age changes it, or is forgotten. Not by the clock of the caller: a
    /// change that is overdue lies in the past, and is not passed over.
    fn next_change(&self, published: Age) -> Instant {
        match published {
            Age::Fresh => self
                .fresh_until
                .unwrap_or(self.withdrawn_at)
                .min(self.withdrawn_at),
            Age::Suspect => self.withdrawn_at,
            Age::Withdrawn => self.withdrawn_at + FORGET,
        }
    }
}

/// Changes of the records as time passed.
#[derive(Debug, Default)]
pub(super) struct Aged {
    pub changed: Vec<(GatewayId, Age)>,
    pub forgotten: Vec<GatewayId>,
}

/// Knowledge of one origin's record besides the record.
#[derive(Debug)]
struct Standing {
    believed: Believed,
    /// Tells whether the origin's signature was checked and is good.
    proven: bool,
    /// The newest beat that came.
    mark: BeatMark,
    beat: Option<HeldBeat>,
}

#[derive(Debug)]
struct HeldBeat {
    came: Instant,
    beat: Beat,
    signed: Signed,
    proven: bool,
}

#[derive(Debug)]
pub(super) struct HeldRecords {
    ages: Ages,
    standings: BTreeMap<GatewayId, Standing>,
    catalog: Arc<Catalog>,
    /// Incarnations later than what is held that somebody says they hold.
    claims: BTreeMap<GatewayId, u64>,
    /// The newest that was known of origins that were forgotten, so that nobody can bring them back by repeating it.
    forgotten: BTreeMap<GatewayId, (Stamp, BeatMark)>,
    /// No age changes before this time. An origin that is heard again makes it too early, which costs a look in vain;
    /// to know the time exactly would cost a look at every origin after every message.
    next_change: Option<Instant>,
}

impl HeldRecords {
    pub(super) fn new(ages: Ages) -> Self {
        Self {
            ages,
            standings: BTreeMap::new(),
            catalog: Arc::default(),
            claims: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            next_change: None,
        }
    }

    pub(super) fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    pub(super) fn record(&self, origin: &GatewayId) -> Option<&Arc<Record>> {
        self.catalog.entry(origin).map(|entry| &entry.record)
    }

    /// The newest version of `origin` that is held whole.
    pub(super) fn stamp(&self, origin: &GatewayId) -> Stamp {
        self.record(origin)
            .map_or(Stamp::NONE, |record| Stamp::of(record))
    }

    /// The origins of one zone of which something is held.
    pub(super) fn origins_of(&self, zone: &ZoneName) -> Vec<GatewayId> {
        let entries = self.catalog.zone(zone);
        entries.map(|entry| entry.record.origin.clone()).collect()
    }

    /// Takes a record that may be outdated, from disk or from a relay that says so: suspect until its origin is heard,
    /// withdrawn as if it had been heard when this `came`.
    pub(super) fn restore(&mut self, now: Instant, record: Record, came: Instant, via: Option<&GatewayId>) {
        let believed = Believed {
            fresh_until: None,
            withdrawn_at: came + self.ages.withdrawn,
        };
        self.stand(&record.origin, believed);
        if let Some(standing) = self.standings.get_mut(&record.origin) {
            standing.proven = via.is_some();
        }
        self.publish(CatalogEntry {
            record: Arc::new(record),
            age: believed.age(now),
            via: via.cloned(),
        });
    }

    /// Holds a newer record, from its origin or passed on by `via`, which was checked then. `lives` says whether its
    /// origin was heard with it when it `came`: not if it is outdated, or the origin has told of a newer one.
    pub(super) fn replace(
        &mut self,
        now: Instant,
        record: Record,
        came: Instant,
        lives: bool,
        via: Option<&GatewayId>,
    ) {
        let origin = record.origin.clone();
        let is_old = |known: &(Stamp, BeatMark)| Stamp::of(&record) <= known.0;
        let repeated = via.is_some() && self.forgotten.get(&origin).is_some_and(is_old);
        let age = match (self.standings.get(&origin), lives) {
            // Forgotten, and repeated by somebody: worth nothing until its origin gives a new sign of life.
            (None, _) if repeated => {
                let believed = Believed {
                    fresh_until: None,
                    withdrawn_at: now,
                };
                self.stand(&origin, believed);
                Age::Withdrawn
            }
            (Some(standing), false) => standing.believed.age(now),
            (None, false) => {
                self.restore(now, record, came, via);
                return;
            }
            (_, true) => self.believe(now, came, &origin),
        };
        if let Some(standing) = self.standings.get_mut(&origin) {
            standing.proven = via.is_some();
        }
        self.claims
            .retain(|of, incarnation| *of != origin || *incarnation > record.incarnation);
        self.publish(CatalogEntry {
            record: Arc::new(record),
            age,
            via: via.cloned(),
        });
    }

    /// Notes that an origin spoke whose newest record is held; answers the new age if that changed.
    pub(super) fn heard(&mut self, now: Instant, origin: &GatewayId, via: Option<&GatewayId>) -> Option<Age> {
        let entry = self.catalog.entry(origin)?.clone();
        let age = self.believe(now, now, origin);
        // As long as all is well, it does not matter which of two relays was quicker.
        if age == entry.age && (via.is_some() || entry.via.is_none()) {
            return None;
        }
        let changed = age != entry.age;
        let via = via.cloned();
        self.publish(CatalogEntry { age, via, ..entry });
        changed.then_some(age)
    }

    fn believe(&mut self, now: Instant, lived: Instant, origin: &GatewayId) -> Age {
        let before = self.standings.get(origin).map(|standing| standing.believed);
        let believed = Believed {
            fresh_until: before
                .and_then(|before| before.fresh_until)
                .max(Some(lived + self.ages.fresh)),
            withdrawn_at: before
                .map_or(now, |before| before.withdrawn_at)
                .max(lived + self.ages.withdrawn),
        };
        self.stand(origin, believed);
        believed.age(now)
    }

    fn stand(&mut self, origin: &GatewayId, believed: Believed) {
        if let Some(standing) = self.standings.get_mut(origin) {
            standing.believed = believed;
            return;
        }
        let forgotten = self.forgotten.get(origin);
        let standing = Standing {
            believed,
            proven: false,
            mark: forgotten.map_or((0, 0), |(_, mark)| *mark),
            beat: None,
        };
        self.standings.insert(origin.clone(), standing);
    }

    fn publish(&mut self, entry: CatalogEntry) {
        if let Some(standing) = self.standings.get(&entry.record.origin) {
            let change = standing.believed.next_change(entry.age);
            self.next_change = Some(self.next_change.map_or(change, |next| next.min(change)));
        }
        Arc::make_mut(&mut self.catalog).insert(entry);
    }

    /// The digest of the exports that are held of `origin`, made of them and not of anyone's word.
    pub(super) fn digest(&mut self, origin: &GatewayId) -> Option<ExportsDigest> {
        let mut entry = self.catalog.entry(origin)?.clone();
        let mut exports = entry.record.exports.clone();
        let is_summed = exports.is_summed();
        let digest = exports.digest();
        if !is_summed {
            // Kept, so that the next time costs nothing.
            Arc::make_mut(&mut entry.record).exports = exports;
            self.publish(entry);
        }
        Some(digest)
    }

    pub(super) fn credential(&self, origin: &GatewayId) -> Option<&Arc<Credential>> {
        let signed = self.record(origin)?.signed.as_ref()?;
        Some(&signed.credential)
    }

    /// The record, if its origin's signature was checked.
    pub(super) fn proven(&self, origin: &GatewayId) -> Option<&Arc<Record>> {
        let proven = self.standings.get(origin).is_some_and(|standing| standing.proven);
        let entry = self.catalog.entry(origin)?;
        // What is withdrawn here is not spread: gateways that forget it at different times would keep it alive for ever.
        (proven && entry.age < Age::Withdrawn).then_some(&entry.record)
    }

    /// Checks the origin's signature, unless that was done; answers whether there is one.
    ///
    /// # Errors
    /// When it is not good.
    pub(super) fn prove(&mut self, origin: &GatewayId, verifier: &dyn Verifier) -> Result<bool, Unproven> {
        let Some(record) = self.catalog.entry(origin).map(|entry| entry.record.clone()) else {
            return Ok(false);
        };
        let Some(standing) = self.standings.get_mut(origin) else {
            return Ok(false);
        };
        let unsigned = |signed: &Signed| signed.signature.is_empty();
        let Some(signed) = record.signed.as_ref().filter(|signed| !unsigned(signed)) else {
            return Ok(false);
        };
        if !standing.proven {
            signed.check(verifier, Purpose::Record, origin)?;
            standing.proven = true;
        }
        Ok(true)
    }

    /// Notes a beat of `origin`, if it is newer than every one before.
    pub(super) fn note_beat(
        &mut self,
        now: Instant,
        origin: &GatewayId,
        beat: Beat,
        signed: Signed,
        proven: bool,
    ) {
        if let Some(standing) = self.standings.get_mut(origin)
            && beat.mark() > standing.mark
        {
            standing.mark = beat.mark();
            standing.beat = Some(HeldBeat {
                came: now,
                beat,
                signed,
                proven,
            });
        }
    }

    /// Time at which the origin last gave a sign of life.
    pub(super) fn heard_at(&self, origin: &GatewayId) -> Option<Instant> {
        let standing = self.standings.get(origin)?;
        standing.believed.fresh_until?.checked_sub(self.ages.fresh)
    }

    /// Tells whether the origin was heard so lately that passing on what it said says that it lives.
    pub(super) fn is_lively(&self, now: Instant, origin: &GatewayId) -> bool {
        let standing = self.standings.get(origin);
        let fresh_until = standing.and_then(|standing| standing.believed.fresh_until);
        fresh_until.is_some_and(|until| until + RELAY_DELAY >= now + self.ages.fresh)
    }

    pub(super) fn is_newer_beat(&self, origin: &GatewayId, beat: &Beat) -> bool {
        self.standings
            .get(origin)
            .is_some_and(|standing| beat.mark() > standing.mark)
    }

    /// Checks the signature of the latest beat, unless that was done.
    ///
    /// # Errors
    /// When it is not good; the beat is dropped then.
    pub(super) fn prove_beat(&mut self, origin: &GatewayId, verifier: &dyn Verifier) -> Result<(), Unproven> {
        let Some(standing) = self.standings.get_mut(origin) else {
            return Ok(());
        };
        let Some(held) = standing.beat.as_mut().filter(|held| !held.proven) else {
            return Ok(());
        };
        let checked = held.signed.check(verifier, Purpose::Beat, origin);
        held.proven = checked.is_ok();
        if checked.is_err() {
            standing.beat = None;
        }
        checked
    }

    /// The latest beat, if its signature was checked and the receiver of the record can check it too.
    pub(super) fn proven_beat(&self, now: Instant, origin: &GatewayId) -> Option<(BeatMark, proto::Beat)> {
        let held = self.standings.get(origin)?.beat.as_ref()?;
        if now > held.came + RELAY_DELAY {
            return None;
        }
        let record = self.proven(origin)?;
        let same_life = record.incarnation == held.beat.stamp.incarnation;
        (held.proven && same_life).then(|| {
            let signed = head::signed_message(&held.signed, Some(&held.signed.credential));
            let beat = proto::Beat {
                origin: Some(wire::origin_message(origin)),
                signed: Some(signed),
            };
            (held.beat.mark(), beat)
        })
    }

    /// A later incarnation of `origin` than what is held that somebody says they hold, or that was held here before it
    /// was forgotten: its beats count only once it is past that. 0 when there is none.
    pub(super) fn elsewhere(&self, origin: &GatewayId) -> u64 {
        let claimed = self.claims.get(origin).copied().unwrap_or(0);
        let forgotten = self.forgotten.get(origin);
        let forgotten = forgotten.map_or(0, |(stamp, mark)| stamp.incarnation.max(mark.0));
        match forgotten > self.stamp(origin).incarnation {
            true => claimed.max(forgotten),
            false => claimed,
        }
    }

    /// Notes such a word; answers whether it is news.
    pub(super) fn claim(&mut self, origin: &GatewayId, incarnation: u64) -> bool {
        let known = self.stamp(origin).incarnation.max(self.elsewhere(origin));
        let room = self.claims.len() < MAX_PEERS || self.claims.contains_key(origin);
        if incarnation <= known || incarnation >= MAX_INCARNATION || !room {
            return false;
        }
        self.claims.insert(origin.clone(), incarnation);
        true
    }

    /// Brings the ages up to date.
    pub(super) fn age(&mut self, now: Instant) -> Aged {
        let mut aged = Aged::default();
        if self.next_change.is_none_or(|next| now < next) {
            return aged;
        }
        for (origin, standing) in &self.standings {
            let believed = &standing.believed;
            let Some(entry) = self.catalog.entry(origin) else {
                continue;
            };
            let age = believed.age(now);
            if now >= believed.next_change(Age::Withdrawn) {
                aged.forgotten.push(origin.clone());
            } else if age != entry.age {
                aged.changed.push((origin.clone(), age));
            }
        }
        for (origin, age) in &aged.changed {
            if let Some(entry) = self.catalog.entry(origin).cloned() {
                self.publish(CatalogEntry { age: *age, ..entry });
            }
        }
        aged.forgotten.iter().for_each(|origin| self.forget(origin));
        let entries = self.catalog.entries();
        let changes = entries.filter_map(|entry| {
            let standing = self.standings.get(&entry.record.origin)?;
            Some(standing.believed.next_change(entry.age))
        });
        self.next_change = changes.min();
        aged
    }

    /// Time at which [`HeldRecords::age`] is due: never too late, but perhaps too early.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.next_change
    }

    /// Forgets the origins of every zone that is not in `zones`; answers which.
    pub(super) fn keep_zones(&mut self, zones: &BTreeSet<ZoneName>) -> Vec<GatewayId> {
        let gone: Vec<_> = self
            .standings
            .keys()
            .filter(|origin| !zones.contains(&origin.zone))
            .cloned()
            .collect();
        gone.iter().for_each(|origin| self.forget(origin));
        self.claims.retain(|origin, _| zones.contains(&origin.zone));
        gone
    }

    /// Forgets the records that were signed with certificates which are not believed any more; answers whose they were.
    pub(super) fn keep_proven(&mut self, verifier: &dyn Verifier) -> Vec<GatewayId> {
        let unproven = |entry: &CatalogEntry| {
            let (record, purpose) = (&entry.record, Purpose::Record);
            let signed = record
                .signed
                .as_ref()
                .filter(|signed| !signed.signature.is_empty());
            let checked = signed.map(|signed| signed.check_lasting(verifier, purpose, &record.origin));
            matches!(checked, Some(Err(Unproven::Credential(_))))
        };
        let entries = self.catalog.entries().filter(|entry| unproven(entry));
        let gone: Vec<_> = entries.map(|entry| entry.record.origin.clone()).collect();
        gone.iter().for_each(|origin| self.forget(origin));
        gone
    }

    fn forget(&mut self, origin: &GatewayId) {
        let stamp = self.stamp(origin);
        if let Some(standing) = self.standings.remove(origin) {
            if self.forgotten.len() >= MAX_PEERS && !self.forgotten.contains_key(origin) {
                self.forgotten.pop_first();
            }
            // It may have been back with less than was known of it before.
            let known = self
                .forgotten
                .entry(origin.clone())
                .or_insert((stamp, standing.mark));
            *known = (known.0.max(stamp), known.1.max(standing.mark));
        }
        Arc::make_mut(&mut self.catalog).remove(origin);
    }

    pub(super) fn len(&self) -> usize {
        self.standings.len()
    }
}
