//! Metrics as OTLP has them, made of the text that `/metrics` shows: there is one list of metrics, and one walk over it. Pure.
//!
//! Names and labels stay what they are; what Prometheus makes of the one and the other is the same series. Lines that are of no such text are
//! passed over.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum,
        exemplar, metric::Data, number_data_point::Value,
    },
};
use prost::Message;

/// Times that values have, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadingTimes {
    /// Since when counters count.
    pub(super) start: u64,
    pub(super) now: u64,
}

/// Metric with all its values.
#[derive(Debug, Default)]
struct ReadFamily {
    name: String,
    help: String,
    unit: &'static str,
    values: ReadValues,
}

#[derive(Debug)]
enum ReadValues {
    Counter(Vec<NumberDataPoint>),
    /// And whatever else is a number of now: an info is 1.
    Gauge(Vec<NumberDataPoint>),
    Histogram(Vec<HistogramDataPoint>),
}

impl Default for ReadValues {
    fn default() -> Self {
        Self::Gauge(Vec::new())
    }
}

/// Part of the metrics, for one message.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MetricsPart {
    pub(super) metrics: Vec<Metric>,
    /// Values in it.
    pub(super) values: u64,
}

/// Makes messages of the text, of which none is larger than so many bytes by more than one value.
pub(super) fn parts(text: &str, times: ReadingTimes, max_bytes: usize) -> Vec<MetricsPart> {
    let mut packer = MetricsPacker {
        max_bytes,
        room: max_bytes,
        parts: Vec::new(),
    };
    for family in read(text, times) {
        packer.pack(family);
    }
    packer.parts
}

struct MetricsPacker {
    max_bytes: usize,
    /// Bytes that the last part may still have.
    room: usize,
    parts: Vec<MetricsPart>,
}

impl MetricsPacker {
    fn pack(&mut self, family: ReadFamily) {
        let ReadFamily {
            name,
            help,
            unit,
            values,
        } = family;
        let of = |data| Metric {
            name: name.clone(),
            description: help.clone(),
            unit: unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data),
        };
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        match values {
            ReadValues::Counter(points) => self.split(points, |data_points| {
                of(Data::Sum(Sum {
                    data_points,
                    aggregation_temporality,
                    is_monotonic: true,
                }))
            }),
            ReadValues::Gauge(points) => {
                self.split(points, |data_points| of(Data::Gauge(Gauge { data_points })));
            }
            ReadValues::Histogram(points) => self.split(points, |data_points| {
                of(Data::Histogram(Histogram {
                    data_points,
                    aggregation_temporality,
                }))
            }),
        }
    }

    /// Adds values to the last part as long as there is room, and the rest to further ones.
    fn split<P: Message>(&mut self, points: Vec<P>, metric: impl Fn(Vec<P>) -> Metric) {
        let mut points = points.into_iter().peekable();
        while points.peek().is_some() {
            if self.room == 0 || self.parts.is_empty() {
                self.parts.push(MetricsPart::default());
                self.room = self.max_bytes;
            }
            let mut taken = Vec::new();
            self.room = self.room.saturating_sub(metric(Vec::new()).encoded_len());
            for point in points.by_ref() {
                // With the tags and lengths around it.
                self.room = self.room.saturating_sub(point.encoded_len() + 8);
                taken.push(point);
                if self.room == 0 {
                    break;
                }
            }
            if let Some(part) = self.parts.last_mut() {
                part.values += taken.len() as u64;
                part.metrics.push(metric(taken));
            }
        }
    }
}

fn read(text: &str, times: ReadingTimes) -> Vec<ReadFamily> {
    let mut families: Vec<ReadFamily> = Vec::new();
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            let (name, help) = told.split_once(' ').unwrap_or((told, ""));
            families.push(ReadFamily {
                name: name.to_owned(),
                help: help.to_owned(),
                ..ReadFamily::default()
            });
            continue;
        }
        let Some(family) = families.last_mut() else {
            continue;
        };
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let kind = told.rsplit(' ').next().unwrap_or_default();
            match kind {
                "counter" => {
                    family.name.push_str("_total");
                    family.values = ReadValues::Counter(Vec::new());
                }
                "histogram" => family.values = ReadValues::Histogram(Vec::new()),
                "info" => family.name.push_str("_info"),
                _ => {}
            }
        } else if let Some(told) = line.strip_prefix("# UNIT ") {
            family.unit = unit(told.rsplit(' ').next().unwrap_or_default());
        } else if let Some(sample) = MetricSample::read(line) {
            family.add(sample, times);
        }
    }
    families
}

