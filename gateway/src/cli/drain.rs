//! `causeway drain` and `causeway undrain`: move the traffic of a zone or of one instance away, and back.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use causeway_api::admin::{DrainedView, stays_open, view::Envelope};
use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::{Drain, with_drain},
};
use causeway_host::moment::written_after;

use super::{
    AdminArgs, Exit, Failure,
    client::escape,
    topology::{self, Onto, TopologySwap, only},
};
use crate::output;

const AFTER_HELP: &str = "\
Examples:
  causeway drain west                    new connections and requests go elsewhere; what is open stays, or follows `linger`
  causeway drain west --deadline 10m     and what is open then, and others can serve, is ended, a twentieth in a second
  causeway drain west --dry-run          only show what would change
  causeway undrain west                  and back
  causeway drain orders/10.1.0.1:80 --deadline 10m
                                         nothing new goes to that instance; after ten minutes what is open at it is closed, but for
                                         requests of clients of its zone, which end with their answers
  causeway undrain orders/10.1.0.1:80    and back

The zone serves on what no other zone can. `causeway get zones` marks it; `causeway explain SERVICE` shows where its traffic goes.

It becomes a generation of the topology like any other: the key `drain` of the zone. Where a file rules (--topology), write it there.

An instance is named by its service and its id, as `causeway get instances` shows them; by its address, if it was registered without an id. Ask a
gateway of its zone. That is kept there, also over restarts of the gateway and of the instance, until `undrain`; other zones send less.

Exit codes: 0 done, or so already; 1 refused.";

/// Move the traffic of a zone or of an instance to others, for as long as it is drained.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct DrainArgs {
    /// The zone, or an instance as SERVICE/ID
    #[arg(value_name = "ZONE|INSTANCE")]
    what: DrainSubject,
    /// Drain an instance also if no other of its service takes traffic in its zone
    #[arg(long)]
    force: bool,
    /// Time after which open connections that others can serve, and all at a drained instance, are ended, such as 10m [default: they stay as long as
    /// `linger` of their service says, or as both sides want]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Have a drained zone or instance serve again.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct UndrainArgs {
    /// The zone, or an instance as SERVICE/ID
    #[arg(value_name = "ZONE|INSTANCE")]
    what: DrainSubject,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Subject of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
enum DrainSubject {
    Zone(ZoneName),
    Instance { service: ServiceName, id: String },
}

impl FromStr for DrainSubject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None => ZoneName::new(text)
                .map(Self::Zone)
                .map_err(|error| error.to_string()),
            Some((_, "")) => Err("an instance is SERVICE/ID, such as orders/10.1.0.1:80".to_owned()),
            Some((service, id)) => Ok(Self::Instance {
                service: ServiceName::new(service).map_err(|error| error.to_string())?,
                id: id.to_owned(),
            }),
        }
    }
}

/// Asks the gateway to drain an instance of its zone, or to have it serve again.
async fn mark_instance(
    (service, id): (&ServiceName, &str),
    path: &str,
    dry_run: bool,
    admin: &AdminArgs,
) -> Result<DrainedView, Failure> {
    if dry_run {
        return Err(Failure::usage(
            "--dry-run is for zones: of an instance no topology changes",
        ));
    }
    let admin = &admin.admin;
    let path = format!("/v1/instances/{service}/{}/{path}", escape(id));
    let answer: Envelope<DrainedView> = admin.post_json(&path, &()).await.map_err(|failure| {
        match failure.is_not_found() {
            true => failure.hint("`causeway get instances` lists those of the zone of that gateway; an instance is drained in its own zone"),
            false => failure,
        }
    })?;
    only(answer, admin)
}

async fn drain_instance((service, id): (&ServiceName, &str), args: &DrainArgs) -> Result<Exit, Failure> {
    let mut path = format!("drain?force={}", args.force);
    if let Some(deadline) = args.deadline {
        path.push_str(&format!("&deadline={}s", deadline.as_secs()));
    }
    let done = mark_instance((service, id), &path, args.dry_run, &args.admin).await?;
    output::print(&drained(&done))?;
    Ok(Exit::Done)
}

/// Line about an instance that is drained now.
fn drained(done: &DrainedView) -> String {
    let DrainedView {
        service, id, open, ..
    } = done;
    let open = match (open, &done.by) {
        (0, _) => "nothing is open at it here".to_owned(),
        (open, by) => stays_open(*open, by.as_deref()),
    };
    let lost = match done.durability.as_str() {
        "durable" => "",
        _ => "; it is not on disk, and a restart of the gateway would forget it",
    };
    format!("drained {service}/{id}: nothing new goes to it; {open}{lost}\n")
}

pub(crate) async fn drain(args: DrainArgs) -> Result<Exit, Failure> {
    let zone = match &args.what {
        DrainSubject::Instance { service, id } => return drain_instance((service, id), &args).await,
        DrainSubject::Zone(zone) => zone.clone(),
    };
    if args.force {
        return Err(Failure::usage(
            "--force is for instances: a drained zone serves on what no other can",
        ));
    }
    let by = args
        .deadline
        .map(|deadline| {
            written_after(SystemTime::now(), deadline)
                .ok_or_else(|| Failure::new("--deadline is too far away").hint("such as `--deadline 10m`"))
        })
        .transpose()?;
    mark(&zone, Some(Drain { by }), args.dry_run, &args.admin).await
}

pub(crate) async fn undrain(args: UndrainArgs) -> Result<Exit, Failure> {
    match &args.what {
        DrainSubject::Zone(zone) => mark(zone, None, args.dry_run, &args.admin).await,
        DrainSubject::Instance { service, id } => {
            let done = mark_instance((service, id), "undrain", args.dry_run, &args.admin).await?;
            output::print(&format!("{}/{} serves again\n", done.service, done.id))?;
            Ok(Exit::Done)
        }
    }
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
    let reason = match drain {
        Some(_) => format!("drain {zone}"),
        None => format!("undrain {zone}"),
    };
    let swap = TopologySwap {
        text: &edited,
        name: None,
        onto: Onto::Generation(view.generation),
        dry_run,
        reason: Some(&reason),
        yes: true,
    };
    topology::swap(admin, &swap).await?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_says_what_is_closed_at_its_deadline_and_what_is_not() {
        let with = |open, by: Option<&str>| {
            drained(&DrainedView {
                service: "orders".to_owned(),
                id: "10.1.0.1:80".to_owned(),
                by: by.map(str::to_owned),
                open,
                durability: "durable".to_owned(),
            })
        };
        let by = Some("2026-11-30T16:19:13Z");
        assert_eq!(
            with(6, by),
            "drained orders/10.1.0.1:80: nothing new goes to it; 6 open at it here; from 2026-11-30T16:19:13Z on they are closed, \
             but for requests of clients of this zone, which end with their answers\n"
        );
        assert!(with(6, None).ends_with("6 open at it here stay until they end\n"));
        assert!(with(0, by).ends_with("nothing is open at it here\n"));
    }
}
