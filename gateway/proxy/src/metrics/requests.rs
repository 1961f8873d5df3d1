//! Metrics of requests, at the gateway that the client connected to: where they went, and what their clients got.

use causeway_telemetry::{AccessRecord, MetricsRegistry, Series, ServiceLabels, TraceLabel, TracedHistogram};
use prometheus_client::metrics::{counter::Counter, histogram::exponential_buckets};

use super::labels::{ByRequest, ByService};

/// Buckets for times between 0.5 ms and 65 s.
fn times() -> TracedHistogram {
    TracedHistogram::new(exponential_buckets(0.0005, 2.0, 18))
}

/// The metrics of requests.
#[derive(Debug)]
pub(super) struct RequestMetrics {
    requests: Series<ByRequest, Counter>,
    attempts: Series<ByService, Counter>,
    first_byte: Series<ByService, TracedHistogram>,
    duration: Series<ByService, TracedHistogram>,
}

impl RequestMetrics {
    pub(super) fn new(registry: &mut MetricsRegistry) -> Self {
        Self {
            requests: registry.named_counters(
                "requests",
                "Requests that ended, by the zone and arm that they were given to, and by what their clients got",
            ),
            attempts: registry.named_counters(
                "request_attempts",
                "Candidates that were asked for requests that ended",
            ),
            first_byte: registry.named_histograms_of_traces(
                "request_first_byte",
                "From a request's arrival to the head of its answer",
                times,
            ),
            duration: registry.named_histograms_of_traces(
                "request_duration",
                "From a request's arrival to the end of its answer",
                times,
            ),
        }
    }

    /// A request ended.
    pub(super) fn ended(&self, names: &ServiceLabels, record: &AccessRecord) {
        let Some(request) = &record.request else { return };
        let service = names.label(record.service.as_str());
        let labels = ByRequest {
            service: service.clone(),
            zone: names.zone(record.to_zone.as_ref()),
            arm: names.arm(record.service.as_str(), &record.tags),
            outcome: record.outcome.word(),
            status: request.class(),
            grpc_status: request.grpc_word(),
        };
        self.requests.get_or_create(&labels).inc();
        let labels = ByService { service };
        self.attempts
            .get_or_create(&labels)
            .inc_by(u64::from(record.attempts));
        if let Some(first_byte) = request.first_byte {
            self.first_byte.get_or_create(&labels).observe(
                first_byte.as_secs_f64(),
                TraceLabel::of(record.trace_id),
                None,
            );
        }
        // What became another protocol lasts for as long as both sides like.
        if request.class() != "1xx" {
            self.duration.get_or_create(&labels).observe(
                record.duration.as_secs_f64(),
                TraceLabel::of(record.trace_id),
                None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_federation::name::{ServiceName, ZoneName};
    use causeway_telemetry::{ConnectionId, ConnectionOutcome, RequestFacts, Role, TraceId};

    use super::*;

    fn record(zone: &str, version: &str) -> AccessRecord {
        let name = |zone: &str| ZoneName::new(zone).unwrap();
        AccessRecord {
            role: Role::Egress,
            service: ServiceName::new("orders").unwrap(),
            port: None,
            tags: [("version", version)].into_iter().collect(),
            client: None,
            from_zone: name("east"),
            to_zone: Some(name(zone)),
            peer: None,
            instance: None,
            outcome: ConnectionOutcome::Served,
            attempts: 2,
            ready_after: None,
            duration: Duration::from_millis(3),
            bytes_up: 0,
            bytes_down: 0,
            caller: None,
            rule: None,
            route: None,
            panic: false,
            request: Some(RequestFacts {
                status: Some(503),
                first_byte: Some(Duration::from_millis(2)),
                ..RequestFacts::default()
            }),
            trace_id: None,
            connection: ConnectionId::new(1),
        }
    }

    #[test]
    fn the_time_of_a_request_names_its_trace_if_that_is_recorded() {
        let mut registry = MetricsRegistry::default();
        let metrics = RequestMetrics::new(&mut registry);
        follow(&registry, "{ east: { gateways: [] } }", "v1");
        for (id, is_sampled) in [(7, true), (8, false)] {
            let traced = AccessRecord {
                trace_id: Some(TraceId::new(id, is_sampled)),
                ..record("east", "v1")
            };
            metrics.ended(registry.services(), &traced);
        }
        let mut text = String::new();
        registry.encode(&mut text).unwrap();
        for name in ["request_first_byte", "request_duration"] {
            let exemplars: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with(&format!("causeway_{name}_seconds_bucket")))
                .filter_map(|line| line.split_once(" # "))
                .collect();
            let [(_, exemplar)] = exemplars[..] else {
                panic!("{exemplars:?}");
            };
            assert!(
                exemplar.starts_with("{trace_id=\"00000000000000000000000000000007\"} 0.00"),
                "{exemplar}"
            );
        }
    }

    fn follow(registry: &MetricsRegistry, zones: &str, version: &str) {
        let text = format!(
            "version: 1\ntrust_domain: a.b\nzones: {zones}\nservices: {{ orders: {{ port: 80, split: [{{ tags: {{ version: {version} }} }}] }} }}\n"
        );
        let parsed = causeway_federation::topology::parse(&text, "test.yaml").unwrap();
        registry.services().follow(&parsed.topology);
    }

    #[test]
    fn requests_are_counted_by_place_and_status_and_series_of_what_is_gone_are_dropped() {
        let mut registry = MetricsRegistry::default();
        let metrics = RequestMetrics::new(&mut registry);
        follow(
            &registry,
            "{ east: { gateways: [] }, west: { gateways: [] } }",
            "v1",
        );
        for (zone, version) in [
            ("east", "v1"),
            ("west", "v1"),
            ("west", "made-up"),
            ("west", "up"),
        ] {
            metrics.ended(registry.services(), &record(zone, version));
        }
        let text = || {
            let mut text = String::new();
            registry.encode(&mut text).unwrap();
            text
        };
        let line = |zone: &str, arm: &str, count: u32| {
            format!(
                "causeway_requests_total{{service=\"orders\",zone=\"{zone}\",arm=\"{arm}\",outcome=\"served\",status=\"5xx\",grpc_status=\"\"}} {count}\n"
            )
        };
        let before = text();
        for line in [
            line("east", "version=v1", 1),
            line("west", "version=v1", 1),
            line("west", "other", 2),
            "causeway_request_attempts_total{service=\"orders\"} 8\n".to_owned(),
            "causeway_request_first_byte_seconds_count{service=\"orders\"} 4\n".to_owned(),
            "causeway_request_duration_seconds_count{service=\"orders\"} 4\n".to_owned(),
        ] {
            assert!(before.contains(&line), "{line} is not in\n{before}");
        }
        follow(&registry, "{ east: { gateways: [] } }", "v1");
        let after = text();
        assert!(after.contains(&line("east", "version=v1", 1)), "{after}");
        assert!(!after.contains("zone=\"west\""), "{after}");
        follow(&registry, "{ east: { gateways: [] } }", "v2");
        let after = text();
        assert!(!after.contains("version=v1"), "{after}");
    }
}
