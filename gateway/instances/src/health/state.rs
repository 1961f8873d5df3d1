//! Rise and fall: one instance's health, from its probe results alone.

use std::time::Instant;

use causeway_routing::snapshot::Health;

/// Numbers of results in a row that change a mind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Consecutive successes that make an unhealthy instance healthy.
    pub rise: u32,
    /// Consecutive failures that make a healthy instance unhealthy.
    pub fall: u32,
}

/// Result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeResult {
    Passed,
    /// With the reason, for logs and views.
    Failed(String),
    /// This gateway could not ask (no sockets left, say): says nothing about the instance, with the reason.
    NotAsked(String),
}

/// An instance's health changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transition {
    pub from: Health,
    pub to: Health,
}

/// The latest probe that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastFailure {
    pub at: Instant,
    pub reason: String,
}

/// One instance's health.
#[derive(Debug, Clone)]
pub(crate) struct HealthState {
    health: Health,
    since: Instant,
    /// Results in a row that speak against `health`.
    against: u32,
    last_failure: Option<LastFailure>,
}

impl HealthState {
    /// `Health::Unknown` for an instance that was never asked: its first result decides at once.
    #[must_use]
    pub(crate) fn new(now: Instant, health: Health) -> Self {
        Self {
            health,
            since: now,
            against: 0,
            last_failure: None,
        }
    }

    /// Takes in one result, in this order: a probe that could not be made changes nothing but the reason; the first
    /// result decides; a result that agrees with the present health wipes out those that did not; as many as the
    /// threshold against it in a row turn it round.
    pub(crate) fn handle_result(
        &mut self,
        now: Instant,
        thresholds: Thresholds,
        outcome: ProbeResult,
    ) -> Option<Transition> {
        let passed = match outcome {
            ProbeResult::Passed => true,
            ProbeResult::Failed(reason) => {
                self.last_failure = Some(LastFailure { at: now, reason });
                false
            }
            ProbeResult::NotAsked(reason) => {
                self.last_failure = Some(LastFailure { at: now, reason });
                return None;
            }
        };
        let to = if passed {
            Health::Healthy
        } else {
            Health::Unhealthy
        };
        if to == self.health {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = match self.health {
            Health::Unknown => 1,
            Health::Healthy => thresholds.fall,
            Health::Unhealthy => thresholds.rise,
        };
        if self.against < needed {
            return None;
        }
        let from = std::mem::replace(&mut self.health, to);
        (self.since, self.against) = (now, 0);
        Some(Transition { from, to })
    }

    /// Forgets half a streak, for a check that now asks something else. The health stays until results change it.
    pub(crate) fn restart_streak(&mut self) {
        self.against = 0;
    }

    #[must_use]
    pub(crate) fn health(&self) -> Health {
        self.health
    }

    /// Time at which it became what it is.
    #[must_use]
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    #[must_use]
    pub(crate) fn last_failure(&self) -> Option<&LastFailure> {
        self.last_failure.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `results` (`+` passed, `-` failed, `?` not asked) from `start`, and draws the health after each.
    fn run(start: Health, rise: u32, fall: u32, results: &str) -> String {
        let now = Instant::now();
        let mut state = HealthState::new(now, start);
        let mut drawn = String::new();
        for result in results.chars() {
            let outcome = match result {
                '+' => ProbeResult::Passed,
                '-' => ProbeResult::Failed("refused".to_owned()),
                _ => ProbeResult::NotAsked("no sockets".to_owned()),
            };
            let before = state.health();
            let transition = state.handle_result(now, Thresholds { rise, fall }, outcome);
            assert_eq!(transition.is_some(), before != state.health());
            drawn.push(match state.health() {
                Health::Unknown => 'u',
                Health::Healthy => 'H',
                Health::Unhealthy => 'x',
            });
        }
        drawn
    }

    #[test]
    fn health_follows_rise_and_fall() {
        use Health::{Healthy, Unhealthy, Unknown};
        let cases = [
            (Unknown, 3, 3, "+", "H"),
            (Unknown, 3, 3, "-", "x"),
            (Unknown, 3, 3, "??+", "uuH"),
            (Healthy, 2, 3, "--+--+---", "HHHHHHHHx"),
            (Healthy, 2, 1, "-++", "xxH"),
            (Unhealthy, 2, 2, "+-+-++", "xxxxxH"),
            (Healthy, 2, 2, "-?-", "HHx"),
            (Unhealthy, 1, 1, "+-+-", "HxHx"),
        ];
        for (start, rise, fall, results, expected) in cases {
            assert_eq!(
                run(start, rise, fall, results),
                expected,
                "{start:?} {rise}/{fall} {results}"
            );
        }
    }

    #[test]
    fn the_last_failure_is_kept_after_a_recovery() {
        let start = Instant::now();
        let later = start + std::time::Duration::from_secs(1);
        let thresholds = Thresholds { rise: 1, fall: 1 };
        let mut state = HealthState::new(start, Health::Unknown);
        state.handle_result(start, thresholds, ProbeResult::Failed("answered 503".to_owned()));
        state.handle_result(later, thresholds, ProbeResult::Passed);
        assert_eq!(state.health(), Health::Healthy);
        assert_eq!(state.since(), later);
        let last = state.last_failure().unwrap();
        assert_eq!((last.at, last.reason.as_str()), (start, "answered 503"));
    }
}
