//! `causeway simulate`: where every service's traffic would go, from every zone, and what would break if zones were lost.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, str::FromStr, sync::Arc};

use causeway_api::admin::view::{Envelope, ExportView};
use causeway_federation::{
    catalog::Export,
    name::{ServiceName, ZoneName},
    topology::{Topology, parse},
};
use causeway_routing::simulate::{
    Load, Simulated, SimulatedFinding, ZoneExports, even_loads, fixed_exports, simulate,
};
use serde_json::json;

use super::{
    AdminArgs, Exit, Failure,
    client::Endpoint,
    tables::tags,
    topology::{self, only},
};
use crate::output::{self, ReportFormat, Word};

const AFTER_HELP: &str = "\
Examples:
  causeway simulate topology.yaml                     where traffic goes, by the instances of the file
  causeway simulate topology.yaml --fail east         and while east is lost
  causeway simulate topology.yaml --fail each         and while each zone is lost, one after another
  causeway simulate --fail each                       the topology in force, and the instances that the gateway knows of
  causeway simulate edited.yaml --live --fail each    a file that is not in force yet, with those instances
  causeway simulate topology.yaml --load orders=200 --load east/orders=900

The decision is the very one that gateways make. Shares are drawn, so that they are a percent point or so off; routes by what a
request says are left out. A lost zone has no clients either (drain it in the
file to lose its instances alone), and is taken as forgotten; for the first minutes `spill` counts its instances as ill. A service
whose instances are not in the file needs --live. Nothing is sent to anybody.

Exit codes: 0 nothing found; 65 the file cannot be used; 79 somebody is left without a service, shed, or over capacity.";

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;
/// Load of each service from each zone, where none is given.
const LOAD: f64 = 100.0;
/// Most loads, each in one scenario: of the smallest number of draws they take a minute.
const MOST_QUESTIONS: usize = 200_000;
/// Any: one gives the same outcome each time.
const SEED: u64 = 1;

/// Show where traffic would go, and what would break if zones were lost.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct SimulateArgs {
    /// The topology file, or - for standard input [default: the topology in force at the gateway, as with --live]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ask the gateway for the instances of all zones, instead of those that the file fixes
    #[arg(long)]
    live: bool,
    /// A zone that is lost, or `each`, one after another; several that are given are lost together
    #[arg(long, value_name = "ZONE")]
    fail: Vec<Lost>,
    /// Requests or connections a second: SERVICE=RATE from each zone, ZONE/SERVICE=RATE from one; services that none is
    /// given for are left out then [default: 100 of every service from every zone]
    #[arg(long, value_name = "LOAD")]
    load: Vec<LoadArg>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Lost {
    Each,
    Zone(ZoneName),
}

impl FromStr for Lost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "each" => Ok(Self::Each),
            zone => ZoneName::new(zone)
                .map(Self::Zone)
                .map_err(|error| error.to_string()),
        }
    }
}

/// One `--load`.
#[derive(Debug, Clone, PartialEq)]
struct LoadArg {
    /// `None`: from each zone.
    from: Option<ZoneName>,
    service: ServiceName,
    per_second: f64,
}

impl FromStr for LoadArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write SERVICE=RATE or ZONE/SERVICE=RATE, such as east/orders=900";
        let (name, rate) = text.split_once('=').ok_or(how)?;
        let per_second: f64 = rate.trim_end_matches("/s").parse().map_err(|_| how)?;
        if !(per_second.is_finite() && per_second >= 0.0) {
            return Err(how.to_owned());
        }
        let (from, service) = match name.split_once('/') {
            Some((zone, service)) => (
                Some(ZoneName::new(zone).map_err(|error| error.to_string())?),
                service,
            ),
            None => (None, name),
        };
        let service = ServiceName::new(service).map_err(|error| error.to_string())?;
        Ok(Self {
            from,
            service,
            per_second,
        })
    }
}

pub(crate) async fn run(args: SimulateArgs) -> Result<Exit, Failure> {
    let admin = &args.admin.admin;
    let topology = match &args.file {
        None => in_force(admin).await?,
        Some(file) => match topology::checked(file)? {
            Some(parsed) => parsed.topology,
            None => return Ok(Exit::BadInput),
        },
    };
    let exports = match args.live || args.file.is_none() {
        true => known(admin).await?,
        false => fixed_exports(&topology),
    };
    let loads = loads(&topology, &exports, &args.load)?;
    let scenarios = scenarios(&topology, &args.fail)?;
    if loads.len().saturating_mul(scenarios.len()) > MOST_QUESTIONS {
        let text = format!(
            "{} loads and {} scenarios are too many at once",
            loads.len(),
            scenarios.len()
        );
        return Err(Failure::usage(text).hint("name some services with --load, or single zones with --fail"));
    }
    let topology = Arc::new(topology);
    let run = |lost: &BTreeSet<ZoneName>| simulate(&topology, &exports, &loads, lost, SEED);
    let outcomes: Vec<Simulated> = scenarios.iter().map(run).collect();
    output::print(&match args.output {
        ReportFormat::Text => outcomes.iter().map(in_words).collect(),
        ReportFormat::Json => format!(
            "{:#}\n",
            json!({ "version": JSON_VERSION, "scenarios": outcomes })
        ),
    })?;
    let is_well = outcomes.iter().all(|outcome| outcome.findings.is_empty());
    Ok(if is_well { Exit::Done } else { Exit::IssuesFound })
}

