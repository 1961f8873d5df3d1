//! Counters of the documents that rule this gateway.

use causeway_telemetry::{MetricsRegistry, labels::ByResult, result_word};
use prometheus_client::metrics::{counter::Counter, family::Family};

/// The metrics of topologies and trust documents.
#[derive(Debug)]
pub struct ControlMetrics {
    reloads: Family<ByResult, Counter>,
    topologies: Family<ByResult, Counter>,
    trust: Family<ByResult, Counter>,
}

impl Default for ControlMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl ControlMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            reloads: registry.counters("topology_reloads", "Topology files taken up or refused"),
            topologies: registry.counters("topology_documents", "Applied topologies, by what became of them"),
            trust: registry.counters(
                "trust_documents",
                "Documents of what the federation trusts, by what became of them",
            ),
        }
    }

    /// The topology was reloaded (`true`) or a bad file was refused (`false`).
    pub fn topology_reloaded(&self, ok: bool) {
        let result = result_word(ok);
        self.reloads.get_or_create(&ByResult { result }).inc();
    }

    /// Counts what became of an applied topology: `applied` (here), `taken`, `overruled`, `refused`, `fetch_failed`.
    pub fn topology_document(&self, result: &'static str) {
        self.topologies.get_or_create(&ByResult { result }).inc();
    }

    /// Counts what became of a trust document: `handed_in` (here), `taken`, `overruled`, `refused`, `fetch_failed`.
    pub fn trust_document(&self, result: &'static str) {
        self.trust.get_or_create(&ByResult { result }).inc();
    }
}
