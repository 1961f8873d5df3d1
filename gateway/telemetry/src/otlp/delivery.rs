//! Fate of messages, whatever they carry: counted, told to `check`, and to the log at a bounded rate.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio_util::sync::CancellationToken;

use super::{
    OtlpSettings, OtlpSignal,
    channel::{OtlpChannel, OtlpMessage, cut},
};
use crate::{Check, MetricsRegistry, log::in_one_line, rate_limited::RateLimited};

/// Longest time that the end of a gateway waits for the last messages to be taken.
const LAST_MESSAGES: Duration = Duration::from_millis(800);

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySignal {
    signal: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySignalReason {
    signal: &'static str,
    reason: &'static str,
}

/// Counts of what is sent: spans, values of metrics, and records of the log.
#[derive(Debug, Clone)]
pub struct OtlpMetrics {
    dropped: Family<BySignalReason, Counter>,
    sent: Family<BySignal, Counter>,
}

impl OtlpMetrics {
    pub fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            dropped: registry.counters(
                "telemetry_dropped",
                "Spans, values of metrics and records of the log that were dropped, because too many waited or the receiver did not take them",
            ),
            sent: registry.counters(
                "telemetry_sent",
                "Spans, values of metrics and records of the log that the receiver has taken",
            ),
        }
    }

    pub(super) fn drop(&self, signal: OtlpSignal, reason: DropReason, count: u64) {
        if count > 0 {
            let (signal, reason) = (signal.word(), reason.word());
            let labels = BySignalReason { signal, reason };
            self.dropped.get_or_create(&labels).inc_by(count);
        }
    }

    fn send(&self, signal: OtlpSignal, count: u64) {
        let signal = signal.word();
        self.sent.get_or_create(&BySignal { signal }).inc_by(count);
    }
}

/// Reason that something is not sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum DropReason {
    /// As many wait as may.
    QueueFull,
    /// The receiver cannot be reached, or refuses.
    Failed,
    /// The receiver has taken the message, and not this of it.
    Rejected,
    /// The gateway has ended before the receiver has taken it.
    Shutdown,
}

impl DropReason {
    fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Errors with which the receiver did not take the latest message of a signal; without an entry it took it, or none was sent yet.
#[derive(Debug, Clone)]
pub(super) struct ReceiverState {
    endpoint: Arc<str>,
    errors: Arc<Mutex<BTreeMap<OtlpSignal, String>>>,
}

impl ReceiverState {
    pub(super) fn new(settings: &OtlpSettings) -> Self {
        Self {
            endpoint: settings.endpoint.as_str().into(),
            errors: Arc::default(),
        }
    }

    /// Check of the receiver, by what became of the latest messages.
    pub(super) fn check(&self, sent: &[OtlpSignal]) -> Check {
        let (endpoint, errors) = (&self.endpoint, self.errors.lock());
        let words = |signals: Vec<OtlpSignal>| signals.iter().map(|signal| signal.word()).collect::<Vec<_>>();
        let Some(error) = errors.values().next() else {
            let sent = words(sent.to_vec()).join(", ");
            return Check::ok("gateway", "telemetry", format!("to {endpoint} go {sent}"));
        };
        let lost = words(errors.keys().copied().collect()).join(", ");
        Check::warn(
            "gateway",
            "telemetry",
            format!("the receiver at {endpoint} did not take the latest {lost}, which are lost: {error}"),
            "does it run, does it speak what --otlp-protocol says, and does it take what --otlp-signals says? clients are served all the same; it is tried again with what comes next",
        )
    }
}

/// Sender of the messages of one signal, one at a time.
pub(super) struct OtlpDelivery {
    channel: OtlpChannel,
    metrics: OtlpMetrics,
    receiver: ReceiverState,
    rate_limited: RateLimited<()>,
    /// Cancelled once what is sent is the last.
    last: CancellationToken,
}

impl OtlpDelivery {
    pub(super) fn new(
        channel: OtlpChannel,
        metrics: OtlpMetrics,
        receiver: ReceiverState,
        last: CancellationToken,
    ) -> Self {
        Self {
            channel,
            metrics,
            receiver,
            rate_limited: RateLimited::new(),
            last,
        }
    }

    pub(super) fn metrics(&self) -> &OtlpMetrics {
        &self.metrics
    }

    /// Waits for the end: of what is under way when it comes, and of what waits behind it.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let last = self.last.clone();
        async move {
            last.cancelled().await;
            tokio::time::sleep(LAST_MESSAGES).await;
        }
    }

    /// Sends a message with so many things in it, and tells whether the receiver took it.
    pub(super) async fn deliver<M: OtlpMessage>(&mut self, message: M, count: u64) -> bool {
        let signal = M::SIGNAL;
        let sent = self.channel.send(message).await;
        let (error, lost) = match sent {
            Ok(None) => (None, 0),
            Ok(Some((rejected, why))) => {
                let lost = u64::try_from(rejected).unwrap_or(0).min(count);
                self.metrics.drop(signal, DropReason::Rejected, lost);
                (
                    Some(format!("it would not have {lost} of {count}: {}", cut(&why))),
                    lost,
                )
            }
            Err(error) => {
                self.metrics.drop(signal, DropReason::Failed, count);
                (Some(in_one_line(&error)), count)
            }
        };
        self.metrics.send(signal, count - lost);
        let is_taken = lost < count;
        if let Some(error) = &error
            && let Some(repeats) = self.rate_limited.admit(Instant::now(), ())
        {
            let (signal, endpoint) = (signal.word(), &*self.receiver.endpoint);
            tracing::warn!(endpoint, signal, lost, error, repeats, "telemetry was not taken");
        }
        let mut errors = self.receiver.errors.lock();
        match error {
            Some(error) => errors.insert(signal, error),
            None => errors.remove(&signal),
        };
        is_taken
    }
}
