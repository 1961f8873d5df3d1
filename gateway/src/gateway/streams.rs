//! Sends each stream that a peer opens to the part that serves it: connections to the ingress, zone sync to zone
//! sync, questions for the topology and for what is trusted to those who hold it, and those for the CA on to the CA.

use causeway_proto::tunnel::stream_header::Kind;
use causeway_zone_sync::service::ZoneSync;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::{
    ingress::Ingress,
    renewal, topology, trust,
    tunnel::{IncomingStream, StreamHandler},
};

pub struct Streams {
    pub ingress: Ingress,
    pub zone_sync: ZoneSync,
    pub topologies: topology::Server,
    pub ca: renewal::Relay,
    pub trust: trust::Server,
    /// Zone sync runs here, so that a large catalog cannot stall a data thread.
    pub control: Handle,
}

impl StreamHandler for Streams {
    fn handle(&self, stream: IncomingStream) -> BoxFuture<'static, ()> {
        let kind = match &stream.header.kind {
            Some(Kind::Topology(question)) => {
                let (topologies, question) = (self.topologies.clone(), question.clone());
                self.control
                    .spawn(async move { topologies.answer(question, stream).await });
                return Box::pin(std::future::ready(()));
            }
            Some(Kind::Ca(_)) => {
                let ca = self.ca.clone();
                self.control.spawn(async move { ca.serve(stream).await });
                return Box::pin(std::future::ready(()));
            }
            Some(Kind::Trust(question)) => {
                let (trust, question) = (self.trust.clone(), question.clone());
                self.control
                    .spawn(async move { trust.answer(question, stream).await });
                return Box::pin(std::future::ready(()));
            }
            kind => kind,
        };
        if !matches!(kind, Some(Kind::Sync(_))) {
            return self.ingress.handle(stream);
        }
        let (zone_sync, peer) = (self.zone_sync.clone(), stream.tunnel.peer().clone());
        let io = tokio::io::join(stream.recv, stream.send);
        self.control.spawn(async move {
            if let Err(error) = zone_sync.accept_session(peer.clone(), io).await {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a zone sync session ended");
            }
        });
        Box::pin(std::future::ready(()))
    }
}
