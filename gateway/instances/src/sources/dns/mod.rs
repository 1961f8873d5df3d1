//! Instances that DNS knows: the questions of this zone's `sources` in the topology, asked again when their answers run
//! out. When to ask, and what to make of an answer or of none, is decided in `polls`; how one question becomes records is
//! `ask`'s.

mod ask;
mod polls;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use causeway_dns::HostResolver;
use causeway_federation::{
    name::{ServiceName, ZoneName},
    registry::{InstanceSource, Provenance, Registration},
    topology::{DnsQuestion, DnsSource, Topology},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    ask::{DnsAnswer, DnsInstance, ask},
    polls::Polls,
};
use super::{SourceFeed, Troubles};
use crate::Instances;

/// Asks for as long as it is polled.
pub(super) async fn follow(
    zone: ZoneName,
    mut topology: watch::Receiver<Arc<Topology>>,
    resolver: HostResolver,
    instances: Instances,
    troubles: Troubles,
) {
    let mut feed = SourceFeed::new(InstanceSource::Dns, instances, troubles.clone());
    let mut polls = Polls::default();
    let mut asking = JoinSet::new();
    let mut sources = take_up(
        &zone,
        &topology.borrow_and_update().clone(),
        &mut polls,
        &troubles,
    );
    loop {
        let now = Instant::now();
        while let Some(question) = polls.poll_question(now.into_std()) {
            let resolver = resolver.clone();
            asking.spawn(async move {
                let answer = ask(&resolver, &question).await;
                (question, answer)
            });
        }
        if polls.take_changed(now.into_std()) {
            feed.hand_over(registrations(&sources, &polls)).await;
        }
        let due = polls.poll_timeout().map(Instant::from_std);
        // Nothing to wake up for: any time that is far away serves.
        let due = due.unwrap_or_else(|| now + Duration::from_secs(3600));
        tokio::select! {
            changed = topology.changed() => {
                if changed.is_err() {
                    return;
                }
                sources = take_up(&zone, &topology.borrow_and_update().clone(), &mut polls, &troubles);
            }
            Some(asked) = asking.join_next() => match asked {
                Ok((question, answer)) => {
                    note(&troubles, &question, &answer);
                    polls.handle_answer(Instant::now().into_std(), &question, answer);
                }
                // Its question is asked again after a while, as one that was never answered.
                Err(error) => tracing::error!(%error, "asking DNS for instances broke down"),
            },
            () = sleep_until(due) => {}
        }
    }
}

/// The questions that the topology has for this zone.
fn take_up(zone: &ZoneName, topology: &Topology, polls: &mut Polls, troubles: &Troubles) -> Vec<DnsSource> {
    let sources = topology.zones.get(zone).map(|zone| zone.dns_sources.clone());
    let sources = sources.unwrap_or_default();
    let questions: BTreeSet<DnsQuestion> = sources.iter().map(|source| source.question.clone()).collect();
    for gone in polls.set_questions(Instant::now().into_std(), questions) {
        troubles.set(place(&gone), None);
    }
    sources
}

fn place(question: &DnsQuestion) -> String {
    format!("dns: {question}")
}

/// Trouble of an answer without any instance. A name with a letter wrong is answered like that, too.
const NOTHING_FOUND: &str = "the answer names no instance: if there should be some, look at the name";

fn note(troubles: &Troubles, question: &DnsQuestion, answer: &DnsAnswer) {
    let failure = answer.failure.as_deref();
    let trouble = match failure {
        Some(failure) => Some(format!("{failure}; what was known is kept")),
        None => answer.found.is_empty().then(|| NOTHING_FOUND.to_owned()),
    };
    let is_well = trouble.is_none();
    if troubles.set(place(question), trouble) {
        match failure {
            Some(failure) => {
                tracing::warn!(%question, failure, "DNS does not answer for instances; what was known is kept");
            }
            None if is_well => tracing::info!(%question, "DNS answers for instances again"),
            None => tracing::warn!(%question, "{NOTHING_FOUND}"),
        }
    }
}

/// Works out what all the answers come to. Where two questions of a service find one address, the first in the file counts.
fn registrations(sources: &[DnsSource], polls: &Polls) -> Vec<Registration> {
    let mut all: BTreeMap<(ServiceName, String), Registration> = BTreeMap::new();
    for source in sources {
        for found in polls.found(&source.question) {
            let registration = registration(source, found);
            let key = (registration.service.clone(), registration.id.clone());
            all.entry(key).or_insert(registration);
        }
    }
    all.into_values().collect()
}

fn registration(source: &DnsSource, found: &DnsInstance) -> Registration {
    Registration {
        service: source.service.clone(),
        id: found.address.to_string(),
        address: found.address,
        tags: source.tags.clone(),
        weight: found.weight.unwrap_or(source.weight),
        capacity_per_second: None,
        time_to_live: None,
        provenance: Provenance::Elsewhere,
    }
}
