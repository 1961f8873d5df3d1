//! Getting to the CA: directly, and where that does not work, through a gateway of another zone that can.

use std::sync::Arc;

use causeway_proto::tunnel::{Ca, StreamHeader, stream_header::Kind};
use causeway_zone_sync::name::GatewayId;
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use tokio::time::timeout;

use super::settings::Settings;
use crate::{
    identity::{Identity, NewIdentity},
    join::{self, AskError},
    snapshot::Link,
    tunnel::{self, TunnelSet},
};

use super::relay::CONNECT_THROUGH_LIMIT;

/// Most gateways of other zones that are asked in one try.
const MAX_PEERS: usize = 3;
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
    #[error("through {peer}")]
    NoWay {
        peer: GatewayId,
        #[source]
        source: tunnel::AskError,
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
    for peer in tunnels.map(|tunnels| peers(tunnels, own)).unwrap_or_default() {
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

/// Some of those that a tunnel leads to, in no order: nobody knows which of them can reach the CA. Those of another trust
/// domain have another CA.
fn peers(tunnels: &Arc<TunnelSet>, own: &Identity) -> Vec<GatewayId> {
    let links = tunnels.links().into_iter();
    let federated = &own.anchors().federated;
    let mut peers: Vec<_> = links
        .filter(|(peer, link)| *link == Link::Up && federated.trust_domain_of(&peer.zone).is_none())
        .map(|(peer, _)| peer)
        .collect();
    peers.shuffle(&mut SmallRng::from_os_rng());
    peers.truncate(MAX_PEERS);
    peers
}

/// Over a stream whose other end is the CA.
async fn through(peer: &GatewayId, tunnels: &TunnelSet, own: &Identity) -> Result<NewIdentity, ReachError> {
    let header = StreamHeader {
        kind: Some(Kind::Ca(Ca {})),
    };
    let opened = timeout(CONNECT_THROUGH_LIMIT, tunnel::ask(tunnels, peer, &header)).await;
    let opened = opened.map_err(|_| ReachError::Slow { peer: peer.clone() })?;
    let (send, recv) = opened.map_err(|source| ReachError::NoWay {
        peer: peer.clone(),
        source,
    })?;
    let asked = join::renew(tokio::io::join(recv, send), own).await;
    asked.map_err(|source| ReachError::Asked {
        peer: peer.clone(),
        source,
    })
}
