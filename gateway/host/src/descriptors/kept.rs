//! Descriptors that are kept for what the process needs to go on, and what may use them: half of them are for what was begun already, and
//! for questions to others; each API's listener has a few; the rest is for files.

use std::{os::fd::AsRawFd, sync::atomic::Ordering};

use super::{Descriptors, HeldDescriptor, number};
use crate::share::{NoShare, ShareHolder, ShareUse};

/// One in so many of those that are kept is for the connections of one listener of an API, whoever has all others.
const LISTENER_SHARE: u64 = 16;
/// Fewest of them.
const LEAST_OF_LISTENER: u64 = 2;
/// One in so many of those that are kept is for files alone.
const FILES_SHARE: u64 = 8;

impl Descriptors {
    /// Has `holder` hold this one, a connection to one of the process's own APIs. Nobody is told of a refusal: there may be another way.
    ///
    /// # Errors
    /// None is left but those that are kept, or `holder` has its share.
    pub fn hold_for_api(
        &self,
        descriptor: &impl AsRawFd,
        holder: &ShareHolder,
    ) -> Result<HeldDescriptor, NoShare> {
        let promised = self.0.promised.load(Ordering::Relaxed);
        self.count(number(descriptor), promised, holder, ShareUse::Apis)
    }

    /// Has `holder` hold this one whatever it has, as one of those that are kept. `None`: it has to be closed at once.
    #[must_use]
    pub fn hold_kept(&self, descriptor: &impl AsRawFd, holder: &ShareHolder) -> Option<HeldDescriptor> {
        let shares = self.shares();
        let end = shares.limit.unwrap_or(u64::MAX) - shares.kept / FILES_SHARE;
        if number(descriptor) >= end {
            self.refused();
            return None;
        }
        self.0.held.lock().add(holder);
        Some(self.held_by(holder))
    }

    /// Returns how many of those that are kept the connections of one listener may have.
    #[must_use]
    pub fn kept_for_listener(&self) -> u64 {
        (self.shares().kept / LISTENER_SHARE).max(LEAST_OF_LISTENER)
    }

    /// Notes that `holder` was refused a connection to an API.
    pub fn refused_to(&self, holder: &ShareHolder, why: NoShare) {
        self.note(holder, why);
    }

    /// Tells whether this one may be used for a moment for what the process does itself, such as a question to another host.
    #[must_use]
    pub fn may_use(&self, descriptor: &impl AsRawFd) -> bool {
        self.is_within_half_of_kept(number(descriptor))
    }

    pub(super) fn is_within_half_of_kept(&self, number: u64) -> bool {
        self.is_below(number, 0) || {
            let shares = self.shares();
            number < shares.ceiling().saturating_add(shares.kept / 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn however_many_take_what_they_can_some_are_kept_for_apis_questions_and_files() {
        let mut files: Vec<_> = (0..40).map(|_| File::open("/dev/null").unwrap()).collect();
        let file = files.pop().unwrap();
        let descriptors = Descriptors::limited_to(1_000_000);
        let number = number(&file);
        descriptors.set_limit(2 * (number + 100));
        let mut all = Vec::new();
        for user in 0..200 {
            let holder = ShareHolder::User(user);
            all.extend(std::iter::from_fn(|| descriptors.hold(&file, &holder).ok()));
            all.extend(descriptors.hold_for_api(&file, &holder));
        }
        let one = ShareHolder::User(1_000);
        assert_eq!(descriptors.hold(&file, &one).unwrap_err(), NoShare::NoneFree);
        assert_eq!(
            descriptors.hold_for_api(&file, &one).unwrap_err(),
            NoShare::NoneFree
        );
        assert!(descriptors.hold_kept(&file, &one).is_some());
        // As if this file were the lowest that is free.
        for (limit, may_use, may_keep) in [
            (2 * number, true, true),
            (number * 4 / 3 - 1, false, true),
            (number, false, false),
        ] {
            descriptors.set_limit(limit);
            let (used, kept) = (descriptors.may_use(&file), descriptors.hold_kept(&file, &one));
            assert_eq!((used, kept.is_some()), (may_use, may_keep), "{number} of {limit}");
        }
        for (limit, of_listener) in [(1_048_576, 4_096), (1_024, 8), (20, 2)] {
            descriptors.set_limit(limit);
            assert_eq!(descriptors.kept_for_listener(), of_listener, "{limit}");
        }
    }
}
