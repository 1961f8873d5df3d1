//! Hand-over on one host: a new process of a gateway takes the place of the one that runs, and nobody is refused meanwhile.
//!
//! The two talk over a unix socket in the data folder. Its steps are in [`steps`]; until the predecessor lets go, whatever happens to the
//! successor leaves it as it was. What is said is in [`messages`], who may take over in [`judge`].
//!
//! What changes hands: the listening sockets of services, TLS, mesh DNS, the admin API and registration, unix sockets among them, and the one
//! of the hand-over itself; the UDP sockets of tunnels; the files in the data folder; the health of instances, what is ejected,
//! returns by failback, limits and the figures of shifts; and once the successor serves it is told what this process still holds of limits. What
//! does not: metrics begin at 0, and shares of descriptors are counted by each process for itself. What one version does not know of another's
//! is left out: it begins anew.
//!
//! A successor that fails after that has everything but its life: the sockets stay open in the predecessor until one serves, and another that
//! comes has them. One process at a time may be on its way to take over; others are refused in words.

mod judge;
mod messages;
mod serve;
mod steps;
mod take;

pub(crate) use judge::Incumbent;
pub(crate) use messages::AppliedText;
pub(crate) use serve::{HandoverServer, Offer, Successor, WaitingSuccessor};
pub(crate) use take::{RuledBy, TakeOverCandidate, TakeOverError, TakenOver, take_over};

/// Name of the socket in the data folder.
const SOCKET: &str = "handover.sock";
