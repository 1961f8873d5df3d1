//! What the whole demo has come to: every request, and every promise that was broken.

use std::{collections::BTreeMap, time::Duration};

use causeway_zone_sync::name::{ServiceName, ZoneName};

use super::{
    client::{ClientError, Outcome},
    records::Records,
    story::tags,
};

/// Most failed requests that are told one by one.
const MAX_TOLD: usize = 5;

/// Who served a request: zone, service and tags.
type Server = (ServiceName, ZoneName, String);

/// The sum of some requests.
#[derive(Debug, Default, Clone)]
pub(super) struct Sum {
    pub(super) sent: usize,
    pub(super) served: usize,
    /// Served by another place than the first one that was asked.
    pub(super) moved: usize,
    /// Lost with the zone that had been given them already: nobody may give them to another.
    pub(super) lost_in_flight: usize,
    pub(super) failed: usize,
    /// Of those served.
    pub(super) longest_wait: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) total: Sum,
    pub(super) servers: BTreeMap<Server, usize>,
    /// From a cut to the first answer of another zone.
    pub(super) time_to_move: Option<Duration>,
    /// From the end of the cut to the first answer of the zone that came back.
    pub(super) time_to_return: Option<Duration>,
    pub(super) broken: Vec<String>,
    /// Requests that got as far as a gateway, each of which has a line in its access log.
    connections: u64,
}

impl Tally {
    /// Takes requests in that have ended, and gives their own sum. `cut` is the zone that was cut off meanwhile.
    pub(super) async fn settle(
        &mut self,
        outcomes: &[Outcome],
        records: &Records,
        cut: Option<&ZoneName>,
    ) -> Sum {
        let connected = outcomes.iter().filter(|outcome| outcome.socket.is_some());
        self.connections += connected.count() as u64;
        records.wait_for(self.connections).await;
        let mut sum = Sum {
            sent: outcomes.len(),
            ..Sum::default()
        };
        for outcome in outcomes {
            let line = outcome
                .socket
                .and_then(|socket| records.of(&outcome.zone, socket));
            match &outcome.answer {
                Ok(answer) => {
                    let server = (answer.service.clone(), answer.zone.clone(), tags(&answer.tags));
                    *self.servers.entry(server).or_default() += 1;
                    sum.served += 1;
                    sum.moved += usize::from(line.is_some_and(|line| line.is_moved()));
                    sum.longest_wait = sum.longest_wait.max(outcome.waited);
                }
                // Given to an instance that was cut off then: to try another would be to give it twice.
                Err(ClientError::Connection(_))
                    if cut.is_some() && line.is_some_and(|line| line.given_to() == cut) =>
                {
                    sum.lost_in_flight += 1;
                }
                Err(error) => {
                    sum.failed += 1;
                    self.fail(outcome, error);
                }
            }
        }
        self.total.add(&sum);
        sum
    }

    /// Tells a promise that was broken.
    pub(super) fn breaks(&mut self, promise: impl Into<String>) {
        self.broken.push(promise.into());
    }

    fn fail(&mut self, outcome: &Outcome, error: &ClientError) {
        if self.total.failed < MAX_TOLD && self.broken.len() < MAX_TOLD {
            let Outcome { zone, service, .. } = outcome;
            let source = std::error::Error::source(error).map(|source| format!(": {source}"));
            let source = source.unwrap_or_default();
            self.broken.push(format!(
                "a request from {zone} to {service} failed: {error}{source}"
            ));
        }
    }
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.served += other.served;
        self.moved += other.moved;
        self.lost_in_flight += other.lost_in_flight;
        self.failed += other.failed;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}
