//! `causeway shift`: a gradual move of a service's traffic, with a gate and a way back.

use std::{collections::BTreeMap, time::Duration};

use causeway_api::admin::{
    ShiftOrder,
    view::{ChangesView, Envelope, ServiceView, ShiftView},
};
use causeway_federation::{name::ServiceName, topology::GateCondition};

use super::{
    AdminArgs, Exit, Failure,
    client::Endpoint,
    get::structured,
    register::Tag,
    shift_status::{history_told, told},
    topology::{self, dry_line, in_force_line, only},
};
use crate::output::{self, Format};

/// Time after which a step that the driver has taken at the same moment is heard of.
const HEARD_AFTER: Duration = Duration::from_secs(1);
/// Times that a change is said before it is given up.
const TRIES: u32 = 5;

const AFTER_HELP: &str = "\
Examples:
  causeway shift orders --to version=v2 --steps 5,25,50,100 --every 5m --abort-if 'success<99%'
  causeway shift orders --to version=v2 --steps 10,100 --every 1h --abort-if 'success<99.5%' --abort-if 'p99>300ms'
  causeway shift status orders            how far it has come, what its gate sees, and when its steps were
  causeway shift pause orders             stay at this step
  causeway shift resume orders            go on from it; the gateway that is asked drives it from now on
  causeway shift abort orders             back to the split of before

Each step is a generation of the topology. A gate that is broken aborts the shift by itself: at each gateway for its own
requests at once, and everywhere as soon as the gateway that drives it hears of that. With too few requests in a step to
say anything it is paused. Until it ends, a topology that changes the service is refused.

Any gateway begins, pauses, resumes and aborts one. If the gateway that drives it is gone, the shift stays as it is.

Exit codes: 0 done; 1 refused.";

/// Usage as people write it: clap's own line has the words of the changes last.
const USAGE: &str = "\
causeway shift SERVICE --to KEY=VALUE [OPTIONS]
       causeway shift status|pause|resume|abort SERVICE [OPTIONS]";

/// Move a service's traffic gradually to instances with other tags.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(override_usage = USAGE)]
pub(crate) struct ShiftArgs {
    #[command(subcommand)]
    change: Option<ShiftChange>,
    /// The service
    #[arg(required = true)]
    service: Option<ServiceName>,
    /// Tag of the instances that the traffic moves to; may be given several times
    #[arg(long, value_name = "KEY=VALUE", required = true)]
    to: Vec<Tag>,
    /// Percent for them, step by step
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = percent, default_value = "5,25,50,100")]
    steps: Vec<u32>,
    /// Time of a step
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m")]
    every: Duration,
    /// Condition that aborts it, such as 'success<99%' or 'p99>300ms'; may be given several times
    #[arg(long, value_name = "CONDITION")]
    abort_if: Vec<GateCondition>,
    /// Requests in a step without which it is paused at its end [default: 100 with a condition, else 0]
    #[arg(long, value_name = "N")]
    min_requests: Option<u64>,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Subcommand)]
enum ShiftChange {
    /// Show how far it has come, what its gate sees, and when its steps were
    Status(ShiftStatusArgs),
    /// Have it stay at its step
    Pause(ShiftChangeArgs),
    /// Have it go on from its step, whose time begins anew, driven by the gateway that is asked
    Resume(ShiftChangeArgs),
    /// Go back to the split of before it
    Abort(ShiftChangeArgs),
}

