//! Metrics by label set, of which those are dropped whose subject the topology does not name any more: a service, a zone or an arm that
//! is gone leaves no series behind, and one that comes and goes does not add up.

use std::{collections::HashMap, fmt, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric},
};

use super::{metrics::Labels, services::KnownNames};

/// Label set that names what the topology has.
pub trait NamedLabels: Labels {
    /// Tells whether the topology still has all that it names.
    fn is_named(&self, known: &KnownNames) -> bool;
}

/// Metrics by label set. Clones are the same metrics.
#[derive(Debug)]
pub struct Series<L, M> {
    by_labels: Arc<RwLock<HashMap<L, M>>>,
    make: fn() -> M,
}

impl<L, M> Clone for Series<L, M> {
    fn clone(&self) -> Self {
        Self {
            by_labels: self.by_labels.clone(),
            make: self.make,
        }
    }
}

impl<L: NamedLabels, M: Clone> Series<L, M> {
    #[must_use]
    pub fn new(make: fn() -> M) -> Self {
        Self {
            by_labels: Arc::default(),
            make,
        }
    }

    /// The metric with these labels, made if there is none. It goes on counting, seen by nobody, once it was dropped.
    #[must_use]
    pub fn get_or_create(&self, labels: &L) -> M {
        if let Some(metric) = self.by_labels.read().get(labels) {
            return metric.clone();
        }
        let mut by_labels = self.by_labels.write();
        by_labels.entry(labels.clone()).or_insert_with(self.make).clone()
    }

    /// Drops what the topology does not name any more.
    pub fn drop_unnamed(&self, known: &KnownNames) {
        self.by_labels.write().retain(|labels, _| labels.is_named(known));
    }
}

impl<L: NamedLabels, M: EncodeMetric + TypedMetric + Clone> EncodeMetric for Series<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, metric) in &*self.by_labels.read() {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.by_labels.read().is_empty()
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}
