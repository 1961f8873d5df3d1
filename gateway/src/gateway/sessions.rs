//! Opens the zone sync sessions: one for each gateway that a tunnel leads to. Of two gateways, the one whose id sorts
//! lower opens; the other accepts. A session that ends is opened anew, on whichever tunnel is best then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use causeway_federation::name::GatewayId;
use causeway_host::tasks::Tasks;
use causeway_proto::tunnel::{StreamHeader, Sync, stream_header::Kind};
use causeway_tunnel::{Stream, TunnelSet};
use causeway_zone_sync::service::ZoneSync;
use tokio::task::{AbortHandle, JoinSet};

/// Pause before a session that ended is opened again. Reconnects do not stampede: the tunnels beneath back off with jitter.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

/// Time for which a session stays on a tunnel that carries bulk where another carries none. Beginning anew costs a few messages.
const BESIDE_BULK: Duration = Duration::from_secs(5);

/// Keeps a session with every reachable gateway whose id sorts after `own`, until the future is dropped.
pub(crate) async fn keep_sessions(
    own: GatewayId,
    tunnels: Arc<TunnelSet>,
    zone_sync: ZoneSync,
    tasks: Tasks,
) {
    let mut changed = tunnels.changed();
    let mut sessions = JoinSet::new();
    let mut open: BTreeMap<GatewayId, AbortHandle> = BTreeMap::new();
    loop {
        changed.mark_unchanged();
        let links = tunnels.links();
        open.retain(|peer, task| {
            let keep = links.contains_key(peer);
            if !keep {
                task.abort();
            }
            keep
        });
        for peer in links.into_keys().filter(|peer| own < *peer) {
            open.entry(peer.clone()).or_insert_with(|| {
                let name = format!("zone sync with {peer}");
                let keeping = keep_session(peer, tunnels.clone(), zone_sync.clone());
                sessions.spawn(tasks.guard(name, keeping))
            });
        }
        while sessions.try_join_next().is_some() {}
        if changed.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_session(peer: GatewayId, tunnels: Arc<TunnelSet>, zone_sync: ZoneSync) {
    loop {
        if let Err(error) = open_session(&peer, &tunnels, &zone_sync).await {
            tracing::debug!(%peer, error = error.as_ref() as &dyn std::error::Error, "zone sync session ended");
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

async fn open_session(
    peer: &GatewayId,
    tunnels: &TunnelSet,
    zone_sync: &ZoneSync,
) -> Result<(), Box<dyn std::error::Error + Send + std::marker::Sync>> {
    let Some(tunnel) = tunnels.choose_for_control(peer) else {
        return Ok(());
    };
    let header = StreamHeader {
        kind: Some(Kind::Sync(Sync {})),
    };
    let Stream { send, recv } = tunnel.open(&header).await?;
    let session = zone_sync.open_session(peer.clone(), tokio::io::join(recv, send));
    tokio::select! {
        ended = session => ended?,
        () = tunnels.until_crowded_out(&tunnel, BESIDE_BULK) => {
            tracing::debug!(%peer, "zone sync goes to a tunnel that carries no bulk");
        }
    }
    Ok(())
}
