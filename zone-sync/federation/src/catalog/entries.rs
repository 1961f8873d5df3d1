//! The entries of a catalog: a sorted set whose copies share what did not change.
//!
//! Every change that comes in makes a new catalog while readers hold the one before. With a thousand zones a copy of a
//! map would cost more than the change itself, and so would dropping it, which falls to whichever reader is last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{CatalogEntry, EntryDifference};
use crate::name::{GatewayId, ZoneName};

/// Most entries in one chunk. A copy of 1,000 entries is then about 40 pointers, and an edit copies at most this many.
const MAX_CHUNK: usize = 48;

/// Entries by origin; no two of the same. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    /// Sorted, never empty.
    chunks: Vec<Arc<Vec<CatalogEntry>>>,
}

fn origin(entry: &CatalogEntry) -> &GatewayId {
    &entry.record.origin
}

impl Entries {
    /// In order of origin.
    pub(super) fn iter(&self) -> impl Iterator<Item = &CatalogEntry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    pub(super) fn get(&self, wanted: &GatewayId) -> Option<&CatalogEntry> {
        let chunk = self.chunks.get(self.chunk_of(wanted))?;
        let at = chunk.binary_search_by(|e| origin(e).cmp(wanted)).ok()?;
        chunk.get(at)
    }

    /// The entries of one zone's gateways.
    pub(super) fn of<'a>(&'a self, zone: &'a ZoneName) -> impl Iterator<Item = &'a CatalogEntry> {
        let before = |entry: &CatalogEntry| origin(entry).zone < *zone;
        let first = self
            .chunks
            .partition_point(|chunk| chunk.last().is_some_and(before));
        let chunks = &self.chunks[first..];
        let skipped = chunks.first().map_or(0, |chunk| chunk.partition_point(before));
        chunks
            .iter()
            .enumerate()
            .flat_map(move |(i, chunk)| chunk[if i == 0 { skipped } else { 0 }..].iter())
            .take_while(move |entry| origin(entry).zone == *zone)
    }

    /// Puts an entry in; answers the one of the same origin that it replaced.
    pub(super) fn insert(&mut self, entry: CatalogEntry) -> Option<CatalogEntry> {
        let at = self.chunk_of(origin(&entry));
        let Some(shared) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![entry]));
            return None;
        };
        let chunk = Arc::make_mut(shared);
        match chunk.binary_search_by(|e| origin(e).cmp(origin(&entry))) {
            Ok(found) => Some(std::mem::replace(&mut chunk[found], entry)),
            Err(place) => {
                chunk.insert(place, entry);
                if chunk.len() > MAX_CHUNK {
                    let upper = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes an origin's entry out.
    pub(super) fn remove(&mut self, wanted: &GatewayId) -> Option<CatalogEntry> {
        let at = self.chunk_of(wanted);
        let shared = self.chunks.get_mut(at)?;
        let found = shared.binary_search_by(|e| origin(e).cmp(wanted)).ok()?;
        let old = Arc::make_mut(shared).remove(found);
        if shared.is_empty() {
            self.chunks.remove(at);
        }
        Some(old)
    }

    /// Entries that differ between this set and a newer one, as they were and as they are. What both share is not looked into.
    pub(super) fn differences<'a>(&'a self, newer: &'a Self) -> Vec<EntryDifference<'a>> {
        let mine: BTreeSet<_> = self.chunks.iter().map(Arc::as_ptr).collect();
        let theirs: BTreeSet<_> = newer.chunks.iter().map(Arc::as_ptr).collect();
        let mut old: BTreeMap<_, _> = entries_outside(&self.chunks, &theirs).collect();
        let mut differences = Vec::new();
        for (origin, entry) in entries_outside(&newer.chunks, &mine) {
            let before = old.remove(origin);
            let is_known =
                |before: &CatalogEntry| Arc::ptr_eq(&before.record, &entry.record) && before.age == entry.age;
            if !before.is_some_and(is_known) {
                differences.push((before, Some(entry)));
            }
        }
        differences.extend(old.into_values().map(|gone| (Some(gone), None)));
        differences
    }

    /// Index of the chunk in which `wanted` is or belongs.
    fn chunk_of(&self, wanted: &GatewayId) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.first().is_some_and(|e| origin(e) <= wanted))
            .saturating_sub(1)
    }
}

