//! Metrics of this zone's instances and of the registry that they are in.

use std::sync::Arc;

use causeway_telemetry::{MetricsRegistry, Series, ServiceLabels, labels::ByServiceResult, result_word};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

/// The metrics of instances.
#[derive(Debug)]
pub struct InstanceMetrics {
    services: Arc<ServiceLabels>,
    health_checks: Series<ByServiceResult, Counter>,
    registry_attached: Gauge,
    registry_attachments: Counter,
}

impl Default for InstanceMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl InstanceMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            services: registry.services().clone(),
            registry_attached: registry.gauge(
                "registry_attached",
                "1 while attached to a zone-sync of the own zone; 0 also where the registry is embedded",
            ),
            registry_attachments: registry.counter(
                "registry_attachments",
                "Attachments to a zone-sync of the own zone; more than one means that one was lost",
            ),
            health_checks: registry.named_counters("health_checks", "Health checks of this zone's instances"),
        }
    }

    /// A health check ended.
    pub fn health_checked(&self, service: &str, ok: bool) {
        let labels = ByServiceResult {
            service: self.services.label(service),
            result: result_word(ok),
        };
        self.health_checks.get_or_create(&labels).inc();
    }

    /// Says if this gateway is attached to a zone-sync of its zone; the first call and each that says so again counts as
    /// another attachment.
    pub fn registry_attached(&self, attached: bool) {
        self.registry_attached.set(i64::from(attached));
        if attached {
            self.registry_attachments.inc();
        }
    }
}
