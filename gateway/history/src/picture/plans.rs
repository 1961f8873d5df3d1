//! Events of where services go: failover, failback, spill, shedding, panic and services that no zone can serve.

use std::{collections::BTreeMap, sync::Arc};

use causeway_federation::{
    name::{ServiceName, Tags, ZoneName},
    topology::{Service, Tier},
};
use causeway_routing::{
    balance::takes_traffic_in_panic,
    route::{ArmStanding, reasons, standing},
    snapshot::{Instance, Snapshot},
};

use super::{
    Picture,
    causes::{CausePlace, cause},
};
use crate::event::{EventKind, NewEvent};

/// Services that are explained in one comparison: explaining costs far more than finding out that something changed.
const MAX_EXPLAINED: usize = 64;
/// Share below which a spill, or shedding, does not begin: one request in a hundred.
const WORTH_TELLING: f64 = 0.01;
/// Words before the tier that a service has gone from.
const INSTEAD_OF_TIER: &str = " instead of tier ";

/// Standing of every arm of every service, and what it was when all was well. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Plans(Arc<BTreeMap<ServiceName, ServicePlan>>);

#[derive(Debug, Clone, PartialEq)]
struct ServicePlan {
    /// Those that the numbers of tiers stand for.
    failover: Vec<Tier>,
    arms: BTreeMap<Tags, ArmPlan>,
}

/// One arm.
#[derive(Debug, Clone, Default, PartialEq)]
struct ArmPlan {
    now: ArmStanding,
    /// Tier, and its zones, that it fails over from; `None`: it is too early to say, or nobody could ever serve it.
    base: Option<(usize, Vec<ZoneName>)>,
    /// A later tier than that serves, or its traffic has not come back whole.
    fails_over: bool,
    spills: bool,
    sheds: bool,
    panics: bool,
}

impl ArmPlan {
    fn next(before: Option<&Self>, now: ArmStanding, is_settled: bool) -> Self {
        let known = before.and_then(|before| before.base.clone());
        let tier = now.home();
        let at = tier.map(|tier| (tier, now.zones.clone()));
        let base = match (known, at) {
            _ if !is_settled => None,
            (Some(base), Some(at)) if at.0 > base.0 || now.is_returning => Some(base),
            (base, None) => base,
            (_, at) => at,
        };
        let was = |state: fn(&Self) -> bool| before.is_some_and(state);
        let is_later = base
            .as_ref()
            .zip(tier)
            .is_some_and(|((base, _), tier)| tier > *base);
        let returns = now.is_returning && now.spilled > 0.0;
        let failed_over = was(|before| before.fails_over) && (returns || now.in_panic);
        let goes_on =
            |was: bool, share: f64, begins: bool| share > 0.0 && (was || (begins && share >= WORTH_TELLING));
        Self {
            fails_over: is_later || failed_over,
            spills: goes_on(was(|before| before.spills), now.spilled, !now.is_returning),
            sheds: goes_on(was(|before| before.sheds), now.shed, true),
            panics: is_settled && now.in_panic,
            base,
            now,
        }
    }
}

impl Plans {
    /// Tells whether an instance of the zone `own` is used although it is ill.
    pub(super) fn uses_ill(&self, own: &ZoneName, instance: &Instance) -> bool {
        let is_asked = |(arm, plan): (&Tags, &ArmPlan)| {
            plan.now.in_panic && instance.tags.matches(arm) && plan.now.zones.contains(own)
        };
        let plan = self.0.get(&instance.service);
        takes_traffic_in_panic(instance) && plan.is_some_and(|plan| plan.arms.iter().any(is_asked))
    }

    /// Plans of a snapshot that follows others. `is_settled`: the process has had time to hear of the other zones; before that nothing counts
    /// as a failover.
    #[must_use]
    pub fn following(&self, snapshot: &Snapshot, is_settled: bool) -> Self {
        let services = snapshot.topology.services.iter();
        let plan = |(name, service): (&ServiceName, &Service)| {
            let before = self
                .0
                .get(name)
                .filter(|before| before.failover == service.failover);
            let arms = snapshot
                .split_of(name, service)
                .iter()
                .filter(|arm| arm.weight > 0);
            let arm = |tags: &Tags| {
                let now = standing(snapshot, name, tags).unwrap_or_default();
                let before = before.and_then(|before| before.arms.get(tags));
                (tags.clone(), ArmPlan::next(before, now, is_settled))
            };
            let plan = ServicePlan {
                failover: service.failover.clone(),
                arms: arms.map(|one| arm(&one.tags)).collect(),
            };
            (name.clone(), plan)
        };
        Self(Arc::new(services.map(plan).collect()))
    }