fn entries_outside<'a>(
    chunks: &'a [Arc<Vec<CatalogEntry>>],
    shared: &BTreeSet<*const Vec<CatalogEntry>>,
) -> impl Iterator<Item = (&'a GatewayId, &'a CatalogEntry)> {
    let others = chunks
        .iter()
        .filter(|chunk| !shared.contains(&Arc::as_ptr(chunk)));
    others.flat_map(|chunk| chunk.iter().map(|entry| (origin(entry), entry)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        catalog::{Age, Exports, Record},
        name::GatewayName,
    };

    fn entry(number: u16, version: u64) -> CatalogEntry {
        let zone = ZoneName::new(&format!("z{:04}", number / 3)).unwrap();
        let gateway = GatewayName::new(&format!("gw{}", number % 3)).unwrap();
        let record = Record {
            origin: GatewayId::new(zone, gateway),
            incarnation: 1,
            version,
            exports: Exports::default(),
            draining: false,
            topology: crate::edition::Fingerprint::default(),
            topology_generation: 0,
            trust: Default::default(),
            trust_ended: 0,
            shifts: Default::default(),
            signed: None,
        };
        CatalogEntry {
            record: Arc::new(record),
            age: Age::Fresh,
            via: None,
        }
    }

    fn version(entry: &CatalogEntry) -> (&GatewayId, u64) {
        (origin(entry), entry.record.version)
    }

    #[test]
    fn an_edit_of_a_copy_shares_every_other_chunk() {
        let mut before = Entries::default();
        (0..1000).for_each(|number| drop(before.insert(entry(number, 1))));
        let mut after = before.clone();
        after.insert(entry(500, 2));
        let kept: BTreeSet<_> = before.chunks.iter().map(Arc::as_ptr).collect();
        let copied = after.chunks.iter().filter(|c| !kept.contains(&Arc::as_ptr(c)));
        assert_eq!(copied.count(), 1);
        assert_eq!(before.get(origin(&entry(500, 0))).unwrap().record.version, 1);
    }

    #[test]
    fn differences_are_what_was_put_in_replaced_and_taken_out() {
        let mut before = Entries::default();
        (0..1000).for_each(|number| drop(before.insert(entry(number, 1))));
        let mut after = before.clone();
        after.insert(entry(500, 2));
        after.insert(entry(2000, 1));
        after.remove(origin(&entry(7, 0)));
        // The same record, of another age.
        let suspect = before.get(origin(&entry(300, 0))).cloned().unwrap();
        after.insert(CatalogEntry {
            age: Age::Suspect,
            ..suspect
        });
        let number = |entry: Option<&CatalogEntry>| entry.map(|entry| origin(entry).to_string());
        let mut found: Vec<_> = before
            .differences(&after)
            .into_iter()
            .map(|(old, new)| (number(old), number(new)))
            .collect();
        found.sort();
        let name = |number: u16| Some(origin(&entry(number, 0)).to_string());
        let mut expected = [
            (None, name(2000)),
            (name(7), None),
            (name(300), name(300)),
            (name(500), name(500)),
        ];
        expected.sort();
        assert_eq!(found, expected);
        assert!(after.differences(&after.clone()).is_empty());
    }

    proptest! {
        #[test]
        fn the_set_behaves_like_a_map(edits in prop::collection::vec((0u16..400, prop::option::of(0u64..9)), 0..900)) {
            let (mut set, mut map) = (Entries::default(), BTreeMap::new());
            for (number, edit) in edits {
                let probe = entry(number, edit.unwrap_or(0));
                let at = origin(&probe).clone();
                if edit.is_some() {
                    set.insert(probe.clone());
                    map.insert(at, probe);
                } else {
                    let (removed, expected) = (set.remove(&at), map.remove(&at));
                    prop_assert_eq!(removed.as_ref().map(version), expected.as_ref().map(version));
                }
            }
            prop_assert!(set.iter().map(version).eq(map.values().map(version)));
            for number in 0..400 {
                let at = origin(&entry(number, 0)).clone();
                prop_assert_eq!(set.get(&at).map(version), map.get(&at).map(version));
                let zone = map.values().filter(|e| origin(e).zone == at.zone).map(version);
                prop_assert!(set.of(&at.zone).map(version).eq(zone));
            }
        }
    }
}
