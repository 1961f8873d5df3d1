//! Registry that also knows what it has, so that docs/metrics.md can be made of it: the library shows a family only once it has a series.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::{Family, MetricConstructor},
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Metric, Registry, Unit},
};

use super::{
    metrics::Labels,
    series::{NamedLabels, Series},
};

/// Description of a metric, whether or not it has a series yet.
#[derive(Debug, Clone)]
pub struct MetricDescription {
    /// Its name with prefix and unit, as the line `# TYPE` has it; samples of counters end with `_total` besides.
    pub name: String,
    pub help: String,
    pub kind: MetricType,
    labels: fn() -> Vec<String>,
}

impl MetricDescription {
    /// Names of its labels, in the order that samples have them.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        (self.labels)()
    }
}

/// Metric of which the labels are known before it has a series.
pub trait LabelledMetric: Metric {
    /// Makes the names of its labels.
    fn labels() -> Vec<String> {
        Vec::new()
    }
}

impl<N: Send + Sync + fmt::Debug + 'static, A: Send + Sync + fmt::Debug + 'static> LabelledMetric
    for Counter<N, A>
where
    Self: Metric,
{
}
impl<N: Send + Sync + fmt::Debug + 'static, A: Send + Sync + fmt::Debug + 'static> LabelledMetric
    for Gauge<N, A>
where
    Self: Metric,
{
}
impl<N: 'static> LabelledMetric for ConstCounter<N> where Self: Metric {}
impl<N: 'static> LabelledMetric for ConstGauge<N> where Self: Metric {}
impl LabelledMetric for Histogram {}

impl<L: Labels, M, C: MetricConstructor<M> + 'static> LabelledMetric for Family<L, M, C>
where
    Self: Metric,
{
    fn labels() -> Vec<String> {
        names::<L>()
    }
}

impl<L: NamedLabels, M> LabelledMetric for Series<L, M>
where
    Self: Metric,
{
    fn labels() -> Vec<String> {
        names::<L>()
    }
}

impl<L: Labels> LabelledMetric for Info<L>
where
    Self: Metric,
{
    fn labels() -> Vec<String> {
        names::<L>()
    }
}

/// Reads the names of labels from a sample, because nothing else tells them.
fn names<L: Labels>() -> Vec<String> {
    let family = Family::<L, Gauge>::default();
    family.get_or_create(&L::default()).set(0);
    let mut registry = Registry::default();
    registry.register("x", "x", family);
    let mut sample = String::new();
    if text::encode_registry(&mut sample, &registry).is_err() {
        return Vec::new();
    }
    let labels = sample
        .lines()
        .find_map(|line| line.strip_prefix("x{")?.split_once('}'));
    let labels = labels.map(|(labels, _)| labels).unwrap_or_default();
    let label = |label: &str| label.split_once('=').map(|(name, _)| name.to_owned());
    labels.split(',').filter_map(label).collect()
}

/// Registry of metrics, with a description of each.
#[derive(Debug)]
pub struct DescribedRegistry {
    registry: Registry,
    prefix: Option<&'static str>,
    described: Vec<MetricDescription>,
}

impl DescribedRegistry {
    /// Makes an empty one, of which every name begins with the prefix.
    #[must_use]
    pub fn new(prefix: Option<&'static str>) -> Self {
        Self {
            registry: prefix.map_or_else(Registry::default, Registry::with_prefix),
            prefix,
            described: Vec::new(),
        }
    }

    pub fn register<M: LabelledMetric>(&mut self, name: &str, help: &str, metric: M) {
        self.describe::<M>(name, help, EncodeMetric::metric_type(&metric), None);
        self.registry.register(name, help, metric);
    }

    pub fn register_with_unit<M: LabelledMetric>(&mut self, name: &str, help: &str, unit: Unit, metric: M) {
        let kind = EncodeMetric::metric_type(&metric);
        self.describe::<M>(name, help, kind, Some(unit.as_str()));
        self.registry.register_with_unit(name, help, unit, metric);
    }

    fn describe<M: LabelledMetric>(&mut self, name: &str, help: &str, kind: MetricType, unit: Option<&str>) {
        let parts = self.prefix.into_iter().chain([name]).chain(unit);
        self.described.push(MetricDescription {
            name: parts.collect::<Vec<_>>().join("_"),
            help: help.to_owned(),
            kind,
            labels: M::labels,
        });
    }

    /// Everything that was registered, in order.
    #[must_use]
    pub fn described(&self) -> &[MetricDescription] {
        &self.described
    }

    /// Adds what has a series to `out`, as `OpenMetrics` text without its end.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn encode(&self, out: &mut String) -> fmt::Result {
        text::encode_registry(out, &self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::ByPeerWay;

    #[test]
    fn a_metric_without_a_series_is_described_all_the_same() {
        let mut registry = DescribedRegistry::new(Some("causeway"));
        let family = Family::<ByPeerWay, Counter>::default();
        registry.register("sync_bytes", "Bytes", family);
        registry.register_with_unit("sync_age", "Age", Unit::Seconds, Gauge::<i64>::default());
        let mut text = String::new();
        registry.encode(&mut text).unwrap();
        assert!(!text.contains("sync_bytes"), "{text}");
        let [bytes, age] = registry.described() else {
            panic!("{registry:?}");
        };
        assert_eq!(bytes.name, "causeway_sync_bytes");
        assert_eq!(bytes.labels(), ["zone", "gateway", "way"]);
        assert_eq!(
            (age.name.as_str(), age.kind.as_str(), age.labels().len()),
            ("causeway_sync_age_seconds", "gauge", 0)
        );
    }
}
