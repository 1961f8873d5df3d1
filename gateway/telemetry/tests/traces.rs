//! Traces whose receiver hangs or is gone: what is lost is counted, and nothing waits for it.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests too")]

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, ZoneName};
use causeway_host::tasks::Tasks;
use causeway_telemetry::{
    MetricsRegistry, OtlpProtocol, OtlpSettings, SpanExport, Status, TraceMetrics, Tracer,
};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

struct Exporting {
    registry: MetricsRegistry,
    tracer: Tracer,
    export: SpanExport,
}

impl Exporting {
    fn to(port: u16, protocol: OtlpProtocol) -> Self {
        let mut registry = MetricsRegistry::default();
        let metrics = TraceMetrics::new(&mut registry);
        let endpoint = format!("http://127.0.0.1:{port}");
        let settings = OtlpSettings::new(&endpoint, protocol, |_| None).unwrap();
        let gateway = GatewayId::new(ZoneName::new("east").unwrap(), "gw1".parse().unwrap());
        let (tracer, export) = SpanExport::start(&settings, &gateway, &Tasks::default(), metrics).unwrap();
        Self {
            registry,
            tracer,
            export,
        }
    }

    fn end_spans(&self, count: usize) {
        for _ in 0..count {
            drop(self.tracer.serve("egress", None));
        }
    }

    /// Spans that were dropped for this reason.
    fn dropped(&self, reason: &str) -> u64 {
        let mut text = String::new();
        self.registry.encode(&mut text).unwrap();
        let line = format!("causeway_telemetry_dropped_total{{reason=\"{reason}\"}} ");
        let count = text.lines().find_map(|text| text.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
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
    let lost = async {
        while exporting.dropped("failed") < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lost).await.unwrap();
    let warned = async {
        while check().status != Status::Warn {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, warned).await.unwrap();
    let told = check();
    assert!(
        told.message.contains(&format!("127.0.0.1:{port} did not take")),
        "{told:?}"
    );
}
