//! Accepting tunnels: one task per data thread, one short-lived task per handshake, both bounded.

use std::{sync::Arc, time::Duration};

use quinn::{Endpoint, Incoming};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tracing::debug;

use super::{
    greeting::{Fault, hear_hello},
    refusal::Ended,
    session::{self, Greeted},
    shared::{Party, TunnelShared},
};

/// Handshakes under way on one data thread; further ones are ignored, and the peer tries again.
const MAX_HANDSHAKES: usize = 512;
/// From this many on, a peer must first show that it receives at the address it sends from (RFC 9000 §8.1.2).
const VALIDATE_FROM_HANDSHAKES: usize = 64;
/// Longest time that a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts until the endpoint is closed.
pub(super) async fn run(shared: Arc<TunnelShared>, endpoint: Endpoint, thread: usize) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        if shared.is_draining() {
            incoming.refuse();
            continue;
        }
        let under_way = MAX_HANDSHAKES - handshakes.available_permits();
        if under_way >= VALIDATE_FROM_HANDSHAKES && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        match Arc::clone(&handshakes).try_acquire_owned() {
            Ok(permit) => drop(tokio::spawn(welcome(
                Arc::clone(&shared),
                incoming,
                thread,
                permit,
            ))),
            Err(_) => {
                debug!(address = %incoming.remote_address(), "ignored a peer: too many handshakes are under way");
                incoming.ignore();
            }
        }
    }
}

async fn welcome(shared: Arc<TunnelShared>, incoming: Incoming, thread: usize, permit: OwnedSemaphorePermit) {
    let mut party = Party::new(incoming.remote_address(), "unknown");
    let connection = match timeout(HANDSHAKE_TIMEOUT, incoming.into_future()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return shared.never_up(&Ended::of(&error), &party),
        Err(_) => return debug!(address = %party.address, "a handshake took too long"),
    };
    let greeted = async {
        let peer = shared.admit_peer(&connection, None)?;
        party.name = peer.gateway.to_string();
        let control_send = shared.say_hello(&connection).await?;
        let (control_recv, hello) = hear_hello(&connection).await?;
        Ok::<_, Fault>(Greeted {
            connection: connection.clone(),
            peer,
            hello,
            control_send,
            control_recv,
        })
    };
    let greeted = greeted.await;
    drop(permit);
    match greeted {
        Ok(greeted) => session::run(&shared, greeted, thread, false).await,
        Err(fault) => shared.turn_away(&connection, fault, &party).await,
    }
}
