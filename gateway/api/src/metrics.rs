//! Counters of the gateway's own APIs.

use causeway_telemetry::{
    LineCounts, MetricsRegistry,
    labels::{ByReason, ByResult},
    result_word,
};
use prometheus_client::metrics::{counter::Counter, family::Family};

/// The metrics of the admin API, of registration and of the audit log.
#[derive(Debug)]
pub struct ApiMetrics {
    refused: Family<ByReason, Counter>,
    audit_lines: Family<ByResult, Counter>,
    pages_asked: Family<ByResult, Counter>,
    pages_answered: Family<ByResult, Counter>,
}

impl Default for ApiMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl ApiMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            refused: registry.counters(
                "api_refused",
                "Requests and handshakes that the admin API and registration refused for want of credentials",
            ),
            audit_lines: registry.counters(
                "audit_lines",
                "Lines for the audit file that were written (ok) or lost (failed)",
            ),
            pages_asked: registry.counters(
                "pages_asked",
                "Pages of other zones' admin APIs that were asked for: answered, refused, or away without an answer",
            ),
            pages_answered: registry.counters(
                "pages_answered",
                "Pages of the admin API that gateways of other zones asked for: answered, refused, failed or overloaded",
            ),
        }
    }

    /// The admin API or registration refused somebody for want of credentials: `reason` such as `bad_token`, `scope`,
    /// `unknown_issuer`.
    pub fn api_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ByReason { reason }).inc();
    }

    /// A zone was asked for a page: `answered`, `refused` or `away`.
    pub(crate) fn page_asked(&self, result: &'static str) {
        self.pages_asked.get_or_create(&ByResult { result }).inc();
    }

    /// Another zone's gateway asked for a page: `answered`, `refused`, `failed` or `overloaded`.
    pub(crate) fn page_answered(&self, result: &'static str) {
        self.pages_answered.get_or_create(&ByResult { result }).inc();
    }

    /// Counts of lines for the audit file.
    #[must_use]
    pub fn audit_lines(&self) -> LineCounts {
        let lines = |ok| {
            let result = result_word(ok);
            self.audit_lines.get_or_create_owned(&ByResult { result })
        };
        LineCounts {
            written: lines(true),
            lost: lines(false),
        }
    }
}
