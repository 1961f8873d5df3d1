//! Do all zones know the same? Pure: compares what each zone exports with what every other zone holds of it.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;

/// One export without what differs by who looks: keyed by service and tags.
pub type Exports = BTreeMap<(String, String), Value>;

/// A record of another zone as one zone holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub incarnation: u64,
    pub version: u64,
    pub age: String,
    /// Zone that passed it on, if it did not come from its origin.
    pub via: Option<String>,
    pub exports: Exports,
}

/// Word of one zone on itself and on the others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    pub own: Exports,
    /// By the gateway that it is of: `zone/gateway`.
    pub held: BTreeMap<String, Held>,
}

impl View {
    /// From the items of `/v1/exports` and `/v1/catalog`, which `causeway get exports -o json` prints too.
    ///
    /// # Errors
    /// When something is missing from them.
    pub fn read(exports: &[Value], catalog: &[Value]) -> anyhow::Result<Self> {
        let own = exports.iter().filter(|export| export["age"] == "own");
        let others = catalog.iter().filter(|record| record["age"] != "own");
        let held: anyhow::Result<_> = others.map(held).collect();
        Ok(Self {
            own: read_exports(own)?,
            held: held?,
        })
    }
}

fn held(record: &Value) -> anyhow::Result<(String, Held)> {
    let origin = record["origin"].as_str().context("a record has an origin")?;
    let number = |key: &str| {
        record[key]
            .as_u64()
            .with_context(|| format!("a record has {key}"))
    };
    let exports = record["exports"].as_array().context("a record has exports")?;
    let held = Held {
        incarnation: number("incarnation")?,
        version: number("version")?,
        age: record["age"].as_str().context("a record has an age")?.to_owned(),
        via: record["via"].as_str().map(ToOwned::to_owned),
        exports: read_exports(exports)?,
    };
    Ok((origin.to_owned(), held))
}

fn read_exports<'a>(exports: impl IntoIterator<Item = &'a Value>) -> anyhow::Result<Exports> {
    let read = |export: &Value| {
        let service = export["service"].as_str().context("an export has a service")?;
        let told: Value = ["instances", "healthy", "weight", "capacity_per_second"]
            .into_iter()
            .map(|key| (key.to_owned(), export[key].clone()))
            .collect();
        Ok(((service.to_owned(), export["tags"].to_string()), told))
    };
    exports.into_iter().map(read).collect()
}

/// A line for everything on which the gateways of two zones differ; empty: all agree. Those of one zone need not tell each other.
#[must_use]
pub fn disagreements(views: &BTreeMap<String, View>) -> Vec<String> {
    let mut found = Vec::new();
    for (origin, truth) in views {
        for (zone, view) in views
            .iter()
            .filter(|(other, _)| zone_of(other) != zone_of(origin))
        {
            match view.held.get(origin) {
                None => found.push(format!("{zone} knows nothing of {origin}")),
                Some(held) if held.age != "fresh" => {
                    found.push(format!("{zone} holds {origin} as {}", held.age));
                }
                // Every zone has a tunnel to every other, so that nothing needs to be passed on for long.
                Some(Held { via: Some(via), .. }) => {
                    found.push(format!("{zone} hears of {origin} through {via} alone"));
                }
                Some(held) => differences(zone, origin, &held.exports, &truth.own, &mut found),
            }
        }
    }
    found
}

fn zone_of(origin: &str) -> &str {
    origin.split_once('/').map_or(origin, |(zone, _)| zone)
}

fn differences(zone: &str, origin: &str, held: &Exports, truth: &Exports, found: &mut Vec<String>) {
    for ((service, tags), told) in truth {
        match held.get(&(service.clone(), tags.clone())) {
            None => found.push(format!("{zone} lacks {service} {tags} of {origin}: {told}")),
            Some(known) if known != told => {
                found.push(format!(
                    "{zone} holds {service} {tags} of {origin} as {known}, it is {told}"
                ));
            }
            Some(_) => {}
        }
    }
    for (service, tags) in held.keys().filter(|key| !truth.contains_key(key)) {
        found.push(format!(
            "{zone} holds {service} {tags} of {origin}, which is gone"
        ));
    }
}

