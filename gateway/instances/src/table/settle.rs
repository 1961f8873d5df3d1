//! Works out one instance's check and health from the topology, from what was known of it, and from whose check it is.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_federation::{registry::InstanceKey, topology::HealthCheck};

use super::{CheckId, Duty, Health, Instance, Table};
use crate::health::{HINT_GAP, phase};

/// Time for which a gateway waits for the one that checks an instance to say how it is, before it looks for itself: longer than
/// a first probe and the way over the zone-sync take.
const STAND_IN_AFTER: Duration = Duration::from_secs(5);

/// Knowledge of an instance before it is settled anew.
#[derive(Debug)]
pub(super) struct PriorState {
    pub(super) old: Option<Arc<Instance>>,
    pub(super) running: Option<CheckId>,
    pub(super) duty: Option<Duty>,
    pub(super) doubted: Option<Instant>,
}

/// State of an instance once it is settled.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) health: Health,
    pub(super) check: Option<CheckId>,
    pub(super) duty: Option<Duty>,
    pub(super) doubted: Option<Instant>,
}

impl Settled {
    fn without_check(health: Health, duty: Option<Duty>) -> Self {
        Self {
            health,
            check: None,
            duty,
            doubted: None,
        }
    }
}

impl Table {
    pub(super) fn remember(&self, key: &InstanceKey) -> PriorState {
        let member = self.member(key);
        PriorState {
            old: member.map(|member| Arc::clone(&member.instance)),
            running: member.and_then(|member| member.check),
            duty: member.and_then(|member| member.duty),
            doubted: member.and_then(|member| member.doubted),
        }
    }

    /// Begins, alters or ends the check of an instance, as its service asks now and as the gateways of the zone share the
    /// checks out; says what health follows.
    pub(super) fn settle_check(
        &mut self,
        now: Instant,
        key: &InstanceKey,
        address: SocketAddr,
        known: &PriorState,
    ) -> Settled {
        let asked = self.services.get(&key.service).cloned();
        let Some(check) = asked.clone().flatten() else {
            self.end_check(known.running);
            // Undeclared is not unchecked: see the module's introduction.
            let health = asked.map_or(Health::Unknown, |_| Health::Healthy);
            return Settled::without_check(health, None);
        };
        let duty = self.sharing.duty(key);
        let told = self.sharing.told(key).map(|told| told.verdict.health);
        if let (Duty::Watch, Some(health)) = (duty, told) {
            self.end_check(known.running);
            return Settled {
                doubted: known.doubted,
                ..Settled::without_check(health, Some(duty))
            };
        }
        // Of a process before; once an instance is taken up its own health counts.
        let handed = match known.old {
            None => self.known.remove(key),
            Some(_) => None,
        };
        let (due, check) = match duty {
            Duty::Doubt => {
                let at = known.doubted.map_or(now, |last| now.max(last + HINT_GAP));
                (at, hasty(&check))
            }
            Duty::Watch => (now + STAND_IN_AFTER, check),
            // What is taken over from others is spread over the interval, and what is new is asked at once.
            Duty::Check if told.or(handed).is_some() || known.duty == Some(Duty::Watch) => {
                (now + check.every.mul_f64(phase(key)), check)
            }
            Duty::Check => (now, check),
        };
        let doubted = (duty == Duty::Doubt && known.running.is_none()).then_some(due);
        let (health, check) = match known.running {
            Some(id) => {
                self.checks.alter(now, id, &check);
                let state = self.checks.state(id);
                (state.map_or(Health::Unknown, |s| s.health()), id)
            }
            None => {
                // An instance whose service was unchecked until now keeps its traffic while it is first asked.
                let health = known.old.as_ref().map(|old| old.health);
                let health = told.or(health).or(handed).unwrap_or(Health::Unknown);
                (health, self.checks.insert_at(now, due, address, check, health))
            }
        };
        Settled {
            health,
            check: Some(check),
            duty: Some(duty),
            doubted: doubted.or(known.doubted),
        }
    }

    pub(super) fn end_check(&mut self, running: Option<CheckId>) {
        if let Some(id) = running {
            self.checks.remove(id);
            self.by_check.remove(&id);
        }
    }
}

/// The check of an instance that was doubted: the connection that failed was the first failure, so one more is enough.
fn hasty(check: &Arc<HealthCheck>) -> Arc<HealthCheck> {
    let mut hasty = HealthCheck::clone(check);
    hasty.fall = 1;
    Arc::new(hasty)
}
