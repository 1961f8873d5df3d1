//! Causeway's wire contract: what gateways say to each other, as .proto files and the types generated from them.
//!
//! No logic and no I/O lives here, and nothing here knows what a message is for.

pub mod tunnel;

/// Zone sync messages and the `ZoneSync` gRPC service.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod sync {
    include!("generated/causeway.sync.v1.rs");
}
