//! Descriptors of this process: how many there are, and how many of them may be taken for what comes in numbers.
//!
//! A process that has none left answers nobody, not even who would repair it. So a part is kept for what the process needs to
//! go on: its own APIs, DNS, tunnels, files. What comes in numbers asks before it holds another one.
//!
//! Nothing has to be counted for that. The kernel gives out the lowest number that is free (POSIX, "File Descriptor
//! Allocation"): one that lies above the ceiling says that as many as lie below are in use.
//!
//! Descriptors that are held in somebody's name are counted too, by holder, so that none can take all; see `share`. A low number says
//! only that one is free there: how many are is the least that the number and the counts allow.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::share::{NoShare, ShareHolder, ShareTable, ShareUse};

mod kept;
mod promise;

use promise::TakenPromise;
pub use promise::{DescriptorPromise, PromiseTicket};

/// Fewest descriptors that are kept, where the limit allows it.
const LEAST_KEPT: u64 = 128;
/// One in so many is kept.
const KEPT_SHARE: u64 = 16;

/// Time for which a lack is told after it was seen last, so that one who looks finds it.
const LACK_TOLD_FOR: Duration = Duration::from_secs(60);

/// Raises the soft limit on descriptors to the hard one: the usual soft limit is 1,024.
///
/// # Errors
/// When the system does not allow it.
pub fn raise_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Division of a limit on descriptors. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescriptorShares {
    /// All that there are; `None`: as many as wanted.
    pub limit: Option<u64>,
    /// Kept for what the process needs to go on.
    pub kept: u64,
    /// Most that may be sockets which listen for clients, so that some are left for the clients.
    pub listeners: u64,
}

impl DescriptorShares {
    #[must_use]
    pub fn of(limit: Option<u64>) -> Self {
        let Some(all) = limit else {
            return Self {
                limit,
                kept: 0,
                listeners: u64::MAX,
            };
        };
        let kept = (all / KEPT_SHARE).max(LEAST_KEPT).min(all / 2);
        Self {
            limit,
            kept,
            listeners: (all - kept) / 4 * 3,
        }
    }

    /// Returns the first number that nothing which comes in numbers may have.
    #[must_use]
    pub fn ceiling(&self) -> u64 {
        self.limit.map_or(u64::MAX, |all| all - self.kept)
    }
}

/// Descriptors that may be taken for what comes in numbers. Clones are the same.
#[derive(Debug, Clone)]
pub struct Descriptors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: Limit,
    /// As of the latest look at the limit.
    ceiling: AtomicU64,
    listeners: AtomicU64,
    /// Those that are promised to who has not taken them yet.
    promised: AtomicU64,
    /// Those that are held in somebody's name, or promised. Locked for one look-up.
    held: parking_lot::Mutex<ShareTable>,
    /// Time at which one was refused last.
    refused: Mutex<Option<Instant>>,
    /// Holder that was refused last because it has its share.
    crowded: Mutex<Option<(Instant, HolderCount)>>,
}

/// Holder of descriptors, and how many it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HolderCount {
    pub holder: ShareHolder,
    pub held: u64,
}

/// Source of the limit.
#[derive(Debug)]
enum Limit {
    OfProcess,
    /// As a test sets it.
    #[cfg(any(test, feature = "test-util"))]
    Set(AtomicU64),
}

/// A listening socket's place among those that there may be, for as long as it lives.
#[derive(Debug)]
pub struct ListenerPlace(Descriptors);

impl Drop for ListenerPlace {
    fn drop(&mut self) {
        self.0.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One descriptor that is held in somebody's name, for as long as this lives.
#[derive(Debug)]
pub struct HeldDescriptor {
    descriptors: Descriptors,
    holder: ShareHolder,
    /// It is one that was promised, and counts by that.
    promise: Option<TakenPromise>,
}

impl HeldDescriptor {
    #[must_use]
    pub fn holder(&self) -> &ShareHolder {
        &self.holder
    }
}

impl Drop for HeldDescriptor {
    fn drop(&mut self) {
        if self.promise.is_none() {
            self.descriptors.0.held.lock().give_back(&self.holder);
        }
    }
}

impl Default for Descriptors {
    /// Those of this process, whose limit may be raised at any time.
    fn default() -> Self {
        Self::with(Limit::OfProcess)
    }
}

impl Descriptors {
    /// As if the limit were this; [`Descriptors::set_limit`] changes it.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn limited_to(limit: u64) -> Self {
        Self::with(Limit::Set(AtomicU64::new(limit)))
    }

    fn with(limit: Limit) -> Self {
        let shared = Shared {
            limit,
            ceiling: AtomicU64::new(0),
            listeners: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            held: parking_lot::Mutex::default(),
            refused: Mutex::new(None),
            crowded: Mutex::new(None),
        };
        Self(Arc::new(shared))
    }

    /// Sets the limit of [`Descriptors::limited_to`].
    #[cfg(any(test, feature = "test-util"))]
    pub fn set_limit(&self, to: u64) {
        if let Limit::Set(limit) = &self.0.limit {
            limit.store(to, Ordering::Relaxed);
            self.shares();
        }
    }

    /// Number of those that are promised now.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn promised(&self) -> u64 {
        self.0.promised.load(Ordering::Relaxed)
    }

