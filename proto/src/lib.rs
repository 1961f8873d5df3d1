//! Causeway's wire contract: what gateways say to each other, as .proto files and the types generated from them.
//!
//! No logic and no I/O lives here, and nothing here knows what a message is for. The gRPC clients and servers come with the
//! feature `grpc`; without it there are messages alone, and no tonic.

pub mod tunnel;

/// The part of etcd's v3 API that the shared registry uses. The modules bear etcd's package names.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod etcd {
    pub mod mvccpb {
        include!("generated/mvccpb.rs");
    }
    pub mod etcdserverpb {
        include!("generated/etcdserverpb.rs");
    }
}

/// The part of the SPIFFE Workload API that a gateway gets its identity with. What holds a private key cannot be printed.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod workload {
    include!("generated/_.rs");
}

/// The registry of one zone, as its instances and gateways speak to it.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod registry {
    include!("generated/causeway.registry.v1.rs");
}

/// The certificate authority of a federation, as gateways ask it.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod ca {
    include!("generated/causeway.ca.v1.rs");
}

/// Applied topologies, as gateways hand them to each other and keep them on disk.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod topology {
    include!("generated/causeway.topology.v1.rs");
}

/// The trust document of a federation, as gateways hand it to each other and keep it on disk.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod trust {
    include!("generated/causeway.trust.v1.rs");
}

/// Zone sync messages and the `ZoneSync` gRPC service.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod sync {
    include!("generated/causeway.sync.v1.rs");
}
