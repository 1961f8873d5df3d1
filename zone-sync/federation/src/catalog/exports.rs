//! A record's exports: an ordered set whose copies share what did not change.
//!
//! Readers hold a whole catalog while the writer makes the next one, so every delta works on a copy. The set is
//! therefore cut into chunks behind `Arc`: a copy costs one pointer for each chunk, and an edit copies one chunk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{
    Export,
    digest::{ExportsDigest, ExportsSum},
    encoding::encode,
};
use crate::name::{ServiceName, Tags};

/// Key that tells the exports of one record apart.
pub type ExportKey = (ServiceName, Tags);

/// One difference between two sets: the export as it is now, or `None` when it is gone.
pub type Change = (ExportKey, Option<Export>);

/// An export, and its encoding if that says more than this program understands.
pub type Encoded = (Export, Option<Arc<[u8]>>);

/// Fewest exports that a chunk may grow to, and most; see [`max_chunk`].
const SMALL_CHUNK: usize = 32;
const LARGE_CHUNK: usize = 256;
/// Bytes that one export takes besides its strings; part of the estimate of [`Exports::bytes`].
const EXPORT_OVERHEAD_BYTES: usize = 48;

/// Exports by service, then tags; no two with the same key. Cheap to clone.
#[derive(Clone, Default)]
pub struct Exports {
    /// Sorted, never empty, and no key of one lies within another.
    chunks: Vec<Arc<Chunk>>,
    len: usize,
    bytes: usize,
    /// Made when it is first asked for, and brought up to date from then on.
    sum: Option<ExportsSum>,
}

#[derive(Clone, Default)]
struct Chunk {
    exports: Vec<Export>,
    /// The encodings that say more than this program understands. They are passed on as they came.
    foreign: BTreeMap<ExportKey, Arc<[u8]>>,
}

impl Chunk {
    fn find(&self, wanted: (&ServiceName, &Tags)) -> Result<usize, usize> {
        self.exports.binary_search_by(|e| key(e).cmp(&wanted))
    }

    fn foreign(&self, export: &Export) -> Option<&Arc<[u8]>> {
        if self.foreign.is_empty() {
            return None;
        }
        self.foreign.get(&(export.service.clone(), export.tags.clone()))
    }

    fn encoding(&self, export: &Export) -> Vec<u8> {
        match self.foreign(export) {
            Some(bytes) => bytes.to_vec(),
            None => encode(export),
        }
    }

    fn upper_half(&mut self) -> Self {
        let exports = self.exports.split_off(self.exports.len() / 2);
        let first = exports.first().map(|e| (e.service.clone(), e.tags.clone()));
        let foreign = first.map(|first| self.foreign.split_off(&first));
        Self {
            exports,
            foreign: foreign.unwrap_or_default(),
        }
    }
}

/// Most exports in one chunk of a set of so many. A change copies the pointers to all chunks and the exports of one, and
/// most of them are in no processor cache: about as many of the one as of the other is the least.
fn max_chunk(len: usize) -> usize {
    (2 * len.isqrt()).clamp(SMALL_CHUNK, LARGE_CHUNK)
}

/// Length of chunks that are made when a whole set is built, so that the first inserts do not split them all.
fn filled_chunk(len: usize) -> usize {
    max_chunk(len) * 3 / 4
}

fn key(export: &Export) -> (&ServiceName, &Tags) {
    (&export.service, &export.tags)
}

