//! Accepting tunnels: one task per data thread, one short-lived task per handshake, both bounded.

use std::{sync::Arc, time::Duration};

use causeway_host::host_places::{HostPlace, HostPlaces};
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
/// Of those, of one host: it takes none from others.
const MAX_HANDSHAKES_OF_HOST: usize = 128;
/// From this many on, a peer must first show that it receives at the address it sends from (RFC 9000 §8.1.2).
const VALIDATE_FROM_HANDSHAKES: usize = 64;
/// The same of those that come from its host, as anybody can say of himself: so nobody takes the places of another.
const VALIDATE_FROM_HANDSHAKES_OF_HOST: usize = 16;
/// Longest time that a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answer to a peer that begins a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandshakeAnswer {
    Welcome,
    /// It has to show first that it receives at its address.
    Validate,
    /// There is no room.
    Ignore,
}

/// Decides on a further handshake while so many are under way, `of_host` of them from where this one comes. Pure.
fn answer(under_way: usize, of_host: usize, is_validated: bool) -> HandshakeAnswer {
    let many = under_way >= VALIDATE_FROM_HANDSHAKES || of_host >= VALIDATE_FROM_HANDSHAKES_OF_HOST;
    if many && !is_validated {
        HandshakeAnswer::Validate
    } else if under_way >= MAX_HANDSHAKES || of_host >= MAX_HANDSHAKES_OF_HOST {
        HandshakeAnswer::Ignore
    } else {
        HandshakeAnswer::Welcome
    }
}

/// Place of a handshake: among all, and among those of its host.
type HandshakePlace = (OwnedSemaphorePermit, HostPlace);

/// Accepts until the endpoint is closed.
pub(super) async fn run(shared: Arc<TunnelShared>, endpoint: Endpoint, thread: usize) {
    let is_leaving = || shared.is_leaving();
    take(endpoint, is_leaving, |incoming, place| {
        tokio::spawn(welcome(Arc::clone(&shared), incoming, thread, place));
    })
    .await;
}

/// Hands on the peers for whose handshake there is a place.
async fn take(endpoint: Endpoint, is_leaving: impl Fn() -> bool, welcome: impl Fn(Incoming, HandshakePlace)) {
    let (handshakes, hosts) = (Arc::new(Semaphore::new(MAX_HANDSHAKES)), HostPlaces::default());
    while let Some(incoming) = endpoint.accept().await {
        if is_leaving() {
            incoming.refuse();
            continue;
        }
        let host = incoming.remote_address().ip();
        let under_way = MAX_HANDSHAKES - handshakes.available_permits();
        let answer = answer(under_way, hosts.taken(host), incoming.remote_address_validated());
        if answer == HandshakeAnswer::Validate {
            let _ = incoming.retry();
            continue;
        }
        let permit = Arc::clone(&handshakes).try_acquire_owned().ok();
        let place = permit.zip(hosts.take(host, MAX_HANDSHAKES_OF_HOST));
        match place.filter(|_| answer == HandshakeAnswer::Welcome) {
            Some(place) => welcome(incoming, place),
            None => {
                debug!(address = %incoming.remote_address(), "ignored a peer: too many handshakes are under way");
                incoming.ignore();
            }
        }
    }
}

async fn welcome(shared: Arc<TunnelShared>, incoming: Incoming, thread: usize, place: HandshakePlace) {
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
    drop(place);
    match greeted {
        Ok(greeted) => session::run(&shared, greeted, thread, false).await,
        Err(fault) => shared.turn_away(&connection, fault, &party).await,
    }
}

#[cfg(test)]
mod crowd;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_takes_no_places_from_others_and_nobody_takes_its_places_in_its_name() {
        for (under_way, of_host, is_validated, expected) in [
            (0, 0, false, HandshakeAnswer::Welcome),
            (15, 15, false, HandshakeAnswer::Welcome),
            // Whoever sends in the name of another gets no further than this.
            (16, 16, false, HandshakeAnswer::Validate),
            (16, 16, true, HandshakeAnswer::Welcome),
            (63, 0, false, HandshakeAnswer::Welcome),
            (64, 0, false, HandshakeAnswer::Validate),
            (128, 128, true, HandshakeAnswer::Ignore),
            (128, 0, true, HandshakeAnswer::Welcome),
            (512, 0, true, HandshakeAnswer::Ignore),
        ] {
            let answer = answer(under_way, of_host, is_validated);
            assert_eq!(answer, expected, "{under_way} {of_host} {is_validated}");
        }
    }
}
