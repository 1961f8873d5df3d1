//! The oracle: it sees every gateway at once, keeps what each origin ever wrote and when it was last heard where, and
//! says after every event whether what the gateways believe can be true.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{
    catalog::{Age, Catalog, Exports, Record},
    name::GatewayId,
};
use causeway_zone_sync::replica::{Ages, Stamp, limits};

use super::{clock::Moment, messages::Utterance, node::stamp_of};

/// A promise that was broken, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

pub type Verdict = Result<(), Violation>;

pub fn violation<T>(text: String) -> Result<T, Violation> {
    Err(Violation(text))
}

/// Belief of one gateway about one origin when last looked at.
#[derive(Debug, Clone)]
struct Belief {
    record: Arc<Record>,
    age: Age,
}

/// The words of an origin that reached a gateway: how many, when by the gateway's own clock the last one came, and the
/// last one that was a sign of life.
#[derive(Debug, Clone, Copy)]
struct Words {
    count: u64,
    came: Instant,
    lived: Option<Instant>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    record: (u64, u64),
    beat: (u64, u64),
}

impl Marks {
    fn mark_of(&mut self, utterance: &Utterance) -> (&mut (u64, u64), (u64, u64)) {
        match utterance.beat {
            Some(count) => (&mut self.beat, (utterance.incarnation, count)),
            None => (&mut self.record, (utterance.incarnation, utterance.version)),
        }
    }
}

/// Knowledge of the oracle of one gateway's view. A restart begins a new one.
#[derive(Debug, Default)]
struct View {
    began: Option<Instant>,
    catalog: Arc<Catalog>,
    beliefs: BTreeMap<GatewayId, Belief>,
    words: BTreeMap<GatewayId, Words>,
    /// Time at which each peer itself last sent a message here.
    spoke: BTreeMap<GatewayId, Instant>,
    /// The newest that came of each origin while its record of that life was held: head of a record, and beat.
    marks: BTreeMap<GatewayId, Marks>,
    /// Origin whose record in many parts a peer is passing on, if its head was a word of that origin.
    begun: BTreeMap<GatewayId, GatewayId>,
    /// Origins that were withdrawn or forgotten here, and how many words of theirs had come by then.
    gone: BTreeMap<GatewayId, u64>,
}

#[derive(Debug)]
pub struct Oracle {
    ages: Ages,
    /// Everything that each origin wrote, several records only where a lost disk and a clock put back made it use a
    /// stamp twice.
    written: BTreeMap<GatewayId, BTreeMap<Stamp, Vec<Arc<Record>>>>,
    views: Vec<View>,
    /// Everything that was ever signed, by whom.
    said: BTreeSet<(GatewayId, Vec<u8>)>,
    liars: BTreeSet<GatewayId>,
    /// Origins that lost their disk, or were given an old one, with a clock that was put back.
    forgetful: BTreeSet<GatewayId>,
}

/// Time by which a timer may go off too late in the simulation, on top of what the seed draws.
const SLACK: Duration = Duration::from_millis(1);

impl Oracle {
    #[must_use]
    pub fn new(nodes: usize, ages: Ages, liars: BTreeSet<GatewayId>) -> Self {
        Self {
            ages,
            written: BTreeMap::new(),
            views: (0..nodes).map(|_| View::default()).collect(),
            said: BTreeSet::new(),
            liars,
            forgetful: BTreeSet::new(),
        }
    }

    /// Notes what a gateway writes of itself.
    pub fn note_written(&mut self, own: &Arc<Record>) -> Verdict {
        if own.version == 0 {
            return Ok(());
        }
        let stamps = self.written.entry(own.origin.clone()).or_default();
        let here = stamps.entry(stamp_of(own)).or_default();
        if here.iter().any(|record| record == own) {
            return Ok(());
        }
        here.push(own.clone());
        if here.len() > 1 && !self.forgetful.contains(&own.origin) {
            return violation(format!(
                "{} wrote two records at {}.{} without having lost its disk",
                own.origin, own.incarnation, own.version
            ));
        }
        Ok(())
    }

