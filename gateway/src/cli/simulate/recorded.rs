//! Loads that were recorded, and measured capacity: the files that `causeway get loads -o yaml` and `-o json` write, of one gateway or, with `--all`, of all zones.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use causeway_api::{
    admin::view::{Envelope, LoadView, MeasuredCapacityView},
    elsewhere::EveryZoneView,
};
use causeway_federation::{
    catalog::ExportKey,
    name::{ServiceName, ZoneName},
    topology::Topology,
};
use causeway_routing::{
    capacity::{MeasuredCapacities, MeasuredCapacity, SeenAnswers},
    simulate::Load,
};
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    cli::{Exit, Failure, input},
    output,
};

/// Longest file.
const MAX_BYTES: usize = 64 * 1024 * 1024;
const HINT: &str = "write it with `causeway get loads -o yaml > loads.yaml`, or with --all";

/// Loads and measured capacity of all files.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) loads: Vec<Load>,
    pub(super) measured: MeasuredCapacities,
}

/// Answer of one gateway, in one of the files.
type RecordedAnswer = Envelope<LoadView>;

/// Reads all files, whose loads add up. What is said of a gateway in two of them would count twice, and is refused.
pub(super) fn read(files: &[PathBuf], topology: &Topology) -> Result<Option<Recorded>, Failure> {
    if files.is_empty() {
        return Ok(None);
    }
    let (mut loads, mut words) = (Vec::new(), MeasuredWords::new());
    let mut tellers: BTreeMap<(String, String), &Path> = BTreeMap::new();
    for file in files {
        let answers = of_file(file)?;
        for answer in &answers {
            for view in &answer.capacities {
                let (zone, word) = word(view, file)?;
                let is_own = view.zone == answer.zone;
                let key = (zone, (word.service.clone(), word.tags.clone()));
                words.entry(key).or_default().push((is_own, word));
            }
        }
        let views: Vec<LoadView> = answers.into_iter().flat_map(|answer| answer.items).collect();
        let here = views.iter().map(|view| (view.zone.clone(), view.gateway.clone()));
        for teller in here.collect::<BTreeSet<_>>() {
            if let Some(before) = tellers.get(&teller) {
                let ((zone, gateway), before, file) = (&teller, before.display(), file.display());
                let text = format!("the loads of {zone}/{gateway} are in {before} and in {file}");
                return Err(Failure::usage(text).hint("give each gateway's loads once"));
            }
            tellers.insert(teller, file);
        }
        for view in views {
            loads.extend(load(view, file, topology)?);
        }
    }
    Ok(Some(Recorded {
        loads,
        measured: measured(&words),
    }))
}

fn of_file(file: &Path) -> Result<Vec<RecordedAnswer>, Failure> {
    let bad = |what: String| {
        let text = format!("{}: {what}", file.display());
        Failure::new(text).exit(Exit::BadInput).hint(HINT)
    };
    let text = input::read_text(file, MAX_BYTES)?;
    // JSON is YAML, too.
    let value: Value =
        serde_saphyr::from_str(&text).map_err(|error| bad(format!("it cannot be read: {error}")))?;
    if value.get("zones").is_none() {
        return Ok(vec![recorded(&value).map_err(bad)?]);
    }
    let view = EveryZoneView::deserialize(&value).map_err(|error| bad(error.to_string()))?;
    let mut answers = Vec::new();
    for zone in &view.zones {
        let last = zone.last.as_ref().map(|last| &last.answer);
        match zone.answer.as_ref().or(last) {
            Some(answer) => answers.push(recorded(answer).map_err(bad)?),
            None => output::tell(&format!(
                "warning: {}: zone {} did not answer, and its clients have no load here\n",
                file.display(),
                zone.zone
            )),
        }
    }
    Ok(answers)
}

fn recorded(answer: &Value) -> Result<RecordedAnswer, String> {
    let envelope = Envelope::<LoadView>::deserialize(answer).map_err(|error| error.to_string())?;
    match envelope.kind.as_str() {
        "loads" => Ok(envelope),
        other => Err(format!("these are no loads, but {other}")),
    }
}