async fn in_force(admin: &Endpoint) -> Result<Topology, Failure> {
    let view = only(topology::in_force(admin, true).await?, admin)?;
    let text = view.text.unwrap_or_default();
    let parsed = parse(&text, &admin.to_string());
    let parsed = parsed
        .map_err(|findings| Failure::new("this program cannot read that topology").because(&findings))?;
    Ok(parsed.topology)
}

/// Exports of all zones as the gateway knows them. The gateways of one zone tell of the same instances: the one that tells most counts.
async fn known(admin: &Endpoint) -> Result<ZoneExports, Failure> {
    let answer: Envelope<ExportView> = admin.get("/v1/exports").await?;
    let mut exports = ZoneExports::new();
    for view in answer.items {
        if view.age == "withdrawn" || view.link == "down" {
            continue;
        }
        let unreadable = || Failure::new(format!("the answer of {admin} names no zone and service"));
        let zone = ZoneName::new(&view.zone).map_err(|_| unreadable())?;
        let export = Export {
            service: ServiceName::new(&view.service).map_err(|_| unreadable())?,
            tags: view.tags,
            instances: view.instances,
            healthy: view.healthy,
            weight: view.weight,
            capacity_per_second: view.capacity_per_second,
        };
        let of_zone = exports.entry(zone).or_default();
        let same = of_zone
            .iter_mut()
            .find(|other| other.service == export.service && other.tags == export.tags);
        match same {
            Some(other) if other.weight >= export.weight => {}
            Some(other) => *other = export,
            None => of_zone.push(export),
        }
    }
    Ok(exports)
}

/// Those that are given, one for a zone before one for each; without any, the same of everything.
fn loads(topology: &Topology, exports: &ZoneExports, given: &[LoadArg]) -> Result<Vec<Load>, Failure> {
    if given.is_empty() {
        return Ok(even_loads(topology, exports, LOAD));
    }
    for load in given {
        let zone = load
            .from
            .as_ref()
            .filter(|zone| !topology.zones.contains_key(*zone));
        if let Some(zone) = zone {
            return Err(Failure::usage(format!("the topology has no zone {zone}")));
        }
        if !topology.services.contains_key(&load.service) {
            return Err(Failure::usage(format!(
                "the topology has no service {}",
                load.service
            )));
        }
    }
    let loads = even_loads(topology, exports, 0.0).into_iter().filter_map(|load| {
        let of_service = given.iter().filter(|one| one.service == load.service);
        let of_zone = of_service
            .clone()
            .rfind(|one| one.from.as_ref() == Some(&load.from));
        let found = of_zone.or_else(|| of_service.clone().rfind(|one| one.from.is_none()))?;
        Some(Load {
            per_second: found.per_second,
            ..load
        })
    });
    Ok(loads.collect())
}

/// The sets of zones that are lost: none at first, and then those that were asked for.
fn scenarios(topology: &Topology, fail: &[Lost]) -> Result<Vec<BTreeSet<ZoneName>>, Failure> {
    let mut scenarios = vec![BTreeSet::new()];
    let mut together = BTreeSet::new();
    for lost in fail {
        match lost {
            Lost::Each => scenarios.extend(topology.zones.keys().map(|zone| BTreeSet::from([zone.clone()]))),
            Lost::Zone(zone) if topology.zones.contains_key(zone) => drop(together.insert(zone.clone())),
            Lost::Zone(zone) => {
                return Err(Failure::usage(format!("the topology has no zone {zone}"))
                    .hint("`--fail each` tries all of them"));
            }
        }
    }
    if !together.is_empty() {
        scenarios.push(together);
    }
    Ok(scenarios)
}

