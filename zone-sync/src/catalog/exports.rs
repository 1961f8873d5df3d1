//! A record's exports: an ordered set whose copies share what did not change.
//!
//! Readers hold a whole catalog while the writer makes the next one, so every delta works on a copy. The set is
//! therefore cut into chunks behind `Arc`: a copy costs one pointer for each chunk, and an edit copies one chunk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::Export;
use crate::name::{ServiceName, Tags};

/// What tells the exports of one record apart.
pub type ExportKey = (ServiceName, Tags);

/// One difference between two sets: the export as it is now, or `None` when it is gone.
pub type Change = (ExportKey, Option<Export>);

/// Most exports in one chunk. A copy of 100,000 exports is then about 600 pointers, and an edit copies at most this many.
const MAX_CHUNK: usize = 256;
/// How full chunks are made when a whole set is built, so that the first inserts do not split them all.
const FILLED_CHUNK: usize = 192;
/// What one export takes besides its strings, in bytes; part of the estimate of [`Exports::bytes`].
const EXPORT_OVERHEAD_BYTES: usize = 48;

/// Exports by service, then tags; no two with the same key. Cheap to clone.
#[derive(Clone, Default)]
pub struct Exports {
    /// Sorted, never empty, and no key of one lies within another.
    chunks: Vec<Arc<Vec<Export>>>,
    len: usize,
    bytes: usize,
}

fn key(export: &Export) -> (&ServiceName, &Tags) {
    (&export.service, &export.tags)
}

/// About what an export takes in memory and on the wire, in bytes.
fn footprint(export: &Export) -> usize {
    let tags: usize = export.tags.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
    EXPORT_OVERHEAD_BYTES + export.service.as_str().len() + tags
}

impl Exports {
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About what the set takes in memory and on the wire, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// In order of service, then tags.
    pub fn iter(&self) -> impl Iterator<Item = &Export> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The exports after the first `count`, in the same order.
    pub fn skip(&self, count: usize) -> impl Iterator<Item = &Export> {
        let (mut at, mut left) = (0, count);
        while let Some(chunk) = self.chunks.get(at).filter(|chunk| chunk.len() <= left) {
            left -= chunk.len();
            at += 1;
        }
        self.chunks[at..].iter().flat_map(|chunk| chunk.iter()).skip(left)
    }

    #[must_use]
    pub fn get(&self, service: &ServiceName, tags: &Tags) -> Option<&Export> {
        let chunk = self.chunks.get(self.chunk_of((service, tags)))?;
        let at = chunk.binary_search_by(|e| key(e).cmp(&(service, tags))).ok()?;
        chunk.get(at)
    }

    /// The exports of one service, in order of tags.
    pub fn of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Export> {
        let ends_before = |chunk: &Arc<Vec<Export>>| chunk.last().is_some_and(|e| e.service < *service);
        let chunks = &self.chunks[self.chunks.partition_point(ends_before)..];
        let skipped = chunks
            .first()
            .map_or(0, |chunk| chunk.partition_point(|e| e.service < *service));
        chunks
            .iter()
            .enumerate()
            .flat_map(move |(i, chunk)| chunk[if i == 0 { skipped } else { 0 }..].iter())
            .take_while(move |e| e.service == *service)
    }

