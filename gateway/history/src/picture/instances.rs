//! This zone's instances, and what is ejected anywhere.

use std::{cmp::Ordering, sync::Arc};

use causeway_federation::topology::Drain;
use causeway_routing::{
    outlier::{EjectedPart, Ejection},
    snapshot::{Health, Instance, InstanceList, Published, Snapshot},
};

use super::Picture;
use crate::event::{EventKind, NewEvent, moment};

/// Tells of instances that came, went, fell ill and got well. Lists of services that did not change are shared, and not looked at.
pub(super) fn changed(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    let (old, new) = (&before.snapshot.instances, &after.snapshot.instances);
    if Arc::ptr_eq(old, new) {
        return;
    }
    let gone = old.keys().filter(|service| !new.contains_key(*service));
    for service in new.keys().chain(gone) {
        let slice = |lists: &Published| {
            lists
                .get(service)
                .map_or_else(InstanceList::default, Clone::clone)
        };
        let (old, new) = (slice(old), slice(new));
        if !std::ptr::eq::<[Arc<Instance>]>(&*old, &*new) {
            merge((&old, &new), after, events);
        }
    }
}

/// Compares two lists in the order of their ids.
fn merge((old, new): (&[Arc<Instance>], &[Arc<Instance>]), after: &Picture, events: &mut Vec<NewEvent>) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.id.cmp(&new.id),
        };
        match order {
            Ordering::Less => events.extend(
                old.next()
                    .map(|instance| told(EventKind::InstanceRemoved, instance, "is gone")),
            ),
            Ordering::Greater => events.extend(new.next().map(|instance| added(instance))),
            Ordering::Equal => {
                if let (Some(old), Some(new)) = (old.next(), new.next()) {
                    events.extend(drain(old, new));
                    events.extend(health(old, new, after));
                }
            }
        }
    }
}

fn added(instance: &Instance) -> NewEvent {
    let Instance { address, tags, .. } = instance;
    let text = match tags.is_empty() {
        true => format!("at {address} was added"),
        false => format!("at {address} with {tags} was added"),
    };
    told(EventKind::InstanceAdded, instance, &text)
}

pub(super) fn healthy(instance: &Instance) -> NewEvent {
    told(EventKind::InstanceHealthy, instance, "is healthy again")
}

fn health(old: &Instance, new: &Instance, after: &Picture) -> Option<NewEvent> {
    match (old.health, new.health) {
        (Health::Unhealthy, Health::Healthy) => Some(healthy(new)),
        (Health::Healthy | Health::Unknown, Health::Unhealthy) => Some(told(
            EventKind::InstanceUnhealthy,
            new,
            match after.plans.uses_ill(&after.snapshot.zone, new) {
                false => "is unhealthy, and gets no traffic",
                true => "is unhealthy, and gets traffic all the same: its service is in panic",
            },
        )),
        _ => None,
    }
}

fn drain(old: &Instance, new: &Instance) -> Option<NewEvent> {
    if old.drain == new.drain {
        return None;
    }
    let (kind, text) = match &new.drain {
        None => (EventKind::InstanceUndrained, "is drained no more".to_owned()),
        Some(Drain { by: None }) => (
            EventKind::InstanceDrained,
            "is drained: nothing new goes to it, and what is open at it stays".to_owned(),
        ),
        Some(Drain { by: Some(by) }) => (
            EventKind::InstanceDrained,
            format!(
                "is drained: nothing new goes to it, and what is open at it is closed from {} on",
                moment(*by)
            ),
        ),
    };
    Some(told(kind, new, &text))
}

fn told(kind: EventKind, instance: &Instance, what: &str) -> NewEvent {
    let Instance { service, id, .. } = instance;
    NewEvent::new(kind, format!("instance {id} of {service} {what}"))
        .service(service)
        .subject(id)
}

/// Tells of instances, and of zones for some tags, that come after the others because they failed.
pub(super) fn ejected(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    for ejection in after.ejected.added_to(&before.ejected) {
        let subject = subject(&after.snapshot, ejection);
        let text = format!("{subject} comes after the others for {}", ejection.service);
        let event = NewEvent::new(EventKind::Ejected, text).because(ejection.failures.to_string());
        events.push(event.service(&ejection.service).subject(subject));
    }
    for ejection in after.ejected.returned_from(&before.ejected) {
        let subject = subject(&after.snapshot, ejection);
        let text = format!(
            "{subject} is asked like the others again for {}",
            ejection.service
        );
        let event = NewEvent::new(EventKind::EjectionEnded, text);
        events.push(event.service(&ejection.service).subject(subject));
    }
}

fn subject(snapshot: &Snapshot, ejection: &Ejection) -> String {
    let zone = &ejection.zone;
    match (&ejection.part, ejection.instance_name(snapshot)) {
        (_, Some(instance)) => format!("instance {instance} of zone {zone}"),
        (EjectedPart::Zone(tags), None) if !tags.is_empty() => format!("zone {zone} with {tags}"),
        (_, None) => format!("zone {zone}"),
    }
}
