//! `causeway apply`: hands a topology to the federation.

use std::path::PathBuf;

use super::{AdminArgs, Exit, Failure, output, topology};

const AFTER_HELP: &str = "\
Examples:
  causeway apply -f topology.yaml                    check it, show what changes, swap it in
  causeway apply -f topology.yaml --dry-run          only check it and show what would change
  causeway apply -f topology.yaml --generation 6     only if generation 6 is in force

Any gateway that is not ruled by a file (--topology) takes it, and the others get it from there.

Exit codes: 0 applied, or nothing to apply; 1 refused; 65 the file cannot be used.";

/// Hand a topology to the federation: checked, compared, and swapped in if nobody was faster.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The topology file
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The generation that must be in force for this to be done [default: the one that is]
    #[arg(long, value_name = "N")]
    generation: Option<u64>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub async fn run(args: Args) -> Result<Exit, Failure> {
    let Some(parsed) = topology::checked(&args.file)? else {
        return Ok(Exit::BadInput);
    };
    let text = parsed.warnings.text().clone();
    let admin = &args.admin.admin;
    let (report, exit) =
        topology::swap(admin, &text, args.generation, args.dry_run, output::colour()).await?;
    output::print(&report)?;
    Ok(exit)
}