    /// Event of the end of what began with an event of this kind and text, for an arm (by its tags in words) of a service. `None`: it goes on.
    pub(super) fn end_of(
        &self,
        kind: EventKind,
        (service, tags): (&str, Option<&str>),
        text: &str,
    ) -> Option<NewEvent> {
        let (name, plan) = self.0.get_key_value(&ServiceName::new(service).ok()?)?;
        let is_meant = |arm: &Tags| match tags {
            None => arm.is_empty(),
            Some(tags) => arm.to_string() == tags,
        };
        let (arm, now) = plan.arms.iter().find(|(arm, _)| is_meant(arm))?;
        let what = what(name, arm);
        let (kind, text) = match kind {
            EventKind::HomeLost => (EventKind::HomeFound, served_again(&what, now.now.tier?, now)),
            EventKind::FailoverBegun => {
                let tier = now.now.home().filter(|tier| Some(*tier) <= tier_before(text))?;
                (EventKind::FailoverEnded, back(&what, tier, now))
            }
            EventKind::SpillBegun if !now.spills => (EventKind::SpillEnded, spilled_no_more(&what, now)),
            EventKind::ShedBegun if !now.sheds => (EventKind::ShedEnded, shed_no_more(&what)),
            EventKind::PanicBegun if !now.panics => (EventKind::PanicEnded, panics_no_more(&what, now)),
            _ => return None,
        };
        Some(of_arm(kind, text, name, arm))
    }
}

/// Tells of arms that are served elsewhere than before.
pub(super) fn changed(before: &Picture, after: &Picture, events: &mut Vec<NewEvent>) {
    if Arc::ptr_eq(&before.plans.0, &after.plans.0) {
        return;
    }
    let mut explained = 0;
    for (name, plan) in &*after.plans.0 {
        let Some(old) = before.plans.0.get(name) else {
            continue;
        };
        if old == plan || old.failover != plan.failover {
            continue;
        }
        for (tags, now) in &plan.arms {
            let Some(before) = old.arms.get(tags) else {
                continue;
            };
            let told = arm(name, tags, before, now);
            let is_explained = explained < MAX_EXPLAINED && !told.is_empty();
            explained += usize::from(is_explained);
            let why = match is_explained {
                true => reasons(&after.snapshot, name, tags),
                false => Vec::new(),
            };
            events.extend(told.into_iter().map(|(event, place)| {
                let because = cause(&why, (name, place), after);
                event
                    .because(because)
                    .explained(why.iter().map(ToString::to_string))
            }));
        }
    }
}

fn what(name: &ServiceName, tags: &Tags) -> String {
    match tags.is_empty() {
        true => name.to_string(),
        false => format!("{name} {tags}"),
    }
}

fn zones(zones: &[ZoneName]) -> String {
    let names: Vec<&str> = zones.iter().map(ZoneName::as_str).collect();
    names.join(", ")
}

/// Events of one arm, each with the place in which its cause lies.
type Told<'p> = Vec<(EventKind, String, CausePlace<'p>)>;

fn arm<'p>(
    name: &ServiceName,
    tags: &Tags,
    before: &'p ArmPlan,
    now: &'p ArmPlan,
) -> Vec<(NewEvent, CausePlace<'p>)> {
    let what = what(name, tags);
    let mut told = Vec::new();
    homes(&what, before, now, &mut told);
    panic(&what, before, now, &mut told);
    failover(&what, before, now, &mut told);
    shares(&what, before, now, &mut told);
    let event = |(kind, text, place)| (of_arm(kind, text, name, tags), place);
    told.into_iter().map(event).collect()
}

fn of_arm(kind: EventKind, text: String, name: &ServiceName, tags: &Tags) -> NewEvent {
    let event = NewEvent::new(kind, text).service(name);
    match tags.is_empty() {
        true => event,
        false => event.subject(tags),
    }
}

fn served_again(what: &str, tier: usize, now: &ArmPlan) -> String {
    let serving = zones(&now.now.zones);
    format!("{what} is served again, by tier {tier} ({serving})")
}

fn back(what: &str, tier: usize, now: &ArmPlan) -> String {
    let serving = zones(&now.now.zones);
    format!("{what} is back at tier {tier} ({serving})")
}

/// Tier that a service has gone from, by the text of the event that told so.
fn tier_before(text: &str) -> Option<usize> {
    let (_, from) = text.split_once(INSTEAD_OF_TIER)?;
    from.split_once(' ')?.0.parse().ok()
}