/// Words about the instances of each export, and whether a gateway of their own zone says so.
type MeasuredWords = BTreeMap<(ZoneName, ExportKey), Vec<(bool, MeasuredCapacity)>>;

/// Joins the words about the same instances: a zone speaks for its own, and where it has not been recorded others say what it has told them.
fn measured(words: &MeasuredWords) -> MeasuredCapacities {
    let joined = words.iter().filter_map(|((zone, _), told)| {
        let of = |own: bool| told.iter().filter(move |(is_own, _)| *is_own == own);
        let own = of(true).next().is_some();
        let told: Vec<&MeasuredCapacity> = of(own).map(|(_, word)| word).collect();
        Some((zone.clone(), MeasuredCapacity::joined(&told)?))
    });
    joined.collect()
}

fn word(view: &MeasuredCapacityView, file: &Path) -> Result<(ZoneName, MeasuredCapacity), Failure> {
    let bad = |what: &dyn std::fmt::Display| {
        let text = format!("{}: {what}", file.display());
        Failure::new(text).exit(Exit::BadInput).hint(HINT)
    };
    let is_rate = |rate: f64| rate.is_finite() && rate >= 0.0;
    if !is_rate(view.per_second) || !is_rate(view.answered_per_second) {
        return Err(bad(&format!("{} is no capacity", view.per_second)));
    }
    let measured = MeasuredCapacity {
        service: ServiceName::new(&view.service).map_err(|error| bad(&error))?,
        tags: view.tags.clone(),
        per_second: Some(view.per_second),
        seen: SeenAnswers {
            well_per_second: view.answered_per_second,
            ..SeenAnswers::default()
        },
    };
    Ok((ZoneName::new(&view.zone).map_err(|error| bad(&error))?, measured))
}

