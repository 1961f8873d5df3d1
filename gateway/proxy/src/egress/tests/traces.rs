//! One connection through two zones is one trace, and its lines in both logs name it.

use std::{sync::Arc, time::Duration};

use causeway_host::tasks::Tasks;
use causeway_routing::snapshot::Instance;
use causeway_telemetry::{AccessLog, LineWriter, RecordedSpan, SpanRecorder};
use parking_lot::Mutex;

use super::{one_id::Written, topology};
use crate::{
    egress::EgressConfig,
    testbed::{self, Recorder, Zone, until},
};

/// Spans of one zone that have ended.
#[derive(Clone)]
pub(super) struct Spans {
    recorder: SpanRecorder,
    ended: Arc<Mutex<Vec<RecordedSpan>>>,
}

impl Spans {
    /// Settings of a gateway whose spans are looked at.
    pub(super) fn config() -> (EgressConfig, Self) {
        let (tracer, recorder) = SpanRecorder::start();
        let config = EgressConfig {
            tracer,
            setup_deadline: Duration::from_millis(300),
            ..EgressConfig::new(1)
        };
        let ended = Arc::default();
        (config, Self { recorder, ended })
    }

    fn look(&self, name: &str) -> Option<RecordedSpan> {
        let mut ended = self.ended.lock();
        ended.extend(self.recorder.clone().take());
        ended.iter().find(|span| span.name == name).cloned()
    }

    /// The first span of this name, once it has ended.
    pub(super) async fn ended(&self, name: &str) -> RecordedSpan {
        until(name, || self.look(name).is_some()).await;
        self.look(name).unwrap()
    }

    /// All that have ended.
    pub(super) fn all(&self) -> Vec<RecordedSpan> {
        let _ = self.look("");
        self.ended.lock().clone()
    }

    /// Number of those that have ended.
    pub(super) fn count(&self) -> usize {
        let _ = self.look("");
        self.ended.lock().len()
    }
}

fn zone(name: &str, instances: Vec<Arc<Instance>>) -> (Zone, Spans, Written) {
    let written = Written::default();
    let access =
        AccessLog::Text(LineWriter::start("access log", written.clone(), &Tasks::default()).unwrap());
    let (config, spans) = Spans::config();
    let zone = Zone::with_access_log(name, &topology(), instances, config, access);
    (zone, spans, written)
}

#[tokio::test]
async fn a_connection_through_two_zones_is_one_trace_that_both_access_logs_name() {
    let there = Recorder::start("there").await;
    let (east, at_east, logged_east) = zone("east", vec![there.instance(1, &[])]);
    let (home, at_home, logged_home) = zone("home", vec![]);
    home.join("east", east.ingress.clone()).await;
    let mut client = home.client().await;
    assert_eq!(client.greeting().await.unwrap(), "there");
    drop(client);
    let egress = at_home.ended("egress orders").await;
    let connect = at_home.ended("connect orders").await;
    let ingress = at_east.ended("ingress orders").await;
    let instance = at_east.ended("instance orders").await;
    assert_eq!((egress.parent, egress.kind), (None, "server"));
    for (span, parent, kind) in [
        (&connect, &egress.id, "client"),
        (&ingress, &connect.id, "server"),
        (&instance, &ingress.id, "client"),
    ] {
        assert_eq!(
            (span.parent.as_ref(), span.kind),
            (Some(parent), kind),
            "{span:?}"
        );
        assert_eq!(span.trace, egress.trace, "{span:?}");
    }
    assert_eq!(connect.attributes["causeway.to_zone"], "east");
    assert_eq!(connect.attributes["causeway.attempt"], "1");
    assert!(!connect.attributes["causeway.reason"].is_empty());
    assert_eq!(egress.attributes["causeway.outcome"], "served");
    assert_eq!(egress.attributes["causeway.zone"], "home");
    assert_eq!(ingress.attributes["causeway.zone"], "east");
    assert_eq!(ingress.attributes["causeway.from_zone"], "home");
    assert_eq!(
        instance.attributes["server.port"],
        there.address.port().to_string()
    );
    let told = format!(" trace_id={} ", egress.trace);
    for logged in [logged_home, logged_east] {
        until("the trace is in the log", || {
            logged.lines().iter().any(|line| line.contains(&told))
        })
        .await;
    }
}

#[tokio::test]
async fn each_candidate_that_is_asked_has_a_span_that_says_how_it_ended() {
    let dead = testbed::instance("dead", testbed::vip(), 1, &[]);
    let (east, at_east, _) = zone("east", vec![]);
    let (home, at_home, _) = zone("home", vec![dead]);
    home.join("east", east.ingress.clone()).await;
    assert!(home.client().await.greeting().await.is_err());
    let egress = at_home.ended("egress orders").await;
    assert_ne!(egress.attributes["error.type"], "served");
    let refused = at_east.ended("ingress orders").await;
    assert_eq!(refused.attributes["error.type"], "no_instance");
    assert_eq!(refused.trace, egress.trace);
    let ended = at_home.ended.lock().clone();
    let asked: Vec<_> = ended
        .iter()
        .filter(|span| span.name == "connect orders")
        .collect();
    let of = |zone: &str| {
        asked
            .iter()
            .find(|span| span.attributes["causeway.to_zone"] == zone)
    };
    assert_eq!(of("home").unwrap().attributes["error.type"], "connect_failed");
    assert_eq!(of("east").unwrap().attributes["error.type"], "no_instance");
    assert!(asked.iter().any(|span| Some(&span.id) == refused.parent.as_ref()));
    let sought = at_east.ended("instance orders").await;
    assert_eq!(sought.attributes["error.type"], "no_instance");
}
