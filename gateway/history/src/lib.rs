//! Record of what happened in a zone, and its figures minute by minute: kept for a day by default, within a limit of bytes, over restarts and
//! hand-overs.
//!
//! Events are decided on in one place: [`picture::events`] compares two pictures of what the gateway knows, and is pure. One thread
//! writes ([`History`]); readers read files, or the memory where nothing is kept. Nothing here waits for a reader.

#![warn(unreachable_pub)]

mod burst;
mod event;
mod figures;
mod history;
mod journal;
mod metrics;
pub mod picture;
mod query;
mod writer;

pub use burst::{BurstLimit, MAX_OF_KIND_PER_MINUTE};
pub use event::{EventKind, HistoryEvent, MAX_TEXT_BYTES, NewEvent};
pub use figures::{
    MinuteFigures, PlaceFigures, ServiceFigures, SetupFigures, TunnelCounts, TunnelFigures, TunnelReadings,
    figures,
};
pub use history::{History, HistoryConfig, HistoryLimits};
pub use metrics::HistoryMetrics;
pub use query::{EventPage, EventQuery, MAX_EVENTS_AT_ONCE, MAX_MINUTES_AT_ONCE};