/// About what an export takes in memory and on the wire, in bytes.
fn footprint(export: &Export, foreign: Option<&Arc<[u8]>>) -> usize {
    let tags: usize = export.tags.iter().map(|(k, v)| k.len() + v.len() + 4).sum();
    let foreign = foreign.map_or(0, |bytes| bytes.len());
    EXPORT_OVERHEAD_BYTES + export.service.as_str().len() + tags + foreign
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
        self.chunks.iter().flat_map(|chunk| chunk.exports.iter())
    }

    /// The encodings of the exports after the first `count`, in the same order.
    pub fn encodings_after(&self, count: usize) -> impl Iterator<Item = Vec<u8>> {
        let (mut at, mut left) = (0, count);
        while let Some(chunk) = self.chunks.get(at).filter(|chunk| chunk.exports.len() <= left) {
            left -= chunk.exports.len();
            at += 1;
        }
        let encoded = |chunk: &'_ Arc<Chunk>| {
            let chunk = Arc::clone(chunk);
            (0..chunk.exports.len()).map(move |i| chunk.encoding(&chunk.exports[i]))
        };
        self.chunks[at..].iter().flat_map(encoded).skip(left)
    }

    #[must_use]
    pub fn get(&self, service: &ServiceName, tags: &Tags) -> Option<&Export> {
        let chunk = self.chunks.get(self.chunk_of((service, tags)))?;
        chunk.exports.get(chunk.find((service, tags)).ok()?)
    }

    /// The encoding of an export that says more than this program understands; `None` for any other.
    #[must_use]
    pub fn foreign(&self, service: &ServiceName, tags: &Tags) -> Option<&Arc<[u8]>> {
        let chunk = self.chunks.get(self.chunk_of((service, tags)))?;
        chunk.foreign(chunk.exports.get(chunk.find((service, tags)).ok()?)?)
    }

    /// The exports of one service, in order of tags.
    pub fn of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Export> {
        let ends_before = |chunk: &Arc<Chunk>| chunk.exports.last().is_some_and(|e| e.service < *service);
        let chunks = &self.chunks[self.chunks.partition_point(ends_before)..];
        let skipped = chunks
            .first()
            .map_or(0, |chunk| chunk.exports.partition_point(|e| e.service < *service));
        chunks
            .iter()
            .enumerate()
            .flat_map(move |(i, chunk)| chunk.exports[if i == 0 { skipped } else { 0 }..].iter())
            .take_while(move |e| e.service == *service)
    }

    /// The digest of the encoded exports. The first time takes a hash of each, later ones only what changed since.
    pub fn digest(&mut self) -> ExportsDigest {
        if let Some(sum) = &self.sum {
            return sum.digest();
        }
        let mut sum = ExportsSum::default();
        self.encodings_after(0).for_each(|bytes| sum.add(&bytes));
        let digest = sum.digest();
        self.sum = Some(sum);
        digest
    }

    /// Tells whether [`Exports::digest`] costs nothing.
    #[must_use]
    pub fn is_summed(&self) -> bool {
        self.sum.is_some()
    }

    /// Puts an export in; answers the one it replaced.
    pub fn insert(&mut self, export: Export) -> Option<Export> {
        self.put(export, None)
    }

    /// Puts an export in, with its encoding if that says more than this program understands; answers the one it replaced.
    pub fn put(&mut self, export: Export, foreign: Option<Arc<[u8]>>) -> Option<Export> {
        let old = self.remove(&export.service, &export.tags);
        self.bytes += footprint(&export, foreign.as_ref());
        self.len += 1;
        if let Some(sum) = &mut self.sum {
            match &foreign {
                Some(bytes) => sum.add(bytes),
                None => sum.add(&encode(&export)),
            }
        }
        let at = self.chunk_of(key(&export));
        if self.chunks.is_empty() {
            self.chunks.push(Arc::default());
        }
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        if let Some(bytes) = foreign {
            chunk
                .foreign
                .insert((export.service.clone(), export.tags.clone()), bytes);
        }
        let place = chunk.find(key(&export)).unwrap_or_else(|place| place);
        chunk.exports.insert(place, export);
        if chunk.exports.len() > max_chunk(self.len) {
            let upper = chunk.upper_half();
            self.chunks.insert(at + 1, Arc::new(upper));
        }
        old
    }

    /// Takes an export out; answers it if it was there.
    pub fn remove(&mut self, service: &ServiceName, tags: &Tags) -> Option<Export> {
        let at = self.chunk_of((service, tags));
        let shared = self.chunks.get_mut(at)?;
        let found = shared.find((service, tags)).ok()?;
        if let Some(sum) = &mut self.sum {
            sum.take(&shared.encoding(&shared.exports[found]));
        }
        let chunk = Arc::make_mut(shared);
        let old = chunk.exports.remove(found);
        let foreign = match chunk.foreign.is_empty() {
            true => None,
            false => chunk.foreign.remove(&(old.service.clone(), old.tags.clone())),
        };
        if chunk.exports.is_empty() {
            self.chunks.remove(at);
        }
        self.len -= 1;
        self.bytes -= footprint(&old, foreign.as_ref());
        Some(old)
    }

    /// Carries out one change.
    pub fn apply(&mut self, ((service, tags), now): Change) {
        match now {
            Some(export) => drop(self.insert(export)),
            None => drop(self.remove(&service, &tags)),
        }
    }

    /// Changes that make `newer` of this set, in order; an export of which only the foreign encoding differs is among it.
    /// Chunks that both share are not looked into.
    #[must_use]
    pub fn changes(&self, newer: &Exports) -> Vec<Change> {
        // A shared chunk covers the same span of keys on both sides, and no other chunk reaches into that span.
        let mine: BTreeSet<_> = self.chunks.iter().map(Arc::as_ptr).collect();
        let theirs: BTreeSet<_> = newer.chunks.iter().map(Arc::as_ptr).collect();
        let mut old: BTreeMap<_, _> = entries_outside(&self.chunks, &theirs).collect();
        let mut changes = BTreeMap::new();
        for (key, entry) in entries_outside(&newer.chunks, &mine) {
            if old.remove(&key) != Some(entry) {
                changes.insert(key, Some(entry.0));
            }
        }
        changes.extend(old.into_keys().map(|key| (key, None)));
        changes
            .into_iter()
            .map(|((service, tags), export)| ((service.clone(), tags.clone()), export.cloned()))
            .collect()
    }

    /// The services that this set has an export of and `other` has not, in order. What both share before the first and after
    /// the last difference is not looked into.
    pub(super) fn services_beyond(&self, other: &Exports) -> Vec<ServiceName> {
        let (mine, theirs) = apart(&self.chunks, &other.chunks);
        let mut theirs = services(theirs).peekable();
        let mut beyond: Vec<&ServiceName> = Vec::new();
        for service in services(mine) {
            while theirs.next_if(|other| *other < service).is_some() {}
            let known = theirs.peek() == Some(&service) || beyond.last() == Some(&service);
            // The others of the same service may lie in a chunk that is shared.
            if !known && other.of(service).next().is_none() {
                beyond.push(service);
            }
        }
        beyond.into_iter().cloned().collect()
    }

    /// Index of the chunk in which `wanted` is or belongs.
    fn chunk_of(&self, wanted: (&ServiceName, &Tags)) -> usize {
        self.chunks
            .partition_point(|chunk| chunk.exports.first().is_some_and(|e| key(e) <= wanted))
            .saturating_sub(1)
    }
}

