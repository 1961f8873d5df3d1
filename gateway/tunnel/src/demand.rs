//! Decides how many tunnels to a gateway are dialled: few at first, more as those that are there carry much, and fewer again once
//! they have carried little for a while. A QUIC connection is worked off by one core on each side, so that one tunnel
//! carries only so much; each that idles costs memory and signs of life.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, ZoneName};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Tunnel, shared::TunnelShared};

/// Tunnels that are dialled to a gateway whatever they carry: with two, what becomes of one is not noticed on the other.
pub(super) const FIRST_TUNNELS: usize = 2;
/// Streams under way on each tunnel on average, from which there are to be more.
const STREAMS_EACH: usize = 32;
/// Bytes a second, in both directions, that each tunnel carries on average from which there are to be more: a fifth of what a
/// core can.
const BYTES_EACH: u64 = 100_000_000;
/// Shortest time between two changes, so that what was dialled is up and counts.
const SETTLE: Duration = Duration::from_secs(1);
/// Time for which there have been too many before one goes.
pub(super) const SPARE_FOR: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Work of all tunnels to one gateway, whoever dialled them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TunnelLoad {
    pub(super) tunnels: usize,
    /// Those of the tunnels that carry bulk.
    pub(super) bulk_tunnels: usize,
    pub(super) streams: usize,
    pub(super) bytes_per_second: u64,
}

impl TunnelLoad {
    /// Tunnels that would carry it with `share` percent of what each may carry.
    fn needs(&self, share: u64) -> usize {
        let by_streams = self
            .streams
            .saturating_mul(100)
            .div_ceil(STREAMS_EACH * share as usize);
        let by_bytes = self
            .bytes_per_second
            .saturating_mul(100)
            .div_ceil(BYTES_EACH * share);
        // One for what is not bulk.
        let by_class = match self.bulk_tunnels {
            0 => 0,
            bulk => bulk + 1,
        };
        let by_bytes = usize::try_from(by_bytes).unwrap_or(usize::MAX);
        by_streams.max(by_bytes).max(by_class)
    }
}

/// Number of tunnels to dial to one gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    wanted: usize,
    changed_at: Instant,
    spare_since: Option<Instant>,
}

impl Demand {
    pub(super) fn new(now: Instant, first: usize) -> Self {
        Self {
            wanted: first,
            changed_at: now,
            spare_since: None,
        }
    }

    /// Takes up how much the tunnels carry and says how many to dial: at least `first`, at most `most`.
    pub(super) fn observe(&mut self, now: Instant, load: TunnelLoad, limits: &DemandLimits) -> usize {
        let settled = now.saturating_duration_since(self.changed_at) >= SETTLE;
        let missing = load.needs(100).saturating_sub(load.tunnels);
        // With half the work for each, one fewer would do. Between the two nothing changes.
        let is_spare = load.needs(50) < load.tunnels;
        self.spare_since = self.spare_since.filter(|_| is_spare);
        if missing > 0 && settled {
            // The peer dials as well, and sees the same.
            self.change(now, self.wanted + missing.div_ceil(2));
        } else if is_spare && self.wanted > limits.first {
            let since = *self.spare_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= limits.spare_for {
                self.change(now, self.wanted - 1);
            }
        }
        self.wanted = self.wanted.clamp(limits.first, limits.most);
        self.wanted
    }

    fn change(&mut self, now: Instant, wanted: usize) {
        (self.wanted, self.changed_at, self.spare_since) = (wanted, now, None);
    }
}

/// Bounds of the number of tunnels to each gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct DemandLimits {
    pub(super) first: usize,
    /// One for each data thread.
    pub(super) most: usize,
    pub(super) spare_for: Duration,
}

/// Numbers of tunnels to dial to the gateways of each zone.
#[derive(Debug)]
pub(super) struct Demands {
    limits: DemandLimits,
    by_zone: watch::Sender<BTreeMap<ZoneName, usize>>,
}

