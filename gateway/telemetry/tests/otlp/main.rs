//! Telemetry sent to a receiver that takes it, and to one that hangs or is gone: what is lost is counted, and nothing waits for it.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

mod receiver;

use std::{
    net::TcpListener,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, ZoneName};
use causeway_host::tasks::Tasks;
use causeway_telemetry::{
    LogTap, MetricsRegistry, OtlpChoice, OtlpExport, OtlpMetrics, OtlpProtocol, OtlpSettings, OtlpSignal,
    Status, Tracer,
};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::metric::Data,
    resource::v1::Resource,
};
use tracing_subscriber::layer::SubscriberExt as _;

use receiver::{PATIENCE, Receiver};

const PROTOCOLS: [OtlpProtocol; 2] = [OtlpProtocol::Grpc, OtlpProtocol::Http];

struct Exporting {
    registry: Arc<MetricsRegistry>,
    tracer: Tracer,
    tap: LogTap,
    export: OtlpExport,
}

impl Exporting {
    fn to(port: u16, protocol: OtlpProtocol) -> Self {
        Self::choosing(&format!("http://127.0.0.1:{port}"), protocol, None)
    }

    /// With metrics every second.
    fn choosing(endpoint: &str, protocol: OtlpProtocol, ca: Option<PathBuf>) -> Self {
        let choice = OtlpChoice {
            endpoint,
            protocol,
            signals: OtlpSignal::ALL.to_vec(),
            ca,
            metrics_interval: Duration::from_secs(1),
        };
        let variable = |name: &str| {
            (name == "OTEL_EXPORTER_OTLP_HEADERS").then(|| "authorization=Bearer%20word".to_owned())
        };
        let settings = OtlpSettings::new(choice, variable).unwrap();
        let mut registry = MetricsRegistry::default();
        let metrics = OtlpMetrics::new(&mut registry);
        registry.counter("things", "Things").inc_by(7);
        let registry = Arc::new(registry);
        let gateway = GatewayId::new(ZoneName::new("east").unwrap(), "gw1".parse().unwrap());
        let tap = LogTap::default();
        let started = OtlpExport::start(&settings, &gateway, &Tasks::default(), metrics, &tap);
        let (tracer, export) = started.unwrap();
        Self {
            registry,
            tracer,
            tap,
            export,
        }
    }

    /// Sends metrics too.
    fn with_metrics(mut self) -> Self {
        let registry = self.registry.clone();
        self.export.send_metrics(Arc::new(move || {
            let mut text = String::new();
            registry.encode(&mut text).unwrap();
            text
        }));
        self
    }

    fn end_spans(&self, count: usize) {
        for _ in 0..count {
            drop(self.tracer.serve("egress", None));
        }
    }

    fn log(&self, word: &str) {
        let subscriber = tracing_subscriber::registry().with(self.tap.clone());
        tracing::subscriber::with_default(subscriber, || tracing::warn!(word, "said"));
    }

    /// Spans that were dropped for this reason.
    fn dropped(&self, reason: &str) -> u64 {
        self.dropped_of("traces", reason)
    }

    fn dropped_of(&self, signal: &str, reason: &str) -> u64 {
        let mut text = String::new();
        self.registry.encode(&mut text).unwrap();
        let line = format!("causeway_telemetry_dropped_total{{signal=\"{signal}\",reason=\"{reason}\"}} ");
        let count = text.lines().find_map(|text| text.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waited = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waited).await;
        assert!(waited.is_ok(), "{what}: {:?}", self.export.check()());
    }
}

fn texts(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    attributes
        .iter()
        .filter_map(|pair| match pair.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some((pair.key.as_str(), text.as_str())),
            _ => None,
        })
        .collect()
}

fn assert_is_the_gateway(resource: Option<&Resource>) {
    let texts = texts(&resource.unwrap().attributes);
    for pair in [
        ("service.name", "causeway"),
        ("service.instance.id", "east/gw1"),
        ("causeway.zone", "east"),
    ] {
        assert!(texts.contains(&pair), "{texts:?}");
    }
}

