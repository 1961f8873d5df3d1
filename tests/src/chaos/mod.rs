//! Zone sync under faults: real gateways in network namespaces, registrations at a steady rate, and gateways and links
//! that fail in an order that a seed decides. When the last fault has healed, every zone must hold what the others
//! export, and every registry what was acknowledged.
//!
//! What is decided here is pure and tested beside the code: the [`schedule`] of faults, the [`ledger`] of what may be in
//! a registry, and what counts as agreeing ([`agreement`]). [`scale`] is how large a run is; [`zones`] starts and stops processes, [`load`] registers,
//! [`traffic`] has clients and instances, some of which hang, `exhaust` takes descriptors, disk and ports away, and [`run`]
//! puts it together, with a registry that three gateways share (`shared`) and a resolver that loses bursts ([`lossy_resolver`]). [`propagation`] measures, in the same zones without faults, how long a change takes.

pub mod admin;
pub mod agreement;
mod carry_out;
mod exhaust;
mod lanes;
pub mod ledger;
pub mod load;
pub mod lossy_resolver;
pub mod propagation;
pub mod run;
pub mod scale;
pub mod schedule;
mod shared;
pub mod traffic;
pub mod zones;
