//! `causeway register -f FILE`: a whole list of instances at once, kept in the registry if asked to.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use causeway_api::admin::{ListedInstance, ListedKey, OutcomeView, view::Envelope};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Exit, Failure,
    client::Endpoint,
    input, keep,
    register::{KEEP_TIME_TO_LIVE, RENEWALS_PER_LIFE, note},
    signals::Signals,
};
use crate::output;

/// Elements of one request, so that none takes long.
const PART: usize = 1_000;
/// Longest file in bytes; about 200,000 instances.
const MAX_FILE_BYTES: usize = 64 << 20;
/// Refusals that are printed; the rest is counted.
const MAX_REFUSALS_SHOWN: usize = 20;

pub(super) async fn register(admin: &Endpoint, file: &Path, kept: bool) -> Result<Exit, Failure> {
    let mut list: Vec<ListedInstance> = read(file)?;
    if kept {
        for instance in &mut list {
            let ttl = || humantime::format_duration(KEEP_TIME_TO_LIVE).to_string();
            instance.ttl.get_or_insert_with(ttl);
        }
    }
    let every = renew_every(&list)?;
    let mut signals = kept.then(Signals::new).transpose()?;
    let send_all = async || send::<OutcomeView>(admin, "/v1/instances", &list).await;
    let outcomes = match &mut signals {
        Some(signals) => keep::first(signals, send_all).await?,
        None => Some(send_all().await?),
    };
    let Some(outcomes) = outcomes else {
        // Told to end before they were registered.
        return Ok(Exit::Done);
    };
    remark(&outcomes);
    let refused = tell_refusals(&outcomes);
    output::print(&format!("registered {}\n", counted(list.len() - refused)))?;
    if let Some(signals) = signals {
        // What was refused is not tried again: it would be refused again.
        let accepted = list.into_iter().zip(&outcomes);
        let accepted: Vec<_> = accepted
            .filter(|(_, outcome)| outcome.refusal.is_none())
            .map(|(one, _)| one)
            .collect();
        keep_all(admin, &accepted, every, signals).await?;
        output::print(&format!("deregistered {}\n", counted(accepted.len())))?;
    }
    match refused {
        0 => Ok(Exit::Done),
        count => Err(
            Failure::new(format!("{count} of {} were refused", counted(outcomes.len())))
                .hint("each is named above with the reason; the others are registered"),
        ),
    }
}

/// Element of a list of instances that are to go: of what registered it only what names it counts.
#[derive(Debug, Deserialize)]
struct NamedInstance {
    service: String,
    id: Option<String>,
    address: Option<SocketAddr>,
}

/// Names of the instances in a file.
pub(super) fn keys(file: &Path) -> Result<Vec<ListedKey>, Failure> {
    let list: Vec<NamedInstance> = read(file)?;
    let key = |NamedInstance { service, id, address }| {
        let id = id.or_else(|| address.map(|address| address.to_string()));
        let id = id.ok_or_else(|| {
            Failure::new(format!(
                "an instance of {service} in {} has neither id nor address",
                file.display()
            ))
            .exit(Exit::BadInput)
        })?;
        Ok(ListedKey { service, id })
    };
    list.into_iter().map(key).collect()
}

