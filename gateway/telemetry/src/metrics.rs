//! The registry of one gateway's counted metrics, without globals, so that several gateways can live in one process. Each part
//! of the gateway declares its own families in a struct of its own and registers them here at the start. Values that are
//! read from state when somebody asks (tunnels, ages, memory) are put beside them by the admin API.
//!
//! Adding a metric: a field in the struct of the part that counts it (its `metrics.rs`), its line in that struct's `new`, a
//! method there that says when to call it, a line in `gateway/tests/cli/metrics.rs`, and a new docs/metrics.md, as
//! `gateway/tests/cli/metrics_page.rs` says.

use std::{
    fmt::{self, Debug},
    hash::Hash,
    sync::Arc,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric},
    metrics::{
        TypedMetric, counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge,
        histogram::Histogram,
    },
    registry::Unit,
};

use super::{
    DescribedRegistry, MetricDescription, TraceId,
    described::LabelledMetric,
    series::{NamedLabels, Series},
    services::ServiceLabels,
};

/// Histogram of which each bucket names the last recorded trace that fell into it.
pub type TracedHistogram = HistogramWithExemplars<TraceLabel>;

/// Label of an example.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TraceLabel {
    trace_id: String,
}

impl TraceLabel {
    /// Names a trace, if it is recorded.
    #[must_use]
    pub fn of(trace: Option<TraceId>) -> Option<Self> {
        let trace = trace.filter(|trace| trace.is_sampled())?;
        Some(Self {
            trace_id: trace.to_string(),
        })
    }
}

/// Abilities that a label set must have; every struct of [`super::labels`] has them.
pub trait Labels: EncodeLabelSet + Default + Hash + Eq + Clone + Debug + Send + Sync + 'static {}
impl<T: EncodeLabelSet + Default + Hash + Eq + Clone + Debug + Send + Sync + 'static> Labels for T {}

/// Every family that a part of the gateway has registered.
#[derive(Debug)]
pub struct MetricsRegistry {
    registry: DescribedRegistry,
    services: Arc<ServiceLabels>,
}

impl Default for MetricsRegistry {
    fn default() -> Self {
        Self {
            registry: DescribedRegistry::new(Some("causeway")),
            services: Arc::default(),
        }
    }
}

impl MetricsRegistry {
    /// The services that may become labels.
    #[must_use]
    pub fn services(&self) -> &Arc<ServiceLabels> {
        &self.services
    }

    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.keep(name, help, Counter::default())
    }

    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.keep(name, help, Gauge::default())
    }

    pub fn counters<L: Labels>(&mut self, name: &str, help: &str) -> Family<L, Counter> {
        self.keep(name, help, Family::default())
    }

    /// Registers counters whose series are dropped with what they name.
    pub fn named_counters<L: NamedLabels>(&mut self, name: &str, help: &str) -> Series<L, Counter> {
        let series = self.keep(name, help, Series::new(Counter::default));
        self.services.keep_up(series.clone());
        series
    }

    /// Registers histograms of seconds whose series are dropped with what they name.
    pub fn named_histograms<L: NamedLabels>(
        &mut self,
        name: &str,
        help: &str,
        make: fn() -> Histogram,
    ) -> Series<L, Histogram> {
        self.named_seconds(name, help, make)
    }

    /// Registers the same with examples: of each bucket the last trace that is recorded.
    pub fn named_histograms_of_traces<L: NamedLabels>(
        &mut self,
        name: &str,
        help: &str,
        make: fn() -> TracedHistogram,
    ) -> Series<L, TracedHistogram> {
        self.named_seconds(name, help, make)
    }

    fn named_seconds<L: NamedLabels, M>(&mut self, name: &str, help: &str, make: fn() -> M) -> Series<L, M>
    where
        M: EncodeMetric + TypedMetric + Clone + Debug + Send + Sync + 'static,
    {
        let series = Series::new(make);
        self.registry
            .register_with_unit(name, help, Unit::Seconds, series.clone());
        self.services.keep_up(series.clone());
        series
    }

    pub fn gauges<L: Labels>(&mut self, name: &str, help: &str) -> Family<L, Gauge> {
        self.keep(name, help, Family::default())
    }

    fn keep<M: LabelledMetric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// Adds what is counted to `out`, as `OpenMetrics` text without its end.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn encode(&self, out: &mut String) -> fmt::Result {
        self.registry.encode(out)
    }

    /// Every metric that was registered, with or without series.
    #[must_use]
    pub fn described(&self) -> &[MetricDescription] {
        self.registry.described()
    }
}

/// The word of a label for what went well or did not.
#[must_use]
pub fn result_word(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}
