//! Sending of telemetry over OTLP: spans, everything that `/metrics` shows, and the log, each by one task, with one message under way. Without
//! a receiver there is no task. Nobody waits for any of it.

mod batches;
mod channel;
mod delivery;
mod exposition;
mod logs;
mod readings;
mod resource;
mod settings;
mod tls;

use std::time::Duration;

use causeway_federation::name::GatewayId;
use causeway_host::tasks::Tasks;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_sdk::trace::SpanData;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use batches::BatchSender;
use channel::OtlpChannel;
use delivery::{OtlpDelivery, ReceiverState};
use logs::OpenTap;
use readings::MetricsSender;
use resource::OtlpResource;

pub use channel::OtlpStartError;
pub use delivery::OtlpMetrics;
pub use logs::LogTap;
pub use readings::MetricsText;
pub use settings::{OtlpChoice, OtlpProtocol, OtlpSettings, OtlpSettingsError, OtlpSignal};

use crate::{Check, Tracer};

/// Tasks that send the telemetry of a gateway; they end when this is dropped.
#[derive(Debug)]
pub struct OtlpExport {
    settings: OtlpSettings,
    channel: OtlpChannel,
    resource: OtlpResource,
    metrics: OtlpMetrics,
    receiver: ReceiverState,
    last: CancellationToken,
    tasks: Tasks,
    sending: Vec<AbortOnDropHandle<()>>,
    tap: Option<OpenTap>,
}

impl OtlpExport {
    /// Starts sending the spans of a gateway and the events of `tap`, and makes the tracer that spans come from. Must be called on the
    /// runtime that is to send them.
    ///
    /// # Errors
    /// When the receiver's address cannot be used.
    pub fn start(
        settings: &OtlpSettings,
        gateway: &GatewayId,
        tasks: &Tasks,
        metrics: OtlpMetrics,
        tap: &LogTap,
    ) -> Result<(Tracer, Self), OtlpStartError> {
        let mut export = Self {
            settings: settings.clone(),
            channel: OtlpChannel::new(settings)?,
            resource: OtlpResource::of(gateway),
            metrics,
            receiver: ReceiverState::new(settings),
            last: CancellationToken::new(),
            tasks: tasks.clone(),
            sending: Vec::new(),
            tap: None,
        };
        let tracer = export.send_traces();
        export.send_logs(tap);
        Ok((tracer, export))
    }

    fn send_traces(&mut self) -> Tracer {
        if !self.settings.sends(OtlpSignal::Traces) {
            return Tracer::default();
        }
        let (queue, sender) =
            BatchSender::<SpanData>::new(self.delivery(), self.resource.clone(), self.last.clone());
        self.keep("traces", sender.run());
        let OtlpResource(resource) = self.resource.clone();
        Tracer::of(queue, resource)
    }

    fn send_logs(&mut self, tap: &LogTap) {
        if self.settings.sends(OtlpSignal::Logs) {
            let (queue, sender) =
                BatchSender::<LogRecord>::new(self.delivery(), self.resource.clone(), self.last.clone());
            self.keep("log over OTLP", sender.run());
            self.tap = Some(tap.open(queue));
        }
    }

    /// Starts sending the metrics of a text, if they are to be sent.
    pub fn send_metrics(&mut self, text: MetricsText) {
        if self.settings.sends(OtlpSignal::Metrics) {
            let sender = MetricsSender {
                delivery: self.delivery(),
                resource: self.resource.clone(),
                text,
                interval: self.settings.metrics_interval,
                last: self.last.clone(),
            };
            self.keep("metrics over OTLP", sender.run());
        }
    }

    fn delivery(&self) -> OtlpDelivery {
        OtlpDelivery::new(
            self.channel.clone(),
            self.metrics.clone(),
            self.receiver.clone(),
            self.last.clone(),
        )
    }

    fn keep(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let sending = tokio::spawn(self.tasks.keep(name, task));
        self.sending.push(AbortOnDropHandle::new(sending));
    }

    /// Check of the receiver, by what became of the latest messages.
    pub fn check(&self) -> impl Fn() -> Check + Send + Sync + use<> {
        let (receiver, signals) = (self.receiver.clone(), self.settings.signals.clone());
        move || receiver.check(&signals)
    }

    /// Sends what waits, and the metrics once more, if the receiver takes it soon, and ends.
    pub async fn close(mut self) {
        // What is logged from here on is not sent.
        self.tap = None;
        self.last.cancel();
        let ended = async {
            for sending in std::mem::take(&mut self.sending) {
                // One that panicked has been told of.
                let _ = sending.await;
            }
        };
        // They have a limit of their own, which is shorter.
        let _ = timeout(Duration::from_secs(1), ended).await;
    }
}
