//! Metrics of the identity in use.

use std::time::SystemTime;

use causeway_telemetry::{MetricsRegistry, labels::ByResult, result_word};
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

/// The metrics of the identity in use.
#[derive(Debug)]
pub struct IdentityMetrics {
    reloads: Family<ByResult, Counter>,
    renewals: Family<ByResult, Counter>,
    rejoins: Family<ByResult, Counter>,
    ends: Gauge,
    renews: Gauge,
}

impl Default for IdentityMetrics {
    /// Counts that nobody reads.
    fn default() -> Self {
        Self::new(&mut MetricsRegistry::default())
    }
}

impl IdentityMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            ends: registry.gauge(
                "identity_not_after_timestamp_seconds",
                "When the certificate in use ends, since 1970; 0 while that is not known",
            ),
            renews: registry.gauge(
                "identity_renewal_timestamp_seconds",
                "When the certificate in use is renewed next, since 1970; 0 where somebody else renews it",
            ),
            reloads: registry.counters("identity_reloads", "Renewed identities taken up or refused"),
            renewals: registry.counters(
                "identity_renewals",
                "Certificates asked of the CA, by what became of it",
            ),
            rejoins: registry.counters(
                "identity_rejoins",
                "Tries to come back with the join token after the certificate had ended",
            ),
        }
    }

    /// A renewed identity was taken up (`true`) or a bad one was refused (`false`).
    pub fn identity_reloaded(&self, ok: bool) {
        let result = result_word(ok);
        self.reloads.get_or_create(&ByResult { result }).inc();
    }

    /// A new certificate was got from the CA (`true`), or could not be (`false`).
    pub fn identity_renewed(&self, ok: bool) {
        let result = result_word(ok);
        self.renewals.get_or_create(&ByResult { result }).inc();
    }

    /// The gateway came back with its join token after its certificate had ended (`true`), or could not (`false`).
    pub fn identity_rejoined(&self, ok: bool) {
        let result = result_word(ok);
        self.rejoins.get_or_create(&ByResult { result }).inc();
    }

    /// Says when the certificate in use ends.
    pub fn identity_ends(&self, at: SystemTime) {
        self.ends.set(since_1970(at));
    }

    /// Says when the certificate in use is renewed next.
    pub fn identity_renews(&self, at: SystemTime) {
        self.renews.set(since_1970(at));
    }
}

fn since_1970(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
