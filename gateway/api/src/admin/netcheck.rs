//! Probes of the addresses that the topology has for a zone, when somebody asks: `GET /v1/netcheck?zone=west`. What tunnels know is at
//! `/v1/tunnels`, round trips over them at `/v1/ping`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::Response,
};
use causeway_host::resolve::NameResolver;
use causeway_tunnel::{ProbeReport, probe};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    AdminState,
    api::answer,
    error::ApiError,
    ping::PingParameters,
    topology::{Parameters, understood},
    view::{Envelope, milliseconds},
};

/// Longest time that one name may take to resolve.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);
/// Most names of one zone that are looked up.
const MAX_NAMES: usize = 64;
/// Most addresses of one zone that are probed.
const MAX_PROBED: usize = 64;
/// Most addresses of one name.
const MAX_OF_NAME: usize = 8;

/// One address of a gateway, as the topology has it, and what is heard there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbedView {
    /// Place of the gateway in the list that the topology has for its zone, from 0.
    pub gateway: usize,
    /// Address as the topology has it, such as `gw.west:7800`.
    pub address: String,
    /// Reason that the name has no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<String>,
    /// Addresses that the name resolves to.
    pub heard: Vec<HeardView>,
}

/// Answers of one address.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HeardView {
    /// IP address and port.
    pub address: String,
    /// Packets of QUIC that were sent.
    pub sent: u32,
    /// Round trip of each that was answered.
    pub round_trips_ms: Vec<f64>,
    /// Tells whether the host is there and says that nothing listens on the port (ICMP).
    pub refused: bool,
    /// Reason that nothing could be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsent: Option<String>,
}

/// Shortest time between the beginnings of two turns.
const TURN: Duration = Duration::from_secs(2);

/// Means of probing, one after another.
#[derive(Debug)]
pub(super) struct Prober {
    resolver: NameResolver,
    turn: Arc<Semaphore>,
}

impl Default for Prober {
    fn default() -> Self {
        Self {
            resolver: NameResolver::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Probes every address that the topology has for the zone, all at a time.
pub(super) async fn netcheck(
    State(state): State<AdminState>,
    Extension(prober): Extension<Arc<Prober>>,
    parameters: Parameters<PingParameters>,
) -> Result<Response, ApiError> {
    let Query(asked) = understood(parameters, "/v1/netcheck?zone=west")?;
    let snapshot = state.snapshots.load_full();
    let zone = asked.other_zone(&snapshot)?;
    let Ok(turn) = prober.turn.clone().try_acquire_owned() else {
        let busy = ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "addresses are being probed for somebody else",
        );
        return Err(busy.hint("ask again in a few seconds"));
    };
    let declared = snapshot.topology.zones.get(&zone);
    let gateways = declared.map(|zone| zone.gateways.as_slice()).unwrap_or_default();
    let named = gateways.iter().enumerate();
    let named = named.flat_map(|(at, gateway)| gateway.addresses.iter().map(move |name| (at, name.clone())));
    let named: Vec<(usize, String)> = named.take(MAX_NAMES).collect();
    // Whoever asks and goes away has no second turn for that.
    let probing = tokio::spawn(async move {
        let (_turn, soonest) = (turn, tokio::time::sleep(TURN));
        let (items, ()) = tokio::join!(prober.probe(named), soonest);
        items
    });
    let items = probing.await.map_err(|_| {
        let error = "the probes broke off";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error).hint("the gateway's log says why")
    })?;
    Ok(answer(Envelope::new("probes", &snapshot, items)))
}

impl Prober {
    async fn probe(&self, named: Vec<(usize, String)>) -> Vec<ProbedView> {
        let looked_up = named.iter().map(|(gateway, name)| self.look_up(*gateway, name));
        let mut items = join_all(looked_up).await;
        limit(&mut items);
        join_all(items.iter_mut().flat_map(|item| &mut item.heard).map(hear)).await;
        items
    }

    async fn look_up(&self, gateway: usize, name: &str) -> ProbedView {
        let resolved = match timeout(RESOLVE_WITHIN, self.resolver.resolve(name)).await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", RESOLVE_WITHIN.as_secs())),
        };
        let (found, unresolved) = match resolved {
            Ok(found) if found.is_empty() => (None, Some("it has no address".to_owned())),
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(error)),
        };
        let heard = found.iter().flat_map(|found| found.iter()).take(MAX_OF_NAME);
        ProbedView {
            gateway,
            address: name.to_owned(),
            unresolved,
            heard: heard
                .map(|address| HeardView {
                    address: address.to_string(),
                    ..HeardView::default()
                })
                .collect(),
        }
    }
}

/// Leaves no more addresses than may be probed at a time.
fn limit(items: &mut [ProbedView]) {
    let mut left = MAX_PROBED;
    for item in items {
        item.heard.truncate(left);
        left -= item.heard.len();
    }
}

async fn hear(heard: &mut HeardView) {
    // It was written by this process.
    let Ok(address) = heard.address.parse() else {
        return;
    };
    let ProbeReport {
        sent,
        round_trips,
        refused,
        unsent,
    } = probe(address).await;
    heard.round_trips_ms = round_trips.into_iter().map(milliseconds).collect();
    (heard.sent, heard.refused, heard.unsent) = (sent, refused, unsent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_addresses_are_probed_than_may_be() {
        let name = ProbedView {
            heard: vec![HeardView::default(); MAX_OF_NAME],
            ..ProbedView::default()
        };
        let mut items = vec![name; 10];
        limit(&mut items);
        let counts = items.iter().map(|item| item.heard.len());
        assert_eq!(counts.sum::<usize>(), MAX_PROBED);
    }

    #[tokio::test]
    async fn a_name_without_an_address_says_so_and_an_address_is_its_own() {
        let resolver = NameResolver::with(|name| match name {
            "gw.west:7800" => Ok(Vec::new()),
            _ => Ok(vec![name.parse().unwrap()]),
        });
        let prober = Prober {
            resolver,
            ..Prober::default()
        };
        let none = prober.look_up(1, "gw.west:7800").await;
        assert_eq!((none.gateway, none.heard.len()), (1, 0));
        assert!(none.unresolved.is_some());
        let one = prober.look_up(0, "127.0.0.1:9").await;
        assert_eq!(one.heard[0].address, "127.0.0.1:9");
        assert_eq!(one.unresolved, None);
    }
}
