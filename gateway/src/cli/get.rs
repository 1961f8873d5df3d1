//! `causeway get`: tables of what a running gateway knows.

use std::{
    io::{self, IsTerminal},
    time::{Duration, SystemTime},
};

use causeway_api::admin::view::{
    Envelope, ExportView, GenerationView, InstanceView, RecordView, ServiceView, ShiftView, TopologyView,
    TunnelView, ZoneView,
};
use clap::ValueEnum;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    AdminArgs, Exit, Failure,
    federation::{self, PlaceArgs},
    get_events::{self, EventArgs},
    tables::{self, Tabular},
};
use crate::output::{self, Format};

/// Between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Clears the screen and puts the cursor at its top (ECMA-48 ED and CUP).
const CLEAR_SCREEN: &str = "\x1b[2J\x1b[H";

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
  causeway get events --since 2h      what happened, with its cause; -w follows, --service and --kind choose
  causeway get events --all           the same, as every zone has seen it, in one list
  causeway get exports --admin unix:/run/causeway/east.sock
  causeway get zones --all            as every zone sees them, asked through this gateway; what each says is for it to decide
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
    /// The record of every gateway, as it is held here: versions, ages, and what was exchanged
    #[value(aliases = ["record", "records", "c"])]
    Catalog,
    /// Events, and why they came about: tunnels, failovers, shifts, topologies, certificates
    #[value(aliases = ["event", "ev"])]
    Events,
    /// The topology in force, as a file that can be edited and applied
    Topology,
}

pub(crate) async fn run(args: GetArgs) -> Result<Exit, Failure> {
    check_flags(&args)?;
    if args.what == What::Events && args.watch {
        get_events::follow((&args.events, &args.place), args.output, &args.admin.admin).await?;
    }
    let (mut last, mut is_away) = (None, false);
    loop {
        let text = match show(&args).await {
            Ok(text) => text,
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
            let clear = args.watch && io::stdout().is_terminal();
            output::print(&if clear {
                format!("{CLEAR_SCREEN}{text}")
            } else {
                text.clone()
            })?;
            last = Some(text);
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
        return Err(
            Failure::usage("only events are chosen by --since, --service and --kind")
                .hint("see `causeway get events --since 2h --service orders`"),
        );
    }
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

async fn show(args: &GetArgs) -> Result<String, Failure> {
    match args.what {
        What::Zones => listed::<ZoneView>(args, "/v1/zones").await,
        What::Services => listed::<ServiceView>(args, "/v1/services").await,
        What::Shifts => listed::<ShiftView>(args, "/v1/shifts").await,
        What::Instances => listed::<InstanceView>(args, "/v1/instances").await,
        What::Tunnels => listed::<TunnelView>(args, "/v1/tunnels").await,
        What::Exports => listed::<ExportView>(args, "/v1/exports").await,
        What::Catalog => listed::<RecordView>(args, "/v1/catalog").await,
        What::Topology => topology(args).await,
        What::Events => get_events::show((&args.events, &args.place), args.output, &args.admin.admin).await,
    }
}

async fn listed<T>(args: &GetArgs, path: &str) -> Result<String, Failure>
where
    T: DeserializeOwned + Serialize + Tabular,
{
    let path = args.place.page(path);
    if args.place.all {
        let view = args.admin.admin.get(&path).await?;
        return federation::render::<T>(&view, args.output, output::colour(), SystemTime::now());
    }
    let envelope: Envelope<T> = args.admin.admin.get(&path).await?;
    render(&envelope, args.output, output::colour())
}

async fn topology(args: &GetArgs) -> Result<String, Failure> {
    let admin = &args.admin.admin;
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
