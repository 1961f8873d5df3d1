//! The last few seconds of this zone's knowledge: whether a service that nobody can serve now could be served a moment ago,
//! so that its clients wait for it to come back, or be told at once.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_routing::{
    route::{Request, route},
    snapshot::{Snapshot, Snapshots},
};
use parking_lot::Mutex;
use rand::{SeedableRng, rngs::SmallRng};

/// Snapshots that are kept of the time that is looked back on.
const SAMPLES: u32 = 4;

/// Snapshots of the last few seconds.
#[derive(Debug)]
pub(super) struct RecentSnapshots {
    /// Reach of the clients' grace into the past.
    within: Duration,
    /// Oldest first. The first is from before the time that is looked back on, once there is one.
    samples: Mutex<VecDeque<(Instant, Arc<Snapshot>)>>,
}

impl RecentSnapshots {
    pub(super) fn new(within: Duration) -> Self {
        Self {
            within,
            samples: Mutex::default(),
        }
    }

    /// Takes a sample now and then. Runs until it is dropped.
    pub(super) async fn keep(&self, snapshots: &Snapshots) {
        let mut ticks = tokio::time::interval((self.within / SAMPLES).max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.take(Instant::now(), snapshots.load_full());
        }
    }

    fn take(&self, now: Instant, snapshot: Arc<Snapshot>) {
        let mut samples = self.samples.lock();
        samples.push_back((now, snapshot));
        // One from before is kept, since nothing changed from it to the next that was seen.
        while samples
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= self.within)
        {
            samples.pop_front();
        }
    }

    /// Tells whether to wait for somebody who can serve `request`, which nobody can in `snapshot`: because somebody could a
    /// moment ago, or because not enough is known yet to say so.
    pub(super) fn is_worth_waiting(&self, now: Instant, snapshot: &Snapshot, request: &Request) -> bool {
        // What a peer exports is not known yet.
        let unheard = |gateway| snapshot.catalog.entry(gateway).is_none();
        if snapshot.links.keys().any(unheard) {
            return true;
        }
        let mut samples: Vec<_> = self.samples.lock().iter().cloned().collect();
        let reaches_back = samples
            .first()
            .is_some_and(|(at, _)| now.duration_since(*at) >= self.within);
        samples.dedup_by(|(_, later), (_, earlier)| Arc::ptr_eq(later, earlier));
        let served = |snapshot: &Snapshot| {
            // Any seed will do: whether there is a candidate does not hang on it.
            let rng = SmallRng::seed_from_u64(0);
            let decision = route(snapshot, request, rng);
            decision.first().is_some() && !decision.why().is_panic()
        };
        !reaches_back || samples.iter().any(|(_, snapshot)| served(snapshot))
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::catalog::Age;
    use causeway_routing::{snapshot::Link, target::Target};

    use super::*;
    use crate::testbed::{entry, instance, service, snapshot, topology};

    const WITHIN: Duration = Duration::from_secs(3);

    fn with(instances: usize) -> Arc<Snapshot> {
        let topology = topology("  home: {}\n  east: {}", "  orders: { port: 80 }");
        let one = |n: usize| instance(&n.to_string(), "127.0.0.1:1".parse().unwrap(), 1, &[]);
        Arc::new(snapshot(
            "home",
            &topology,
            (0..instances).map(one).collect(),
            vec![],
            &[],
        ))
    }

    fn worth(recent: &RecentSnapshots, now: Instant, snapshot: &Snapshot) -> bool {
        let request = Request::new(Target::service(service("orders")));
        recent.is_worth_waiting(now, snapshot, &request)
    }

    #[test]
    fn what_could_be_served_a_moment_ago_is_waited_for_and_what_could_not_is_not() {
        let (recent, begun) = (RecentSnapshots::new(WITHIN), Instant::now());
        let (nobody, somebody) = (with(0), with(1));
        recent.take(begun, somebody);
        assert!(worth(&recent, begun, &nobody), "too little is known");
        let seconds = |n| begun + Duration::from_secs(n);
        for second in 1..=3 {
            recent.take(seconds(second), nobody.clone());
            assert!(worth(&recent, seconds(second), &nobody), "{second}");
        }
        recent.take(seconds(4), nobody.clone());
        assert!(!worth(&recent, seconds(4), &nobody));
        assert!(recent.samples.lock().len() <= 5);
    }

    #[test]
    fn a_peer_whose_exports_are_not_known_yet_is_waited_for() {
        let (recent, begun) = (RecentSnapshots::new(WITHIN), Instant::now());
        recent.take(begun, with(0));
        let later = begun + WITHIN;
        let topology = topology("  home: {}\n  east: {}", "  orders: { port: 80 }");
        let links = [("east", Link::Up)];
        let unheard = snapshot("home", &topology, vec![], vec![], &links);
        assert!(worth(&recent, later, &unheard));
        let heard = entry("east", Age::Fresh, false, &[]);
        let heard = snapshot("home", &topology, vec![], vec![heard], &links);
        assert!(!worth(&recent, later, &heard));
    }
}