#[derive(Debug, clap::Args)]
struct ShiftChangeArgs {
    /// The service
    service: ServiceName,
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
struct ShiftStatusArgs {
    /// The service
    service: ServiceName,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Reads `25` or `25%`.
fn percent(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<u32>();
    let percent = number.ok().filter(|percent| (1..=100).contains(percent));
    percent.ok_or_else(|| "a percentage from 1 to 100, such as 25".to_owned())
}

pub(crate) async fn run(args: ShiftArgs) -> Result<Exit, Failure> {
    match args.change {
        None => begin(args).await,
        Some(ShiftChange::Status(args)) => status(&args).await,
        Some(ShiftChange::Pause(args)) => change(&args, "pause").await,
        Some(ShiftChange::Resume(args)) => change(&args, "resume").await,
        Some(ShiftChange::Abort(args)) => change(&args, "abort").await,
    }
}

async fn begin(args: ShiftArgs) -> Result<Exit, Failure> {
    let Some(service) = &args.service else {
        return Err(Failure::usage("which service?").hint("such as `causeway shift orders --to version=v2`"));
    };
    let to = distinct(args.to)?;
    let last = args.steps.last().copied().unwrap_or(100);
    let order = ShiftOrder {
        to,
        steps: args.steps,
        every: humantime::format_duration(args.every).to_string(),
        abort_if: args.abort_if.iter().map(ToString::to_string).collect(),
        min_requests: args.min_requests,
    };
    let admin = &args.admin.admin;
    let path = format!("/v1/shifts/{service}?dry_run={}", args.dry_run);
    let done = only(admin.post_json(&path, &order).await?, admin)?;
    report(admin, &done, args.dry_run)?;
    if last < 100 {
        output::print(&rest_line(last))?;
    }
    Ok(Exit::Done)
}

/// Says what becomes of the rest of a shift that does not go to its end.
fn rest_line(last: u32) -> String {
    format!(
        "its last step is {last} %: once that has lasted the shift is done, and the other arms of the split keep the other {} %\n",
        100 - last
    )
}

/// The tags by their keys, each of which was given once.
fn distinct(tags: Vec<Tag>) -> Result<BTreeMap<String, String>, Failure> {
    let mut distinct = BTreeMap::new();
    for Tag(key, value) in tags {
        if let Some(before) = distinct.insert(key.clone(), value.clone()) {
            return Err(
                Failure::usage(format!("--to says {key}={before} and {key}={value}"))
                    .hint("an instance has one value for each key; give one of the two"),
            );
        }
    }
    Ok(distinct)
}

async fn change(args: &ShiftChangeArgs, change: &str) -> Result<Exit, Failure> {
    let admin = &args.admin.admin;
    let path = format!("/v1/shifts/{}/{change}?dry_run={}", args.service, args.dry_run);
    let mut done = only(admin.post_text(&path, "").await?, admin)?;
    let mut tries = 1;
    while !args.dry_run && is_overruled(admin, &args.service, change).await? {
        if tries == TRIES {
            return Err(Failure::new(format!(
                "the gateway that drives the shift of {} was faster {TRIES} times",
                args.service
            ))
            .hint("say it to that one: `causeway shift status` names it"));
        }
        tries += 1;
        done = only(admin.post_text(&path, "").await?, admin)?;
    }
    report(admin, &done, args.dry_run)
}

/// Tells whether a step that the driver took at the same moment rules in the place of what was said here.
async fn is_overruled(admin: &Endpoint, service: &ServiceName, change: &str) -> Result<bool, Failure> {
    tokio::time::sleep(HEARD_AFTER).await;
    let shifts: Envelope<ShiftView> = admin.get("/v1/shifts").await?;
    let shift = shifts
        .items
        .iter()
        .find(|shift| shift.service == service.as_str());
    let overruled = match change {
        "resume" => "paused",
        _ => "running",
    };
    Ok(shift.is_some_and(|shift| shift.state == overruled))
}

fn report(admin: &Endpoint, done: &ChangesView, dry_run: bool) -> Result<Exit, Failure> {
    let mut report = topology::lines(&done.changes, output::colour());
    report.push_str(&match dry_run {
        true => dry_line(done.generation),
        false => in_force_line(admin, done),
    });
    output::print(&report)?;
    Ok(Exit::Done)
}

async fn status(args: &ShiftStatusArgs) -> Result<Exit, Failure> {
    let admin = &args.admin.admin;
    let mut envelope: Envelope<ShiftView> = admin.get("/v1/shifts").await?;
    envelope
        .items
        .retain(|shift| shift.service == args.service.as_str());
    let Some(shift) = envelope.items.first() else {
        let services: Envelope<ServiceView> = admin.get("/v1/services").await?;
        let mut names = services.items.iter().map(|service| service.name.as_str());
        if !names.any(|name| name == args.service.as_str()) {
            return Err(
                Failure::new(format!("the topology has no service `{}`", args.service))
                    .hint("`causeway get services` lists those that it has"),
            );
        }
        return Err(
            Failure::new(format!("{} is and was under no shift", args.service))
                .hint("`causeway get shifts` lists those that are"),
        );
    };
    let text = match args.output {
        Format::Table | Format::Wide => {
            // Where a file rules there is none.
            let history = topology::history(admin).await.map(|history| history.items);
            told(shift) + &history_told(&args.service, shift, &history.unwrap_or_default())
        }
        Format::Json | Format::Yaml => structured(&envelope, args.output)?,
    };
    output::print(&text)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_of_the_tags_is_given_once() {
        let good = distinct(vec![tag("version=v2"), tag("rack=r7")]).unwrap();
        assert_eq!(good.len(), 2);
        let twice = distinct(vec![tag("version=v2"), tag("version=v3")]);
        let refused = Failure::usage("--to says version=v2 and version=v3");
        let refused = refused.hint("an instance has one value for each key; give one of the two");
        assert_eq!(twice, Err(refused));
    }

    #[test]
    fn a_shift_that_stops_half_way_says_who_keeps_the_rest() {
        assert!(rest_line(30).contains("keep the other 70 %"), "{}", rest_line(30));
    }
}
