//! What the gateway tells its operator while it runs: metrics and access log lines.

mod access;
mod metrics;

pub use access::{AccessLog, AccessRecord, Role};
pub use metrics::{Metrics, Side};
