//! Promises of descriptors. One that is taken counts once: as taken, and no longer as promised.

use std::{
    os::fd::AsRawFd,
    sync::{Arc, atomic::Ordering},
};

use parking_lot::Mutex;

use super::{Descriptors, HeldDescriptor, number};
use crate::share::{NoShare, ShareHolder};

/// Promise of one descriptor more, for as long as it lives: nobody else is given it.
#[derive(Debug)]
pub struct DescriptorPromise(Arc<Promised>);

/// Way to take what was promised. Clones are the same.
#[derive(Debug, Clone)]
pub struct PromiseTicket(Arc<Promised>);

/// Taking of what was promised, for as long as this lives.
#[derive(Debug)]
pub(super) struct TakenPromise(Arc<Promised>);

#[derive(Debug)]
struct Promised {
    /// It counts as held from the first, and until whatever was taken is closed.
    held: HeldDescriptor,
    state: Mutex<PromiseState>,
}

#[derive(Debug)]
struct PromiseState {
    /// The promise was not dropped.
    stands: bool,
    is_taken: bool,
}

impl PromiseState {
    fn is_open(&self) -> bool {
        self.stands && !self.is_taken
    }
}

impl Promised {
    /// Changes the state, and counts the promise only while it is open.
    fn change(&self, change: impl FnOnce(&mut PromiseState)) {
        let mut state = self.state.lock();
        let before = state.is_open();
        change(&mut state);
        let promised = &self.held.descriptors.0.promised;
        match (before, state.is_open()) {
            (true, false) => drop(promised.fetch_sub(1, Ordering::Relaxed)),
            (false, true) => drop(promised.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

impl DescriptorPromise {
    #[must_use]
    pub fn ticket(&self) -> PromiseTicket {
        PromiseTicket(self.0.clone())
    }
}

impl Drop for DescriptorPromise {
    fn drop(&mut self) {
        self.0.change(|state| state.stands = false);
    }
}

impl Drop for TakenPromise {
    fn drop(&mut self) {
        self.0.change(|state| state.is_taken = false);
    }
}

impl PromiseTicket {
    /// Has this one be the one that was promised. What was opened meanwhile without asking, such as a file or a connection to an API, may have
    /// its number; half of what is kept makes up for that. `None`: another one is it already, or it has to be closed at once.
    #[must_use]
    pub fn take(&self, descriptor: &impl AsRawFd) -> Option<HeldDescriptor> {
        let (number, descriptors) = (number(descriptor), &self.0.held.descriptors);
        let may = descriptors.is_within_half_of_kept(number);
        let mut was_open = false;
        self.0.change(|state| {
            was_open = may && state.is_open();
            state.is_taken |= was_open;
        });
        was_open.then(|| HeldDescriptor {
            descriptors: descriptors.clone(),
            holder: self.0.held.holder.clone(),
            promise: Some(TakenPromise(self.0.clone())),
        })
    }
}

impl Descriptors {
    /// Promises another one beside this one, both for `holder`.
    ///
    /// # Errors
    /// This one has to be closed at once: none is left, or `holder` has its share.
    pub fn promise_another(
        &self,
        descriptor: &impl AsRawFd,
        holder: &ShareHolder,
    ) -> Result<DescriptorPromise, NoShare> {
        let before = self.0.promised.fetch_add(1, Ordering::Relaxed);
        let held = self.take(number(descriptor), before + 1, holder);
        if held.is_err() {
            self.0.promised.fetch_sub(1, Ordering::Relaxed);
        }
        let state = Mutex::new(PromiseState {
            stands: true,
            is_taken: false,
        });
        Ok(DescriptorPromise(Arc::new(Promised { held: held?, state })))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_promised_counts_once_whether_it_is_taken_or_not() {
        let file = File::open("/dev/null").unwrap();
        let descriptors = Descriptors::limited_to(1_000_000);
        let counts = || {
            let held = descriptors.largest_holder().map_or(0, |most| most.held);
            (descriptors.promised(), held)
        };
        let promise = descriptors.promise_another(&file, &ShareHolder::User(1)).unwrap();
        assert_eq!(counts(), (1, 1));
        let taken = promise.ticket().take(&file).unwrap();
        assert_eq!(counts(), (0, 1));
        assert!(promise.ticket().take(&file).is_none(), "it is one");
        drop(taken);
        assert_eq!(counts(), (1, 1), "it may be taken again");
        let taken = promise.ticket().take(&file).unwrap();
        drop(promise);
        assert_eq!(counts(), (0, 1), "until what was taken is closed");
        drop(taken);
        assert_eq!(counts(), (0, 0));
        drop(descriptors.promise_another(&file, &ShareHolder::User(1)).unwrap());
        assert_eq!(counts(), (0, 0));
    }
}
