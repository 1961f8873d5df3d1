//! Has traffic return to tiers that were ill as fast as `failback` says. Decides nothing.

use std::{sync::Arc, time::Duration};

use causeway_host::uptime::uptime;
use causeway_routing::{
    failback::{FailbackEvent, FailbackProgress, FailbackTable},
    outlier::Ejected,
    snapshot::{Snapshot, Snapshots},
};
use tokio::{task::spawn_blocking, time::MissedTickBehavior};

/// Time between two looks. An illness that is shorter may pass unseen, and a ramp has steps of it.
const TICK: Duration = Duration::from_millis(250);

/// All that ceilings are worked out from, but for the time.
struct Seen(Arc<Snapshot>, Arc<Ejected>);

impl Seen {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) && Arc::ptr_eq(&self.1, &other.1)
    }
}

/// Runs until it is dropped.
pub(crate) async fn keep_failback(snapshots: Snapshots) {
    let mut table = FailbackTable::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Seen> = None;
    loop {
        ticks.tick().await;
        let snapshot = snapshots.load_full();
        let now = Seen(snapshot.clone(), snapshot.ejections.load_full());
        if !table.is_moving() && seen.as_ref().is_some_and(|seen| seen.is(&now)) {
            continue;
        }
        seen = Some(now);
        // A look at ten thousand services must not hold up DNS and zone sync.
        let mut looking = std::mem::take(&mut table);
        let looked = spawn_blocking(move || {
            let (ceilings, events) = looking.step(uptime(), &snapshot);
            snapshot.ceilings.store(Arc::new(ceilings));
            (looking, events)
        });
        match looked.await {
            Ok((looked, events)) => {
                table = looked;
                events.iter().for_each(tell);
            }
            Err(error) => {
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
