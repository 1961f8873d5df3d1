//! An agent that is asked for as long as it takes: one call after the other, with longer and longer waits while it is away.

use std::time::{Duration, SystemTime};

use causeway_host::backoff::{at_least_half, ceiling};
use causeway_proto::workload::X509svidResponse;
use causeway_telemetry::log::in_one_line;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    AgentStatus, EndpointAddress, Trouble,
    conversation::{AgentError, Conversation},
};

/// The ceilings of the waits after a failure, which double: an agent that was restarted is there again within a second.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(30);
/// A call that lasted this long ends what failed before it.
const STEADY: Duration = Duration::from_secs(30);

/// The agent of this host.
pub(super) struct Agent {
    status: watch::Sender<AgentStatus>,
    call: Option<(Conversation, Instant)>,
    /// Calls that did not last, one after the other, whether they were answered or not.
    failures: u32,
    rng: SmallRng,
}

impl Agent {
    pub(super) fn new(endpoint: EndpointAddress) -> Self {
        Self {
            status: watch::Sender::new(AgentStatus {
                endpoint,
                trouble: None,
            }),
            call: None,
            failures: 0,
            rng: SmallRng::from_os_rng(),
        }
    }

    pub(super) fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.subscribe()
    }

    pub(super) fn endpoint(&self) -> EndpointAddress {
        self.status.borrow().endpoint.clone()
    }

    /// Waits for what it says next; when it says nothing for `patience`, for what it says when it is asked anew. After a failure,
    /// [`Agent::pause`] before the next call.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<X509svidResponse, Trouble> {
        match self.ask(patience).await {
            Ok(answer) => {
                self.status.send_modify(|status| status.trouble = None);
                Ok(answer)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn ask(&mut self, patience: Duration) -> Result<X509svidResponse, AgentError> {
        loop {
            let call = match &mut self.call {
                Some((call, _)) => call,
                none => {
                    let endpoint = self.status.borrow().endpoint.clone();
                    let begun = Conversation::begin(&endpoint).await?;
                    &mut none.insert((begun, Instant::now())).0
                }
            };
            match call.next(patience).await {
                // Either nothing has changed, or the agent hangs: another call tells.
                Err(AgentError::Quiet) => self.call = None,
                other => return other,
            }
        }
    }

    fn failed(&mut self, error: &AgentError) -> Trouble {
        let steady = self
            .call
            .take()
            .is_some_and(|(_, begun)| begun.elapsed() >= STEADY);
        self.failures = if steady {
            1
        } else {
            self.failures.saturating_add(1)
        };
        let before = self.status.borrow().trouble.clone();
        let trouble = Trouble {
            why: in_one_line(error),
            hint: error.hint(),
            tries: before.as_ref().map_or(0, |before| before.tries).saturating_add(1),
            since: before.map_or_else(SystemTime::now, |before| before.since),
        };
        self.status
            .send_modify(|status| status.trouble = Some(trouble.clone()));
        trouble
    }

    /// Waits before the next call, after a failure.
    pub(super) async fn pause(&mut self) {
        let longest = ceiling(FIRST_WAIT, self.failures.saturating_sub(1), LAST_WAIT);
        sleep(at_least_half(longest, &mut self.rng)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::{
        ca::Ca,
        workload_api::testing::{PATIENCE, Says, TRUST_DOMAIN, TestAgent, fresh, gateway},
    };

    #[tokio::test]
    async fn one_that_says_nothing_for_too_long_is_asked_anew() {
        let ca = Ca::new(TRUST_DOMAIN).unwrap();
        let answer = fresh(&ca, &gateway("east", "gw1"));
        let mut double = TestAgent::new(Says::Answer(Box::new(answer.clone())));
        double.start();
        let mut agent = Agent::new(double.endpoint());
        for calls in 1..4 {
            let heard = timeout(PATIENCE, agent.next(Duration::from_millis(50))).await;
            assert!(heard.unwrap().is_ok_and(|heard| heard == answer));
            assert_eq!(double.calls(), calls);
        }
    }

    #[tokio::test]
    async fn failures_are_counted_until_it_answers() {
        let mut agent = Agent::new("unix:///nowhere/agent.sock".parse().unwrap());
        for tries in 1..4 {
            let Err(trouble) = agent.next(PATIENCE).await else {
                panic!("nobody can answer there");
            };
            assert_eq!(trouble.tries, tries);
            assert_eq!(agent.status().borrow().trouble.as_ref(), Some(&trouble));
        }
    }
}