/// Sends some of everything, and looks at what has come.
async fn assert_takes_all(exporting: &Exporting, receiver: &Receiver) {
    exporting.end_spans(3);
    exporting.log("hello");
    let all = "some of everything";
    receiver
        .until(all, |received| {
            !received.traces.is_empty() && !received.metrics.is_empty() && !received.logs.is_empty()
        })
        .await;
    let received = receiver.received.lock();
    let spans = &received.traces[0].resource_spans[0];
    assert_is_the_gateway(spans.resource.as_ref());
    assert_eq!(spans.scope_spans[0].spans.len(), 3);
    let metrics = &received.metrics[0].resource_metrics[0];
    assert_is_the_gateway(metrics.resource.as_ref());
    let things = metrics.scope_metrics[0].metrics.iter();
    let mut things = things.filter(|metric| metric.name == "causeway_things_total");
    let Some(Data::Sum(sum)) = &things.next().unwrap().data else {
        panic!("{metrics:?}");
    };
    let point = &sum.data_points[0];
    assert!(point.start_time_unix_nano > 0 && point.time_unix_nano > point.start_time_unix_nano);
    let logs = &received.logs[0].resource_logs[0];
    assert_is_the_gateway(logs.resource.as_ref());
    let record = &logs.scope_logs[0].log_records[0];
    assert!(
        texts(&record.attributes).contains(&("word", "hello")),
        "{record:?}"
    );
    assert!(received.tokens.len() >= 3);
    assert!(received.tokens.iter().all(|token| token == "Bearer word"));
}

#[tokio::test]
async fn a_receiver_gets_traces_metrics_and_the_log_by_either_protocol() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start(false).await;
        let exporting = Exporting::to(receiver.port, protocol).with_metrics();
        assert_takes_all(&exporting, &receiver).await;
        exporting
            .until("all is well", |exporting| {
                exporting.export.check()().status == Status::Ok
            })
            .await;
        let message = exporting.export.check()().message;
        assert!(message.ends_with("go traces, metrics, logs"), "{message}");
    }
}

#[tokio::test]
async fn a_receiver_with_tls_is_believed_by_the_file_that_names_it_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    for protocol in PROTOCOLS {
        let receiver = Receiver::start(true).await;
        let endpoint = format!("https://localhost:{}", receiver.port);
        let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(&path, other.cert.pem()).unwrap();
        let exporting = Exporting::choosing(&endpoint, protocol, Some(path.clone()));
        exporting.end_spans(2);
        exporting
            .until("nobody is believed", |exporting| exporting.dropped("failed") == 2)
            .await;
        let message = exporting.export.check()().message;
        assert!(message.contains("certificate"), "{message}");
        assert!(receiver.received.lock().traces.is_empty());
        std::fs::write(&path, receiver.certificate.as_ref().unwrap()).unwrap();
        let exporting = Exporting::choosing(&endpoint, protocol, Some(path.clone())).with_metrics();
        assert_takes_all(&exporting, &receiver).await;
    }
}

#[tokio::test]
async fn what_a_receiver_would_not_have_of_a_message_is_counted() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start(false).await;
        receiver.received.lock().rejects = 1;
        let exporting = Exporting::to(receiver.port, protocol).with_metrics();
        let is_counted = |exporting: &Exporting| exporting.dropped_of("metrics", "rejected") > 0;
        exporting.until("it is counted", is_counted).await;
        exporting
            .until("it is told", |exporting| {
                exporting.export.check()().status == Status::Warn
            })
            .await;
        let message = exporting.export.check()().message;
        assert!(
            message.contains("latest metrics") && message.contains("too old"),
            "{message}"
        );
        assert_eq!(exporting.dropped_of("metrics", "failed"), 0);
    }
}

#[tokio::test]
async fn the_end_of_a_gateway_sends_what_waits_and_the_metrics_once_more() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start(false).await;
        let exporting = Exporting::to(receiver.port, protocol).with_metrics();
        exporting.end_spans(5);
        exporting.log("last");
        exporting.export.close().await;
        let received = receiver.received.lock();
        let spans: usize = received
            .traces
            .iter()
            .map(|message| message.resource_spans[0].scope_spans[0].spans.len())
            .sum();
        assert_eq!((spans, received.metrics.len(), received.logs.len()), (5, 1, 1));
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_spans_and_less_than_a_second_at_the_end() {
    // Connections are taken by the kernel, and nobody answers.
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let exporting = Exporting::to(receiver.local_addr().unwrap().port(), protocol);
        exporting.end_spans(5000);
        assert_eq!(exporting.dropped("queue_full"), 5000 - 2048);
        let begun = Instant::now();
        let Exporting {
            registry,
            tracer,
            export,
            ..
        } = exporting;
        export.close().await;
        let took = begun.elapsed();
        assert!(took < Duration::from_millis(1300), "{took:?}");
        drop((registry, tracer));
    }
}

#[tokio::test]
async fn spans_that_nobody_takes_are_counted_and_warned_of() {
    let port = {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        gone.local_addr().unwrap().port()
    };
    let exporting = Exporting::to(port, OtlpProtocol::Grpc);
    let check = exporting.export.check();
    assert_eq!(check().status, Status::Ok);
    exporting.end_spans(3);
    exporting
        .until("they are counted", |exporting| exporting.dropped("failed") == 3)
        .await;
    exporting
        .until("it is told", |_| check().status == Status::Warn)
        .await;
    let told = check();
    assert!(
        told.message.contains(&format!("127.0.0.1:{port} did not take")),
        "{told:?}"
    );
}
