//! Hand-over on one host: a new process of a gateway takes the place of the one that runs, and nobody is refused meanwhile.
//!
//! The two talk over a unix socket in the data folder. Its steps are in [`steps`]; until the predecessor lets go, whatever happens to the
//! successor leaves it as it was. What is said is in [`messages`], who may take over in [`judge`].
//!
//! What changes hands: the listening sockets of services, TLS, mesh DNS, the admin API and registration; the UDP sockets of tunnels; the
//! files in the data folder; the health of instances. What does not: metrics begin at 0; shares of descriptors, limits of services and
//! instances that were passed over are counted anew; unix sockets are made anew at their paths.

mod judge;
mod messages;
mod serve;
mod steps;
mod take;

pub(crate) use judge::Incumbent;
pub(crate) use serve::{HandoverServer, Offer, Successor};
pub(crate) use take::{TakeOverCandidate, TakeOverError, TakenOver, take_over};

/// Name of the socket in the data folder.
const SOCKET: &str = "handover.sock";
