//! Takes up a renewed identity without dropping a stream or binding a socket anew: handshakes from then on use it, and
//! whoever dialled dials a second tunnel before it gives up the first. The old one keeps the streams that it carries.
//! Likewise what the topology says of key exchanges; tunnels that it no longer allows are closed by their sessions.
//!
//! When a trust root goes, tunnels whose peers it vouched for have a short time to be succeeded by one that proves
//! itself by another root; without such a successor they are closed. When a peer's certificate is revoked, its tunnels
//! are closed at once, with every stream on them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use causeway_zone_sync::topology::Topology;
use quinn::Endpoint;
use rustls::{CertificateError, Error as TlsFailure};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    Tunnel,
    greeting::{Fault, chain_of, close},
    refusal::Refusal,
    shared::{Party, Shared},
};
use crate::{
    identity::{Identity, KeyExchange},
    telemetry::Side,
};

/// How long a peer whose trust root is gone has to prove itself by another.
const SUCCESSION: Duration = Duration::from_secs(10);
/// How often a tunnel that retires is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which key exchanges the topology wants for tunnels.
pub(super) fn wanted(topology: &Topology) -> KeyExchange {
    match topology.tls.require_post_quantum {
        true => KeyExchange::HybridOnly,
        false => KeyExchange::HybridFirst,
    }
}

/// Follows the identity and the topology until `stop`; `accepting` are the endpoints that peers dial, and `exchange` is what
/// they were opened with.
pub(super) async fn run(
    shared: Arc<Shared>,
    accepting: Vec<Endpoint>,
    mut exchange: KeyExchange,
    stop: CancellationToken,
) {
    let mut identity = shared.config.identity.clone();
    let mut topology = shared.topology.clone();
    let mut before = identity.current();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = identity.changed() => {
                if take_up(&shared, &accepting, exchange) {
                    info!(gateway = %shared.own(), "new tunnels use the renewed identity");
                    let current = identity.current();
                    part_with_strangers(&shared, &current);
                    // What was merely revoked concerns tunnels to others; those that are up need no successor for it.
                    if !current.same_leaf(&before) || current.anchors().roots != before.anchors().roots {
                        shared.renewals.send_modify(|count| *count += 1);
                    }
                    before = current;
                }
            }
            now = another(&mut topology, exchange) => {
                exchange = now;
                if take_up(&shared, &accepting, exchange) {
                    info!(gateway = %shared.own(), ?exchange, "new tunnels use other key exchanges");
                }
            }
        }
    }
}

/// Waits until the topology wants other key exchanges than `exchange`.
async fn another(topology: &mut watch::Receiver<Arc<Topology>>, exchange: KeyExchange) -> KeyExchange {
    let changed = topology.wait_for(|now| wanted(now) != exchange).await;
    let now = changed.ok().map(|now| wanted(&now));
    match now {
        Some(now) => now,
        // Nobody is left who could change it.
        None => std::future::pending().await,
    }
}

/// Lets handshakes from now on use the identity that is in force. Whether that worked.
fn take_up(shared: &Shared, accepting: &[Endpoint], exchange: KeyExchange) -> bool {
    match (shared.config.server(exchange), shared.config.client(exchange)) {
        (Ok(server), Ok(client)) => {
            for endpoint in accepting {
                endpoint.set_server_config(Some(server.clone()));
            }
            shared.client.store(Arc::new(client));
            true
        }
        (Err(error), _) | (_, Err(error)) => {
            error!(gateway = %shared.own(), error = &error as &dyn std::error::Error,
                "a renewed identity cannot be used for tunnels; those to come use the one before it");
            false
        }
    }
}

/// Waits until `tunnel`, which this side dialled, is of no use any more: this gateway's identity was renewed, another
/// tunnel is up, and no stream is left on this one.
pub(super) async fn superseded(shared: &Shared, tunnel: &Tunnel) {
    let mut renewals = shared.renewals.subscribe();
    if !tunnel.dialled() || renewals.changed().await.is_err() {
        return std::future::pending().await;
    }
    tunnel.retire();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if tunnel.streams().load(Ordering::Relaxed) == 0 && shared.set.has_lasting(tunnel.peer()) {
            return;
        }
    }
}

/// Waits until the certificate that the peer of `tunnel` presented is revoked, and says so. That may have happened since
/// the handshake.
pub(super) async fn revoked(shared: &Shared, tunnel: &Tunnel) -> Fault {
    let chain = chain_of(tunnel.connection());
    let mut identity = shared.config.identity.clone();
    loop {
        if let Some(serial) = identity.current().revoked(&chain) {
            let detail = format!("the certificate with serial number {serial} was revoked");
            return Fault::Refuse(Refusal::Revoked, detail);
        }
        identity.changed().await;
    }
}

/// Retires the tunnels to peers whose certificates no root vouches for any more. One whose certificate has merely
/// expired since is left alone: it was good when the tunnel began.
fn part_with_strangers(shared: &Arc<Shared>, identity: &Identity) {
    for tunnel in shared.set.all() {
        let chain = chain_of(tunnel.connection());
        let checked = identity.check_peer(&chain, SystemTime::now());
        if let Err(TlsFailure::InvalidCertificate(CertificateError::UnknownIssuer)) = checked {
            tunnel.retire();
            tokio::spawn(close_unless_succeeded(Arc::clone(shared), tunnel));
        }
    }
}

async fn close_unless_succeeded(shared: Arc<Shared>, tunnel: Arc<Tunnel>) {
    let connection = tunnel.connection();
    tokio::select! {
        _ = connection.closed() => return,
        () = sleep(SUCCESSION) => {}
    }
    if !shared.set.has_lasting(tunnel.peer()) {
        let detail = "its issuer is no longer among the trust roots";
        let party = Party::new(connection.remote_address(), tunnel.peer());
        shared.refused(Side::Local, Refusal::UnknownIssuer, &party, detail);
        close(connection, Refusal::UnknownIssuer, detail);
    }
}
