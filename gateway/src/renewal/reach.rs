//! Getting to the CA: directly, and where that does not work, through a gateway of another zone that can.

use std::sync::Arc;

use causeway_proto::tunnel::{Ca, StreamHeader, stream_header::Kind, stream_reply::Outcome};
use causeway_zone_sync::name::GatewayId;
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use tokio::time::timeout;

use super::settings::Settings;
use crate::{
    identity::{Identity, NewIdentity},
    join::{self, AskError},
    listen::Io,
    snapshot::Link,
    tunnel::{OpenError, ReplyError, TunnelSet, read_reply, refusal_word},
};

use super::relay::CONNECT_THROUGH_LIMIT;

/// Most gateways of other zones that are asked in one try.
const MAX_PEERS: usize = 3;
/// Longest text of a refusal that is shown, in characters.
const MAX_TEXT_CHARACTERS: usize = 200;

/// Over which way a renewal went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Through(GatewayId),
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct => f.write_str("directly"),
            Self::Through(peer) => write!(f, "through {peer}"),
        }
    }
}

/// Why no way led to a new certificate.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Direct(#[from] AskError),
    #[error("through {peer}")]
    Asked {
        peer: GatewayId,
        #[source]
        source: AskError,
    },
    #[error("through {peer}: no way to the CA")]
    Open {
        peer: GatewayId,
        #[source]
        source: OpenError,
    },
    #[error("through {peer}: no way to the CA")]
    Reply {
        peer: GatewayId,
        #[source]
        source: ReplyError,
    },
    #[error("through {peer}: it refused: {reason}: {message}")]
    Refused {
        peer: GatewayId,
        reason: &'static str,
        message: String,
    },
    #[error("through {peer}: it did not answer in time")]
    Slow { peer: GatewayId },
}

impl ReachError {
    /// Whether the CA itself has spoken: another way would lead to the same answer.
    fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Direct(AskError::Refused { .. } | AskError::Unwelcome(_))
                | Self::Asked {
                    source: AskError::Refused { .. } | AskError::Unwelcome(_),
                    ..
                }
        )
    }
}

/// Gets a new certificate over the first way that leads to one.
///
/// # Errors
/// What went wrong on each way that was tried.
pub(super) async fn renew(
    own: &Identity,
    settings: &Settings,
    tunnels: Option<&Arc<TunnelSet>>,
) -> Result<(NewIdentity, Way), Vec<ReachError>> {
    let mut failures = Vec::new();
    for address in &settings.ca {
        let asked = match join::connect(address).await {
            Ok(stream) => join::renew(stream, own).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(renewed) => return Ok((renewed, Way::Direct)),
            Err(error) => failures.push(ReachError::Direct(error)),
        }
        if failures.last().is_some_and(ReachError::is_final) {
            return Err(failures);
        }
    }
    for peer in tunnels.map(peers).unwrap_or_default() {
        let Some(tunnels) = tunnels else { break };
        match through(&peer, tunnels, own).await {
            Ok(renewed) => return Ok((renewed, Way::Through(peer))),
            Err(error) => failures.push(error),
        }
        if failures.last().is_some_and(ReachError::is_final) {
            break;
        }
    }
    Err(failures)
}

/// Some of those that a tunnel leads to, in no order: nobody knows which of them can reach the CA.
fn peers(tunnels: &Arc<TunnelSet>) -> Vec<GatewayId> {
    let links = tunnels.links().into_iter();
    let mut peers: Vec<_> = links
        .filter(|(_, link)| *link == Link::Up)
        .map(|(peer, _)| peer)
        .collect();
    peers.shuffle(&mut SmallRng::from_os_rng());
    peers.truncate(MAX_PEERS);
    peers
}

async fn through(peer: &GatewayId, tunnels: &TunnelSet, own: &Identity) -> Result<NewIdentity, ReachError> {
    let slow = || ReachError::Slow { peer: peer.clone() };
    let io = timeout(CONNECT_THROUGH_LIMIT, open(peer, tunnels)).await;
    let io = io.map_err(|_| slow())??;
    join::renew(io, own).await.map_err(|source| ReachError::Asked {
        peer: peer.clone(),
        source,
    })
}

/// Opens a stream whose other end is the CA.
async fn open(peer: &GatewayId, tunnels: &TunnelSet) -> Result<impl Io + use<> + 'static, ReachError> {
    let header = StreamHeader {
        kind: Some(Kind::Ca(Ca {})),
    };
    // The control runtime has no data thread of its own; any tunnel will do.
    let tunnel = tunnels
        .choose(peer, usize::MAX)
        .ok_or_else(|| ReachError::Slow { peer: peer.clone() })?;
    let opened = tunnel.open(&header).await;
    let (send, mut recv) = opened.map_err(|source| ReachError::Open {
        peer: peer.clone(),
        source,
    })?;
    let reply = read_reply(&mut recv).await;
    match reply.map_err(|source| ReachError::Reply {
        peer: peer.clone(),
        source,
    })? {
        Outcome::Ready(_) => Ok(tokio::io::join(recv, send)),
        Outcome::Refusal(refusal) => Err(ReachError::Refused {
            peer: peer.clone(),
            reason: refusal_word(refusal.reason()),
            message: refusal.message.chars().take(MAX_TEXT_CHARACTERS).collect(),
        }),
    }
}
