//! Answer to a gateway that asks whether a client of its own is a connection to an instance that this gateway has opened.

use std::{sync::atomic::Ordering, time::Duration};

use causeway_host::own_sockets::SocketPair;
use causeway_proto::tunnel::{Opened, RefusalReason};
use causeway_tunnel::{SendHalf, Tunnel, refuse_documents, send_documents};

use super::{IngressShared, PeerStreamGuard};

/// Time that the other side may be ahead: a connection that it has accepted may not be entered here yet.
const ENTERED_WITHIN: Duration = Duration::from_millis(20);

pub(super) async fn answer(shared: &IngressShared, tunnel: &Tunnel, asked: Opened, mut send: SendHalf) {
    let streams = shared.peer(tunnel.peer());
    let before = streams.fetch_add(1, Ordering::Relaxed);
    let _counted = PeerStreamGuard(streams);
    let answered = if before < shared.config.max_streams_per_peer {
        let hops = hops(shared, asked).await;
        send_documents(&mut send, hops.map(|hops| vec![hops])).await
    } else {
        refuse_documents(
            &mut send,
            RefusalReason::Overloaded,
            "too many streams from this gateway",
        )
        .await
    };
    if let Err(error) = answered {
        tracing::debug!(peer = %tunnel.peer(), %error, "a gateway asked about a client, and did not wait for the answer");
    }
}

async fn hops(shared: &IngressShared, asked: Opened) -> Option<u8> {
    let pair = SocketPair::told(asked.client_sockets)?;
    let own = &shared.config.own_sockets;
    if let Some(hops) = own.hops(pair) {
        return Some(hops);
    }
    tokio::time::sleep(ENTERED_WITHIN).await;
    own.hops(pair)
}
