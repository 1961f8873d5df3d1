//! `causeway register` and `causeway deregister`: put an instance into the zone's registry, keep it there, take it out.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use causeway_api::admin::{InstanceBody, ListedKey, RegisteredView, view::Envelope};
use causeway_federation::name::ServiceName;

use super::{
    AdminArgs, Exit, Failure,
    client::{Endpoint, escape},
    keep, register_list,
    signals::Signals,
};
use crate::output;

/// Time to live of `--keep` when none is given.
pub(super) const KEEP_TIME_TO_LIVE: Duration = Duration::from_secs(30);
/// Number of renewals of a lease within its time to live: two may be lost.
pub(super) const RENEWALS_PER_LIFE: u32 = 3;

const REGISTER_HELP: &str = "\
Examples:
  causeway register orders --address 10.1.0.11:8080 --tag version=v1
      stays until it is deregistered
  causeway register orders --address 10.1.0.11:8080 --ttl 30s
      lives 30 s; run it again within that time to renew it
  causeway register orders --address 127.0.0.1:8080 --keep
      stays in the foreground, renews, and deregisters on SIGINT or SIGTERM
  causeway register -f instances.yaml --keep
      the same for a list: [{ service: orders, address: \"10.1.0.11:8080\", ttl: 30s }, …]

Registering the same service and id again replaces the instance.";

const DEREGISTER_HELP: &str = "\
Examples:
  causeway deregister orders --id 10.1.0.11:8080
  causeway deregister orders --id web-1 --id web-2
  causeway deregister -f instances.yaml       those of the list that `register -f` was given; - is standard input";

/// Put an instance into the zone's registry.
#[derive(Debug, clap::Args)]
#[command(after_help = REGISTER_HELP)]
pub(crate) struct RegisterArgs {
    /// Service of the topology that the instance belongs to, such as orders
    #[arg(value_name = "SERVICE", required_unless_present = "file")]
    service: Option<ServiceName>,
    /// A YAML or JSON list of instances instead of one; - is standard input
    #[arg(short, long, value_name = "FILE",
        conflicts_with_all = ["service", "address", "id", "tags", "weight", "capacity", "ttl"])]
    file: Option<PathBuf>,
    /// Address that the instance listens on
    #[arg(long, value_name = "IP:PORT", required_unless_present = "file")]
    address: Option<SocketAddr>,
    /// Unique within the service and zone [default: the address]
    #[arg(long)]
    id: Option<String>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
    /// Share of traffic relative to its peers; 0 takes no new connections
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,
    /// Connections or requests a second that it can take
    #[arg(long, value_name = "PER_SECOND")]
    capacity: Option<u64>,
    /// Time that it lives without being renewed, such as 30s [default: for ever; with --keep 30s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Stay in the foreground, renew, and deregister at the end
    #[arg(long, visible_alias = "renew")]
    keep: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Take an instance out of the zone's registry.
#[derive(Debug, clap::Args)]
#[command(after_help = DEREGISTER_HELP)]
pub(crate) struct DeregisterArgs {
    /// Service of the topology that the instance belongs to
    #[arg(value_name = "SERVICE", required_unless_present = "file")]
    service: Option<ServiceName>,
    /// The id it was registered with; its address if none was given; may be given several times
    #[arg(
        long = "id",
        visible_alias = "address",
        value_name = "ID",
        required_unless_present = "file"
    )]
    ids: Vec<String>,
    /// A YAML or JSON list of instances, each with its service and its id or address, as `register -f` takes it; - is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["service", "ids"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// `key=value` on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(pub String, pub String);

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.to_owned(), value.to_owned())),
            _ => Err("a tag is KEY=VALUE, such as version=v1".to_owned()),
        }
    }
}