    #[must_use]
    pub fn is_forgetful(&self, origin: &GatewayId) -> bool {
        self.forgetful.contains(origin)
    }

    /// The latest incarnation in which an origin ever wrote.
    #[must_use]
    pub fn latest_incarnation(&self, origin: &GatewayId) -> u64 {
        let newest = self.written.get(origin).and_then(|all| all.keys().next_back());
        newest.map_or(0, |stamp| stamp.incarnation)
    }

    pub fn note_forgetful(&mut self, origin: &GatewayId) {
        self.forgetful.insert(origin.clone());
    }

    /// A gateway starts with what its disk held.
    pub fn begin(&mut self, node: usize, now: Instant) {
        self.views[node] = View {
            began: Some(now),
            ..View::default()
        };
    }

    /// Notes what `speaker` signs.
    pub fn note_said(&mut self, speaker: &GatewayId, utterances: Vec<Utterance>) {
        for utterance in utterances {
            if utterance.origin == *speaker {
                self.said.insert((utterance.origin, utterance.words));
            }
        }
    }

    /// A message of `speaker` reaches a gateway, and is a word of its own; and so are the signed words of others that it
    /// carries, if they are true and newer than all that came before. Before the gateway takes it.
    pub fn note_message(&mut self, node: usize, speaker: &GatewayId, others: &[Utterance], came: Instant) {
        self.note_word(node, speaker, came, true);
        self.views[node].spoke.insert(speaker.clone(), came);
        for utterance in others {
            let view = &mut self.views[node];
            let marks = view.marks.entry(utterance.origin.clone()).or_default();
            let (mark, this) = marks.mark_of(utterance);
            let is_new = this > *mark;
            let is_true = self
                .said
                .contains(&(utterance.origin.clone(), utterance.words.clone()));
            // An honest gateway vouches for what it passes on: that it does so only while it is fresh is checked there.
            let is_vouched_for =
                utterance.beat.is_none() && !utterance.is_outdated && !self.liars.contains(speaker);
            if (is_new || is_vouched_for) && is_true && utterance.origin != *speaker {
                self.note_word(node, &utterance.origin, came, !utterance.is_outdated);
                let begun = &mut self.views[node].begun;
                begun.insert(speaker.clone(), utterance.origin.clone());
            }
        }
    }

    /// A part of a record comes, after its head was noted. Such a word is as old as its first part and whole with its
    /// last, so it can bring an origin back that went meanwhile.
    pub fn note_part(&mut self, node: usize, speaker: &GatewayId, origin: &GatewayId, part: u32, parts: u32) {
        let view = &mut self.views[node];
        let is_last = parts > 1 && part == parts - 1;
        if is_last
            && view.begun.remove(speaker).as_ref() == Some(origin)
            && let Some(words) = view.words.get_mut(origin)
        {
            words.count += 1;
        }
    }

    /// The gateway took it, and now holds `held` of each origin: what it could make use of is no longer new.
    pub fn note_taken(&mut self, node: usize, taken: &[Utterance], held: impl Fn(&GatewayId) -> Stamp) {
        // A liar that told of more than it has makes its own beats worth nothing for a while: a later one is new then.
        for utterance in taken.iter().filter(|u| !self.liars.contains(&u.origin)) {
            let held = held(&utterance.origin);
            let is_used = held.incarnation == utterance.incarnation && held.version >= utterance.version;
            if is_used
                && self
                    .said
                    .contains(&(utterance.origin.clone(), utterance.words.clone()))
            {
                let view = &mut self.views[node];
                let marks = view.marks.entry(utterance.origin.clone()).or_default();
                let (mark, this) = marks.mark_of(utterance);
                *mark = this.max(*mark);
            }
        }
    }

