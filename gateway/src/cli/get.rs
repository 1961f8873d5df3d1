//! `causeway get`: tables of what a running gateway knows.

use std::{
    io::{self, IsTerminal},
    time::{Duration, SystemTime},
};

use causeway_api::admin::view::{
    Envelope, ExportView, GenerationView, InstanceView, LoadView, RecordView, ServiceView, ShiftView,
    TopologyView, TunnelView, ZoneView,
};
use clap::ValueEnum;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    AdminArgs, Exit, Failure,
    choose::{ChoiceArgs, Choosable, ChoosableBy},
    federation::{self, PlaceArgs},
    get_events::{self, EventArgs},
    tables::{self, Tabular},
};
use crate::output::{self, Format};

/// Between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Page of the topologies that are kept.
const HISTORY: &str = "/v1/topology/history";

const AFTER_HELP: &str = "\
Examples:
  causeway get zones                  how every zone can be reached from here
  causeway get services -o wide       with splits, failover and health checks
  causeway get shifts -w              how far each gradual move has come, and what its gate sees
  causeway get tunnels -w             watch; redraws when something changes
  causeway get catalog -o wide        how zone sync with every gateway stands
  causeway get instances -o json      for programs: versioned, fields are only ever added
  causeway get loads --all -o yaml > loads.yaml    what clients ask for, for `causeway simulate topology.yaml --loads loads.yaml`
  causeway get events --since 2h      what happened, with its cause; -w follows, --service and --kind choose
  causeway get events --all           the same, as every zone has seen it, in one list
  causeway get exports --admin unix:/run/causeway/east.sock
  causeway get zones --all            as every zone sees them, asked through this gateway; what each says is for it to decide
  causeway get tunnels west           those with one zone; `west/gw2` with one gateway
  causeway get services --unhealthy   only what somebody should look at; also of zones, instances, tunnels, exports, shifts, catalog
  causeway get instances --service orders --tag version=v2 --sort latency
  causeway get exports --all --zone west --sort=-weight     what each zone knows of west, the most weight first
  causeway get instances --at west --admin-token-file west.token        those of zone west, with a token that was issued there
  causeway get topology > edited.yaml         what is in force, to edit and `causeway apply`; not onto a file in use
  causeway get topology --resolved            with `defaults` merged in, and the line that each value comes from
  causeway get topology --history             who applied what; the last ten";

/// Show what a running gateway knows.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct GetArgs {
    /// Kind of thing to show
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    /// Keep showing it, whenever it changes
    #[arg(short, long)]
    watch: bool,
    /// With `topology`: list the last ten that were applied, overruled ones too
    #[arg(long, conflicts_with = "generation")]
    history: bool,
    /// With `topology`: show an older one that is kept
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// With `topology`: merge its `defaults` in, and say which line each value comes from
    #[arg(long, conflicts_with = "history")]
    resolved: bool,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    events: EventArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Zones, and how each can be reached
    #[value(aliases = ["zone", "z"])]
    Zones,
    /// Services, their virtual addresses and who has instances
    #[value(aliases = ["service", "svc", "s"])]
    Services,
    /// Shifts of services: gradual moves of their traffic, with a gate
    #[value(aliases = ["shift"])]
    Shifts,
    /// This zone's instances
    #[value(aliases = ["instance", "inst", "i"])]
    Instances,
    /// Tunnels to other gateways
    #[value(aliases = ["tunnel", "t"])]
    Tunnels,
    /// Exports of every zone: what it offers the others of its services
    #[value(aliases = ["export", "e"])]
    Exports,
    /// Loads: what clients of this gateway ask for of each service, as `simulate --loads` takes it
    #[value(aliases = ["load", "l"])]
    Loads,
    /// The record of every gateway, as it is held here: versions, ages, and what was exchanged
    #[value(aliases = ["record", "records", "c"])]
    Catalog,
    /// Events, and why they came about: tunnels, failovers, shifts, topologies, certificates
    #[value(aliases = ["event", "ev"])]
    Events,
    /// The topology in force, as a file that can be edited and applied
    Topology,
}