/// Symbol of a unit (UCUM); what has none goes without.
fn unit(word: &str) -> &'static str {
    match word {
        "seconds" => "s",
        "bytes" => "By",
        "ratios" => "1",
        _ => "",
    }
}

impl ReadFamily {
    fn add(&mut self, sample: MetricSample<'_>, times: ReadingTimes) {
        let ReadingTimes { start, now } = times;
        match &mut self.values {
            ReadValues::Histogram(points) => {
                let suffix = sample.name.strip_prefix(self.name.as_str()).unwrap_or_default();
                add_to_histogram(points, suffix, sample, times);
            }
            ReadValues::Counter(points) => points.push(NumberDataPoint {
                exemplars: sample.exemplar(now).into_iter().collect(),
                start_time_unix_nano: start,
                ..sample.number(now)
            }),
            ReadValues::Gauge(points) => points.push(sample.number(now)),
        }
    }
}

/// Adds a line of a histogram: its sum begins one, and its count and buckets follow.
fn add_to_histogram(
    points: &mut Vec<HistogramDataPoint>,
    suffix: &str,
    sample: MetricSample<'_>,
    times: ReadingTimes,
) {
    let ReadingTimes { start, now } = times;
    if suffix == "_sum" {
        points.push(HistogramDataPoint {
            attributes: sample.attributes(),
            start_time_unix_nano: start,
            time_unix_nano: now,
            sum: sample.value.parse().ok(),
            ..HistogramDataPoint::default()
        });
        return;
    }
    let (Some(point), Ok(count)) = (points.last_mut(), sample.value.parse::<u64>()) else {
        return;
    };
    match suffix {
        "_count" => point.count = count,
        "_bucket" => {
            let bound = sample.labels.iter().find(|(name, _)| *name == "le");
            let bound = bound.and_then(|(_, bound)| bound.parse::<f64>().ok());
            // Those of the text have in them what those before have; the last bound, which is infinite, goes without saying.
            let below: u64 = point.bucket_counts.iter().sum();
            point.bucket_counts.push(count.saturating_sub(below));
            point
                .explicit_bounds
                .extend(bound.filter(|bound| bound.is_finite()));
            point.exemplars.extend(sample.exemplar(now));
        }
        _ => {}
    }
}

/// Line with a value.
#[derive(Debug, PartialEq)]
struct MetricSample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
    /// Labels, value, and what may follow.
    example: Option<(Vec<(&'a str, String)>, &'a str)>,
}

impl<'a> MetricSample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let name_end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = read_labels(rest)?;
        let rest = rest.strip_prefix(' ')?;
        let (value, example) = match rest.split_once(" # ") {
            Some((value, example)) => (value, read_labels(example)),
            None => (rest, None),
        };
        let value = value.split(' ').next()?;
        (!name.is_empty() && !name.starts_with('#')).then_some(Self {
            name,
            labels,
            value,
            example,
        })
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let labels = self.labels.iter().filter(|(name, _)| *name != "le");
        labels.map(|(name, value)| attribute(name, value)).collect()
    }

    fn number(&self, now: u64) -> NumberDataPoint {
        let whole = self.value.parse().ok().map(Value::AsInt);
        NumberDataPoint {
            attributes: self.attributes(),
            time_unix_nano: now,
            value: whole.or_else(|| self.value.parse().ok().map(Value::AsDouble)),
            ..NumberDataPoint::default()
        }
    }

    /// Trace that the value is an example of.
    fn exemplar(&self, now: u64) -> Option<Exemplar> {
        let (labels, rest) = self.example.as_ref()?;
        let (_, trace) = labels.iter().find(|(name, _)| *name == "trace_id")?;
        let mut words = rest.split_whitespace();
        let value = words.next()?.parse().ok()?;
        let at = words.next().and_then(|seconds| seconds.parse::<f64>().ok());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what is out of range becomes the nearest that is not"
        )]
        let at = at.map(|seconds| (seconds * 1e9) as u64);
        Some(Exemplar {
            time_unix_nano: at.unwrap_or(now),
            trace_id: u128::from_str_radix(trace, 16).ok()?.to_be_bytes().to_vec(),
            value: Some(exemplar::Value::AsDouble(value)),
            ..Exemplar::default()
        })
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = any_value::Value::StringValue(value.to_owned());
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Labels, and what stands behind them. Text without any has none.
fn read_labels(text: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return Some((labels, text));
    };
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

/// Text up to the next quote that ends it, without the backslashes before what would have ended it, and what stands behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
#[path = "exposition_tests.rs"]
mod tests;