    fn note_word(&mut self, node: usize, origin: &GatewayId, came: Instant, lives: bool) {
        let all = &mut self.views[node].words;
        let words = all.entry(origin.clone()).or_insert(Words {
            count: 0,
            came,
            lived: None,
        });
        words.count += 1;
        words.came = came;
        words.lived = words.lived.max(Some(came).filter(|_| lives));
    }

    /// Time at which a message of `peer` itself last came to a gateway.
    #[must_use]
    pub fn last_message(&self, node: usize, peer: &GatewayId) -> Option<Instant> {
        self.views[node].spoke.get(peer).copied()
    }

    /// Holds that what a gateway passes on of others as a sign of life it finds fresh itself, and nothing that is withdrawn is passed
    /// on; else the dead would never rest.
    pub fn check_passed_on(
        &self,
        speaker: &GatewayId,
        passed_on: &[Utterance],
        catalog: &Catalog,
    ) -> Verdict {
        for utterance in passed_on.iter().filter(|utterance| utterance.origin != *speaker) {
            let age = catalog.entry(&utterance.origin).map(|entry| entry.age);
            let oldest = if utterance.is_outdated {
                Age::Suspect
            } else {
                Age::Fresh
            };
            if age.is_none_or(|age| age > oldest) {
                return violation(format!("passed on {}, which it finds {age:?}", utterance.origin));
            }
        }
        Ok(())
    }

    /// Looks at what a gateway believes after something happened there.
    pub fn look(&mut self, node: usize, now: Moment, catalog: &Arc<Catalog>) -> Verdict {
        if Arc::ptr_eq(&self.views[node].catalog, catalog) {
            return Ok(());
        }
        if catalog.entries().count() > limits::MAX_PEERS {
            return violation("a catalog holds more origins than it may".to_owned());
        }
        for entry in catalog.entries() {
            let belief = Belief {
                record: entry.record.clone(),
                age: entry.age,
            };
            self.compare(node, now, belief)?;
        }
        let view = &mut self.views[node];
        let forgotten: Vec<_> = view
            .beliefs
            .keys()
            .filter(|origin| catalog.entry(origin).is_none())
            .cloned()
            .collect();
        for origin in forgotten {
            view.beliefs.remove(&origin);
            note_gone(view, &origin);
        }
        view.catalog = catalog.clone();
        Ok(())
    }

    fn compare(&mut self, node: usize, now: Moment, belief: Belief) -> Verdict {
        let origin = belief.record.origin.clone();
        let before = self.views[node].beliefs.get(&origin);
        let is_same = before.is_some_and(|before| Arc::ptr_eq(&before.record, &belief.record));
        if !is_same {
            if let Some(before) = before
                && stamp_of(&belief.record) < stamp_of(&before.record)
            {
                return violation(format!(
                    "the record of {origin} went back from {} to {}",
                    show(&before.record),
                    show(&belief.record)
                ));
            }
            self.check_content(&belief.record)?;
        }
        let came_back = belief.age < Age::Withdrawn;
        let view = &mut self.views[node];
        if came_back
            && let Some(known) = view.gone.remove(&origin)
            && count(view, &origin) <= known
        {
            return violation(format!(
                "{origin} was gone and came back at {now} without a new word of its own"
            ));
        }
        if !came_back {
            note_gone(view, &origin);
        }
        view.beliefs.insert(origin, belief);
        Ok(())
    }

    /// Checks that a record is one that its origin wrote at that stamp.
    fn check_content(&self, record: &Record) -> Verdict {
        if self.liars.contains(&record.origin) {
            return Ok(());
        }
        let stamp = stamp_of(record);
        let empty = BTreeMap::new();
        let written = self.written.get(&record.origin).unwrap_or(&empty);
        let is_true =
            match written.get(&stamp) {
                Some(records) if records.iter().any(|written| **written == *record) => true,
                // It is the middle of a change in one of the lives that used the stamp, and seen from outside in another.
                Some(_) if !self.is_forgetful(&record.origin) => false,
                Some(_) => lies_somewhere_between(written, record),
                // A large change takes several versions, of which only the last is seen from outside.
                None => {
                    written.range(stamp..).next().is_some_and(|(_, after)| {
                        lies_between(last_before(written, record), record, &after[0])
                    }) || (self.is_forgetful(&record.origin) && lies_somewhere_between(written, record))
                }
            };
        if is_true {
            return Ok(());
        }
        violation(format!(
            "a record of {} is held at {} that it never wrote:\n  held    {record:?}\n  written {:?}",
            record.origin,
            show(record),
            written.get(&stamp)
        ))
    }

