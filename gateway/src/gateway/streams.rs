//! Sends each stream that a peer opens to the part that serves it: connections, and questions for those that came back, to the
//! ingress, zone sync to zone sync, questions for the topology and for what is trusted to those who hold it, and those for the CA
//! on to the CA, those for demand to those who measure it, and those for pages to the admin API.

use causeway_api::elsewhere::PageServer;
use causeway_control::{
    demand::DemandBook,
    renewal::{self, Renewal},
    topology, trust,
};
use causeway_proto::tunnel::stream_header::Kind;
use causeway_proxy::ingress::Ingress;
use causeway_tunnel::{IncomingStream, StreamHandler};
use causeway_zone_sync::service::ZoneSync;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::{GatewayConfig, start::Foundation};

pub(crate) struct Streams {
    pub ingress: Ingress,
    pub zone_sync: ZoneSync,
    pub topologies: topology::TopologyServer,
    pub ca: renewal::Relay,
    pub trust: trust::TrustServer,
    pub demand: DemandBook,
    pub pages: PageServer,
    /// Zone sync runs here, so that a large catalog cannot stall a data thread.
    pub control: Handle,
}

impl Streams {
    /// Gives what streams of other gateways are handed to.
    pub(super) fn new(config: &GatewayConfig, known: &Foundation, ingress: &Ingress) -> Self {
        Self {
            ingress: ingress.clone(),
            zone_sync: known.zone_sync.clone(),
            topologies: topology::TopologyServer::new(config.topology.applied().cloned()),
            ca: renewal::Relay::new(
                config.renewal.from_ca().map(Renewal::folder),
                config.metrics.tunnels.clone(),
            ),
            trust: trust::TrustServer::new(config.identity.clone(), config.metrics.control.clone()),
            demand: known.demand.clone(),
            pages: known.pages.clone(),
            control: Handle::current(),
        }
    }
}

impl StreamHandler for Streams {
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()> {
        // Exhaustive: a kind that is added to the protocol does not compile before somebody serves it.
        let served: BoxFuture<'static, ()> = match &stream.kind {
            Kind::Connect(_) | Kind::Opened(_) => return self.ingress.handle(stream),
            Kind::Sync(_) => Box::pin(serve_sync(self.zone_sync.clone(), stream)),
            Kind::Topology(question) => {
                let (topologies, question) = (self.topologies.clone(), question.clone());
                Box::pin(async move { topologies.answer(question, stream).await })
            }
            Kind::Ca(_) => {
                let ca = self.ca.clone();
                Box::pin(async move { ca.serve(stream).await })
            }
            Kind::Trust(question) => {
                let (trust, question) = (self.trust.clone(), question.clone());
                Box::pin(async move { trust.answer(question, stream).await })
            }
            Kind::Demand(_) => {
                let demand = self.demand.clone();
                Box::pin(async move { demand.answer(stream).await })
            }
            Kind::Page(question) => {
                let (pages, question) = (self.pages.clone(), question.clone());
                Box::pin(async move { pages.answer(question, stream).await })
            }
        };
        self.control.spawn(served);
        Box::pin(std::future::ready(()))
    }
}

async fn serve_sync(zone_sync: ZoneSync, stream: IncomingStream) {
    let peer = stream.tunnel.peer().clone();
    let io = tokio::io::join(stream.recv, stream.send);
    if let Err(error) = zone_sync.accept_session(peer.clone(), io).await {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a zone sync session ended");
    }
}