impl Demands {
    pub(super) fn new(limits: DemandLimits) -> Self {
        Self {
            limits,
            by_zone: watch::Sender::new(BTreeMap::new()),
        }
    }

    /// Waits until the dialler that comes in at `rank` is needed for the gateways of `zone`, if `needed`, or else is not.
    pub(super) async fn until(&self, zone: &ZoneName, rank: usize, needed: bool) {
        let mut numbers = self.by_zone.subscribe();
        let first = self.limits.first;
        let holds = |numbers: &BTreeMap<ZoneName, usize>| {
            (rank < numbers.get(zone).copied().unwrap_or(first)) == needed
        };
        if numbers.wait_for(holds).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives the turn of data thread `thread` among those that may dial `target`, so that the first tunnels of several gateways are
    /// not all on the same threads.
    pub(super) fn rank(&self, thread: usize, target: &impl Hash) -> usize {
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        let threads = self.limits.most.max(1);
        let first = usize::try_from(hasher.finish() % threads as u64).unwrap_or(0);
        (thread + threads - first) % threads
    }
}

/// Counts of bytes by tunnel, of which rates are made.
#[derive(Debug)]
struct Meter {
    at: Instant,
    bytes: BTreeMap<usize, u64>,
}

impl Meter {
    fn new(now: Instant) -> Self {
        Self {
            at: now,
            bytes: BTreeMap::new(),
        }
    }

