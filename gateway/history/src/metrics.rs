//! Counters of the history.

use causeway_telemetry::MetricsRegistry;
use prometheus_client::metrics::counter::Counter;

/// The metrics of the history. Clones are the same metrics.
#[derive(Debug, Clone)]
pub struct HistoryMetrics {
    pub(crate) events: Counter,
    pub(crate) dropped: Counter,
}

impl Default for HistoryMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl HistoryMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            events: registry.counter("history_events", "Events that were written to the history"),
            dropped: registry.counter(
                "history_dropped",
                "Events and minutes of figures that the history has lost, because they came too fast or the disk did not take them",
            ),
        }
    }
}
