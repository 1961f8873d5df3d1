//! `causeway simulate`: where every service's traffic would go, from every zone, and what would break if zones were lost.

mod load_args;
mod recorded;
mod report;

use std::{collections::BTreeSet, path::PathBuf, str::FromStr, sync::Arc};

use causeway_api::admin::view::{Envelope, ExportView};
use causeway_federation::{
    catalog::Export,
    name::{ServiceName, ZoneName},
    topology::{Topology, parse},
};
use causeway_routing::{
    capacity::MeasuredCapacities,
    simulate::{
        InstanceLoss, Load, PromiseScene, PromiseState, Simulated, ZoneExports, fixed_exports,
        fixed_instances, permission_conflicts, simulate, single_points, told_instances,
    },
};
use serde_json::json;

use super::{
    AdminArgs, Exit, Failure,
    client::Endpoint,
    input::once,
    topology::{self, only},
};
use crate::output::{self, ReportFormat};
use load_args::LoadArg;

const AFTER_HELP: &str = "\
Examples:
  causeway simulate topology.yaml                     where traffic goes, by the instances of the file
  causeway simulate topology.yaml --fail east         and while east is lost
  causeway simulate topology.yaml --fail each         and while each zone is lost, one after another
  causeway simulate --fail each                       the topology in force, and the instances that the gateway knows of
  causeway simulate edited.yaml --live --fail each    a file that is not in force yet, with those instances
  causeway simulate topology.yaml --load orders=200 --load east/orders=900 --load west/orders:critical=50
  causeway get loads --all -o yaml > loads.yaml       what clients of all zones ask for now,
  causeway simulate edited.yaml --loads loads.yaml    and what would become of it

Promises of the topology are checked each time, by these loads: `promises: [{ lose: any zone, keep: critical }]` says that whatever
zone is lost, everything critical is served: nobody without a home, nothing shed, no zone over its capacity. Lost is any zone, any
gateway, any instance, or named zones; kept is critical, normal (and critical), all, or a list of services. So that a change
which breaks one is not merged, have CI run: causeway simulate topology.yaml --loads loads.yaml

The decision is the very one that gateways make. Shares are drawn, so that they are a percent point or so off; routes by what a
request says are left out, but for their criticality. A lost zone has no clients either (drain it in the
file to lose its instances alone), and is taken as forgotten; for the first minutes `spill` counts its instances as ill. A service
whose instances are not in the file needs --live. Nothing is sent to anybody.

Exit codes: 0 nothing found; 65 the file cannot be used; 79 somebody is left without a service, shed, forbidden or over capacity,
or a promise is broken. Single points of failure, and permissions that contradict exports, are told and change no exit code.";

/// Version of the JSON form.
const JSON_VERSION: u32 = 1;
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
    /// Requests or connections a second: SERVICE=RATE from each zone, ZONE/SERVICE=RATE from one, SERVICE:CRITICALITY=RATE of one
    /// criticality and else the same of each that the service and its routes have; services that none is given for are left out
    /// [default: 100 of every service from every zone]
    #[arg(long, value_name = "LOAD")]
    load: Vec<LoadArg>,
    /// Loads as `causeway get loads -o yaml` (or json, or with --all) has written them, or - for standard input; several files add up. --load takes the place of
    /// what they say of the same service and zone
    #[arg(long, value_name = "FILE")]
    loads: Vec<PathBuf>,
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

pub(crate) async fn run(args: SimulateArgs) -> Result<Exit, Failure> {
    let admin = &args.admin.admin;
    once(args.file.iter().chain(&args.loads).map(PathBuf::as_path))?;
    let topology = match &args.file {
        None => in_force(admin).await?,
        Some(file) => match topology::checked(file)? {
            Some(parsed) => parsed.topology,
            None => return Ok(Exit::BadInput),
        },
    };
    let (exports, instances) = match args.live || args.file.is_none() {
        true => {
            let exports = known(admin).await?;
            let instances = told_instances(&exports);
            (exports, instances)
        }
        false => (fixed_exports(&topology), fixed_instances(&topology)),
    };
    let recorded = recorded::read(&args.loads, &topology)?;
    let is_made_up = recorded.is_none() && args.load.is_empty();
    let (recorded, measured) = match recorded {
        Some(recorded) => (Some(recorded.loads), recorded.measured),
        None => (None, MeasuredCapacities::default()),
    };
    let loads = load_args::loads(&topology, &exports, recorded, &args.load)?;
    let scenarios = scenarios(&topology, &args.fail)?;
    let tried = Tried {
        topology: Arc::new(topology),
        exports,
        measured,
        instances,
        loads,
        is_made_up,
    };
    tried.run(&scenarios, args.output)
}

