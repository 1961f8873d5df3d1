//! Tests of metrics as OTLP has them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge,
        histogram::Histogram, info::Info,
    },
    registry::{Registry, Unit},
};

use super::*;

const TIMES: ReadingTimes = ReadingTimes { start: 10, now: 20 };

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTwo {
    one: &'static str,
    other: String,
}

fn labels_of(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    attributes
        .iter()
        .map(|pair| match &pair.value.as_ref().unwrap().value {
            Some(any_value::Value::StringValue(text)) => (pair.key.as_str(), text.as_str()),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn metrics_of(registry: &Registry) -> Vec<Metric> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let parts = parts(&text, TIMES, usize::MAX);
    assert!(parts.len() <= 1, "{parts:?}");
    parts.into_iter().flat_map(|part| part.metrics).collect()
}

#[test]
fn a_counter_is_a_sum_since_the_start_with_the_name_and_labels_that_it_has() {
    let mut registry = Registry::with_prefix("causeway");
    let family = Family::<ByTwo, Counter>::default();
    let odd = "a\"b\\c\nd,e=\"{} # 1";
    let labels = ByTwo {
        one: "x",
        other: odd.to_owned(),
    };
    family.get_or_create(&labels).inc_by(7);
    registry.register("things", "Things of a kind", family);
    registry.register_with_unit("sent", "Sent", Unit::Bytes, Counter::<u64>::default());
    let [things, sent] = metrics_of(&registry).try_into().unwrap();
    assert_eq!(
        (
            things.name.as_str(),
            things.description.as_str(),
            things.unit.as_str()
        ),
        ("causeway_things_total", "Things of a kind.", "")
    );
    let Some(Data::Sum(sum)) = things.data else {
        panic!("{:?}", things.data);
    };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
    let [point] = sum.data_points.try_into().unwrap();
    assert_eq!(labels_of(&point.attributes), [("one", "x"), ("other", odd)]);
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (10, 20));
    assert_eq!(point.value, Some(Value::AsInt(7)));
    assert_eq!(
        (sent.name.as_str(), sent.unit.as_str()),
        ("causeway_sent_bytes_total", "By")
    );
}

#[test]
fn numbers_of_now_are_gauges_and_an_info_is_one() {
    let mut registry = Registry::default();
    let whole = Gauge::<i64>::default();
    whole.set(-3);
    registry.register("whole", "Whole", whole);
    let part = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
    part.set(2.5);
    registry.register_with_unit("part", "Part", Unit::Seconds, part);
    let build = ByTwo {
        one: "0.1.0",
        other: String::new(),
    };
    registry.register("build", "Build", Info::new(build));
    let read: Vec<_> = metrics_of(&registry)
        .into_iter()
        .map(|metric| {
            let Some(Data::Gauge(gauge)) = metric.data else {
                panic!("{:?}", metric.data);
            };
            let [point] = gauge.data_points.try_into().unwrap();
            assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (0, 20));
            let labels = point.attributes.len();
            (metric.name, metric.unit, labels, point.value.unwrap())
        })
        .collect();
    assert_eq!(
        read,
        [
            ("whole".to_owned(), String::new(), 0, Value::AsInt(-3)),
            ("part_seconds".to_owned(), "s".to_owned(), 0, Value::AsDouble(2.5)),
            ("build_info".to_owned(), String::new(), 2, Value::AsInt(1)),
        ]
    );
}

#[test]
fn a_histogram_has_bounds_counts_of_their_own_and_the_traces_of_its_buckets() {
    let mut registry = Registry::default();
    let histogram = HistogramWithExemplars::<[(&'static str, String); 1]>::new([0.1, 1.0].into_iter());
    let trace = "0af7651916cd43dd8448eb211c80319c";
    histogram.observe(0.05, None, None);
    histogram.observe(0.5, Some([("trace_id", trace.to_owned())]), None);
    histogram.observe(0.75, None, None);
    histogram.observe(5.0, None, None);
    registry.register_with_unit("took", "Took", Unit::Seconds, histogram);
    let family =
        Family::<ByTwo, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new([1.0]));
    family.get_or_create(&ByTwo::default()).observe(2.0);
    let other = ByTwo {
        one: "x",
        ..ByTwo::default()
    };
    family.get_or_create(&other).observe(0.5);
    registry.register("waited", "Waited", family);
    let [took, waited] = metrics_of(&registry).try_into().unwrap();
    let points = |metric: Metric| match metric.data {
        Some(Data::Histogram(histogram)) => histogram.data_points,
        other => panic!("{other:?}"),
    };
    assert_eq!((took.name.as_str(), took.unit.as_str()), ("took_seconds", "s"));
    let [point] = points(took).try_into().unwrap();
    assert_eq!((point.count, point.sum), (4, Some(6.3)));
    assert_eq!(point.explicit_bounds, [0.1, 1.0]);
    assert_eq!(point.bucket_counts, [1, 2, 1]);
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (10, 20));
    let [example] = point.exemplars.try_into().unwrap();
    let id = u128::from_str_radix(trace, 16).unwrap();
    assert_eq!(example.trace_id, id.to_be_bytes());
    assert_eq!(example.value, Some(exemplar::Value::AsDouble(0.5)));
    assert_eq!(example.time_unix_nano, 20);
    let waited = points(waited);
    assert_eq!(waited.len(), 2);
    for point in waited {
        let counts: &[u64] = match labels_of(&point.attributes)[0].1 {
            "x" => &[1, 0],
            _ => &[0, 1],
        };
        assert_eq!((point.count, &*point.bucket_counts), (1, counts));
    }
}

#[test]
fn what_is_too_much_for_one_message_goes_in_several_and_nothing_is_lost() {
    let mut text = String::from("# HELP a A.\n# TYPE a counter\n");
    for n in 0..100 {
        text += &format!("a_total{{n=\"{n}\"}} {n}\n");
    }
    text += "# HELP b B.\n# TYPE b gauge\nb 1\n# HELP c C.\n# TYPE c histogram\nc_sum 1.0\nc_count 1\nc_bucket{le=\"+Inf\"} 1\n# EOF\n";
    let whole = parts(&text, TIMES, usize::MAX);
    assert_eq!((whole.len(), whole[0].values), (1, 102));
    let split = parts(&text, TIMES, 500);
    assert!(split.len() > 5, "{}", split.len());
    for part in &split {
        let bytes: usize = part.metrics.iter().map(Message::encoded_len).sum();
        assert!(bytes < 600, "{bytes}");
    }
    assert_eq!(split.iter().map(|part| part.values).sum::<u64>(), 102);
    let counted = split
        .iter()
        .flat_map(|part| &part.metrics)
        .filter_map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => Some(sum.data_points.len()),
            _ => None,
        });
    assert_eq!(counted.sum::<usize>(), 100);
    assert_eq!(parts("", TIMES, 500), []);
}

#[test]
fn what_is_no_such_text_is_passed_over() {
    let text = "a 1\n# HELP\n# HELP a A\n# TYPE\n\n{\na{\na{x\na{x=\"\na{x=\"1\"\na{x=\"\\\n a\na\na x\na_total{} 3\n# TYPE a histogram\na_count 3\na_bucket 3\na_sum\n";
    let read = parts(text, TIMES, 500);
    let values: u64 = read.iter().map(|part| part.values).sum();
    assert!(values <= 3, "{read:?}");
}