    /// Checks that nothing is believed longer than it may be, by the gateway's own clock, which shows `now`. `lateness` is how late its
    /// timers may be.
    pub fn check_ages(&self, node: usize, now: Instant, lateness: Duration) -> Verdict {
        let view = &self.views[node];
        for (origin, belief) in &view.beliefs {
            let word = view.words.get(origin).map(|word| word.came);
            let (limit, since) = match belief.age {
                Age::Fresh => (
                    self.ages.fresh,
                    view.words.get(origin).and_then(|words| words.lived),
                ),
                // A restored record counts from the start.
                Age::Suspect => (self.ages.withdrawn, word.or(view.began)),
                Age::Withdrawn => (limits::FORGET + self.ages.withdrawn, word.or(view.began)),
            };
            let Some(since) = since else {
                return violation(format!("{origin} is {:?} and was never heard", belief.age));
            };
            let believed = now.saturating_duration_since(since);
            if believed > limit + (lateness + SLACK) * 2 {
                return violation(format!(
                    "{origin} is {:?} {believed:?} after it was last heard",
                    belief.age
                ));
            }
        }
        Ok(())
    }
}

fn note_gone(view: &mut View, origin: &GatewayId) {
    let known = count(view, origin);
    view.gone.entry(origin.clone()).or_insert(known);
}

/// Number of words of an origin that have come.
fn count(view: &View, origin: &GatewayId) -> u64 {
    view.words.get(origin).map_or(0, |words| words.count)
}

pub fn show(record: &Record) -> String {
    format!("{}.{}", record.incarnation, record.version)
}

type Written = BTreeMap<Stamp, Vec<Arc<Record>>>;

/// The version that was written last before `record`, in the same incarnation.
fn last_before<'a>(written: &'a Written, record: &Record) -> Option<&'a Exports> {
    let before = written.range(..stamp_of(record)).next_back();
    before
        .filter(|(stamp, _)| stamp.incarnation == record.incarnation)
        .map(|(_, records)| &records[0].exports)
}

/// The same as [`lies_between`] for an origin whose lives share an incarnation: between any two that it wrote.
fn lies_somewhere_between(written: &Written, record: &Record) -> bool {
    let stamp = stamp_of(record);
    let befores: Vec<_> = written.range(..stamp).flat_map(|(_, all)| all).collect();
    let befores = befores
        .iter()
        .filter(|before| before.incarnation == record.incarnation);
    let befores = befores.map(|before| Some(&before.exports)).chain([None]);
    let mut pairs = befores.flat_map(|before| {
        let afters = written.range(stamp..).flat_map(|(_, all)| all);
        afters.map(move |after| (before, after))
    });
    pairs.any(|(before, after)| lies_between(before, record, after))
}

/// Tells whether `record` can be a version in the middle of one change: each export is as it was before or as it is after.
fn lies_between(before: Option<&Exports>, record: &Record, after: &Record) -> bool {
    let known = |key: &_, export: Option<&_>| {
        let (service, tags) = key;
        let was = before.and_then(|exports| exports.get(service, tags));
        export == was || export == after.exports.get(service, tags)
    };
    let keys = before.into_iter().chain([&after.exports, &record.exports]);
    let mut keys = keys.flat_map(|exports| exports.iter().map(|e| (e.service.clone(), e.tags.clone())));
    after.incarnation == record.incarnation && keys.all(|key| known(&key, record.exports.get(&key.0, &key.1)))
}