/// Watches that no zone's record ever goes back as another zone's gateway holds it, for as long as that process lives.
#[derive(Debug, Default)]
pub struct Monotone {
    /// By observer and origin: which life of the observer, and the newest version it held.
    newest: BTreeMap<(String, String), (u64, (u64, u64))>,
}

impl Monotone {
    /// Takes what `observer` holds now, in the `life`-th life of its process; gives a line for each record that went back.
    pub fn look(&mut self, observer: &str, life: u64, held: &BTreeMap<String, Held>) -> Vec<String> {
        let mut found = Vec::new();
        for (origin, held) in held {
            let stamp = (held.incarnation, held.version);
            let place = (observer.to_owned(), origin.clone());
            match self.newest.get(&place) {
                Some((same, newest)) if *same == life && stamp < *newest => found.push(format!(
                    "{observer} went back from {newest:?} to {stamp:?} of {origin}"
                )),
                _ => drop(self.newest.insert(place, (life, stamp))),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn export(zone: &str, age: &str, healthy: u64) -> Value {
        json!({ "service": "orders", "zone": zone, "gateway": null, "tags": { "version": "v1" }, "instances": 2,
            "healthy": healthy, "weight": 1, "capacity_per_second": null, "age": age, "link": "up" })
    }

    fn record(zone: &str, age: &str, version: u64, exports: &[Value]) -> Value {
        json!({ "origin": format!("{zone}/gw1"), "incarnation": 3, "version": version, "age": age, "exports": exports })
    }

    fn two(east_holds: &[Value]) -> BTreeMap<String, View> {
        let west = [export("west", "own", 2)];
        BTreeMap::from([
            ("east/gw1".to_owned(), View::read(&[], east_holds).unwrap()),
            (
                "west/gw1".to_owned(),
                View::read(&west, &[record("east", "fresh", 1, &[])]).unwrap(),
            ),
        ])
    }

    #[test]
    fn zones_agree_when_each_holds_what_the_other_exports() {
        let held = record("west", "fresh", 1, &[export("west", "fresh", 2)]);
        assert_eq!(disagreements(&two(&[held])), Vec::<String>::new());
    }

    #[test]
    fn every_way_to_differ_is_named() {
        let mut relayed = record("west", "fresh", 1, &[export("west", "fresh", 2)]);
        relayed["via"] = json!("north/gw1");
        let cases = [
            (vec![], "east/gw1 knows nothing of west/gw1"),
            (
                vec![record("west", "suspect", 1, &[export("west", "suspect", 2)])],
                "as suspect",
            ),
            (vec![record("west", "fresh", 1, &[])], "east/gw1 lacks orders"),
            (vec![relayed], "through north/gw1 alone"),
            (
                vec![record("west", "fresh", 1, &[export("west", "fresh", 1)])],
                "it is",
            ),
        ];
        for (held, word) in cases {
            let found = disagreements(&two(&held));
            assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
        }
        let mut other = export("west", "fresh", 2);
        other["tags"] = json!({});
        let held = record("west", "fresh", 1, &[export("west", "fresh", 2), other]);
        let found = disagreements(&two(&[held]));
        assert!(
            found.len() == 1 && found[0].contains("which is gone"),
            "{found:?}"
        );
    }

    #[test]
    fn a_record_may_go_back_only_with_a_new_process() {
        let mut monotone = Monotone::default();
        let mut look = |life, version| {
            let view = View::read(&[], &[record("west", "fresh", version, &[])]).unwrap();
            monotone.look("east", life, &view.held).len()
        };
        assert_eq!((look(0, 5), look(0, 5), look(0, 6)), (0, 0, 0));
        assert_eq!(look(0, 5), 1);
        assert_eq!((look(1, 5), look(1, 4)), (0, 1));
    }
}
