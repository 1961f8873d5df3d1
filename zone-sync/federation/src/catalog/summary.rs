//! From the instances of a zone to what it tells the others: pure, and all that crosses the zone's border.

use std::collections::BTreeMap;

use super::{Export, ExportKey};
use crate::name::{ServiceName, Tags};

/// State of one instance as far as an export needs it.
#[derive(Debug, Clone, Copy)]
pub struct InstanceState<'a> {
    pub service: &'a ServiceName,
    pub tags: &'a Tags,
    /// Share of traffic relative to its peers.
    pub weight: u32,
    pub healthy: bool,
    /// It is used where none is healthy.
    pub serves_in_panic: bool,
    /// Requests or connections a second that it can take; `None` when undeclared.
    pub capacity_per_second: Option<u64>,
}

/// One export for each service and distinct set of tags, in that order. An export whose instances are all unhealthy
/// stays, with `healthy` 0, and the weight of those that serve in panic. Its capacity is declared only when every healthy instance declares one: a partial sum
/// would understate it.
pub fn exports<'a>(instances: impl IntoIterator<Item = InstanceState<'a>>) -> Vec<Export> {
    let mut all: BTreeMap<ExportKey, (Export, u64)> = BTreeMap::new();
    for instance in instances {
        let (export, in_panic) = all
            .entry((instance.service.clone(), instance.tags.clone()))
            .or_insert_with(|| {
                let export = Export {
                    service: instance.service.clone(),
                    tags: instance.tags.clone(),
                    instances: 0,
                    healthy: 0,
                    weight: 0,
                    capacity_per_second: None,
                };
                (export, 0)
            });
        add(export, &instance);
        if instance.serves_in_panic && !instance.healthy {
            *in_panic = in_panic.saturating_add(u64::from(instance.weight));
        }
    }
    let told = all.into_values().map(|(export, in_panic)| match export.healthy {
        0 => Export {
            weight: in_panic,
            ..export
        },
        _ => export,
    });
    told.collect()
}

fn add(export: &mut Export, instance: &InstanceState<'_>) {
    export.instances = export.instances.saturating_add(1);
    if !instance.healthy {
        return;
    }
    export.capacity_per_second = match (export.healthy, export.capacity_per_second) {
        (0, _) => instance.capacity_per_second,
        (_, sum) => sum
            .zip(instance.capacity_per_second)
            .map(|(a, b)| a.saturating_add(b)),
    };
    export.healthy = export.healthy.saturating_add(1);
    export.weight = export.weight.saturating_add(u64::from(instance.weight));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(
        instances: &[(&str, &str, u32, bool, Option<u64>)],
    ) -> Vec<(String, u32, u32, u64, Option<u64>)> {
        let owned: Vec<_> = instances
            .iter()
            .map(|(service, version, weight, healthy, capacity)| {
                let tags: Tags = [("version", *version)].into_iter().collect();
                (
                    ServiceName::new(service).unwrap(),
                    tags,
                    *weight,
                    *healthy,
                    *capacity,
                )
            })
            .collect();
        let panicking = ServiceName::new("calls").unwrap();
        exports(
            owned
                .iter()
                .map(|(service, tags, weight, healthy, capacity)| InstanceState {
                    service,
                    tags,
                    weight: *weight,
                    healthy: *healthy,
                    serves_in_panic: *service == panicking,
                    capacity_per_second: *capacity,
                }),
        )
        .into_iter()
        .map(|e| {
            let name = format!("{}{}", e.service, e.tags);
            (name, e.instances, e.healthy, e.weight, e.capacity_per_second)
        })
        .collect()
    }

    #[test]
    fn instances_are_summed_by_service_and_tags() {
        let all = summed(&[
            ("web", "v1", 1, true, Some(10)),
            ("orders", "v2", 5, true, Some(10)),
            ("orders", "v1", 2, true, Some(10)),
            ("orders", "v1", 3, true, Some(20)),
            ("orders", "v1", 7, false, Some(40)),
        ]);
        assert_eq!(
            all,
            [
                ("orders{version=v1}".to_owned(), 3, 2, 5, Some(30)),
                ("orders{version=v2}".to_owned(), 1, 1, 5, Some(10)),
                ("web{version=v1}".to_owned(), 1, 1, 1, Some(10)),
            ]
        );
    }

    #[test]
    fn an_export_without_healthy_instances_is_still_told() {
        let all = summed(&[("web", "v1", 4, false, Some(10))]);
        assert_eq!(all, [("web{version=v1}".to_owned(), 1, 0, 0, None)]);
    }

    #[test]
    fn those_that_serve_in_panic_are_told_by_their_weight_where_none_is_healthy() {
        let all = summed(&[
            ("calls", "v1", 4, false, Some(10)),
            ("calls", "v1", 5, false, None),
            ("calls", "v2", 2, true, None),
            ("calls", "v2", 7, false, None),
        ]);
        assert_eq!(
            all,
            [
                ("calls{version=v1}".to_owned(), 2, 0, 9, None),
                ("calls{version=v2}".to_owned(), 2, 1, 2, None),
            ]
        );
    }

    #[test]
    fn capacity_is_undeclared_when_one_healthy_instance_does_not_declare_it() {
        for order in [[None, Some(10)], [Some(10), None]] {
            let all = summed(&[("web", "v1", 1, true, order[0]), ("web", "v1", 1, true, order[1])]);
            assert_eq!(all[0].4, None);
        }
    }
}