pub(crate) async fn run(mut args: GetArgs) -> Result<Exit, Failure> {
    check_flags(&args)?;
    args.events.service.clone_from(&args.choice.service);
    if args.what == What::Events && args.watch {
        get_events::follow((&args.events, &args.place), args.output, &args.admin.admin).await?;
    }
    let (mut last, mut is_away) = (None, false);
    loop {
        let Shown { text, missing } = match show(&args).await {
            Ok(shown) => shown,
            // The first look is to say at once what is wrong.
            Err(failure) if last.is_some() => {
                get_events::bear(failure, &mut is_away)?;
                tokio::time::sleep(WATCH_EVERY).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        is_away = false;
        if last.as_ref() != Some(&text) {
            if args.watch && io::stdout().is_terminal() {
                output::clear_screen()?;
            }
            output::print_exactly(&text)?;
            let is_first = last.replace(text).is_none();
            if let (true, Some(missing)) = (is_first, missing) {
                return Err(missing);
            }
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Refuses flags that say nothing about what is to be shown.
fn check_flags(args: &GetArgs) -> Result<(), Failure> {
    if args.what != What::Events && args.events.is_given() {
        return Err(Failure::usage("only events are chosen by --since and --kind")
            .hint("see `causeway get events --since 2h --kind tunnel_down`"));
    }
    let choice = &args.choice;
    match args.what {
        What::Zones => check::<ZoneView>(choice, "zones"),
        What::Services => check::<ServiceView>(choice, "services"),
        What::Shifts => check::<ShiftView>(choice, "shifts"),
        What::Instances => check::<InstanceView>(choice, "instances"),
        What::Tunnels => check::<TunnelView>(choice, "tunnels"),
        What::Exports => check::<ExportView>(choice, "exports"),
        What::Loads => check::<LoadView>(choice, "loads"),
        What::Catalog => check::<RecordView>(choice, "records of the catalog"),
        What::Topology => check::<TopologyView>(choice, "topologies"),
        What::Events => choice.check("events", &[ChoosableBy::Service]),
    }?;
    if args.what != What::Topology && args.resolved {
        return Err(
            Failure::usage("only a topology has defaults").hint("see `causeway get topology --resolved`")
        );
    }
    if args.what != What::Topology && (args.history || args.generation.is_some()) {
        return Err(
            Failure::usage("only a topology has generations").hint("see `causeway get topology --history`")
        );
    }
    Ok(())
}

/// Refuses what says nothing about such items, or names no column of theirs.
fn check<T: Choosable>(choice: &ChoiceArgs, plural: &str) -> Result<(), Failure> {
    choice.check(plural, T::BY)?;
    choice.column::<T>().map(drop)
}

/// Text to print, and names that nothing has.
struct Shown {
    text: String,
    missing: Option<Failure>,
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        Self { text, missing: None }
    }
}

async fn show(args: &GetArgs) -> Result<Shown, Failure> {
    match args.what {
        What::Zones => listed::<ZoneView>(args, "/v1/zones").await,
        What::Services => listed::<ServiceView>(args, "/v1/services").await,
        What::Shifts => listed::<ShiftView>(args, "/v1/shifts").await,
        What::Instances => listed::<InstanceView>(args, "/v1/instances").await,
        What::Tunnels => listed::<TunnelView>(args, "/v1/tunnels").await,
        What::Exports => listed::<ExportView>(args, "/v1/exports").await,
        What::Loads => listed::<LoadView>(args, "/v1/loads").await,
        What::Catalog => listed::<RecordView>(args, "/v1/catalog").await,
        What::Topology => topology(args).await,
        What::Events => {
            let asked = (&args.events, &args.place);
            let text = get_events::show(asked, args.output, &args.admin.admin).await?;
            Ok(text.into())
        }
    }
}

async fn listed<T>(args: &GetArgs, path: &str) -> Result<Shown, Failure>
where
    T: DeserializeOwned + Serialize + Choosable,
{
    let path = args.place.page(path);
    if args.place.all {
        let mut view = args.admin.admin.get(&path).await?;
        let chosen = args.choice.choose_everywhere::<T>(&mut view)?;
        let (column, now) = (args.choice.column::<T>()?, SystemTime::now());
        let text = federation::render::<T>(&view, &chosen, column, args.output, output::colour(), now)?;
        return Ok(Shown {
            text,
            missing: chosen.missing,
        });
    }
    let mut envelope: Envelope<T> = args.admin.admin.get(&path).await?;
    let chosen = args.choice.choose(&mut envelope)?;
    let text = match (chosen.of, args.output) {
        // The names that nothing has are told on standard error.
        (Some(_), Format::Table | Format::Wide) if envelope.items.is_empty() && chosen.missing.is_some() => {
            String::new()
        }
        (Some(of @ 1..), Format::Table | Format::Wide) if envelope.items.is_empty() => {
            let (kind, zone) = (&envelope.kind, &envelope.zone);
            format!("None of the {of} {kind} in zone {zone} is what was asked for.\n")
        }
        _ => render(&envelope, args.output, output::colour())?,
    };
    Ok(Shown {
        text,
        missing: chosen.missing,
    })
}

async fn topology(args: &GetArgs) -> Result<Shown, Failure> {
    if args.place.all && (args.resolved || args.generation.is_some()) {
        return Err(
            Failure::usage("the text of a topology is shown of one zone at a time")
                .hint("name it with --at ZONE; --all shows which topology is in force where"),
        );
    }
    if args.history {
        return listed::<GenerationView>(args, HISTORY).await;
    }
    if args.place.all {
        return listed::<TopologyView>(args, "/v1/topology").await;
    }
    text_of_topology(args).await.map(Shown::from)
}

/// The text of one generation, to be edited or kept.
async fn text_of_topology(args: &GetArgs) -> Result<String, Failure> {
    let admin = &args.admin.admin;
    if let Some(generation) = args.generation {
        let mut envelope: Envelope<GenerationView> = admin.get(&args.place.page(HISTORY)).await?;
        envelope.items.retain(|one| one.generation == generation);
        return match (args.output, envelope.items.first()) {
            (_, None) => Err(
                Failure::new(format!("the gateway does not keep generation {generation}"))
                    .hint("`causeway get topology --history` lists what is kept"),
            ),
            (Format::Table | Format::Wide, Some(one)) if args.resolved => {
                super::topology::resolved(&one.text, admin)
            }
            (Format::Table | Format::Wide, Some(one)) => Ok(one.text.clone()),
            _ => render(&envelope, args.output, output::colour()),
        };
    }
    let envelope: Envelope<TopologyView> = admin.get(&args.place.page("/v1/topology?text=true")).await?;
    match (args.output, envelope.items.first()) {
        (Format::Table | Format::Wide, Some(view)) if args.resolved => {
            let text = view.text.as_deref().unwrap_or_default();
            super::topology::resolved(text, admin)
        }
        (Format::Table | Format::Wide, Some(view)) => super::topology::as_file(view, admin),
        _ => structured(&envelope, args.output),
    }
}

fn render<T: Serialize + Tabular>(
    envelope: &Envelope<T>,
    format: Format,
    colour: bool,
) -> Result<String, Failure> {
    Ok(match format {
        Format::Table | Format::Wide if envelope.items.is_empty() => {
            format!("No {} in zone {}.\n", envelope.kind, envelope.zone)
        }
        Format::Table => tables::render(&envelope.items, false, colour),
        Format::Wide => tables::render(&envelope.items, true, colour),
        Format::Json | Format::Yaml => structured(envelope, format)?,
    })
}

/// For programs.
pub(super) fn structured(envelope: &impl Serialize, format: Format) -> Result<String, Failure> {
    if format == Format::Yaml {
        let text = serde_saphyr::to_string(envelope);
        return text.map_err(|error| Failure::new("cannot write YAML").because(&error));
    }
    let text = serde_json::to_string_pretty(envelope);
    Ok(text.map_err(|error| Failure::new("cannot write JSON").because(&error))? + "\n")
}

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "wide_tests.rs"]
mod wide_tests;
