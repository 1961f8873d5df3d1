//! The schedule of probes: which instance is probed when. Pure: the caller says what time it is, carries out the orders, and brings the results.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::topology::HealthCheck;
use causeway_routing::snapshot::Health;
use rand::Rng;

use super::{HealthState, ProbeResult, Thresholds, Transition};

/// Most probes under way at once: each is a socket, and together they must leave the data path its share of them.
pub(crate) const MAX_CONCURRENT_PROBES: usize = 256;
/// Shortest time between two probes of one instance that were asked for by the data path.
pub(crate) const HINT_GAP: Duration = Duration::from_millis(250);
/// Share by which an interval strays from what the topology says, so that checks which meet once part again.
const JITTER: f64 = 0.1;
/// The least part of an interval before the second probe. Between this and the whole: checks that began together, as
/// all of them do when a gateway starts, are spread over the interval from then on.
const LEAST_FIRST_INTERVAL: f64 = 0.1;

/// One instance's check, for as long as it is checked at this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CheckId(u64);

/// A probe to be made now. Its result must be brought back, whatever becomes of it.
#[derive(Debug, Clone)]
pub(crate) struct ProbeOrder {
    pub id: CheckId,
    pub address: SocketAddr,
    pub check: Arc<HealthCheck>,
}

/// Every checked instance of this zone.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    checks: BTreeMap<CheckId, Check>,
    /// Every check that is not being probed.
    due: BTreeSet<(Instant, CheckId)>,
    in_flight: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Check {
    address: SocketAddr,
    check: Arc<HealthCheck>,
    state: HealthState,
    /// `None` while a probe is under way.
    due: Option<Instant>,
    /// Time at which the latest probe began.
    began: Option<Instant>,
    /// The data path failed to connect since then.
    hinted: bool,
}

impl Checks {
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Begins to check an instance, with a probe at once.
    #[cfg(test)]
    pub(crate) fn insert(
        &mut self,
        now: Instant,
        address: SocketAddr,
        check: Arc<HealthCheck>,
        health: Health,
    ) -> CheckId {
        self.insert_at(now, now, address, check, health)
    }

    /// Begins to check an instance, with the first probe at `due`.
    pub(crate) fn insert_at(
        &mut self,
        now: Instant,
        due: Instant,
        address: SocketAddr,
        check: Arc<HealthCheck>,
        health: Health,
    ) -> CheckId {
        let id = CheckId(self.next_id);
        self.next_id += 1;
        let state = HealthState::new(now, health);
        let check = Check {
            address,
            check,
            state,
            due: Some(due),
            began: None,
            hinted: false,
        };
        self.checks.insert(id, check);
        self.due.insert((due, id));
        id
    }

    /// Checks the instance differently from now on. Its health stays until the new check's results change it.
    pub(crate) fn alter(&mut self, now: Instant, id: CheckId, check: &Arc<HealthCheck>) {
        let Some(known) = self.checks.get_mut(&id) else {
            return;
        };
        if known.check == *check {
            return;
        }
        known.check = Arc::clone(check);
        known.state.restart_streak();
        self.bring_forward(id, now);
    }

    /// Ends a check. The result of a probe that is under way will be ignored.
    pub(crate) fn remove(&mut self, id: CheckId) {
        if let Some(check) = self.checks.remove(&id)
            && let Some(due) = check.due
        {
            self.due.remove(&(due, id));
        }
    }

    /// The data path could not connect: probes this instance at once, though not more often than every [`HINT_GAP`].
    pub(crate) fn hint(&mut self, now: Instant, id: CheckId) {
        let Some(check) = self.checks.get_mut(&id) else {
            return;
        };
        check.hinted = true;
        let at = check.began.map_or(now, |began| now.max(began + HINT_GAP));
        self.bring_forward(id, at);
    }

    /// The next probe to make, if one is due and there is room for it.
    pub(crate) fn poll_order(&mut self, now: Instant) -> Option<ProbeOrder> {
        if self.in_flight >= MAX_CONCURRENT_PROBES || self.due.first()?.0 > now {
            return None;
        }
        let (_, id) = self.due.pop_first()?;
        let check = self.checks.get_mut(&id)?;
        (check.due, check.began, check.hinted) = (None, Some(now), false);
        self.in_flight += 1;
        Some(ProbeOrder {
            id,
            address: check.address,
            check: Arc::clone(&check.check),
        })
    }

    /// Time at which [`Checks::poll_order`] will have an order; `None` while it waits for results, or for nothing.
    #[must_use]
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        (self.in_flight < MAX_CONCURRENT_PROBES).then_some(*due)
    }

    /// Takes in the result of an order. The result of a check that was altered since the order does not count, and the
    /// new check is made at once.
    pub(crate) fn handle_result(
        &mut self,
        now: Instant,
        order: &ProbeOrder,
        outcome: ProbeResult,
        rng: &mut impl Rng,
    ) -> Option<Transition> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let check = self.checks.get_mut(&order.id)?;
        let began = check.began.unwrap_or(now);
        let current = check.check == order.check;
        let first = check.state.health() == Health::Unknown;
        let next = if !current {
            now
        } else if check.hinted {
            began + HINT_GAP
        } else {
            began + interval(check.check.every, first, rng)
        };
        let due = next.max(now);
        check.due = Some(due);
        self.due.insert((due, order.id));
        let thresholds = Thresholds {
            rise: check.check.rise,
            fall: check.check.fall,
        };
        current
            .then(|| check.state.handle_result(now, thresholds, outcome))
            .flatten()
    }

    #[must_use]
    pub(crate) fn state(&self, id: CheckId) -> Option<&HealthState> {
        self.checks.get(&id).map(|check| &check.state)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.checks.len()
    }

    fn bring_forward(&mut self, id: CheckId, at: Instant) {
        let Some(check) = self.checks.get_mut(&id) else {
            return;
        };
        let Some(due) = check.due.filter(|due| *due > at) else {
            return;
        };
        self.due.remove(&(due, id));
        check.due = Some(at);
        self.due.insert((at, id));
    }
}

/// Time from the beginning of one probe to that of the next.
fn interval(every: Duration, first: bool, rng: &mut impl Rng) -> Duration {
    let part = if first {
        rng.random_range(LEAST_FIRST_INTERVAL..=1.0)
    } else {
        rng.random_range(1.0 - JITTER..=1.0 + JITTER)
    };
    every.mul_f64(part)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
