//! Takes pictures of what this gateway knows, one after the other, and hands what happened in between to the history. Decides nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_history::{
    History,
    picture::{Picture, events},
};
use causeway_routing::snapshot::{Snapshot, Snapshots};
use causeway_tunnel::TunnelSet;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};

use super::start::Foundation;

/// Time between two looks where nothing says that something changed.
const TICK: Duration = Duration::from_millis(250);
/// Shortest pause between two looks. What comes and goes within it may pass unseen.
const PAUSE: Duration = Duration::from_millis(50);
/// Pauses are this many times as long as the look before them took, so that looking takes a small part of a core.
const PAUSE_TIMES: u32 = 10;

/// Everything that a picture is taken of.
#[derive(Clone)]
struct Sights {
    snapshots: Snapshots,
    tunnels: Arc<TunnelSet>,
}

/// Runs until it is dropped.
pub(super) fn keep_events(known: &Foundation) -> impl Future<Output = ()> + Send + use<> {
    let sights = Sights {
        snapshots: known.snapshots.clone(),
        tunnels: known.tunnel_set.clone(),
    };
    run(sights, known.history.clone(), known.generation.clone())
}

async fn run(sights: Sights, history: History, mut generation: watch::Receiver<u64>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Arc<Picture>> = None;
    loop {
        tokio::select! {
            changed = generation.changed() => {
                if changed.is_err() {
                    // Nothing changes any more, but for what changes in place.
                    ticks.tick().await;
                }
            }
            _ = ticks.tick() => {}
        }
        let begun = Instant::now();
        let (sights, earlier) = (sights.clone(), before.clone());
        let looked = spawn_blocking(move || {
            let now = Arc::new(sights.picture());
            let happened = earlier.map(|earlier| events(&earlier, &now));
            (now, happened.unwrap_or_default())
        });
        match looked.await {
            Ok((now, happened)) => {
                let at = SystemTime::now();
                happened.into_iter().for_each(|event| history.note(at, event));
                before = Some(now);
            }
            Err(error) => tracing::error!(%error, "what happened just now is not in the history"),
        }
        sleep((begun.elapsed() * PAUSE_TIMES).max(PAUSE)).await;
    }
}

impl Sights {
    fn picture(&self) -> Picture {
        let snapshot = self.snapshots.load_full();
        Picture {
            absences: self.absences(&snapshot),
            snapshot,
        }
    }

    /// Reasons why there is no tunnel with gateways that are known.
    fn absences(&self, snapshot: &Snapshot) -> BTreeMap<GatewayId, String> {
        let known = snapshot.catalog.entries().map(|entry| &entry.record.origin);
        let absent = known.filter(|peer| !snapshot.links.contains_key(*peer));
        absent
            .filter_map(|peer| Some((peer.clone(), self.absence(peer)?)))
            .collect()
    }

    fn absence(&self, peer: &GatewayId) -> Option<String> {
        if self.tunnels.count(peer) > 0 {
            return Some("nothing was heard on any of them for so long that they count as gone".to_owned());
        }
        self.tunnels.last_ends().of(peer)
    }
}
