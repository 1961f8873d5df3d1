//! Takes up a renewed identity without dropping a stream or binding a socket anew: handshakes from then on use it, and
//! whoever dialled dials a second tunnel before it gives up the first. The old one keeps the streams that it carries.
//! Likewise what the topology says of key exchanges; tunnels that it no longer allows are closed by their sessions.
//!
//! When a trust root goes, tunnels whose peers it vouched for have a short time to be succeeded by one that proves
//! itself by another root; without such a successor they are closed. When a peer's certificate is revoked, its tunnels
//! are closed at once, with every stream on them.
//!
//! When a peer's certificate ends, so do the tunnels that it was shown on, unless the peer has shown a later one since, on whichever
//! tunnel. Where only this side dials, it dials again in time to see the one that the peer has renewed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use causeway_federation::topology::Topology;
use causeway_identity::{Identity, KeyExchange, ShownCertificate};
use causeway_telemetry::Side;
use quinn::Endpoint;
use rustls::{CertificateError, Error as TlsFailure, pki_types::CertificateDer};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    Tunnel,
    greeting::{Fault, chain_of, close},
    refusal::TunnelRefusal,
    shared::{Party, TunnelShared},
};

/// Time that a peer whose trust root is gone has to prove itself by another.
const SUCCESSION: Duration = Duration::from_secs(10);
/// Pause between two looks at a tunnel that retires.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Shortest time between two looks at a peer that has not renewed its certificate.
const SHORTEST_LOOK: Duration = Duration::from_secs(1);

/// Key exchanges that the topology wants for tunnels.
pub(super) fn wanted(topology: &Topology) -> KeyExchange {
    match topology.tls.require_post_quantum {
        true => KeyExchange::HybridOnly,
        false => KeyExchange::HybridFirst,
    }
}

/// Follows the identity and the topology until `stop`; `accepting` are the endpoints that peers dial, and `exchange` is what
/// they were opened with.
pub(super) async fn run(
    shared: Arc<TunnelShared>,
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
fn take_up(shared: &TunnelShared, accepting: &[Endpoint], exchange: KeyExchange) -> bool {
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

/// Waits until a tunnel that this side dialled shall have a successor: this gateway's identity was renewed, or it is time to look
/// whether the peer's was. `chain` is what the peer showed on it.
pub(super) fn due(
    shared: &TunnelShared,
    chain: &[CertificateDer<'_>],
) -> impl Future<Output = ()> + Send + Sync + 'static {
    // Now, so that no renewal is missed between this and the first poll.
    let (mut renewals, shown) = (shared.renewals.subscribe(), ShownCertificate::of(chain));
    async move {
        tokio::select! {
            Ok(()) = renewals.changed() => {}
            () = peer_is_due(shown) => {}
        }
    }
}

/// Waits for the last quarter of the peer's certificate, by which everybody who renews has done so; within that, for half of what
/// is left of it.
async fn peer_is_due(shown: Option<ShownCertificate>) {
    match shown.and_then(|shown| look_after(&shown, SystemTime::now())) {
        Some(left) => sleep(left).await,
        None => std::future::pending().await,
    }
}

/// Time after which a tunnel on which `shown` was shown at `now` is to be dialled again; `None`: it is too late for that.
fn look_after(shown: &ShownCertificate, now: SystemTime) -> Option<Duration> {
    let left = shown.until.duration_since(now).ok()?;
    let quarter = shown.life / 4;
    Some(match left > quarter {
        true => left - quarter,
        false => (left / 2).max(SHORTEST_LOOK),
    })
}

/// Waits until `tunnel`, which this side dialled, is of no use any more: it was due or another tunnel took its place,
/// one that is to stay is up, and no stream is left on this one. A process that another has taken the place of ends its tunnels itself: it may
/// need them for what it finishes.
pub(super) async fn superseded(shared: &TunnelShared, tunnel: &Tunnel) {
    if !tunnel.dialled() {
        return std::future::pending().await;
    }
    let chain = chain_of(tunnel.connection());
    tokio::select! {
        () = tunnel.retired() => {}
        () = due(shared, &chain) => tunnel.retire(),
    }
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let is_unused = tunnel.streams().load(Ordering::Relaxed) == 0 && !tunnel.is_succeeded();
        if is_unused && shared.set.has_lasting(tunnel.peer()) {
            return;
        }
    }
}

/// Waits until the certificate that the peer of `tunnel` presented is revoked, and says so. That may have happened since
/// the handshake.
pub(super) async fn revoked(shared: &TunnelShared, tunnel: &Tunnel) -> Fault {
    let chain = chain_of(tunnel.connection());
    let mut identity = shared.config.identity.clone();
    loop {
        if let Some(serial) = identity.current().revoked(&chain) {
            let streams = tunnel.streams().load(Ordering::Relaxed);
            identity.ended(1 + u64::try_from(streams).unwrap_or(0));
            let detail = format!("the certificate with serial number {serial} was revoked");
            return Fault::Refuse(TunnelRefusal::Revoked, detail);
        }
        identity.changed().await;
    }
}

/// Waits until the certificate that the peer of `tunnel` presented has ended, and the peer has shown no later one on any other.
pub(super) async fn expired(shared: &TunnelShared, tunnel: &Tunnel) -> Fault {
    let chain = chain_of(tunnel.connection());
    shared.config.identity.outlived(&chain).await;
    let detail = "the certificate that this tunnel was opened with has ended, and no later one was shown";
    Fault::Refuse(TunnelRefusal::Expired, detail.to_owned())
}

/// Retires the tunnels to peers whose certificates no root vouches for any more. One whose certificate has merely
/// expired since is the business of [`expired`].
fn part_with_strangers(shared: &Arc<TunnelShared>, identity: &Identity) {
    for tunnel in shared.set.all() {
        let chain = chain_of(tunnel.connection());
        let checked = identity.check_peer(&chain, SystemTime::now());
        if let Err(TlsFailure::InvalidCertificate(CertificateError::UnknownIssuer)) = checked {
            tunnel.retire();
            tokio::spawn(close_unless_succeeded(Arc::clone(shared), tunnel));
        }
    }
}

async fn close_unless_succeeded(shared: Arc<TunnelShared>, tunnel: Arc<Tunnel>) {
    let connection = tunnel.connection();
    tokio::select! {
        _ = connection.closed() => return,
        () = sleep(SUCCESSION) => {}
    }
    if !shared.set.has_lasting(tunnel.peer()) {
        let detail = "its issuer is no longer among the trust roots";
        let party = Party::new(connection.remote_address(), tunnel.peer());
        shared.refused(Side::Local, TunnelRefusal::UnknownIssuer, &party, detail);
        close(connection, TunnelRefusal::UnknownIssuer, detail);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_peer_is_looked_at_in_the_last_quarter_of_its_certificate_and_then_more_and_more_often() {
        let second = Duration::from_secs;
        let shown = ShownCertificate {
            holder: "spiffe://a.b/zone/east/gateway/gw1".to_owned(),
            until: UNIX_EPOCH + second(1_000),
            life: second(400),
        };
        let after = |now: u64| look_after(&shown, UNIX_EPOCH + second(now));
        assert_eq!(after(600), Some(second(300)));
        assert_eq!(after(900), Some(second(50)));
        assert_eq!(after(950), Some(second(25)));
        assert_eq!(after(999), Some(SHORTEST_LOOK));
        assert_eq!(after(1_001), None);
    }
}
