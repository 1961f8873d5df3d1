//! Has traffic return to tiers that were ill as fast as `failback` says. Decides nothing.

use std::{sync::Arc, time::Duration};

use causeway_host::uptime::uptime;
use causeway_proxy::egress::Egress;
use causeway_routing::{
    failback::{CarriedTier, FailbackEvent, FailbackProgress, FailbackTable},
    outlier::Ejected,
    snapshot::{Snapshot, Snapshots},
};
use parking_lot::Mutex;
use tokio::{task::spawn_blocking, time::MissedTickBehavior};

use super::GatewayConfig;

/// Time between two looks. An illness that is shorter may pass unseen, and a ramp has steps of it.
const TICK: Duration = Duration::from_millis(250);

/// All that ceilings are worked out from, but for the time.
struct Seen(Arc<Snapshot>, Arc<Ejected>);

impl Seen {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) && Arc::ptr_eq(&self.1, &other.1)
    }
}

/// State of the tiers of one gateway. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct FailbackKeeper {
    table: Arc<Mutex<FailbackTable>>,
    /// Time for which the process before, or those before that, have kept it.
    before: Duration,
}

impl FailbackKeeper {
    /// Goes on with what the process before knew.
    pub(super) fn carrying_on(config: &GatewayConfig, snapshot: &Snapshot) -> Self {
        let carried = &config.handed.findings.failback;
        let before = carried.iter().map(CarriedTier::age).max().unwrap_or_default();
        let table = FailbackTable::carrying_on(before.saturating_add(uptime()), carried, &snapshot.topology);
        snapshot.ceilings.store(Arc::new(table.ceilings()));
        Self {
            table: Arc::new(Mutex::new(table)),
            before,
        }
    }

    /// State of the tiers for the next process.
    pub(crate) fn carried(&self) -> Vec<CarriedTier> {
        self.table.lock().carried(self.now())
    }

    fn now(&self) -> Duration {
        self.before.saturating_add(uptime())
    }

    /// Looks at the tiers once clients are accepted: while this gateway has no tunnels yet, zones look ill that are not. Runs until it is
    /// dropped.
    pub(crate) async fn keep(self, snapshots: Snapshots, egress: Egress) {
        egress.accepts_clients().await;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen: Option<Seen> = None;
        loop {
            ticks.tick().await;
            let snapshot = snapshots.load_full();
            let now = Seen(snapshot.clone(), snapshot.ejections.load_full());
            if !self.table.lock().is_moving() && seen.as_ref().is_some_and(|seen| seen.is(&now)) {
                continue;
            }
            seen = Some(now);
            self.look(snapshot).await;
        }
    }

    async fn look(&self, snapshot: Arc<Snapshot>) {
        // A look at ten thousand services must not hold up DNS and zone sync.
        let (looking, ceilings_in_force) = (self.clone(), snapshot.ceilings.clone());
        let looked = spawn_blocking(move || {
            let (ceilings, events) = looking.table.lock().step(looking.now(), &snapshot);
            snapshot.ceilings.store(Arc::new(ceilings));
            events
        });
        match looked.await {
            Ok(events) => events.iter().for_each(tell),
            Err(error) => {
                *self.table.lock() = FailbackTable::default();
                ceilings_in_force.store(Arc::default());
                tracing::error!(%error, "tiers were not looked at, and traffic returns to them at once");
            }
        }
    }
}

fn tell(event: &FailbackEvent) {
    let FailbackEvent {
        service,
        arm,
        tier,
        progress,
    } = event;
    match progress {
        FailbackProgress::Begun => {
            tracing::info!(%service, %arm, tier, "a tier is healthier than it was, and its traffic will return");
        }
        FailbackProgress::BrokenOff => {
            tracing::info!(%service, %arm, tier, "a tier has fallen ill on its way back");
        }
        FailbackProgress::Done => {
            tracing::info!(%service, %arm, tier, "a tier takes all the traffic again that its health allows");
        }
    }
}