fn load(view: LoadView, file: &Path, topology: &Topology) -> Result<Option<Load>, Failure> {
    let bad = |what: &dyn std::fmt::Display| {
        let text = format!("{}: {what}", file.display());
        Failure::new(text).exit(Exit::BadInput).hint(HINT)
    };
    let from = ZoneName::new(&view.zone).map_err(|error| bad(&error))?;
    let service = ServiceName::new(&view.service).map_err(|error| bad(&error))?;
    if !(view.per_second.is_finite() && view.per_second >= 0.0) {
        return Err(bad(&format!("{} is no rate", view.per_second)));
    }
    if !topology.zones.contains_key(&from) {
        output::tell(&format!(
            "warning: {}: {} a second of {service} are left out: the topology has no zone {from}\n",
            file.display(),
            view.per_second
        ));
        return Ok(None);
    }
    Ok(Some(Load {
        from,
        service,
        tags: view.tags,
        criticality: view.criticality,
        per_second: view.per_second,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use causeway_federation::{name::Tags, topology::Criticality};
    use serde_json::json;

    use super::*;

    fn topology() -> Topology {
        let text = "version: 1\ntrust_domain: a.internal\nzones: { east: { gateways: [] }, west: { gateways: [] } }\n";
        causeway_federation::topology::parse(text, "").unwrap().topology
    }

    fn view(zone: &str, gateway: &str, per_second: f64) -> LoadView {
        LoadView {
            zone: zone.to_owned(),
            gateway: gateway.to_owned(),
            service: "orders".to_owned(),
            tags: [("version", "v2")].into_iter().collect::<Tags>(),
            criticality: Criticality::Critical,
            per_second,
            over_seconds: 60.0,
        }
    }

    fn answer(zone: &str, items: &[LoadView]) -> Value {
        json!({ "version": 1, "kind": "loads", "zone": zone, "generation": 3, "items": items })
    }

    fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn rates(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
        let loads = read(files, &topology())?.unwrap().loads;
        let word = |load: Load| {
            let criticality = load.criticality.word();
            format!(
                "{}/{}{}:{criticality}={}",
                load.from, load.service, load.tags, load.per_second
            )
        };
        Ok(loads.into_iter().map(word).collect())
    }

    #[test]
    fn what_get_writes_is_read_as_yaml_and_json_of_one_zone_and_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let one = answer("east", &[view("east", "gw1", 12.5)]);
        let yaml = file(folder.path(), "one.yaml", &serde_saphyr::to_string(&one).unwrap());
        let expected = "east/orders{version=v2}:critical=12.5";
        assert_eq!(rates(std::slice::from_ref(&yaml)).unwrap(), [expected]);
        let all = json!({ "zones": [
            { "zone": "east", "state": "answered", "asked": "2026-11-18T11:06:40Z", "answer": one },
            { "zone": "north", "state": "away", "asked": "2026-11-18T11:06:40Z", "because": "no tunnel" },
            { "zone": "west", "state": "away", "asked": "2026-11-18T11:06:40Z", "because": "no tunnel",
              "last": { "time": "2026-11-18T11:04:40Z", "answer": answer("west", &[view("west", "gw1", 3.0), view("south", "gw1", 1.0)]) } },
        ] });
        let json = file(folder.path(), "all.json", &all.to_string());
        assert_eq!(
            rates(std::slice::from_ref(&json)).unwrap(),
            [expected, "west/orders{version=v2}:critical=3"]
        );
        assert!(rates(&[yaml.clone(), json]).is_err(), "east/gw1 is in both");
        assert!(rates(&[yaml.clone(), yaml]).is_err(), "given twice");
        let other = file(
            folder.path(),
            "gw2.yaml",
            &answer("east", &[view("east", "gw2", 1.0)]).to_string(),
        );
        assert_eq!(rates(&[other]).unwrap().len(), 1);
    }

    #[test]
    fn of_measured_capacity_a_zones_own_word_counts_and_of_its_gateways_each_by_what_it_has_heard_of() {
        let folder = tempfile::tempdir().unwrap();
        let found = |zone: &str, per_second: f64, answered_per_second: f64| MeasuredCapacityView {
            zone: zone.to_owned(),
            service: "orders".to_owned(),
            tags: Tags::default(),
            per_second,
            answered_per_second,
        };
        let with = |name: &str, zone: &str, capacities: &[MeasuredCapacityView]| {
            let mut answer = answer(zone, &[]);
            answer["capacities"] = json!(capacities);
            file(folder.path(), name, &serde_saphyr::to_string(&answer).unwrap())
        };
        let files = [
            with(
                "gw1",
                "east",
                &[found("east", 80.0, 100.0), found("west", 7.0, 900.0)],
            ),
            with("gw2", "east", &[found("east", 40.0, 300.0)]),
            with(
                "west",
                "west",
                &[
                    found("west", 30.0, 1.0),
                    found("east", 1.0, 900.0),
                    found("north", 9.0, 0.0),
                ],
            ),
        ];
        let measured = read(&files, &topology()).unwrap().unwrap().measured;
        let all: Vec<_> = measured
            .iter()
            .map(|(zone, one)| (zone.as_str(), one.per_second))
            .collect();
        assert_eq!(
            all,
            [("east", Some(50.0)), ("north", Some(9.0)), ("west", Some(30.0))]
        );
        let bad = with("bad", "east", &[found("east", -1.0, 1.0)]);
        assert!(read(&[bad], &topology()).is_err());
    }

    #[test]
    fn what_is_no_file_of_loads_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let zones = r#"{ "version": 1, "kind": "zones", "zone": "east", "generation": 1, "items": [] }"#;
        for text in ["", "orders: 5", zones, "[1", "zones: 3"] {
            let path = file(folder.path(), "bad.yaml", text);
            assert!(rates(&[path]).is_err(), "{text}");
        }
        let negative = answer("east", &[view("east", "gw1", -1.0)]).to_string();
        assert!(rates(&[file(folder.path(), "negative.yaml", &negative)]).is_err());
        assert!(rates(&[folder.path().join("missing.yaml")]).is_err());
    }
}
