//! `causeway apply`: hands a topology to the federation.

use std::path::PathBuf;

use super::{
    AdminArgs, Exit, Failure, blocks,
    topology::{self, Onto},
};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway apply -f topology.yaml                    check it, show what changes, swap it in
  causeway apply -f topology.yaml --dry-run          only check it and show what would change
  causeway apply -f topology.yaml --generation 6     only if generation 6 is in force
  causeway apply -f orders.yaml                      put the blocks of services into what is in force, and leave all else as it is:
                                                     a file that holds `services: { orders: ... }` and nothing else

The first line that `causeway get topology` writes names the generation that the file was taken from. If another one is in
force by now, somebody else applied a change that this file does not have, and it is refused; --force undoes that change.
A service that is under a shift (`causeway shift`) is not changed, either: --force ends its shift.

Any gateway that is not ruled by a file (--topology) takes it, and the others get it from there.

Exit codes: 0 applied, or nothing to apply; 1 refused; 65 the file cannot be used.";

/// Hand a topology to the federation: checked, compared, and swapped in if nobody was faster.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ApplyArgs {
    /// The topology file, or one that holds blocks of services alone
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
    admin: AdminArgs,
}

pub(crate) async fn run(args: ApplyArgs) -> Result<Exit, Failure> {
    let Some(text) = blocks::handed(&args.file)? else {
        return Ok(Exit::BadInput);
    };
    let admin = &args.admin.admin;
    let onto = match (args.generation, args.force) {
        (Some(generation), _) => Onto::Generation(generation),
        (None, true) => Onto::Whatever,
        (None, false) => Onto::FirstLine,
    };
    let (report, exit) = topology::swap(
        admin,
        (&text, Some(&args.file)),
        onto,
        args.dry_run,
        output::colour(),
    )
    .await?;
    output::print(&report)?;
    Ok(exit)
}
