//! Order of a search for an instance: what it is to find, and on which terms.

use std::{sync::Arc, time::Instant};

use causeway_federation::{
    name::PortName,
    topology::{Criticality, SplitArm, Topology},
};
use causeway_host::own_sockets::SocketPair;
use causeway_routing::{
    permit::Caller,
    retry::FailedTries,
    sticky::{StickyKey, key_of},
    target::Target,
};
use causeway_telemetry::{ActiveSpan, ConnectionId};
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::{ask::Lending, early::EarlyBytes};
use crate::{callers::Endpoints, dial::DescriptorClaim};

/// Client for which an instance is wanted.
pub(super) struct SearchOrder<'a> {
    pub(super) thread: usize,
    pub(super) connection: ConnectionId,
    pub(super) target: &'a Target,
    /// Port of the service; `None`: its primary one.
    pub(super) port: Option<PortName>,
    /// Split of the route that rules the request, in the place of the service's own.
    pub(super) split: Option<Arc<[SplitArm]>>,
    /// That of the route, in the place of the service's own.
    pub(super) criticality: Option<Criticality>,
    /// Decides in the place of chance.
    pub(super) key: Option<StickyKey>,
    pub(super) caller: Arc<Caller>,
    /// Both ends of the client's connection, and the number of gateways that it has come through.
    pub(super) come_through: (SocketPair, u8),
    /// Cancelled when the client's connection is to end at once.
    pub(super) cut: &'a CancellationToken,
    /// Every decision for this client is drawn from it.
    pub(super) seed: u64,
    pub(super) early: EarlyBytes,
    pub(super) lending: Lending,
    /// Descriptors for instances.
    pub(super) claim: DescriptorClaim,
    /// Tries of the same request that have failed: it is given to none of those again.
    pub(super) tried: FailedTries,
    /// Moment at which it is given up, if that comes before the usual time.
    pub(super) deadline: Option<Instant>,
    /// Span that asking candidates is a part of.
    pub(super) trace: Option<&'a ActiveSpan>,
}

/// Finds what the connection has in common with others: of what carries bytes, who calls.
pub(super) fn key_of_connection(
    topology: &Topology,
    target: &Target,
    caller: &Caller,
    endpoints: Endpoints,
) -> Option<StickyKey> {
    let service = topology.services.get(&target.service)?;
    let sticky = service.sticky.as_ref()?;
    key_of(sticky, &HeaderMap::new(), caller, endpoints.client.ip())
}

/// Tells whether the first bytes of a connection travel with its stream's header.
pub(super) fn is_early(topology: &Topology, target: &Target) -> bool {
    topology
        .services
        .get(&target.service)
        .is_some_and(|service| service.early)
}
