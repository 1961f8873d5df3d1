//! The metrics of every part of one gateway, on one registry.

use std::sync::Arc;

use causeway_api::ApiMetrics;
use causeway_control::ControlMetrics;
use causeway_dns::DnsMetrics;
use causeway_history::HistoryMetrics;
use causeway_identity::IdentityMetrics;
use causeway_instances::InstanceMetrics;
use causeway_proxy::ProxyMetrics;
use causeway_telemetry::{MetricsRegistry, OtlpMetrics};
use causeway_tunnel::TunnelMetrics;

use super::sync_metrics::SyncMetrics;

/// Each part's own metrics. Clones are the same metrics.
#[derive(Debug, Clone)]
pub struct GatewayMetrics {
    pub registry: Arc<MetricsRegistry>,
    pub proxy: Arc<ProxyMetrics>,
    pub tunnels: Arc<TunnelMetrics>,
    pub api: Arc<ApiMetrics>,
    pub instances: Arc<InstanceMetrics>,
    pub dns: Arc<DnsMetrics>,
    pub sync: Arc<SyncMetrics>,
    pub control: Arc<ControlMetrics>,
    pub identity: Arc<IdentityMetrics>,
    pub history: HistoryMetrics,
    pub otlp: OtlpMetrics,
}

impl Default for GatewayMetrics {
    fn default() -> Self {
        let mut registry = MetricsRegistry::default();
        let tunnels = Arc::new(TunnelMetrics::new(&mut registry));
        Self {
            proxy: Arc::new(ProxyMetrics::new(&mut registry, tunnels.clone())),
            tunnels,
            api: Arc::new(ApiMetrics::new(&mut registry)),
            instances: Arc::new(InstanceMetrics::new(&mut registry)),
            dns: Arc::new(DnsMetrics::new(&mut registry)),
            sync: Arc::new(SyncMetrics::new(&mut registry)),
            control: Arc::new(ControlMetrics::new(&mut registry)),
            history: HistoryMetrics::new(&mut registry),
            otlp: OtlpMetrics::new(&mut registry),
            identity: Arc::new(IdentityMetrics::new(&mut registry)),
            registry: Arc::new(registry),
        }
    }
}
