//! Exports of metrics: everything that `/metrics` shows, every so often, one export at a time. Counters go on counting, so that the next export
//! has what one before it lost.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{ResourceMetrics, ScopeMetrics},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    OtlpSignal,
    delivery::{DropReason, OtlpDelivery},
    exposition::{MetricsPart, ReadingTimes, parts},
    resource::OtlpResource,
};

/// Bytes of one message, after which it takes no further value; receivers of gRPC take 4 MiB.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Longest time that an export may take, whatever the number of its messages.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Reader of the text that `/metrics` shows; it may take some time.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// Sender of metrics.
pub(super) struct MetricsSender {
    pub(super) delivery: OtlpDelivery,
    pub(super) resource: OtlpResource,
    pub(super) text: MetricsText,
    pub(super) interval: Duration,
    /// Cancelled once the next export is the last.
    pub(super) last: CancellationToken,
}

impl MetricsSender {
    pub(super) async fn run(mut self) {
        let start = nanoseconds(SystemTime::now());
        let mut ended = pin!(self.delivery.ended());
        let mut due = interval_at(Instant::now() + self.interval, self.interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let last = self.last.clone();
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                () = last.cancelled() => {}
                _ = due.tick() => {}
            }
            is_last = last.is_cancelled();
            let text = self.text.clone();
            // Of 10,000 services it is megabytes.
            let reading = tokio::task::spawn_blocking(move || {
                let now = nanoseconds(SystemTime::now());
                parts(&text(), ReadingTimes { start, now }, MAX_MESSAGE_BYTES)
            });
            let Ok(parts) = reading.await else {
                tracing::error!("metrics could not be read");
                continue;
            };
            self.export(parts, ended.as_mut()).await;
        }
    }

    async fn export(&mut self, parts: Vec<MetricsPart>, mut ended: impl Future<Output = ()> + Unpin) {
        let deadline = Instant::now() + EXPORT_TIMEOUT;
        let mut left: u64 = parts.iter().map(|part| part.values).sum();
        let mut reason = DropReason::Failed;
        for part in parts {
            let message = self.message(part.metrics);
            tokio::select! {
                sent = timeout_at(deadline, self.delivery.deliver(message, part.values)) => match sent {
                    Ok(is_taken) => {
                        left -= part.values;
                        // What follows would fare no better.
                        if !is_taken {
                            break;
                        }
                    }
                    Err(_) => break,
                },
                () = &mut ended => {
                    reason = DropReason::Shutdown;
                    break;
                }
            }
        }
        self.delivery.metrics().drop(OtlpSignal::Metrics, reason, left);
    }

    fn message(
        &self,
        metrics: Vec<opentelemetry_proto::tonic::metrics::v1::Metric>,
    ) -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.message()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(self.resource.scope()),
                    metrics,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }
}

/// Since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
