//! Round trips over the tunnels with a zone, measured when somebody asks: `GET /v1/ping?zone=west`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    response::Response,
};
use causeway_federation::name::{GatewayId, ZoneName};
use causeway_routing::snapshot::Snapshot;
use causeway_tunnel::{Tunnel, echo};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    AdminState,
    api::answer,
    error::ApiError,
    topology::{Parameters, understood},
    view::{Envelope, milliseconds},
};

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Most tunnels with one gateway over which is asked.
const MAX_TUNNELS_PER_GATEWAY: usize = 8;
/// Most tunnels in one answer.
const MAX_TUNNELS: usize = 64;

/// Zone that is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PingParameters {
    zone: String,
}

impl PingParameters {
    /// Zone that is meant, if it is another than that of this gateway.
    pub(super) fn other_zone(&self, snapshot: &Snapshot) -> Result<ZoneName, ApiError> {
        let zone = ZoneName::new(&self.zone).map_err(|error| ApiError::bad_request(error.to_string()))?;
        if !snapshot.topology.zones.contains_key(&zone) {
            return Err(ApiError::not_found(format!("zone {zone} is not in the topology"))
                .hint("`causeway get zones` lists those that are"));
        }
        if zone == snapshot.zone {
            return Err(
                ApiError::bad_request(format!("{zone} is the zone of this gateway")).hint(
                    "there are tunnels with other zones alone; ask a gateway of another zone for the way here",
                ),
            );
        }
        Ok(zone)
    }
}

/// Round trip over one tunnel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EchoView {
    pub zone: String,
    pub gateway: String,
    /// Index of the data thread that drives the tunnel.
    pub thread: usize,
    /// Tells whether this gateway dialled it; else the peer did.
    pub dialled: bool,
    pub remote: SocketAddr,
    /// Round trip to the far gateway's program and back; absent: none came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo_ms: Option<f64>,
    /// Round trip of packets, as the tunnel has measured it on what it carries.
    pub rtt_ms: f64,
    /// Reason that no answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// Asks once over every tunnel with every gateway of the zone, all at a time.
pub(super) async fn ping(
    State(state): State<AdminState>,
    parameters: Parameters<PingParameters>,
) -> Result<Response, ApiError> {
    let Query(asked_for) = understood(parameters, "/v1/ping?zone=west")?;
    let snapshot = state.snapshots.load_full();
    let zone = asked_for.other_zone(&snapshot)?;
    let tunnels = asked(state.tunnels.all(), &zone);
    let items = join_all(tunnels.iter().map(|tunnel| one(tunnel))).await;
    Ok(answer(Envelope::new("echoes", &snapshot, items)))
}

/// Tunnels that are asked over, gateway by gateway.
fn asked(all: Vec<Arc<Tunnel>>, zone: &ZoneName) -> Vec<Arc<Tunnel>> {
    let mut by_gateway: BTreeMap<GatewayId, Vec<Arc<Tunnel>>> = BTreeMap::new();
    for tunnel in all.into_iter().filter(|tunnel| tunnel.peer().zone == *zone) {
        by_gateway.entry(tunnel.peer().clone()).or_default().push(tunnel);
    }
    let each = by_gateway.into_values().flat_map(|mut tunnels| {
        tunnels.sort_by_key(|tunnel| (tunnel.thread(), !tunnel.dialled(), tunnel.id()));
        tunnels.into_iter().take(MAX_TUNNELS_PER_GATEWAY)
    });
    each.take(MAX_TUNNELS).collect()
}

async fn one(tunnel: &Tunnel) -> EchoView {
    let (echo_ms, because) = match timeout(ANSWER_WITHIN, echo(tunnel)).await {
        Ok(Ok(took)) => (Some(milliseconds(took)), None),
        Ok(Err(error)) => (None, Some(causeway_telemetry::log::in_one_line(&error))),
        Err(_) => (
            None,
            Some(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        ),
    };
    EchoView {
        zone: tunnel.peer().zone.to_string(),
        gateway: tunnel.peer().gateway.to_string(),
        thread: tunnel.thread(),
        dialled: tunnel.dialled(),
        remote: tunnel.remote_address(),
        echo_ms,
        rtt_ms: milliseconds(tunnel.stats().rtt),
        because,
    }
}
