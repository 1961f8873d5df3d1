//! What the gateway tells its operator while it runs: metrics, access log lines and its own log.

mod access;
mod families;
mod labels;
pub mod log;
mod metrics;
mod readings;
mod scrape;

pub use access::{AccessLog, AccessRecord, LineWriter, Role};
pub use metrics::{ForbiddenTotals, Meter, Metrics, Side};
pub use readings::{LatestRefusal, OwnReading, ProcessReading, SyncReading, SyncReadings, TunnelReading};
pub use scrape::{ScrapeState, scrape};
