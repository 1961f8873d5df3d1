//! Tally of the whole demo: every request, and every promise that was broken.

use std::{collections::BTreeMap, time::Duration};

use causeway_federation::name::{ServiceName, ZoneName};

use super::{
    client::{ClientError, DemoOutcome},
    records::{Client, Line, Records},
    story::tags,
};

/// Most failed requests that are told one by one.
const MAX_TOLD: usize = 5;

/// Server of a request: zone, service and tags.
type Server = (ServiceName, ZoneName, String);

/// The sum of some requests.
#[derive(Debug, Default, Clone)]
pub(super) struct RequestSum {
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
    pub(super) total: RequestSum,
    pub(super) servers: BTreeMap<Server, usize>,
    /// From a cut to the first answer of another zone.
    pub(super) time_to_move: Option<Duration>,
    /// From the end of the cut to the first answer of the zone that came back.
    pub(super) time_to_return: Option<Duration>,
    pub(super) broken: Vec<String>,
}

impl Tally {
    /// Takes requests in that have ended, and gives their own sum. `cut` is the zone that was cut off meanwhile.
    pub(super) async fn settle(
        &mut self,
        outcomes: &mut [DemoOutcome],
        records: &Records,
        cut: Option<&ZoneName>,
    ) -> RequestSum {
        let clients = outcomes.iter().filter_map(client).collect();
        records.wait_for(clients).await;
        let mut sum = RequestSum {
            sent: outcomes.len(),
            ..RequestSum::default()
        };
        for outcome in outcomes {
            let line = client(outcome).and_then(|client| records.take(&client));
            outcome.moved = line.as_ref().is_some_and(Line::is_moved);
            match &outcome.answer {
                Ok(answer) => {
                    let server = (answer.service.clone(), answer.zone.clone(), tags(&answer.tags));
                    *self.servers.entry(server).or_default() += 1;
                    sum.served += 1;
                    sum.moved += usize::from(outcome.moved);
                    sum.longest_wait = sum.longest_wait.max(outcome.waited);
                }
                // Given to an instance that was cut off then: to try another would be to give it twice.
                Err(ClientError::Connection(_))
                    if cut.is_some() && line.as_ref().is_some_and(|line| line.given_to() == cut) =>
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

    fn fail(&mut self, outcome: &DemoOutcome, error: &ClientError) {
        if self.total.failed < MAX_TOLD && self.broken.len() < MAX_TOLD {
            let DemoOutcome { zone, service, .. } = outcome;
            let source = std::error::Error::source(error).map(|source| format!(": {source}"));
            let source = source.unwrap_or_default();
            self.broken.push(format!(
                "a request from {zone} to {service} failed: {error}{source}"
            ));
        }
    }
}

/// Finds the client whose line in the access log is about this request; `None` when it got no connection.
fn client(outcome: &DemoOutcome) -> Option<Client> {
    outcome.socket.map(|socket| (outcome.zone.clone(), socket))
}

impl RequestSum {
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.served += other.served;
        self.moved += other.moved;
        self.lost_in_flight += other.lost_in_flight;
        self.failed += other.failed;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        time::Instant,
    };

    use super::*;

    /// Two requests from east that failed, with what the gateway knows of them: the first had been given to an instance
    /// in west.
    fn failed() -> (Vec<DemoOutcome>, Records) {
        let records = Records::default();
        let mut sink = records.sink();
        let outcomes = [("127.0.0.1:1", r#""west""#), ("127.0.0.1:2", "null")].map(|(client, to)| {
            let line = format!(
                r#"{{"role":"egress","client":"{client}","from_zone":"east","to_zone":{to},"attempts":1}}"#
            );
            sink.write_all((line + "\n").as_bytes()).unwrap();
            DemoOutcome {
                zone: ZoneName::new("east").unwrap(),
                service: ServiceName::new("orders").unwrap(),
                socket: Some(client.parse().unwrap()),
                started: Instant::now(),
                waited: Duration::ZERO,
                answer: Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
                moved: false,
            }
        });
        (outcomes.into(), records)
    }

    #[tokio::test]
    async fn a_request_is_lost_in_flight_only_when_the_zone_that_was_cut_off_had_it() {
        let west = ZoneName::new("west").unwrap();
        let (mut outcomes, records) = failed();
        let mut tally = Tally::default();
        let sum = tally.settle(&mut outcomes, &records, Some(&west)).await;
        assert_eq!((sum.sent, sum.lost_in_flight, sum.failed), (2, 1, 1));
        assert_eq!(tally.broken.len(), 1, "{:?}", tally.broken);
    }

    #[tokio::test]
    async fn without_a_cut_every_request_that_fails_breaks_a_promise() {
        let (mut outcomes, records) = failed();
        let mut tally = Tally::default();
        let sum = tally.settle(&mut outcomes, &records, None).await;
        assert_eq!((sum.lost_in_flight, sum.failed), (0, 2));
    }
}
