//! The services that may become labels of metrics.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use causeway_federation::name::ServiceName;

/// Stands for every service that the topology does not name.
const OTHER_SERVICE: &str = "other";

/// A service of the topology, or `other`.
pub type ServiceLabel = Arc<str>;

/// Keeps the services that the topology names. Until it is told of them, and for any name that is not among them, a label says
/// `other`, so that no client can make series.
#[derive(Debug)]
pub struct ServiceLabels {
    known: ArcSwap<BTreeSet<ServiceLabel>>,
    other: ServiceLabel,
}

impl Default for ServiceLabels {
    fn default() -> Self {
        Self {
            known: ArcSwap::default(),
            other: OTHER_SERVICE.into(),
        }
    }
}

impl ServiceLabels {
    /// Names the services that may become label values; call it with every new topology.
    pub fn set<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>) {
        let labels = services.into_iter().map(|s| ServiceLabel::from(s.as_str()));
        self.known.store(Arc::new(labels.collect()));
    }

    #[must_use]
    pub fn label(&self, service: &str) -> ServiceLabel {
        self.known.load().get(service).unwrap_or(&self.other).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outside_the_topology_is_other() {
        let services = ServiceLabels::default();
        assert_eq!(&*services.label("orders"), "other");
        services.set([&ServiceName::new("orders").unwrap()]);
        assert_eq!(&*services.label("orders"), "orders");
        assert_eq!(&*services.label("a"), "other");
    }
}
