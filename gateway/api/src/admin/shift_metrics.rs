//! Metrics of the last shift of each service, read from the topology in force.

use causeway_federation::topology::ShiftState;
use causeway_routing::snapshot::Snapshot;
use causeway_telemetry::DescribedRegistry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};

const STATES: [ShiftState; 4] = [
    ShiftState::Running,
    ShiftState::Paused,
    ShiftState::Aborted,
    ShiftState::Done,
];

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShiftedService {
    service: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShiftedServiceState {
    service: String,
    state: &'static str,
}

pub(super) fn shifts(registry: &mut DescribedRegistry, snapshot: &Snapshot) {
    let percent: Family<ShiftedService, Gauge> = Family::default();
    let state: Family<ShiftedServiceState, Gauge> = Family::default();
    for (name, service) in &snapshot.topology.services {
        let Some(shift) = &service.shift else { continue };
        let has = match shift.state {
            ShiftState::Aborted => 0,
            ShiftState::Running | ShiftState::Paused | ShiftState::Done => shift.percent(),
        };
        let service = name.to_string();
        percent
            .get_or_create(&ShiftedService {
                service: service.clone(),
            })
            .set(has.into());
        for one in STATES {
            let labels = ShiftedServiceState {
                service: service.clone(),
                state: one.word(),
            };
            state.get_or_create(&labels).set((shift.state == one).into());
        }
    }
    registry.register(
        "shift_step_percent",
        "Percent of a service's traffic that its last shift gives to the tags that it moves to, 0 once it is aborted",
        percent,
    );
    registry.register(
        "shift_state",
        "1 for the state that the last shift of a service has, 0 for the others",
        state,
    );
}

#[cfg(test)]
mod tests {
    use causeway_routing::testbed;

    use super::*;

    fn scraped(state: &str) -> String {
        let shift = format!(
            "{{ to: {{ version: v2 }}, steps: [5, 25], every: 1m, state: {state}, step: 2, begun: '2026-12-01T00:00:00Z', since: '2026-12-01T00:01:00Z', by: home/gw1 }}"
        );
        let services = format!(
            "  orders: {{ port: 80, split: [{{ tags: {{ version: v1 }} }}], shift: {shift} }}\n  web: {{ port: 81 }}"
        );
        let topology = testbed::topology("  home: {}", &services);
        let snapshot = testbed::snapshot("home", &topology, vec![], vec![], &[]);
        let mut registry = DescribedRegistry::new(Some("causeway"));
        shifts(&mut registry, &snapshot);
        let mut text = String::new();
        registry.encode(&mut text).unwrap();
        text
    }

    #[test]
    fn a_shift_shows_its_percent_and_its_state_and_one_that_is_aborted_moves_nothing() {
        let running = scraped("running");
        for line in [
            "causeway_shift_step_percent{service=\"orders\"} 25",
            "causeway_shift_state{service=\"orders\",state=\"running\"} 1",
            "causeway_shift_state{service=\"orders\",state=\"aborted\"} 0",
        ] {
            assert!(running.contains(line), "{running}");
        }
        assert!(!running.contains("web"), "{running}");
        let aborted = scraped("aborted");
        assert!(
            aborted.contains("causeway_shift_step_percent{service=\"orders\"} 0"),
            "{aborted}"
        );
        assert!(aborted.contains("state=\"aborted\"} 1"), "{aborted}");
    }
}