type Chunks<'a> = &'a [Arc<Chunk>];

/// Both without the chunks that they begin and end with alike.
fn apart<'a>(mut one: Chunks<'a>, mut other: Chunks<'a>) -> (Chunks<'a>, Chunks<'a>) {
    while let ([a, one_rest @ ..], [b, other_rest @ ..]) = (one, other)
        && Arc::ptr_eq(a, b)
    {
        (one, other) = (one_rest, other_rest);
    }
    while let ([one_rest @ .., a], [other_rest @ .., b]) = (one, other)
        && Arc::ptr_eq(a, b)
    {
        (one, other) = (one_rest, other_rest);
    }
    (one, other)
}

fn services(chunks: Chunks<'_>) -> impl Iterator<Item = &ServiceName> {
    chunks
        .iter()
        .flat_map(|chunk| chunk.exports.iter())
        .map(|e| &e.service)
}

type Seen<'a> = (&'a Export, Option<&'a Arc<[u8]>>);

fn entries_outside<'a>(
    chunks: &'a [Arc<Chunk>],
    shared: &BTreeSet<*const Chunk>,
) -> impl Iterator<Item = ((&'a ServiceName, &'a Tags), Seen<'a>)> {
    chunks
        .iter()
        .filter(|chunk| !shared.contains(&Arc::as_ptr(chunk)))
        .flat_map(|chunk| chunk.exports.iter().map(|e| (key(e), (e, chunk.foreign(e)))))
}

