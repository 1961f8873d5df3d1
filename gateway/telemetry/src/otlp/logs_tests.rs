//! Tests of records of the log.

use causeway_federation::name::{GatewayId, ZoneName};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _};

use super::*;
use crate::{
    MetricsRegistry, OtlpChoice, OtlpMetrics, OtlpProtocol, OtlpSettings, OtlpSignal,
    otlp::{
        batches::BatchSender,
        channel::OtlpChannel,
        delivery::{OtlpDelivery, ReceiverState},
        resource::OtlpResource,
    },
};

/// Module that sends nothing.
const TARGET: &str = "causeway_proxy";

/// Sends the events of `tell` to nobody, and gives the records that were waiting.
async fn records_of(filter: &str, tell: impl FnOnce()) -> Vec<LogRecord> {
    let choice = OtlpChoice {
        endpoint: "http://127.0.0.1:1",
        protocol: OtlpProtocol::Grpc,
        signals: OtlpSignal::ALL.to_vec(),
        ca: None,
        metrics_interval: std::time::Duration::from_secs(60),
    };
    let settings = OtlpSettings::new(choice, |_| None).unwrap();
    let metrics = OtlpMetrics::new(&mut MetricsRegistry::default());
    let last = CancellationToken::new();
    let channel = OtlpChannel::new(&settings).unwrap();
    let delivery = OtlpDelivery::new(channel, metrics, ReceiverState::new(&settings), last.clone());
    let gateway = GatewayId::new(ZoneName::new("east").unwrap(), "gw1".parse().unwrap());
    let resource = OtlpResource::of(&gateway);
    let (queue, mut sender) = BatchSender::new(delivery, resource, last.clone());
    let tap = LogTap::default();
    let subscriber = tracing_subscriber::registry()
        .with(EnvFilter::new(filter))
        .with(tap.clone());
    tracing::subscriber::with_default(subscriber, || {
        tracing::error!(target: TARGET, "before anybody listens");
        let open = tap.open(queue);
        tell();
        drop(open);
        tracing::error!(target: TARGET, "after that");
    });
    last.cancel();
    sender.collect().await.unwrap_or_default()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn attribute(record: &LogRecord, key: &str) -> String {
    let mut found = record.attributes.iter().filter(|pair| pair.key == key);
    let pair = found.next().unwrap_or_else(|| panic!("no {key} in {record:?}"));
    assert!(found.next().is_none(), "{record:?}");
    text(pair.value.as_ref())
}

#[tokio::test]
async fn an_event_is_a_record_with_its_severity_words_and_attributes() {
    let records = records_of("info", || {
        tracing::warn!(target: TARGET, zone = %"west", tries = 3_u64, big = u64::MAX, ok = true, "lost {}", "it");
        tracing::info!(target: TARGET, "well");
        tracing::debug!(target: TARGET, "too little to say");
    })
    .await;
    let [warned, well] = records.try_into().unwrap();
    assert_eq!(
        (warned.severity_number, warned.severity_text.as_str()),
        (13, "WARN")
    );
    assert_eq!(text(warned.body.as_ref()), "lost it");
    assert_eq!(attribute(&warned, "zone"), "west");
    assert_eq!(attribute(&warned, "tries"), "Some(IntValue(3))");
    assert_eq!(attribute(&warned, "big"), u64::MAX.to_string());
    assert_eq!(attribute(&warned, "ok"), "Some(BoolValue(true))");
    assert_eq!(attribute(&warned, "code.namespace"), TARGET);
    assert!(warned.time_unix_nano > 0 && warned.trace_id.is_empty() && warned.span_id.is_empty());
    assert_eq!(
        (well.severity_number, text(well.body.as_ref())),
        (9, "well".to_owned())
    );
}

#[tokio::test]
async fn a_record_names_the_trace_that_it_is_about_and_the_span_where_it_is_recorded() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let records = records_of("debug", || {
        let span = tracing::debug_span!(target: TARGET, "egress", connection = %"c0ffee", trace_id = tracing::field::Empty, span_id = tracing::field::Empty);
        let _in = span.enter();
        span.record("trace_id", tracing::field::display(trace));
        tracing::info!(target: TARGET, "of a trace that is not recorded");
        span.record("span_id", tracing::field::display("b7ad6b7169203331"));
        tracing::info!(target: TARGET, connection = 1, "of one that is");
    })
    .await;
    let [unrecorded, recorded] = records.try_into().unwrap();
    let id = u128::from_str_radix(trace, 16).unwrap().to_be_bytes();
    assert_eq!((&*unrecorded.trace_id, unrecorded.flags), (&id[..], 0));
    assert!(unrecorded.span_id.is_empty());
    assert_eq!(attribute(&unrecorded, "connection"), "c0ffee");
    assert_eq!((&*recorded.trace_id, recorded.flags), (&id[..], 1));
    assert_eq!(recorded.span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    // What the event says itself beats what is around it.
    assert_eq!(attribute(&recorded, "connection"), "Some(IntValue(1))");
}

#[tokio::test]
async fn what_sends_records_makes_none() {
    let records = records_of("trace", || {
        tracing::warn!("of this module, which is one that sends");
        tracing::warn!(target: "h2", "a frame");
        tracing::warn!(target: "hyper_util::client::legacy::pool", "a connection");
        tracing::info!(target: "h2o", "of something else");
    })
    .await;
    let [other] = records.try_into().unwrap();
    assert_eq!(attribute(&other, "code.namespace"), "h2o");
}

#[tokio::test]
async fn a_record_has_an_end() {
    let long = "\u{e4}".repeat(100_000);
    let records = records_of("info", || {
        tracing::info!(target: TARGET, long, more = %long, "{long}");
        tracing::info!(target: TARGET, more = ?vec![1_u64; 100_000]);
    })
    .await;
    for record in &records {
        let bytes = prost::Message::encoded_len(record);
        assert!((4_000..9_000).contains(&bytes), "{bytes}");
    }
    assert_eq!(records.len(), 2);
    assert!(records[0].dropped_attributes_count > 0);
}
