//! Getting to the CA: directly, and where that does not work, through a gateway of another zone that can.

use std::{sync::Arc, time::Duration};

use causeway_authority::join::{self, CertificateRequestError, JoinToken};
use causeway_federation::name::GatewayId;
use causeway_host::resolve::NameResolver;
use causeway_identity::{Identity, NewIdentity, NextKey};
use causeway_proto::tunnel::{Ca, StreamHeader, stream_header::Kind};
use causeway_routing::snapshot::Link;
use causeway_tunnel as tunnel;
use causeway_tunnel::{RecvHalf, SendHalf, TunnelSet};
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use tokio::{io::Join, time::timeout};

use super::settings::Settings;

use super::relay::CONNECT_THROUGH_LIMIT;

/// Most gateways of other zones that are asked in one try.
const MAX_PEERS: usize = 3;
/// For showing the CA what was taken up.
const SHOW_LIMIT: Duration = Duration::from_secs(15);
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

/// Reason why no way led to a new certificate.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Direct(#[from] CertificateRequestError),
    #[error("through {peer}")]
    Asked {
        peer: GatewayId,
        #[source]
        source: CertificateRequestError,
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
    fn of_ca(&self) -> Option<&CertificateRequestError> {
        match self {
            Self::Direct(error) | Self::Asked { source: error, .. } => Some(error),
            Self::NoWay { .. } | Self::Slow { .. } => None,
        }
    }

    /// Word of the CA's refusal; `None`: it has not answered, or not so.
    pub(super) fn word(&self) -> Option<&'static str> {
        match self.of_ca()? {
            CertificateRequestError::Refused { refusal, .. } => Some(refusal.word()),
            _ => None,
        }
    }

    /// Tells whether the certificate has ended by the CA's clock.
    pub(super) fn is_too_late(&self) -> bool {
        self.of_ca().is_some_and(CertificateRequestError::is_too_late)
    }

    /// Tells whether the CA itself has spoken: another way would lead to the same answer.
    fn is_final(&self) -> bool {
        matches!(
            self.of_ca(),
            Some(CertificateRequestError::Refused { .. } | CertificateRequestError::Unwelcome(_))
        )
    }
}

/// Gets a new certificate over the first way that leads to one.
///
/// # Errors
/// What went wrong on each way that was tried.
pub(super) async fn renew(
    own: &Identity,
    key: &NextKey,
    (settings, resolver): (&Settings, &NameResolver),
    tunnels: Option<&Arc<TunnelSet>>,
) -> Result<(NewIdentity, Way), Vec<ReachError>> {
    let mut failures = Vec::new();
    for address in &settings.ca {
        let asked = match join::connect(address, resolver).await {
            Ok(stream) => join::renew(stream, own, key).await,
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
        match renew_through(&peer, tunnels, own, key).await {
            Ok(renewed) => return Ok((renewed, Way::Through(peer))),
            Err(error) => failures.push(error),
        }
        if failures.last().is_some_and(ReachError::is_final) {
            break;
        }
    }
    Err(failures)
}

/// Comes back with a join token after the certificate of `own` has ended. The CA is asked directly: no other zone takes a tunnel of this
/// gateway.
///
/// # Errors
/// Tells what went wrong at each address that was tried.
pub(super) async fn rejoin(
    own: &Arc<Identity>,
    key: &NextKey,
    token: &JoinToken,
    (settings, resolver): (&Settings, &NameResolver),
) -> Result<(NewIdentity, Way), Vec<ReachError>> {
    let mut failures = Vec::new();
    for address in &settings.ca {
        let asked = match join::connect(address, resolver).await {
            Ok(stream) => join::rejoin(stream, own, token, key).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(joined) => return Ok((joined, Way::Direct)),
            Err(error) => failures.push(ReachError::Direct(error)),
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

async fn renew_through(
    peer: &GatewayId,
    tunnels: &TunnelSet,
    own: &Identity,
    key: &NextKey,
) -> Result<NewIdentity, ReachError> {
    let asked = join::renew(through(peer, tunnels).await?, own, key).await;
    asked.map_err(|source| ReachError::Asked {
        peer: peer.clone(),
        source,
    })
}

/// Shows the CA an identity that was taken up, over the way that it came. That it does not see it is no harm: it then takes the one
/// before for good only a while later.
pub(super) async fn show(
    own: &Identity,
    way: &Way,
    (settings, resolver): (&Settings, &NameResolver),
    tunnels: Option<&Arc<TunnelSet>>,
) {
    let shown = async {
        match (way, tunnels) {
            (Way::Direct, _) => {
                for address in &settings.ca {
                    if let Ok(stream) = join::connect(address, resolver).await {
                        return join::show(stream, own).await.map_err(ReachError::from);
                    }
                }
                Ok(())
            }
            (Way::Through(peer), Some(tunnels)) => {
                let asked = join::show(through(peer, tunnels).await?, own).await;
                asked.map_err(|source| ReachError::Asked {
                    peer: peer.clone(),
                    source,
                })
            }
            (Way::Through(_), None) => Ok(()),
        }
    };
    match timeout(SHOW_LIMIT, shown).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the CA has not seen the new certificate"
            );
        }
        Err(_) => tracing::debug!("the CA has not seen the new certificate within {SHOW_LIMIT:?}"),
    }
}

/// A stream whose other end is the CA.
async fn through(peer: &GatewayId, tunnels: &TunnelSet) -> Result<Join<RecvHalf, SendHalf>, ReachError> {
    let header = StreamHeader {
        kind: Some(Kind::Ca(Ca {})),
    };
    let opened = timeout(CONNECT_THROUGH_LIMIT, tunnel::ask(tunnels, peer, &header)).await;
    let opened = opened.map_err(|_| ReachError::Slow { peer: peer.clone() })?;
    let stream = opened.map_err(|source| ReachError::NoWay {
        peer: peer.clone(),
        source,
    })?;
    Ok(tokio::io::join(stream.recv, stream.send))
}
