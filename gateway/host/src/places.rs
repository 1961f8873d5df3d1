//! Places of those that are served at once, and which of them gives way when all are taken: the one that has been without a call for
//! longest, of whoever has most, so that who keeps connections open keeps nobody else out. Time is an argument.

use std::{cmp::Reverse, collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::share::{ShareHolder, ShareTable};

/// Places that are taken.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    taken: Mutex<TakenPlaces>,
}

#[derive(Debug, Default)]
struct TakenPlaces {
    entered: u64,
    places: BTreeMap<u64, TakenPlace>,
    /// Number of places of each holder.
    counts: ShareTable,
    /// Number of those that have one of the descriptors that are kept.
    kept: usize,
}

/// Descriptor of whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DescriptorOf {
    /// Of its holder's share.
    Share,
    /// One of so many that are kept for these places; where they are used, another one gives way.
    Kept(usize),
}

#[derive(Debug)]
struct TakenPlace {
    holder: ShareHolder,
    from: Option<SocketAddr>,
    /// Calls that are being answered.
    calls: usize,
    /// Since it was taken, or since its last call ended.
    idle_since: Instant,
    gives_way: CancellationToken,
    /// It has one of the descriptors that are kept.
    is_kept: bool,
}

/// Place for another one.
enum Vacancy {
    Free,
    /// Of this one, which gives way.
    Of(u64),
}

/// One place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    id: u64,
    gives_way: CancellationToken,
}

/// Call that is being answered, for as long as this lives. Who has one gives way last.
#[derive(Debug)]
pub struct CallUnderWay(Arc<Place>);

impl Places {
    /// As many as `all` at once.
    pub(crate) fn new(all: usize) -> Arc<Self> {
        let taken = Mutex::default();
        Arc::new(Self { all, taken })
    }

    /// Takes a place for another one of `holder`, which comes from there and has at most `most`, if need be that of another one, whose
    /// address is returned too. `None`: the holder has its part, and answers a call at each.
    pub(crate) fn take(
        self: &Arc<Self>,
        holder: ShareHolder,
        from: Option<SocketAddr>,
        (most, descriptor): (usize, DescriptorOf),
        now: Instant,
    ) -> Option<(Arc<Place>, Option<SocketAddr>)> {
        let mut taken = self.taken.lock();
        let has_room = taken.places.len() < self.all && taken.has_descriptor(descriptor);
        let gone = match taken.vacancy(&holder, most, has_room)? {
            Vacancy::Free => None,
            Vacancy::Of(idlest) => taken.remove(idlest),
        };
        if let Some(gone) = &gone {
            gone.gives_way.cancel();
        }
        let id = taken.entered;
        taken.entered += 1;
        let gives_way = CancellationToken::new();
        // Who has no share has the descriptor of whoever gave way.
        let has_share = descriptor == DescriptorOf::Share || gone.as_ref().is_some_and(|gone| !gone.is_kept);
        let place = TakenPlace {
            holder,
            from,
            calls: 0,
            idle_since: now,
            gives_way: gives_way.clone(),
            is_kept: !has_share,
        };
        taken.enter(id, place);
        let places = self.clone();
        let place = Arc::new(Place {
            places,
            id,
            gives_way,
        });
        Some((place, gone.and_then(|gone| gone.from)))
    }
}

impl TakenPlaces {
    fn has_descriptor(&self, descriptor: DescriptorOf) -> bool {
        match descriptor {
            DescriptorOf::Share => true,
            DescriptorOf::Kept(all) => self.kept < all,
        }
    }

    fn enter(&mut self, id: u64, place: TakenPlace) {
        self.counts.add(&place.holder);
        self.kept += usize::from(place.is_kept);
        self.places.insert(id, place);
    }

    fn remove(&mut self, id: u64) -> Option<TakenPlace> {
        let gone = self.places.remove(&id)?;
        self.counts.give_back(&gone.holder);
        self.kept -= usize::from(gone.is_kept);
        Some(gone)
    }

    /// Finds a place for another one of `holder`; `None`: nobody gives way.
    fn vacancy(&self, holder: &ShareHolder, most: usize, has_room: bool) -> Option<Vacancy> {
        let own = self.counts.held_by(holder);
        if own >= most as u64 {
            let idlest = self.idlest(|place| place.holder == *holder && place.calls == 0);
            return idlest.map(Vacancy::Of);
        }
        if has_room {
            return Some(Vacancy::Free);
        }
        let largest = self.counts.largest().map_or(0, |(_, count)| count);
        let has_most = |place: &TakenPlace| self.counts.held_by(&place.holder) == largest;
        let idle = self.idlest(|place| has_most(place) && place.calls == 0);
        // Who has many gives way also while it is served, until others have as many.
        let busy = || (own + 1 < largest).then(|| self.idlest(has_most)).flatten();
        let other = || self.idlest(|place| place.calls == 0);
        idle.or_else(busy).or_else(other).map(Vacancy::Of)
    }

    /// Finds the place that has been without a call for longest, or else whose last one ended first.
    fn idlest(&self, may_go: impl Fn(&TakenPlace) -> bool) -> Option<u64> {
        let all = self.places.iter().filter(|(_, place)| may_go(place));
        let idlest = all.max_by_key(|(id, place)| (place.calls == 0, Reverse((place.idle_since, **id))));
        idlest.map(|(id, _)| *id)
    }
}