pub(super) async fn deregister(admin: &Endpoint, keys: &[ListedKey]) -> Result<Exit, Failure> {
    let outcomes: Vec<OutcomeView> = send(admin, "/v1/instances/deregister", keys).await?;
    for outcome in outcomes.iter().filter(|outcome| outcome.refusal.is_none()) {
        output::print(&format!("deregistered {} {}\n", outcome.service, outcome.id))?;
    }
    match tell_refusals(&outcomes) {
        0 => Ok(Exit::Done),
        count => Err(Failure::new(format!(
            "{count} of {} were not deregistered",
            counted(outcomes.len())
        ))
        .hint("they may have expired; see `causeway get instances`")),
    }
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

/// Renews until a signal comes, then deregisters. What the gateway has forgotten is registered again.
async fn keep_all(
    admin: &Endpoint,
    list: &[ListedInstance],
    every: Duration,
    mut signals: Signals,
) -> Result<(), Failure> {
    let keys: Vec<ListedKey> = list.iter().map(ListedInstance::key).collect();
    keep::until_told(&mut signals, every, async || renew(admin, list, &keys).await).await?;
    let taking_out = async {
        let outcomes: Vec<OutcomeView> = send(admin, "/v1/instances/deregister", &keys).await?;
        tell_refusals(&outcomes);
        Ok(())
    };
    keep::farewell(&mut signals, taking_out).await
}

async fn renew(admin: &Endpoint, list: &[ListedInstance], keys: &[ListedKey]) -> Result<(), Failure> {
    let outcomes: Vec<OutcomeView> = send(admin, "/v1/instances/renew", keys).await?;
    let lost = list
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.refusal.is_some());
    let lost: Vec<_> = lost.map(|(instance, _)| instance).collect();
    if !lost.is_empty() {
        let outcomes: Vec<OutcomeView> = send(admin, "/v1/instances", &lost).await?;
        tell_refusals(&outcomes);
        note(&format!("{} had to be registered again", counted(lost.len())));
    }
    Ok(())
}

async fn send<T: DeserializeOwned>(
    admin: &Endpoint,
    path: &str,
    list: &[impl Serialize],
) -> Result<Vec<T>, Failure> {
    let mut outcomes = Vec::with_capacity(list.len());
    for part in list.chunks(PART) {
        let answer: Envelope<T> = admin.post_list(path, part).await?;
        outcomes.extend(answer.items);
    }
    Ok(outcomes)
}

/// Says on standard error what was refused, and counts it.
fn tell_refusals(outcomes: &[OutcomeView]) -> usize {
    let refused = outcomes.iter().filter(|outcome| outcome.refusal.is_some());
    let count = refused.clone().count();
    let mut text = String::new();
    for outcome in refused.take(MAX_REFUSALS_SHOWN) {
        let message = outcome.message.as_deref().unwrap_or_default();
        text.push_str(&format!("{}/{}: {message}\n", outcome.service, outcome.id));
    }
    if let Some(more @ 1..) = count.checked_sub(MAX_REFUSALS_SHOWN) {
        text.push_str(&format!("and {more} more\n"));
    }
    output::tell(&text);
    count
}

/// Says once on standard error what the owner of the instances would not expect.
fn remark(outcomes: &[OutcomeView]) {
    let words = |of: fn(&OutcomeView) -> &Option<String>| -> BTreeSet<&str> {
        outcomes
            .iter()
            .filter_map(|outcome| of(outcome).as_deref())
            .collect()
    };
    for word in words(|outcome| &outcome.standing)
        .into_iter()
        .chain(words(|outcome| &outcome.durability))
    {
        if let Some(remark) = super::register::remark_on(word) {
            note(remark);
        }
    }
}

/// Often enough for the shortest time to live.
fn renew_every(list: &[ListedInstance]) -> Result<Duration, Failure> {
    let mut shortest = Duration::from_secs(24 * 60 * 60);
    for ttl in list.iter().filter_map(|instance| instance.ttl.as_deref()) {
        let read = humantime::parse_duration(ttl).map_err(|error| {
            Failure::new(format!("`{ttl}` is not a time to live"))
                .because(&error)
                .exit(Exit::BadInput)
                .hint("for example 30s")
        })?;
        shortest = shortest.min(read);
    }
    // A time to live that is shorter is refused by the gateway.
    Ok(shortest.max(Duration::from_secs(1)) / RENEWALS_PER_LIFE)
}

/// The list in a file, or on standard input for `-`.
fn read<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>, Failure> {
    let shown = file.display();
    let text = input::read_text(file, MAX_FILE_BYTES)?;
    let no_list = || {
        let hint = "YAML or JSON, for example: [{ service: orders, address: \"10.1.0.11:8080\", tags: { version: v1 } }]";
        Failure::new(format!("{shown} is not a list of instances"))
            .exit(Exit::BadInput)
            .hint(hint)
    };
    match serde_saphyr::from_str::<Vec<T>>(&text) {
        Ok(list) if list.is_empty() => Err(no_list()),
        Ok(list) => Ok(list),
        Err(error) => Err(no_list().because(&error)),
    }
}