fn spilled_no_more(what: &str, now: &ArmPlan) -> String {
    match now.now.home() {
        Some(tier) if now.fails_over => {
            let serving = zones(&now.now.zones);
            format!("{what} is not divided among tiers any more: all of it goes to tier {tier} ({serving})")
        }
        Some(_) => format!("nothing of {what} goes to later tiers any more"),
        None => format!("{what} is not divided among tiers any more: no healthy instance can serve it"),
    }
}

fn panics_no_more(what: &str, now: &ArmPlan) -> String {
    match now.now.home() {
        Some(tier) => {
            let serving = zones(&now.now.zones);
            format!("{what} is in panic no more: healthy instances serve it, of tier {tier} ({serving})")
        }
        None => format!("{what} is in panic no more: there is nothing left of it that could be used"),
    }
}

fn shed_no_more(what: &str) -> String {
    format!("nothing of {what} is refused for want of capacity any more")
}

fn homes<'p>(what: &str, before: &'p ArmPlan, now: &'p ArmPlan, told: &mut Told<'p>) {
    match (before.now.tier, now.now.tier) {
        (Some(_), None) if before.base.is_some() => {
            let text = format!("no zone can serve {what}");
            told.push((EventKind::HomeLost, text, CausePlace::Zones(&before.now.zones)));
        }
        (None, Some(tier)) if before.base.is_some() => {
            let text = served_again(what, tier, now);
            told.push((EventKind::HomeFound, text, CausePlace::Zones(&now.now.zones)));
        }
        _ => {}
    }
}

fn panic<'p>(what: &str, before: &'p ArmPlan, now: &'p ArmPlan, told: &mut Told<'p>) {
    match (before.panics, now.panics) {
        (false, true) => {
            let serving = zones(&now.now.zones);
            let text = format!(
                "{what} is in panic: none of its instances is healthy in any zone, and those that are ill are used ({serving})"
            );
            told.push((EventKind::PanicBegun, text, CausePlace::Zones(&now.now.zones)));
        }
        (true, false) => {
            let text = panics_no_more(what, now);
            told.push((EventKind::PanicEnded, text, CausePlace::Zones(&[])));
        }
        _ => {}
    }
}

fn failover<'p>(what: &str, before: &'p ArmPlan, now: &'p ArmPlan, told: &mut Told<'p>) {
    let home = now.base.as_ref().map_or(&[][..], |(_, zones)| zones);
    let serving = zones(&now.now.zones);
    if let (Some((from, at)), Some(to)) = (&now.base, now.now.home())
        && to > *from
        && (!before.fails_over || (!before.now.in_panic && Some(to) > before.now.tier))
    {
        let text = format!(
            "{what} goes to tier {to} ({serving}){INSTEAD_OF_TIER}{from} ({})",
            zones(at)
        );
        told.push((EventKind::FailoverBegun, text, CausePlace::Zones(home)));
    }
    if let (Some(_), Some(was), Some(tier)) = (&before.base, before.now.tier, now.now.home())
        && !now.fails_over
        && (before.fails_over || (!before.now.in_panic && tier < was))
    {
        let text = back(what, tier, now);
        told.push((EventKind::FailoverEnded, text, CausePlace::Zones(&now.now.zones)));
    }
    match (before.now.is_returning, now.now.is_returning) {
        (false, true) if before.fails_over || before.spills => {
            let text = format!(
                "an earlier tier can serve {what} again, and its traffic returns as failback lets it"
            );
            told.push((EventKind::FailbackBegun, text, CausePlace::Zones(home)));
        }
        (true, false) if now.fails_over || now.spills => {
            let text = format!("the tier to which traffic of {what} was returning cannot take it after all");
            told.push((EventKind::FailbackBrokenOff, text, CausePlace::Zones(home)));
        }
        _ => {}
    }
}

fn shares<'p>(what: &str, before: &'p ArmPlan, now: &'p ArmPlan, told: &mut Told<'p>) {
    let (standing, at) = (&now.now, CausePlace::Shares);
    match (before.spills, now.spills) {
        (false, true) => {
            let percent = standing.spilled * 100.0;
            let text = format!(
                "{percent:.0} % of {what} goes to later tiers than {}",
                zones(&standing.zones)
            );
            told.push((EventKind::SpillBegun, text, at));
        }
        (true, false) => {
            told.push((EventKind::SpillEnded, spilled_no_more(what, now), at));
        }
        _ => {}
    }
    match (before.sheds, now.sheds) {
        (false, true) => {
            let percent = standing.shed * 100.0;
            let text = format!("{percent:.0} % of {what} is refused for want of capacity");
            told.push((EventKind::ShedBegun, text, at));
        }
        (true, false) => {
            told.push((EventKind::ShedEnded, shed_no_more(what), at));
        }
        _ => {}
    }
}