/// Federation and loads that are tried.
struct Tried {
    topology: Arc<Topology>,
    exports: ZoneExports,
    measured: MeasuredCapacities,
    instances: BTreeSet<InstanceLoss>,
    loads: Vec<Load>,
    /// Nobody has given any.
    is_made_up: bool,
}

impl Tried {
    fn run(&self, scenarios: &[BTreeSet<ZoneName>], output: ReportFormat) -> Result<Exit, Failure> {
        let promised = PromiseScene {
            topology: &self.topology,
            exports: &self.exports,
            measured: &self.measured,
            loads: &self.loads,
            instances: &self.instances,
            seed: SEED,
        };
        let questions = self.loads.len().saturating_mul(scenarios.len());
        if questions.saturating_add(promised.questions()) > MOST_QUESTIONS {
            let text = format!(
                "{} loads, {} scenarios and {} promises are too many at once",
                self.loads.len(),
                scenarios.len(),
                self.topology.promises.len(),
            );
            return Err(Failure::usage(text)
                .hint("name some services with --load, or single zones with --fail; promises of `any instance` take the most"));
        }
        let run = |lost: &BTreeSet<ZoneName>| {
            simulate(
                &self.topology,
                &self.exports,
                &self.measured,
                &self.loads,
                lost,
                SEED,
            )
        };
        let outcomes: Vec<Simulated> = scenarios.iter().map(run).collect();
        let promises = promised.check();
        let points = single_points(&self.topology, &self.exports);
        let conflicts = permission_conflicts(&self.topology);
        output::print(&match output {
            ReportFormat::Text => {
                let mut text: String = outcomes.iter().map(report::scenario).collect();
                text.push_str(&report::promises(&promises, self.is_made_up));
                text.push_str(&report::remarks(&points, &conflicts));
                text
            }
            ReportFormat::Json => format!(
                "{:#}\n",
                json!({
                    "version": JSON_VERSION,
                    "scenarios": outcomes,
                    "promises": promises,
                    "single_points": points,
                    "conflicts": conflicts,
                })
            ),
        })?;
        let is_broken = promises
            .iter()
            .any(|promise| promise.state == PromiseState::Broken);
        let is_well = outcomes.iter().all(|outcome| outcome.findings.is_empty());
        Ok(match is_well && !is_broken {
            true => Exit::Done,
            false => Exit::IssuesFound,
        })
    }
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

#[cfg(test)]
mod tests {
    use causeway_routing::simulate::even_loads;

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
    fn a_scenario_reads_as_a_table_with_what_was_found_below() {
        let topology = Arc::new(topology());
        let loads = even_loads(&topology, &fixed_exports(&topology), 100.0);
        let lost = BTreeSet::from([ZoneName::new("west").unwrap()]);
        let outcome = |lost: &BTreeSet<ZoneName>| {
            simulate(
                &topology,
                &fixed_exports(&topology),
                &MeasuredCapacities::default(),
                &loads,
                lost,
                SEED,
            )
        };
        let whole = report::scenario(&outcome(&BTreeSet::new()));
        assert!(
            whole.contains("orders    west   east   -      100 %   100.0"),
            "{whole}"
        );
        assert!(
            whole.contains("! orders: instances in east get 200.0 a second, and declare 150\n"),
            "{whole}"
        );
        assert!(
            whole.contains("orders    east   200.0        150        133 %\n"),
            "{whole}"
        );
        let without = report::scenario(&outcome(&lost));
        assert!(without.starts_with("\nWithout west:\n"), "{without}");
        assert!(
            without.contains("! ledger: nobody serves clients in east (100.0 a second)\n"),
            "{without}"
        );
    }
}