pub(crate) async fn register(args: RegisterArgs) -> Result<Exit, Failure> {
    if let Some(file) = &args.file {
        return register_list::register(&args.admin.admin, file, args.keep).await;
    }
    let (Some(service), Some(address)) = (args.service, args.address) else {
        return Err(Failure::usage(
            "give a SERVICE and its --address, or a list with --file",
        ));
    };
    let id = args.id.clone().unwrap_or_else(|| address.to_string());
    let path = path(&service, &id);
    let ttl = args.ttl.or(args.keep.then_some(KEEP_TIME_TO_LIVE));
    let body = InstanceBody {
        address,
        tags: args
            .tags
            .into_iter()
            .map(|Tag(key, value)| (key, value))
            .collect(),
        weight: args.weight,
        capacity_per_second: args.capacity,
        ttl: ttl.map(|ttl| humantime::format_duration(ttl).to_string()),
    };
    let admin = &args.admin.admin;
    let registered = |answer: &Envelope<RegisteredView>| {
        answer.items.iter().for_each(remark);
        output::print(&format!("registered {service} {id}\n"))
    };
    if !args.keep {
        registered(&admin.put(&path, &body).await?)?;
        return Ok(Exit::Done);
    }
    let mut signals = Signals::new()?;
    let Some(answer) = keep::first(&mut signals, async || admin.put(&path, &body).await).await? else {
        // Told to end before it was registered.
        return Ok(Exit::Done);
    };
    registered(&answer)?;
    let ttl = ttl.unwrap_or(KEEP_TIME_TO_LIVE);
    keep_one(&mut signals, (admin, &path), &body, ttl / RENEWALS_PER_LIFE).await?;
    output::print(&format!("deregistered {service} {id}\n"))?;
    Ok(Exit::Done)
}

/// Says on standard error what the owner of the instance would not expect.
fn remark(registered: &RegisteredView) {
    let words = [&registered.standing, &registered.durability];
    words
        .into_iter()
        .filter_map(|word| remark_on(word))
        .for_each(note);
}

/// Says what an owner of an instance should know of a standing or a durability.
pub(super) fn remark_on(word: &str) -> Option<&'static str> {
    match word {
        "undeclared" => Some("the topology does not declare this service: no traffic until it does"),
        "shadowed" => Some("a source that goes before this one has an instance with this id, which counts"),
        "no_store" => Some("the gateway has no data directory: the registration ends when it restarts"),
        "write_failed" => Some("the gateway cannot write its registry to disk now, and tries again"),
        _ => None,
    }
}

pub(super) fn note(text: &str) {
    output::tell(&format!("note: {text}\n"));
}

pub(crate) async fn deregister(args: DeregisterArgs) -> Result<Exit, Failure> {
    if let Some(file) = &args.file {
        let keys = register_list::keys(file)?;
        return register_list::deregister(&args.admin.admin, &keys).await;
    }
    let Some(service) = args.service else {
        return Err(Failure::usage(
            "give a SERVICE and its --id, or a list with --file",
        ));
    };
    if let [id] = args.ids.as_slice() {
        args.admin.admin.delete(&path(&service, id)).await?;
        output::print(&format!("deregistered {service} {id}\n"))?;
        return Ok(Exit::Done);
    }
    let keys = args.ids.into_iter().map(|id| ListedKey {
        service: service.to_string(),
        id,
    });
    register_list::deregister(&args.admin.admin, &keys.collect::<Vec<_>>()).await
}

fn path(service: &ServiceName, id: &str) -> String {
    format!("/v1/instances/{service}/{}", escape(id))
}

/// Renews until a signal comes, then deregisters. A gateway that restarts or is away for a while gets the instance
/// again as soon as it answers: the instance outlives its gateway.
async fn keep_one(
    signals: &mut Signals,
    (admin, path): (&Endpoint, &str),
    body: &InstanceBody,
    every: Duration,
) -> Result<(), Failure> {
    let mut lost = false;
    let renew = async || {
        let done = if lost {
            let answer: Result<Envelope<RegisteredView>, _> = admin.put(path, body).await;
            answer.map(drop)
        } else {
            admin.post(&format!("{path}/renew")).await
        };
        // It is registered anew at the next turn.
        lost = done.is_err();
        done
    };
    keep::until_told(signals, every, renew).await?;
    keep::farewell(signals, admin.delete(path)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_needs_a_key_and_may_have_an_empty_value() {
        assert_eq!("version=v1".parse(), Ok(Tag("version".into(), "v1".into())));
        assert_eq!("a=b=c".parse(), Ok(Tag("a".into(), "b=c".into())));
        assert_eq!("a=".parse(), Ok(Tag("a".into(), String::new())));
        assert!("version".parse::<Tag>().is_err());
        assert!("=v1".parse::<Tag>().is_err());
    }

    #[test]
    fn an_id_is_one_segment_of_the_path() {
        let service = ServiceName::new("orders").unwrap();
        assert_eq!(
            path(&service, "[::1]:80/x"),
            "/v1/instances/orders/%5B%3A%3A1%5D%3A80%2Fx"
        );
    }
}
