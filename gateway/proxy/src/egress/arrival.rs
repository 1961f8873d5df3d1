//! Clients as the entrances hand them over: by whatever way one came in, what goes on from here is one [`Arrival`].
//!
//! An entrance is a place where clients connect, and knows how a client says there what it wants and who it is. Nothing
//! after it depends on which one it was. A further entrance is a variant of [`Entrance`], and how it receives a client in
//! `accept`.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};

use causeway_federation::name::{CallerIdentity, PortName};
use causeway_identity::Identity;
use causeway_routing::target::{Binding, Target};
use rustls_pki_types::CertificateDer;

use super::{
    client::ClientSocket,
    coverage::{Coverage, CoveredAddress, SocketState},
    tls::TlsEntrance,
};
use crate::callers::Endpoints;

/// Purpose of a listening socket.
#[derive(Clone)]
pub(super) enum Entrance {
    /// The address says what is wanted.
    VirtualAddresses(Arc<Coverage>),
    /// Clients come in that the kernel has redirected here. The address that they connected to says what is wanted.
    Redirect(Arc<Coverage>),
    /// Clients say over TLS what they want, and who they are.
    Tls {
        entrance: Arc<TlsEntrance>,
        /// Connections that came in here and are open.
        open: Arc<AtomicUsize>,
    },
}

/// Wish of a client, as far as the address says it.
#[derive(Debug, Clone)]
pub(super) enum ArrivalWish {
    Bound(Binding),
    /// It says so over TLS.
    Tls(Arc<TlsEntrance>),
}

impl Entrance {
    pub(super) fn tls(entrance: Arc<TlsEntrance>) -> Self {
        let open = Arc::default();
        Self::Tls { entrance, open }
    }

    /// Returns what a client wants that connected to `local`, and the count of those that did the same; `None`: nothing is
    /// there.
    pub(super) fn at(&self, local: SocketAddr) -> Option<(ArrivalWish, Arc<AtomicUsize>)> {
        match self {
            Self::VirtualAddresses(coverage) | Self::Redirect(coverage) => {
                let CoveredAddress { binding, open } = coverage.at(local)?;
                Some((ArrivalWish::Bound(binding), open))
            }
            Self::Tls { entrance, open } => Some((ArrivalWish::Tls(entrance.clone()), open.clone())),
        }
    }

    /// Tells whether virtual addresses share the socket that is bound to `bound`, which is none of them.
    pub(super) fn is_shared_at(&self, bound: SocketAddr) -> bool {
        match self {
            Self::VirtualAddresses(coverage) => coverage.at(bound).is_none(),
            Self::Redirect(_) | Self::Tls { .. } => false,
        }
    }

    /// Tells mesh DNS of the state of the socket.
    pub(super) fn set(&self, state: SocketState) {
        match self {
            Self::VirtualAddresses(coverage) | Self::Redirect(coverage) => coverage.set(state),
            Self::Tls { .. } => {}
        }
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualAddresses(coverage) => coverage.fmt(f),
            Self::Redirect(_) => f.write_str("every service"),
            Self::Tls { .. } => f.write_str("the TLS listener"),
        }
    }
}

/// Client of which is known what it wants.
pub(super) struct Arrival {
    pub(super) socket: ClientSocket,
    pub(super) client: SocketAddr,
    /// The address that it connected to.
    pub(super) local: SocketAddr,
    pub(super) target: Target,
    /// Port of the service; `None`: its primary one.
    pub(super) port: Option<PortName>,
    /// Certificate that it showed; `None`: the entrance asks for none.
    pub(super) certificate: Option<ClientCertificate>,
    pub(super) begun: Instant,
}

impl Arrival {
    /// The client's socket, and the address that it connected to.
    pub(super) fn endpoints(&self) -> Endpoints {
        Endpoints {
            client: self.client,
            local: self.local,
        }
    }
}

/// Certificate that a client showed.
pub(super) struct ClientCertificate {
    pub(super) identity: CallerIdentity,
    /// Its own certificate first.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// Identity of this gateway by which it was believed.
    pub(super) believed_by: Arc<Identity>,
}