/// One scenario as a table, and what was found.
fn in_words(outcome: &Simulated) -> String {
    let lost: Vec<&str> = outcome.lost.iter().map(ZoneName::as_str).collect();
    let mut text = match lost[..] {
        [] => "With every zone:\n".to_owned(),
        _ => format!("\nWithout {}:\n", lost.join(", ")),
    };
    let rows = outcome.flows.iter().map(|flow| {
        vec![
            flow.service.as_str().into(),
            flow.from.as_str().into(),
            match &flow.to {
                Some(zone) => zone.as_str().into(),
                None if flow.is_shed => Word::doubtful("shed".to_owned()),
                None => Word::doubtful("nobody".to_owned()),
            },
            tags(&flow.tags).into(),
            format!("{:.0} %", flow.share * 100.0).into(),
            format!("{:.1}", flow.per_second).into(),
        ]
    });
    let header = ["SERVICE", "FROM", "TO", "TAGS", "SHARE", "PER SECOND"];
    text.push_str(&output::table(&header, rows.collect(), output::colour()));
    for finding in &outcome.findings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "! {}", finding_in_words(finding));
    }
    text
}

fn finding_in_words(finding: &SimulatedFinding) -> String {
    match finding {
        SimulatedFinding::NoHome {
            service,
            from,
            per_second,
        } => format!("{service}: nobody serves clients in {from} ({per_second:.1} a second)"),
        SimulatedFinding::Shed {
            service,
            from,
            per_second,
        } => format!(
            "{service}: {per_second:.1} a second of clients in {from} are shed: there is no capacity for them"
        ),
        SimulatedFinding::OverCapacity {
            service,
            zone,
            tags,
            per_second,
            capacity_per_second,
        } => {
            let with = match tags.is_empty() {
                true => String::new(),
                false => format!(" with {tags}"),
            };
            format!(
                "{service}: instances in {zone}{with} get {per_second:.1} a second, and declare {capacity_per_second}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
version: 1
trust_domain: acme.internal
zones:
  east: { gateways: [], instances: [{ service: orders, address: 10.0.0.1:80, capacity: 150/s }] }
  west: { gateways: [], instances: [{ service: ledger, address: 10.0.0.2:80 }] }
services:
  orders: { port: 80 }
  ledger: { port: 81 }
";

    fn topology() -> Topology {
        parse(TEXT, "").unwrap().topology
    }

    fn lost(words: &[&str]) -> Result<Vec<String>, Failure> {
        let fail: Vec<Lost> = words.iter().map(|word| word.parse().unwrap()).collect();
        let words =
            |zones: &BTreeSet<ZoneName>| zones.iter().map(ZoneName::as_str).collect::<Vec<_>>().join("+");
        Ok(scenarios(&topology(), &fail)?.iter().map(words).collect())
    }

    #[test]
    fn zones_are_lost_one_after_another_or_together() {
        assert_eq!(lost(&[]).unwrap(), [""]);
        assert_eq!(lost(&["each"]).unwrap(), ["", "east", "west"]);
        assert_eq!(lost(&["west", "east"]).unwrap(), ["", "east+west"]);
        assert!(lost(&["south"]).is_err());
    }

    #[test]
    fn a_load_of_one_zone_counts_before_one_of_all() {
        let given: Vec<LoadArg> = ["orders=200", "east/orders=900/s"]
            .map(|text| text.parse().unwrap())
            .into();
        let found = loads(&topology(), &fixed_exports(&topology()), &given).unwrap();
        let words: Vec<String> = found
            .iter()
            .map(|load| format!("{}/{}={}", load.from, load.service, load.per_second))
            .collect();
        assert_eq!(words, ["east/orders=900", "west/orders=200"]);
        assert_eq!(
            loads(&topology(), &fixed_exports(&topology()), &[])
                .unwrap()
                .len(),
            4
        );
        for wrong in [
            "orders",
            "orders=fast",
            "orders=-1",
            "orders=inf",
            "/orders=1",
            "east/=1",
        ] {
            assert!(wrong.parse::<LoadArg>().is_err(), "{wrong}");
        }
        for unknown in ["south/orders=1", "basket=1"] {
            assert!(
                loads(
                    &topology(),
                    &fixed_exports(&topology()),
                    &[unknown.parse().unwrap()]
                )
                .is_err(),
                "{unknown}"
            );
        }
    }

    #[test]
    fn a_scenario_reads_as_a_table_with_what_was_found_below() {
        let topology = Arc::new(topology());
        let loads = even_loads(&topology, &fixed_exports(&topology), 100.0);
        let lost = BTreeSet::from([ZoneName::new("west").unwrap()]);
        let outcome =
            |lost: &BTreeSet<ZoneName>| simulate(&topology, &fixed_exports(&topology), &loads, lost, SEED);
        let whole = in_words(&outcome(&BTreeSet::new()));
        assert!(
            whole.contains("orders    west   east   -      100 %   100.0"),
            "{whole}"
        );
        assert!(
            whole.contains("! orders: instances in east get 200.0 a second, and declare 150\n"),
            "{whole}"
        );
        let without = in_words(&outcome(&lost));
        assert!(without.starts_with("\nWithout west:\n"), "{without}");
        assert!(
            without.contains("! ledger: nobody serves clients in east (100.0 a second)\n"),
            "{without}"
        );
    }
}
