//! `causeway apply`: hands a topology to the federation.

use std::{path::PathBuf, time::Duration};

use super::{
    AdminArgs, Exit, Failure, blocks,
    client::Endpoint,
    everywhere::{self, AppliedGeneration},
    topology::{self, Onto, TopologySwap},
};
use crate::output;

/// Help that is the same of all that hands a topology in.
macro_rules! handing_help {
    () => {
        "
At a terminal it asks before a zone, a service, or an address of a gateway, an instance or of clients goes. Elsewhere it does not.

Exit codes: 0 applied, or nothing to apply; 1 refused; 65 the file cannot be used; 79 applied, and with --wait not everywhere in time."
    };
}
pub(super) use handing_help;

const AFTER_HELP: &str = concat!("\
Examples:
  causeway apply -f topology.yaml                    check it, show what changes, swap it in
  causeway apply -f topology.yaml --dry-run          only check it and show what would change
  causeway apply -f topology.yaml --generation 6     only if generation 6 is in force
  causeway apply -f orders.yaml                      put the blocks of services into what is in force, and leave all else as it is:
                                                     a file that holds `services: { orders: ... }` and nothing else
  causeway apply -f topology.yaml -m 'more room, OPS-7' --wait 1m
                                                     say why, and wait until every gateway that can be heard has it
  edit-topology | causeway apply -f -                from standard input

The first line that `causeway get topology` writes names the generation that the file was taken from. If another one is in
force by now, somebody else applied a change that this file does not have, and it is refused; --force undoes that change.
A service that is under a shift (`causeway shift`) is not changed, either: --force ends its shift.

Any gateway that is not ruled by a file (--topology) takes it, and the others get it from there.
", handing_help!());

/// Hand a topology to the federation: checked, compared, and swapped in if nobody was faster.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ApplyArgs {
    /// The topology file, or one that holds blocks of services alone; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The generation that must be in force for this to be done [default: the one that the first line of the file names,
    /// as `causeway get topology` writes it; the one in force, if there is no such line]
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Undo what was applied since the generation that the first line of the file names, and end shifts of services that
    /// the file changes
    #[arg(long, conflicts_with = "generation")]
    force: bool,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    handing: HandingArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Time that `--wait` waits, where it says none.
const WAIT: &str = "30s";

/// Circumstances of handing a topology in.
#[derive(Debug, clap::Args)]
pub(super) struct HandingArgs {
    /// Reason, in one line of at most 300 bytes; kept with the generation, and told in its history and events
    #[arg(short, long, value_name = "WHY")]
    message: Option<String>,
    /// Wait until it is in force at every gateway that can be heard, at most that long [default: 30s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = WAIT, value_parser = humantime::parse_duration, conflicts_with = "dry_run")]
    wait: Option<Duration>,
    /// Do not ask, whatever it removes
    #[arg(short, long)]
    pub(super) yes: bool,
}

impl HandingArgs {
    pub(super) fn reason(&self) -> Option<&str> {
        self.message
            .as_deref()
            .map(str::trim)
            .filter(|why| !why.is_empty())
    }

    /// Waits until `applied` is in force everywhere, if that was asked for.
    pub(super) async fn wait(
        &self,
        admin: &Endpoint,
        applied: Option<&AppliedGeneration>,
    ) -> Result<(), Failure> {
        if let (Some(limit), Some(applied)) = (self.wait, applied) {
            output::print(&everywhere::wait(admin, applied, limit).await?)?;
        }
        Ok(())
    }
}

pub(crate) async fn run(args: ApplyArgs) -> Result<Exit, Failure> {
    let Some(given) = blocks::handed(&args.file)? else {
        return Ok(Exit::BadInput);
    };
    let admin = &args.admin.admin;
    let onto = match (args.generation, args.force) {
        (Some(generation), _) => Onto::Generation(generation),
        (None, true) => Onto::Whatever,
        (None, false) => Onto::FirstLine,
    };
    let swap = TopologySwap {
        text: &given.text,
        name: Some(&given.name),
        onto,
        dry_run: args.dry_run,
        reason: args.handing.reason(),
        yes: args.handing.yes,
    };
    let applied = topology::swap(admin, &swap).await?;
    args.handing.wait(admin, applied.as_ref()).await?;
    Ok(Exit::Done)
}
