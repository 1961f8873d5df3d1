//! Facts that go along with what is opened for a stream of another zone: how far it has come, in whose name, and among which instances.

use causeway_host::{own_sockets::SocketPair, share::ShareHolder};
use causeway_proto::tunnel::Connect;
use causeway_routing::{hops, outlier::MAX_AVOIDED, sticky::StickyKey};
use causeway_tunnel::Tunnel;

use super::{IngressShared, refuse::RefusedStream};
use crate::{
    dial::{DescriptorClaim, Passage},
    warm::WarmAccess,
};

/// Instances that one connection is kept from. More than so many are not looked at.
const MAX_BESIDES: usize = 16;

impl IngressShared {
    /// Counts the gateways that a connection has come through.
    pub(super) fn passage(&self, connect: &Connect, tunnel: &Tunnel) -> Result<Passage, RefusedStream> {
        let own = &self.config.own_sockets;
        // All gateways of a zone are one: it can have as many as it likes.
        let holder = ShareHolder::Named(format!("zone {}", tunnel.peer().zone).into());
        let opened_here = SocketPair::told(connect.client_sockets).and_then(|pair| own.hops(pair));
        let hops = hops::with_this_one(hops::of_stream(connect.hops, opened_here));
        let hops = hops.ok_or_else(RefusedStream::too_many_hops)?;
        let warm = connect.gives_back.then(|| WarmAccess {
            warm: self.warm.clone(),
            holder: holder.clone(),
            hops,
            thread: tunnel.thread(),
            takes: connect.takes_warm,
        });
        Ok(Passage {
            own: own.clone(),
            hops,
            descriptors: self.config.descriptors.clone(),
            claim: DescriptorClaim {
                holder,
                promised: None,
            },
            key: StickyKey::told(connect.sticky),
            besides: connect.besides.iter().copied().take(MAX_BESIDES).collect(),
            avoid: connect.avoid.iter().copied().take(MAX_AVOIDED).collect(),
            // Which port it is depends on the topology, and so is told with the permission.
            port: None,
            warm,
        })
    }
}
