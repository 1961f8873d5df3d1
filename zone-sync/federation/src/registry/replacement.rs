//! Everything that one source knows, on its way into the registry: what it does not name any more goes, what is new or
//! different comes, and nothing of another source is touched.
//!
//! A hundred thousand instances take a while, so it can be done in steps, between which the owner of the registry does
//! other things. What it removes goes first, so that a full zone has room for what comes.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    time::Instant,
    vec,
};

use super::{InstanceKey, InstanceSource, Registered, Registration, Registry, RegistryError};

/// A replacement under way.
#[derive(Debug)]
pub struct Replacement {
    source: InstanceSource,
    gone: vec::IntoIter<InstanceKey>,
    wanted: btree_map::IntoIter<InstanceKey, Registration>,
    replaced: Replaced,
}

/// Outcome of a replacement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replaced {
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    /// Instances that were refused. Where the source held the key before, that is what it still holds.
    pub refused: Vec<(InstanceKey, RegistryError)>,
}

impl Replaced {
    /// Tells whether anything is different from before.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.added + self.changed + self.removed > 0
    }
}

impl Replacement {
    /// Prepares to make `source` hold exactly `wanted`, but for what `check` refuses.
    #[must_use]
    pub fn new(
        registry: &Registry,
        source: InstanceSource,
        wanted: Vec<Registration>,
        check: impl Fn(&Registration) -> Result<(), RegistryError>,
    ) -> Self {
        let mut replaced = Replaced::default();
        let mut by_key = BTreeMap::new();
        let mut kept = BTreeSet::new();
        for registration in wanted {
            if let Err(error) = check(&registration) {
                kept.insert(registration.key());
                replaced.refused.push((registration.key(), error));
                continue;
            }
            match by_key.entry(registration.key()) {
                btree_map::Entry::Vacant(place) => {
                    place.insert(registration);
                }
                btree_map::Entry::Occupied(_) => {
                    let key = registration.key();
                    let error = RegistryError::Twice(key.clone());
                    replaced.refused.push((key, error));
                }
            }
        }
        let held = registry.keys_of(&source);
        let gone = held.filter(|key| !by_key.contains_key(key) && !kept.contains(key));
        let gone: Vec<_> = gone.collect();
        Self {
            source,
            gone: gone.into_iter(),
            wanted: by_key.into_iter(),
            replaced,
        }
    }

    #[must_use]
    pub fn source(&self) -> &InstanceSource {
        &self.source
    }

    /// Takes at most `steps` instances out or in, and tells `noted` of each that is different from before: what the
    /// source says now, or `None` where it let go. Returns the outcome once it is complete.
    pub fn advance(
        &mut self,
        now: Instant,
        registry: &mut Registry,
        steps: usize,
        mut noted: impl FnMut(&InstanceKey, Option<&Registration>),
    ) -> Option<Replaced> {
        for _ in 0..steps {
            if let Some(key) = self.gone.next() {
                // Absent if it was let go of since the replacement began.
                if registry.remove(&self.source, &key).is_some() {
                    self.replaced.removed += 1;
                    noted(&key, None);
                }
            } else if let Some((key, registration)) = self.wanted.next() {
                self.put(now, registry, key, registration, &mut noted);
            } else {
                return Some(std::mem::take(&mut self.replaced));
            }
        }
        None
    }

    fn put(
        &mut self,
        now: Instant,
        registry: &mut Registry,
        key: InstanceKey,
        registration: Registration,
        noted: &mut impl FnMut(&InstanceKey, Option<&Registration>),
    ) {
        match registry.put(now, &self.source, registration.clone()) {
            Ok(Registered::Renewed) => return,
            Ok(Registered::Added) => self.replaced.added += 1,
            Ok(Registered::Replaced) => self.replaced.changed += 1,
            Err(error) => return self.replaced.refused.push((key, error)),
        }
        noted(&key, Some(&registration));
    }
}

impl Registry {
    /// Makes `source` hold exactly `wanted`, in one go; see [`Replacement`] for doing it in steps.
    pub fn replace(&mut self, now: Instant, source: &InstanceSource, wanted: Vec<Registration>) -> Replaced {
        let mut replacement = Replacement::new(self, source.clone(), wanted, |_| Ok(()));
        loop {
            if let Some(replaced) = replacement.advance(now, self, usize::MAX, |_, _| {}) {
                return replaced;
            }
        }
    }
}

#[cfg(test)]
#[path = "replacement_tests.rs"]
mod tests;