impl Place {
    /// Is cancelled when another one takes the place.
    #[must_use]
    pub fn gives_way(&self) -> &CancellationToken {
        &self.gives_way
    }

    /// Counts a call that is being answered.
    #[must_use]
    pub fn call(self: &Arc<Self>) -> CallUnderWay {
        self.change(|place| place.calls += 1);
        CallUnderWay(self.clone())
    }

    /// Names the party that has the place; `None`: it has given way.
    #[must_use]
    pub fn holder(&self) -> Option<ShareHolder> {
        let taken = self.places.taken.lock();
        taken.places.get(&self.id).map(|place| place.holder.clone())
    }

    fn change(&self, change: impl FnOnce(&mut TakenPlace)) {
        if let Some(place) = self.places.taken.lock().places.get_mut(&self.id) {
            change(place);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().remove(self.id);
    }
}

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.0.change(|place| {
            place.calls -= 1;
            place.idle_since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALL: usize = 8;
    const OF_HOLDER: usize = 4;

    struct Bench {
        places: Arc<Places>,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let (places, start) = (Places::new(ALL), Instant::now());
            Self { places, start }
        }

        fn take(&self, user: u32, second: u64) -> Option<Arc<Place>> {
            self.take_with(user, second, DescriptorOf::Share)
        }

        fn take_with(&self, user: u32, second: u64, descriptor: DescriptorOf) -> Option<Arc<Place>> {
            let now = self.start + Duration::from_secs(second);
            let from = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
            let (place, gone) =
                self.places
                    .take(ShareHolder::User(user), from, (OF_HOLDER, descriptor), now)?;
            assert!(gone.is_none_or(|gone| Some(gone) == from));
            Some(place)
        }

        fn take_all(&self, user: u32, count: usize) -> Vec<Arc<Place>> {
            let taken = (0..count).map(|second| self.take(user, second as u64).unwrap());
            taken.collect()
        }
    }

    /// Says which of these have given way.
    fn gone(places: &[Arc<Place>]) -> Vec<usize> {
        let all = places.iter().enumerate();
        let gone = all.filter(|(_, place)| place.gives_way().is_cancelled());
        gone.map(|(number, _)| number).collect()
    }

    #[test]
    fn the_idlest_of_who_has_its_part_gives_way_and_nobody_elses() {
        let bench = Bench::new();
        let other = bench.take(9, 0).unwrap();
        let held = bench.take_all(1, OF_HOLDER);
        let calls = [held[0].call(), held[1].call()];
        let fresh = bench.take(1, 10).unwrap();
        assert_eq!(gone(&held), [2], "0 and 1 are answered");
        let _busy = (held[3].call(), fresh.call());
        assert!(bench.take(1, 11).is_none(), "all are answered");
        drop(calls);
        assert!(bench.take(1, 12).is_some());
        assert_eq!((gone(&held), gone(&[other])), (vec![0, 2], vec![]));
    }

    #[test]
    fn where_all_places_are_taken_who_has_most_gives_way_even_while_it_is_served() {
        let bench = Bench::new();
        let (many, few) = (bench.take_all(1, OF_HOLDER), bench.take_all(2, 3));
        let one = bench.take_all(3, 1);
        let calls: Vec<_> = many.iter().map(Place::call).collect();
        let first = bench.take(4, 10).unwrap();
        assert_eq!((gone(&many), gone(&few), gone(&one)), (vec![0], vec![], vec![]));
        // Of two that have as many the idlest one goes.
        let _first_call = first.call();
        let second = bench.take(4, 11).unwrap();
        assert_eq!((gone(&many), gone(&few)), (vec![0], vec![0]));
        drop((calls, second, one, few));
        assert!(gone(&bench.take_all(5, OF_HOLDER)).is_empty());
    }

    #[test]
    fn without_a_share_there_are_a_few_descriptors_and_then_those_of_who_has_most() {
        let bench = Bench::new();
        let few = DescriptorOf::Kept(2);
        let many = bench.take_all(1, 3);
        let kept = [(2, 10), (3, 11)].map(|(user, second)| bench.take_with(user, second, few).unwrap());
        assert!(gone(&many).is_empty());
        let third = bench.take_with(4, 12, few).unwrap();
        assert_eq!((gone(&many), gone(&kept)), (vec![0], vec![]));
        // It has that one's descriptor, and of those that are kept none more is used.
        drop(kept);
        let kept = [(2, 13), (3, 14)].map(|(user, second)| bench.take_with(user, second, few).unwrap());
        assert_eq!(gone(&many), [0]);
        let fourth = bench.take_with(5, 15, few).unwrap();
        assert_eq!((gone(&many), gone(&kept)), (vec![0, 1], vec![]));
        assert_eq!(gone(&[third, fourth]), Vec::<usize>::new());
    }

    #[test]
    fn a_place_is_free_again_once_it_is_dropped() {
        let bench = Bench::new();
        for _ in 0..3 {
            let held = bench.take_all(1, OF_HOLDER);
            assert!(gone(&held).is_empty());
            let call = held[0].call();
            drop(held);
            assert_eq!(bench.places.taken.lock().places.len(), 1, "a call keeps it");
            drop(call);
            let taken = bench.places.taken.lock();
            assert_eq!((taken.places.len(), taken.counts.total(), taken.kept), (0, 0, 0));
        }
    }
}
