//! Classes of what streams carry, so that questions and what gateways tell each other for themselves do not share a tunnel with
//! downloads where there is another. Pure but for the counts that streams keep: the time is an argument.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use causeway_routing::snapshot::Link;
use parking_lot::Mutex;

use super::burst::Burst;

/// Bytes from which it is followed how much a half of a stream carries: most never get there.
const FOLLOWED_FROM_BYTES: u64 = 256 * 1024;
/// Streams by which a tunnel without bulk may be ahead of one with it and is still chosen for a stream that may be small.
const BULK_STREAMS: usize = 128;
/// Streams by which a tunnel of another data thread must be ahead to be chosen: what it carries goes from thread to thread.
const OTHER_THREAD_STREAMS: usize = 8;

/// Class of what a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of the gateways themselves: zone sync, documents, asks.
    Control,
    /// A connection that has not carried much, as every new one.
    Interactive,
    /// A connection that carries much, for as long as it does.
    Bulk,
}

/// State of a tunnel that could take a stream more.
#[derive(Debug, Clone, Copy)]
pub(super) struct TunnelStanding {
    pub(super) link: Link,
    pub(super) is_retiring: bool,
    pub(super) carries_bulk: bool,
    pub(super) streams: usize,
    /// The task that opens the stream is on its data thread.
    pub(super) own: bool,
}

impl Class {
    /// Rank of a tunnel for a stream of this class more; the lowest is chosen. One that answers comes before one that has stalled, one that
    /// stays before one that retires. Control never sits beside bulk where there is another tunnel, and a new connection not unless those
    /// others have many more streams.
    pub(super) fn rank(self, tunnel: TunnelStanding) -> (Link, bool, bool, usize) {
        let beside_bulk = self != Self::Bulk && tunnel.carries_bulk;
        let burden = match self {
            Self::Interactive if beside_bulk => BULK_STREAMS,
            _ => 0,
        };
        let cost = cost(tunnel.streams.saturating_add(burden), tunnel.own);
        let (link, is_retiring) = (tunnel.link, tunnel.is_retiring);
        (link, is_retiring, beside_bulk && self == Self::Control, cost)
    }
}

/// Cost of a stream more on a tunnel that has `streams`; `own`: the task is on its data thread.
fn cost(streams: usize, own: bool) -> usize {
    match own {
        true => streams,
        // A tunnel of another thread is as good once it has less than half as many.
        false => streams.saturating_mul(2).saturating_add(OTHER_THREAD_STREAMS),
    }
}

/// Streams of one tunnel that have carried much, and how many of them are bulk now.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// One for each half that is followed, for as long as it is open.
    halves: Mutex<Vec<FollowedHalf>>,
    bulk: AtomicUsize,
}

#[derive(Debug)]
struct FollowedHalf {
    total: Weak<AtomicU64>,
    seen: u64,
    burst: Burst,
}

impl Carried {
    fn follow(&self, now: Instant, total: u64) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(total));
        self.halves.lock().push(FollowedHalf {
            total: Arc::downgrade(&count),
            seen: total,
            burst: Burst::new(now, total),
        });
        count
    }

    /// Looks at what each half has carried since the last look.
    pub(crate) fn look(&self, now: Instant) {
        let mut bulk = 0;
        self.halves.lock().retain_mut(|half| {
            let Some(total) = half.total.upgrade() else {
                return false;
            };
            let total = total.load(Ordering::Relaxed);
            half.burst
                .carry(total.saturating_sub(std::mem::replace(&mut half.seen, total)));
            bulk += usize::from(half.burst.class(now) == Class::Bulk);
            true
        });
        self.bulk.store(bulk, Ordering::Relaxed);
    }

    /// Number of halves of streams that were bulk at the last look.
    pub(crate) fn bulk(&self) -> usize {
        self.bulk.load(Ordering::Relaxed)
    }
}

/// Part of one half of a stream in [`Carried`].
#[derive(Debug, Default)]
pub(crate) struct CarriedHalf {
    /// `None`: it is not followed, whatever it carries.
    all: Option<Arc<Carried>>,
    total: Option<Arc<AtomicU64>>,
}

impl CarriedHalf {
    pub(crate) fn of(all: Option<&Arc<Carried>>) -> Self {
        Self {
            all: all.cloned(),
            total: None,
        }
    }

