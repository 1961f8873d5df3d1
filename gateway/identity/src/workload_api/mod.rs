//! The SPIFFE Workload API as the source of an identity: an agent on this host, SPIRE's or another, says over a unix socket
//! who this process is, with certificate, key, roots and revocation lists, and says so again whenever that changes.
//!
//! Each answer is checked whole before it is used, as files are ([`super::live`]); a bad one is refused, and the identity before
//! it stays in use, to its end. The same when the agent takes the identity back: an operator who means it revokes. The agent may be
//! away, at the start and later: it is asked again and again. Keys are in memory alone. Bundles of other trust domains
//! (`federated_bundles`) are passed over. The feature `spiffe-workload-api` has the client; without it there is only what
//! others look at.

mod address;
#[cfg(feature = "spiffe-workload-api")]
mod agent;
#[cfg(feature = "spiffe-workload-api")]
mod conversation;
#[cfg(feature = "spiffe-workload-api")]
mod der;
mod refusal;
#[cfg(feature = "spiffe-workload-api")]
mod source;
mod status;
#[cfg(feature = "spiffe-workload-api")]
mod svid;
#[cfg(feature = "spiffe-workload-api")]
#[cfg(test)]
mod testing;

pub use address::{EndpointAddress, EndpointAddressError, STANDARD_VARIABLE};
pub use refusal::SvidError;
pub(super) use refusal::doubt;
#[cfg(feature = "spiffe-workload-api")]
pub use source::WorkloadApi;
pub use status::{AgentStatus, Trouble};