    /// Looks at the limit, and returns how it is divided.
    pub fn shares(&self) -> DescriptorShares {
        let limit = match &self.0.limit {
            Limit::OfProcess => getrlimit(Resource::Nofile).current,
            #[cfg(any(test, feature = "test-util"))]
            Limit::Set(limit) => Some(limit.load(Ordering::Relaxed)),
        };
        let shares = DescriptorShares::of(limit);
        self.0.ceiling.store(shares.ceiling(), Ordering::Relaxed);
        shares
    }

    /// Tells whether what comes in numbers may hold this one, or has to close it at once.
    #[must_use]
    pub fn may_hold(&self, descriptor: &impl AsRawFd) -> bool {
        let may = self.is_below(number(descriptor), self.0.promised.load(Ordering::Relaxed));
        if !may {
            self.refused();
        }
        may
    }

    /// Has `holder` hold this one.
    ///
    /// # Errors
    /// It has to be closed at once: none is left, or `holder` has its share.
    pub fn hold(&self, descriptor: &impl AsRawFd, holder: &ShareHolder) -> Result<HeldDescriptor, NoShare> {
        let promised = self.0.promised.load(Ordering::Relaxed);
        self.take(number(descriptor), promised, holder)
    }

    /// Tells whether so few are left that it matters who holds them.
    #[must_use]
    pub fn are_scarce(&self, descriptor: &impl AsRawFd) -> bool {
        let ceiling = self.0.ceiling.load(Ordering::Relaxed);
        let used = self.used(number(descriptor), 0, self.0.held.lock().total());
        used > ceiling / 2
    }

    fn held_by(&self, holder: &ShareHolder) -> HeldDescriptor {
        HeldDescriptor {
            descriptors: self.clone(),
            holder: holder.clone(),
            promise: None,
        }
    }

    /// Number of those in use where one with this number is the lowest that was free: at least as many as lie below it, and
    /// those that are held.
    fn used(&self, number: u64, promised: u64, held: u64) -> u64 {
        let held = held.saturating_add(self.0.listeners.load(Ordering::Relaxed));
        number.saturating_add(promised).max(held)
    }

    fn take(&self, number: u64, promised: u64, holder: &ShareHolder) -> Result<HeldDescriptor, NoShare> {
        let taken = self.count(number, promised, holder, ShareUse::Traffic);
        if let Err(why) = &taken {
            self.note(holder, *why);
        }
        taken
    }

    /// Counts one more for `holder`, if it may have it.
    fn count(
        &self,
        number: u64,
        promised: u64,
        holder: &ShareHolder,
        of: ShareUse,
    ) -> Result<HeldDescriptor, NoShare> {
        let mut held = self.0.held.lock();
        let used = self.used(number, promised, held.total());
        let mut take = |ceiling: u64| held.take(holder, ceiling.saturating_sub(used), of);
        // The limit is looked at again only where it would refuse.
        take(self.0.ceiling.load(Ordering::Relaxed)).or_else(|_| take(self.shares().ceiling()))?;
        Ok(self.held_by(holder))
    }

    /// Notes that one was refused, for whoever looks.
    fn note(&self, holder: &ShareHolder, why: NoShare) {
        match why {
            NoShare::NoneFree => self.refused(),
            NoShare::Crowded { held, .. } => {
                let holder = holder.clone();
                let crowded = HolderCount { holder, held };
                *lock(&self.0.crowded) = Some((Instant::now(), crowded));
            }
        }
    }

    fn is_below(&self, number: u64, promised: u64) -> bool {
        let number = number.saturating_add(promised);
        // The limit is looked at again only where it would refuse.
        number < self.0.ceiling.load(Ordering::Relaxed) || number < self.shares().ceiling()
    }

    fn refused(&self) {
        *lock(&self.0.refused) = Some(Instant::now());
    }

    /// Tells whether somebody was refused one within the last minute.
    #[must_use]
    pub fn lacked_lately(&self) -> bool {
        let refused = *lock(&self.0.refused);
        refused.is_some_and(|at| at.elapsed() < LACK_TOLD_FOR)
    }

    /// Names the holder that was refused one last because it has its share, within the last minute.
    #[must_use]
    pub fn crowded_lately(&self) -> Option<HolderCount> {
        let crowded = lock(&self.0.crowded).clone();
        crowded
            .filter(|(at, _)| at.elapsed() < LACK_TOLD_FOR)
            .map(|(_, crowded)| crowded)
    }

    /// Names the holder that has most of them now, and how many.
    #[must_use]
    pub fn largest_holder(&self) -> Option<HolderCount> {
        let held = self.0.held.lock();
        let (holder, held) = held.largest()?;
        let holder = holder.clone();
        Some(HolderCount { holder, held })
    }

