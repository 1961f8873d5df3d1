//! The Causeway gateway: what one zone does. The program is `causeway`; this library holds everything it runs, so that
//! tests and the demo can run several zones in one process. Nothing here is global.

pub mod balance;
pub mod egress;
pub mod ingress;
pub mod relay;
pub mod route;
pub mod snapshot;
pub mod target;
pub mod telemetry;
pub mod tunnel;