    /// Sums up by gateway what the tunnels do now, and have done since the last time.
    fn read(&mut self, now: Instant, tunnels: &[Arc<Tunnel>]) -> BTreeMap<GatewayId, TunnelLoad> {
        let passed = now.saturating_duration_since(self.at).as_micros().max(1);
        let mut bytes = BTreeMap::new();
        let mut loads: BTreeMap<GatewayId, TunnelLoad> = BTreeMap::new();
        for tunnel in tunnels {
            let stats = tunnel.stats();
            let total = stats.sent_bytes + stats.received_bytes;
            let before = self.bytes.get(&tunnel.id()).copied().unwrap_or(total);
            let rate = u128::from(total.saturating_sub(before)) * 1_000_000 / passed;
            bytes.insert(tunnel.id(), total);
            let load = loads.entry(tunnel.peer().clone()).or_default();
            tunnel.carried().look(now);
            let counts = !tunnel.is_retiring() && !tunnel.is_unheard();
            load.tunnels += usize::from(counts);
            load.bulk_tunnels += usize::from(counts && tunnel.carries_bulk());
            load.streams += tunnel.streams().load(Ordering::Relaxed);
            load.bytes_per_second += u64::try_from(rate).unwrap_or(u64::MAX);
        }
        (self.at, self.bytes) = (now, bytes);
        loads
    }
}

/// Follows what the tunnels carry, until `stop`.
pub(super) async fn run(shared: Arc<TunnelShared>, stop: CancellationToken) {
    let mut meter = Meter::new(Instant::now());
    let mut demands: BTreeMap<GatewayId, Demand> = BTreeMap::new();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let limits = &shared.demands.limits;
        let loads = meter.read(now, &shared.set.all());
        demands.retain(|peer, _| loads.contains_key(peer));
        let mut by_zone = BTreeMap::new();
        for (peer, load) in loads {
            let demand = demands
                .entry(peer.clone())
                .or_insert_with(|| Demand::new(now, limits.first));
            // Entries of a zone do not say which of its gateways they lead to: the busiest counts.
            let wanted = demand.observe(now, load, limits);
            let most = by_zone.entry(peer.zone).or_insert(wanted);
            *most = wanted.max(*most);
        }
        shared.demands.by_zone.send_if_modified(|known| {
            let changed = *known != by_zone;
            if changed {
                *known = by_zone;
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: DemandLimits = DemandLimits {
        first: 2,
        most: 8,
        spare_for: SPARE_FOR,
    };

    fn load(tunnels: usize, streams: usize, megabytes: u64) -> TunnelLoad {
        TunnelLoad {
            tunnels,
            bulk_tunnels: 0,
            streams,
            bytes_per_second: megabytes * 1_000_000,
        }
    }

    /// Numbers second by second; the tunnels that are there are those that were wanted, and the peer dials none.
    fn wanted(
        demand: &mut Demand,
        start: Instant,
        seconds: u32,
        streams: usize,
        megabytes: u64,
    ) -> Vec<usize> {
        let mut there = demand.wanted;
        let each = (1..=seconds).map(|second| {
            there = demand.observe(start + SECOND * second, load(there, streams, megabytes), &LIMITS);
            there
        });
        each.collect()
    }

    #[test]
    fn few_are_dialled_until_there_is_much_to_carry() {
        let start = Instant::now();
        let mut demand = Demand::new(start, 2);
        assert_eq!(wanted(&mut demand, start, 60, 64, 199), [2; 60]);
        let later = start + 60 * SECOND;
        assert_eq!(wanted(&mut demand, later, 4, 150, 0), [4, 5, 5, 5]);
        let later = start + 70 * SECOND;
        assert_eq!(
            wanted(&mut demand, later, 4, 0, 10_000),
            [8; 4],
            "no more than threads"
        );
    }

    #[test]
    fn as_many_are_dialled_again_once_little_was_carried_for_a_while() {
        let start = Instant::now();
        let mut demand = Demand::new(start, 2);
        wanted(&mut demand, start, 4, 200, 0);
        let busy = demand.wanted;
        assert!(busy > 5);
        let quiet = wanted(&mut demand, start + 4 * SECOND, 300, 3, 0);
        assert_eq!(quiet[28], busy, "not at once");
        assert_eq!(*quiet.last().unwrap(), 2, "and not below the first ones");
        let steps = quiet.windows(2).filter(|two| two[0] != two[1]);
        assert!(steps.into_iter().all(|two| two[0] - two[1] == 1), "one by one");
    }

    #[test]
    fn a_load_at_the_edge_changes_nothing_to_and_fro() {
        let start = Instant::now();
        let mut demand = Demand::new(start, 2);
        wanted(&mut demand, start, 10, 65, 0);
        let steady = demand.wanted;
        for second in 10..600 {
            let streams = if second % 2 == 0 { 65 } else { 60 };
            let now = start + SECOND * second;
            assert_eq!(demand.observe(now, load(steady, streams, 0), &LIMITS), steady);
        }
    }

    #[test]
    fn one_more_is_dialled_where_every_tunnel_carries_bulk_and_goes_again_after_it() {
        let start = Instant::now();
        let mut demand = Demand::new(start, 2);
        let mut second = 0;
        let mut wanted = |tunnels, bulk_tunnels, seconds: u32| {
            let mut last = 0;
            for _ in 0..seconds {
                second += 1;
                let load = TunnelLoad {
                    bulk_tunnels,
                    ..load(tunnels, 3, 1)
                };
                last = demand.observe(start + SECOND * second, load, &LIMITS);
            }
            last
        };
        assert_eq!(wanted(2, 1, 60), 2, "another is there");
        assert_eq!(wanted(2, 2, 1), 3);
        assert_eq!(wanted(3, 2, 60), 3, "as long as it goes on");
        assert_eq!(wanted(3, 3, 1), 4);
        assert_eq!(wanted(8, 8, 60), 8, "no more than threads");
        assert_eq!(wanted(8, 0, 20), 8, "not at once");
        assert_eq!(wanted(8, 0, 300), 2);
    }

    #[test]
    fn tunnels_that_the_peer_dials_count() {
        let start = Instant::now();
        let mut demand = Demand::new(start, 2);
        let now = start + 2 * SECOND;
        assert_eq!(demand.observe(now, load(4, 128, 0), &LIMITS), 2);
        assert_eq!(demand.observe(now, load(4, 129, 0), &LIMITS), 3);
    }
}