    /// Tells whether the next one may be held.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let promised = self.0.promised.load(Ordering::Relaxed);
        File::open("/dev/null").is_ok_and(|file| self.is_below(number(&file), promised))
    }

    /// Takes a place for a listening socket; `None`: there are as many as may be.
    #[must_use]
    pub fn take_listener(&self) -> Option<ListenerPlace> {
        let listeners = &self.0.listeners;
        let most = self.shares().listeners;
        if listeners.fetch_add(1, Ordering::Relaxed) >= most {
            listeners.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ListenerPlace(self.clone()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(descriptor: &impl AsRawFd) -> u64 {
    u64::try_from(descriptor.as_raw_fd()).unwrap_or_default()
}

/// Tells whether `error` says that there is no descriptor left, in this process or on the host.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixteenth_is_kept_at_least_128_and_never_more_than_half() {
        let of = |limit| {
            let shares = DescriptorShares::of(Some(limit));
            (shares.kept, shares.ceiling(), shares.listeners)
        };
        assert_eq!(of(1_048_576), (65_536, 983_040, 737_280));
        assert_eq!(of(20_000), (1_250, 18_750, 14_061));
        assert_eq!(of(1_024), (128, 896, 672));
        assert_eq!(of(100), (50, 50, 36));
        assert_eq!(of(0), (0, 0, 0));
        assert_eq!(DescriptorShares::of(None).ceiling(), u64::MAX);
    }

    #[test]
    fn a_number_below_the_ceiling_may_be_held_also_after_the_limit_was_raised() {
        let file = File::open("/dev/null").unwrap();
        let descriptors = Descriptors::limited_to(0);
        assert!(!descriptors.may_hold(&file) && !descriptors.has_room());
        descriptors.set_limit(1_000_000);
        assert!(descriptors.may_hold(&file) && descriptors.has_room());
        assert!(Descriptors::default().may_hold(&file));
    }

    #[test]
    fn what_is_promised_is_nobody_elses_and_a_refusal_is_told_for_a_while() {
        let file = File::open("/dev/null").unwrap();
        let descriptors = Descriptors::limited_to(1_000_000);
        let (one, other) = (ShareHolder::User(1), ShareHolder::User(2));
        // Its number and two more lie below the ceiling, which is half of a small limit.
        descriptors.set_limit(2 * (number(&file) + 3));
        assert!(!descriptors.lacked_lately());
        let first = descriptors.promise_another(&file, &one);
        let second = descriptors.promise_another(&file, &other);
        assert!(first.is_ok() && second.is_ok() && descriptors.may_hold(&file));
        let third = descriptors.promise_another(&file, &one);
        assert_eq!(third.unwrap_err(), NoShare::NoneFree);
        assert!(descriptors.lacked_lately());
        descriptors.set_limit(2 * (number(&file) + 2));
        assert!(!descriptors.may_hold(&file) && descriptors.hold(&file, &one).is_err());
        drop(first);
        assert!(descriptors.may_hold(&file) && descriptors.promised() == 1);
    }

    #[test]
    fn who_has_its_share_gets_no_more_and_another_does() {
        let file = File::open("/dev/null").unwrap();
        let descriptors = Descriptors::limited_to(1_000_000);
        descriptors.set_limit(2 * (number(&file) + 90));
        let (one, other) = (ShareHolder::User(1), ShareHolder::User(2));
        // Where each has the same number, it is what is held that tells how many are left.
        let fill = |holder: &ShareHolder| {
            std::iter::from_fn(|| descriptors.hold(&file, holder).ok()).collect::<Vec<_>>()
        };
        assert!(!descriptors.are_scarce(&file));
        let held = fill(&one);
        assert!(
            (60..=62 + number(&file)).contains(&(held.len() as u64)),
            "{}",
            held.len()
        );
        assert!(descriptors.are_scarce(&file) && !descriptors.lacked_lately());
        let crowded = HolderCount {
            holder: one.clone(),
            held: held.len() as u64,
        };
        assert_eq!(descriptors.crowded_lately(), Some(crowded.clone()));
        assert_eq!(descriptors.largest_holder(), Some(crowded));
        assert!(
            fill(&other).len() >= 20 && descriptors.promise_another(&file, &ShareHolder::ThisHost).is_ok()
        );
        drop(held);
        assert_eq!(descriptors.largest_holder(), None);
        assert!(descriptors.hold(&file, &one).is_ok());
    }

    #[test]
    fn listeners_leave_a_quarter_of_what_is_not_kept_to_clients() {
        let descriptors = Descriptors::limited_to(16);
        let taken: Vec<_> = std::iter::from_fn(|| descriptors.take_listener()).collect();
        assert_eq!(taken.len(), 6);
        drop(taken);
        assert!(descriptors.take_listener().is_some());
    }
}