    /// Puts an export in; answers the one it replaced.
    pub fn insert(&mut self, export: Export) -> Option<Export> {
        self.bytes += footprint(&export);
        let at = self.chunk_of(key(&export));
        let Some(shared) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![export]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(shared);
        match chunk.binary_search_by(|e| key(e).cmp(&key(&export))) {
            Ok(found) => {
                let old = std::mem::replace(&mut chunk[found], export);
                self.bytes -= footprint(&old);
                Some(old)
            }
            Err(place) => {
                chunk.insert(place, export);
                self.len += 1;
                if chunk.len() > MAX_CHUNK {
                    let upper = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes an export out; answers it if it was there.
    pub fn remove(&mut self, service: &ServiceName, tags: &Tags) -> Option<Export> {
        let at = self.chunk_of((service, tags));
        let shared = self.chunks.get_mut(at)?;
        let found = shared.binary_search_by(|e| key(e).cmp(&(service, tags))).ok()?;
        let old = Arc::make_mut(shared).remove(found);
        if shared.is_empty() {
            self.chunks.remove(at);
        }
        self.len -= 1;
        self.bytes -= footprint(&old);
        Some(old)
    }

    /// Carries out one change.
    pub fn apply(&mut self, ((service, tags), now): Change) {
        match now {
            Some(export) => drop(self.insert(export)),
            None => drop(self.remove(&service, &tags)),
        }
    }

    /// What makes `newer` of this set, in order. Chunks that both share are not looked into.
    #[must_use]
    pub fn changes(&self, newer: &Exports) -> Vec<Change> {
        // A shared chunk covers the same span of keys on both sides, and no other chunk reaches into that span.
        let mine: BTreeSet<_> = self.chunks.iter().map(Arc::as_ptr).collect();
        let theirs: BTreeSet<_> = newer.chunks.iter().map(Arc::as_ptr).collect();
        let mut old: BTreeMap<_, _> = entries_outside(&self.chunks, &theirs).collect();
        let mut changes = BTreeMap::new();
        for (key, export) in entries_outside(&newer.chunks, &mine) {
            if old.remove(&key) != Some(export) {
                changes.insert(key, Some(export));
            }
        }
        changes.extend(old.into_keys().map(|key| (key, None)));
        changes
            .into_iter()
            .map(|((service, tags), export)| ((service.clone(), tags.clone()), export.cloned()))
            .collect()
    }

    /// Where `key` is or belongs.
    fn chunk_of(&self, wanted: (&ServiceName, &Tags)) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.first().is_some_and(|e| key(e) <= wanted))
            .saturating_sub(1)
    }
}

fn entries_outside<'a>(
    chunks: &'a [Arc<Vec<Export>>],
    shared: &BTreeSet<*const Vec<Export>>,
) -> impl Iterator<Item = ((&'a ServiceName, &'a Tags), &'a Export)> {
    chunks
        .iter()
        .filter(|chunk| !shared.contains(&Arc::as_ptr(chunk)))
        .flat_map(|chunk| chunk.iter().map(|e| (key(e), e)))
}

impl FromIterator<Export> for Exports {
    /// Of two with the same key, the later stays.
    fn from_iter<I: IntoIterator<Item = Export>>(exports: I) -> Self {
        let sorted: BTreeMap<ExportKey, Export> = exports
            .into_iter()
            .map(|e| ((e.service.clone(), e.tags.clone()), e))
            .collect();
        let len = sorted.len();
        let bytes = sorted.values().map(footprint).sum();
        let mut rest = sorted.into_values().peekable();
        let mut chunks = Vec::with_capacity(len.div_ceil(FILLED_CHUNK));
        while rest.peek().is_some() {
            chunks.push(Arc::new(rest.by_ref().take(FILLED_CHUNK).collect()));
        }
        Self { chunks, len, bytes }
    }
}

impl PartialEq for Exports {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Exports {}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn export(service: u16, healthy: u32) -> Export {
        Export {
            service: ServiceName::new(&format!("s{:05}", service / 3)).unwrap(),
            tags: [("v", (service % 3).to_string())].into_iter().collect(),
            instances: 9,
            healthy,
            weight: 1,
            capacity_per_second: None,
        }
    }

    #[test]
    fn an_edit_of_a_copy_shares_every_other_chunk() {
        let before: Exports = (0..20_000).map(|i| export(i, 1)).collect();
        let mut after = before.clone();
        after.insert(export(777, 2));
        let kept: BTreeSet<_> = before.chunks.iter().map(Arc::as_ptr).collect();
        let copied = after
            .chunks
            .iter()
            .filter(|c| !kept.contains(&Arc::as_ptr(c)))
            .count();
        assert_eq!(copied, 1);
        assert_eq!(before.changes(&after).len(), 1);
        assert_eq!(before.iter().count(), 20_000);
    }

    #[test]
    fn a_service_that_spans_chunks_is_found_whole() {
        let many = (0..1000u32).map(|i| Export {
            tags: [("n", format!("{i:04}"))].into_iter().collect(),
            ..export(9, i)
        });
        let exports: Exports = many.chain([export(0, 1), export(60, 1)]).collect();
        assert_eq!(exports.of(&export(9, 0).service).count(), 1000);
        assert_eq!(exports.of(&export(60, 0).service).count(), 1);
        assert_eq!(exports.of(&export(90, 0).service).count(), 0);
    }

    proptest! {
        #[test]
        fn the_set_behaves_like_a_map(
            start in prop::collection::vec((0u16..2000, 0u32..4), 0..1500),
            edits in prop::collection::vec((0u16..2000, prop::option::of(0u32..4)), 0..400),
        ) {
            let build = || start.iter().map(|(s, h)| export(*s, *h));
            let before: Exports = build().collect();
            let mut set = before.clone();
            let mut map: BTreeMap<ExportKey, Export> =
                build().map(|e| ((e.service.clone(), e.tags.clone()), e)).collect();
            for (s, healthy) in edits {
                let probe = export(s, healthy.unwrap_or(0));
                let at = (probe.service.clone(), probe.tags.clone());
                if healthy.is_some() {
                    prop_assert_eq!(set.insert(probe.clone()), map.insert(at, probe));
                } else {
                    prop_assert_eq!(set.remove(&probe.service, &probe.tags), map.remove(&at));
                }
            }
            prop_assert!(set.iter().eq(map.values()));
            prop_assert_eq!(set.len(), map.len());
            prop_assert!(set.skip(map.len() / 2).eq(map.values().skip(map.len() / 2)));
            prop_assert_eq!(set.bytes(), map.values().map(footprint).sum::<usize>());
            for ((service, tags), export) in &map {
                prop_assert_eq!(set.get(service, tags), Some(export));
            }
            let mut replayed = before.clone();
            before.changes(&set).into_iter().for_each(|change| replayed.apply(change));
            prop_assert_eq!(replayed, set);
        }
    }
}
