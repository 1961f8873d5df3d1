//! `causeway drain` and `causeway undrain`: move a zone's traffic away, and back.

use std::time::{Duration, SystemTime};

use causeway_federation::{
    name::ZoneName,
    topology::{Drain, with_drain},
};

use super::{
    AdminArgs, Exit, Failure,
    topology::{self, Onto, only},
};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway drain west                    new connections and requests go elsewhere; what is open stays, or follows `linger`
  causeway drain west --deadline 10m     and what is open then, and others can serve, is ended, a twentieth in a second
  causeway drain west --dry-run          only show what would change
  causeway undrain west                  and back

The zone serves on what no other zone can. `causeway get zones` marks it; `causeway explain SERVICE` shows where its traffic goes.

It becomes a generation of the topology like any other: the key `drain` of the zone. Where a file rules (--topology), write it there.

Exit codes: 0 done, or so already; 1 refused.";

/// Move a zone's traffic to others, for as long as it is drained.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DrainArgs {
    /// The zone
    zone: ZoneName,
    /// Time after which open connections that others can serve are ended, such as 10m [default: they stay as long as
    /// `linger` of their service says, or as both sides want]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Have a drained zone serve again.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UndrainArgs {
    /// The zone
    zone: ZoneName,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn drain(args: DrainArgs) -> Result<Exit, Failure> {
    let by = args
        .deadline
        .map(|deadline| {
            let by = SystemTime::now().checked_add(deadline);
            by.filter(|by| *by < SystemTime::UNIX_EPOCH + LATEST)
                .ok_or_else(|| Failure::new("--deadline is too far away").hint("such as `--deadline 10m`"))
        })
        .transpose()?;
    mark(&args.zone, Some(Drain { by }), args.dry_run, &args.admin).await
}

/// The end of the year 9999, the last that RFC 3339 can write.
const LATEST: Duration = Duration::from_secs(253_402_300_800);

pub(crate) async fn undrain(args: UndrainArgs) -> Result<Exit, Failure> {
    mark(&args.zone, None, args.dry_run, &args.admin).await
}

/// Edits the text in force, on top of its generation.
async fn mark(
    zone: &ZoneName,
    drain: Option<Drain>,
    dry_run: bool,
    admin: &AdminArgs,
) -> Result<Exit, Failure> {
    let admin = &admin.admin;
    let view = only(topology::in_force(admin, true).await?, admin)?;
    if view.source == "file" {
        return Err(
            Failure::new("a file rules this gateway, and nothing can be applied to it").hint(
                "write the key `drain` of the zone into that file; the gateway takes it up within a second",
            ),
        );
    }
    let text = view.text.unwrap_or_default();
    let edited = with_drain(&text, zone, drain.as_ref());
    let edited = edited.map_err(|error| Failure::new(error.to_string()).hint(error.hint()))?;
    let (report, exit) = topology::swap(
        admin,
        (&edited, None),
        Onto::Generation(view.generation),
        dry_run,
        output::colour(),
    )
    .await?;
    output::print(&report)?;
    Ok(exit)
}