impl FromIterator<Export> for Exports {
    /// Of two with the same key, the later stays.
    fn from_iter<I: IntoIterator<Item = Export>>(exports: I) -> Self {
        exports.into_iter().map(|export| (export, None)).collect()
    }
}

impl FromIterator<Encoded> for Exports {
    /// With the foreign encodings. Of two with the same key, the later stays.
    fn from_iter<I: IntoIterator<Item = Encoded>>(exports: I) -> Self {
        let sorted: BTreeMap<ExportKey, Encoded> = exports
            .into_iter()
            .map(|(e, foreign)| ((e.service.clone(), e.tags.clone()), (e, foreign)))
            .collect();
        let len = sorted.len();
        let bytes = sorted.values().map(|(e, foreign)| footprint(e, foreign.as_ref()));
        let bytes = bytes.sum();
        let mut rest = sorted.into_iter().peekable();
        let filled = filled_chunk(len);
        let mut chunks = Vec::with_capacity(len.div_ceil(filled));
        while rest.peek().is_some() {
            // Of just the right size: most chunks of a catalog never change.
            let mut chunk = Chunk {
                exports: Vec::with_capacity(filled.min(rest.len())),
                foreign: BTreeMap::new(),
            };
            for (key, (export, foreign)) in rest.by_ref().take(filled) {
                chunk.exports.push(export);
                if let Some(bytes) = foreign {
                    chunk.foreign.insert(key, bytes);
                }
            }
            chunks.push(Arc::new(chunk));
        }
        Self {
            chunks,
            len,
            bytes,
            sum: None,
        }
    }
}

impl PartialEq for Exports {
    fn eq(&self, other: &Self) -> bool {
        let entries = |exports: &Self| -> bool {
            let mine = self
                .chunks
                .iter()
                .flat_map(|c| c.exports.iter().map(|e| c.foreign(e)));
            mine.eq(exports
                .chunks
                .iter()
                .flat_map(|c| c.exports.iter().map(|e| c.foreign(e))))
        };
        self.len == other.len && self.iter().eq(other.iter()) && entries(other)
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
    fn an_encoding_that_says_more_is_kept_until_its_export_is_replaced() {
        let more = |i: u16| -> Arc<[u8]> { [encode(&export(i, 1)), vec![0xf8, 7, 1]].concat().into() };
        let plain: Exports = (0..900).map(|i| export(i, 1)).collect();
        let mut exports = plain.clone();
        (0..900).for_each(|i| drop(exports.put(export(i, 1), Some(more(i)))));
        assert_ne!(plain, exports);
        assert_eq!(plain.changes(&exports).len(), 900);
        assert!(exports.encodings_after(0).eq((0..900).map(|i| more(i).to_vec())));
        assert!(exports.bytes() > plain.bytes());
        assert_ne!(plain.clone().digest(), exports.digest());
        (0..900).for_each(|i| drop(exports.insert(export(i, 1))));
        assert_eq!(
            (plain.bytes(), plain.clone().digest()),
            (exports.bytes(), exports.digest())
        );
        assert_eq!(plain, exports);
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
            set.digest();
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
            let half = map.len() / 2;
            prop_assert!(set.encodings_after(half).eq(map.values().skip(half).map(encode)));
            prop_assert_eq!(set.bytes(), map.values().map(|e| footprint(e, None)).sum::<usize>());
            for ((service, tags), export) in &map {
                prop_assert_eq!(set.get(service, tags), Some(export));
            }
            let mut replayed = before.clone();
            before.changes(&set).into_iter().for_each(|change| replayed.apply(change));
            prop_assert_eq!(&replayed, &set);
            prop_assert_eq!(replayed.digest(), set.digest(), "a sum kept up to date is a sum made anew");
        }
    }
}
