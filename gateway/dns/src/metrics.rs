//! Metrics of mesh DNS.

use causeway_telemetry::MetricsRegistry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    kind: &'static str,
    rcode: &'static str,
}

/// The metrics of mesh DNS.
#[derive(Debug)]
pub struct DnsMetrics {
    answers: Family<ByAnswer, Counter>,
}

impl Default for DnsMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl DnsMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            answers: registry.counters("dns_answers", "DNS queries answered"),
        }
    }

    /// A DNS query was answered: `kind` is `mesh`, `forwarded`, `cached` or `refused`.
    pub fn dns_answered(&self, kind: &'static str, rcode: &'static str) {
        self.answers.get_or_create(&ByAnswer { kind, rcode }).inc();
    }
}