    /// Takes down that it has carried so much in all.
    #[inline]
    pub(crate) fn count(&mut self, total: u64) {
        match (&self.total, &self.all) {
            (Some(count), _) => count.store(total, Ordering::Relaxed),
            (None, Some(all)) if total >= FOLLOWED_FROM_BYTES => {
                self.total = Some(all.follow(Instant::now(), total));
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn standing(streams: usize, own: bool, carries_bulk: bool) -> TunnelStanding {
        TunnelStanding {
            link: Link::Up,
            is_retiring: false,
            carries_bulk,
            streams,
            own,
        }
    }

    fn chosen(class: Class, tunnels: &[TunnelStanding]) -> usize {
        let best = (0..tunnels.len()).min_by_key(|at| class.rank(tunnels[*at]));
        best.unwrap()
    }

    /// Streams on each tunnel after tasks of thread 0 have opened `count`, where each tunnel is of the thread that is given.
    fn spread(threads: &[usize], count: usize) -> Vec<usize> {
        let mut streams = vec![0; threads.len()];
        for _ in 0..count {
            let tunnels = threads.iter().zip(&streams);
            let tunnels = tunnels.map(|(thread, streams)| standing(*streams, *thread == 0, false));
            let best = chosen(Class::Interactive, &tunnels.collect::<Vec<_>>());
            streams[best] += 1;
        }
        streams
    }

    #[test]
    fn few_streams_stay_on_their_thread_and_many_are_spread_over_all_tunnels() {
        assert_eq!(spread(&[1, 0, 2], 8), [0, 8, 0]);
        assert_eq!(spread(&[1, 0, 0, 2], 16), [0, 8, 8, 0]);
        let many = spread(&[0, 0, 1, 2, 3, 1, 2, 3], 400);
        assert!(
            many.iter().all(|streams| (30..=100).contains(streams)),
            "{many:?}"
        );
        assert_eq!(spread(&[1, 2], 10), [5, 5], "without a tunnel of its own");
    }

    #[test]
    fn control_and_small_streams_keep_away_from_bulk_where_another_tunnel_is() {
        use Class::{Bulk, Control, Interactive};
        let (bulk, clean) = (standing(1, true, true), standing(20, false, false));
        for (class, tunnels, wanted) in [
            (Control, vec![bulk, clean], 1),
            (Interactive, vec![bulk, clean], 1),
            (Bulk, vec![bulk, clean], 0),
            // Never beside bulk, and only where the others are not crowded.
            (Control, vec![bulk, standing(5_000, false, false)], 1),
            (Interactive, vec![bulk, standing(5_000, false, false)], 0),
            // Where all carry bulk it is as without.
            (Control, vec![standing(9, true, true), bulk], 1),
            (Interactive, vec![standing(9, true, true), bulk], 1),
            // One that answers and stays comes first.
            (
                Control,
                vec![
                    bulk,
                    TunnelStanding {
                        link: Link::Stalled,
                        ..clean
                    },
                ],
                0,
            ),
            (
                Control,
                vec![
                    bulk,
                    TunnelStanding {
                        is_retiring: true,
                        ..clean
                    },
                ],
                0,
            ),
        ] {
            assert_eq!(chosen(class, &tunnels), wanted, "{class:?} {tunnels:?}");
        }
    }

    #[test]
    fn a_stream_is_bulk_while_it_carries_much_and_no_longer() {
        let carried = Arc::new(Carried::default());
        let mut now = Instant::now();
        let mut halves = [CarriedHalf::of(Some(&carried)), CarriedHalf::of(Some(&carried))];
        let mut bulk_after = |halves: &mut [CarriedHalf], totals: [u64; 2], pause: Duration| {
            for (half, total) in halves.iter_mut().zip(totals) {
                half.count(total);
            }
            now += pause;
            carried.look(now);
            carried.bulk()
        };
        let moment = Duration::from_millis(250);
        const MIB: u64 = 1024 * 1024;
        assert_eq!(bulk_after(&mut halves, [100, 200 * 1024], moment), 0);
        assert_eq!(bulk_after(&mut halves, [MIB, 300 * 1024], moment), 0);
        assert_eq!(bulk_after(&mut halves, [3 * MIB, 300 * 1024], moment), 1);
        assert_eq!(bulk_after(&mut halves, [3 * MIB, 3 * MIB], moment), 2);
        assert_eq!(
            bulk_after(&mut halves, [3 * MIB, 3 * MIB], 60 * moment * 4),
            0,
            "it is silent"
        );
        assert_eq!(bulk_after(&mut halves, [6 * MIB, 3 * MIB], moment), 1);
        drop(halves);
        carried.look(now);
        assert_eq!(carried.bulk(), 0, "it is gone");
    }
}
