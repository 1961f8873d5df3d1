//! Passing registrations on to the zone-sync that this gateway is attached to. Nothing is kept here: what the zone-sync
//! did not take was not registered.

use std::{error::Error as _, time::Duration};

use causeway_federation::registry::{InstanceKey, Registration, RegistryError, wire};
use causeway_proto::registry::{DeregisterRequest, HeartbeatRequest, Outcome, RegisterRequest};
use causeway_zone_sync::registry::Durability;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, ConnectError, Response, Status};

use super::{Attach, calls::SessionClient};

/// Longest that a registrant waits, a move to another server included.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);
/// Least time that a further attempt has for its answer: one that is cut off leaves it open whether it was done.
const LEAST_FOR_ANSWER: Duration = Duration::from_millis(500);
/// Refusal of what is not registered.
const NOT_FOUND: &str = "not_found";
/// Time for which a request waits before it is made again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Answer of the zone-sync to a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// In the order of the list.
    pub each: Vec<Result<(), RegistryError>>,
    /// Of what was accepted.
    pub durability: Durability,
}

impl Attach {
    /// Registers a list, each on its own.
    ///
    /// # Errors
    /// No zone-sync could be asked, or none answered in time: then it may not be known whether it was done, which the error tells.
    pub async fn register(&self, registrations: &[Registration]) -> Result<Forwarded, RegistryError> {
        let mut all = Forwarded::default();
        for part in registrations.chunks(wire::MAX_LIST) {
            let request = RegisterRequest {
                registrations: part.iter().map(wire::registration_message).collect(),
            };
            let keys: Vec<_> = part.iter().map(Registration::key).collect();
            let (reply, _) = self
                .call(|mut client| {
                    let request = request.clone();
                    Box::pin(async move { client.register(request).await })
                })
                .await
                .map_err(|error| all.after(error))?;
            all.add(&keys, reply.outcomes, reply.durable);
        }
        Ok(all)
    }

    /// Removes registrations.
    ///
    /// # Errors
    /// As for [`Attach::register`].
    pub async fn deregister(&self, keys: &[InstanceKey]) -> Result<Forwarded, RegistryError> {
        let mut all = Forwarded::default();
        for part in keys.chunks(wire::MAX_LIST) {
            let request = DeregisterRequest {
                keys: part.iter().map(wire::key_message).collect(),
            };
            let (mut reply, is_first) = self
                .call(|mut client| {
                    let request = request.clone();
                    Box::pin(async move { client.deregister(request).await })
                })
                .await
                .map_err(|error| all.after(error))?;
            if !is_first {
                // An attempt whose answer was lost may have removed it, and it is gone either way.
                let gone = |outcome: &&mut Outcome| outcome.refusal == NOT_FOUND;
                reply
                    .outcomes
                    .iter_mut()
                    .filter(gone)
                    .for_each(|gone| *gone = Outcome::default());
            }
            all.add(part, reply.outcomes, reply.durable);
        }
        Ok(all)
    }

    /// Gives registrations another full time to live.
    ///
    /// # Errors
    /// As for [`Attach::register`].
    pub async fn renew(&self, keys: &[InstanceKey]) -> Result<Forwarded, RegistryError> {
        let mut all = Forwarded::default();
        for part in keys.chunks(wire::MAX_LIST) {
            let request = HeartbeatRequest {
                keys: part.iter().map(wire::key_message).collect(),
            };
            let (reply, _) = self
                .call(|mut client| {
                    let request = request.clone();
                    Box::pin(async move { client.heartbeat(request).await })
                })
                .await
                .map_err(|error| all.after(error))?;
            all.add(part, reply.outcomes, true);
        }
        Ok(all)
    }

    /// Makes a call that may be made again, at the server that is attached to or the next one. Also says whether nothing of it can have been
    /// done before the attempt that was answered.
    pub(super) async fn call<T>(
        &self,
        call: impl Fn(SessionClient) -> BoxFuture<'static, Result<Response<T>, Status>>,
    ) -> Result<(T, bool), RegistryError> {
        let deadline = Instant::now() + FORWARD_LIMIT;
        let mut sessions = self.calls.clone();
        let mut failure = String::new();
        let mut is_untouched = true;
        loop {
            let session = match timeout_at(deadline, sessions.wait_for(Option::is_some)).await {
                Ok(Ok(session)) => session.clone(),
                Ok(Err(_)) => return Err(RegistryError::Stopped),
                Err(_) => return Err(self.away(failure, is_untouched)),
            };
            let Some(session) = session else { continue };
            let (client, attempt) = session.attempt();
            let done = timeout_at(deadline, call(client)).await;
            let nothing_done = matches!(&done, Ok(Err(status)) if tells_nothing_done(status));
            let is_first = is_untouched;
            is_untouched &= nothing_done;
            match nothing_done || matches!(done, Ok(Ok(_))) {
                true => attempt.over(),
                false => drop(attempt),
            }
            match done {
                Ok(Ok(reply)) => return Ok((reply.into_inner(), is_first)),
                // The server went away, or the store did: either may be back before the registrant gives up.
                Ok(Err(status))
                    if is_passing(&status) && Instant::now() + AGAIN_AFTER + LEAST_FOR_ANSWER < deadline =>
                {
                    failure = status.message().to_owned();
                    sleep_until(Instant::now() + AGAIN_AFTER).await;
                }
                Ok(Err(status)) => return Err(self.away(status.message().to_owned(), is_untouched)),
                Err(_) => return Err(self.away("no answer in time".to_owned(), false)),
            }
        }
    }

    fn away(&self, failure: String, is_untouched: bool) -> RegistryError {
        let known = match &self.status.borrow().attached {
            Err(detached) if failure.is_empty() => detached.failure.clone(),
            _ => failure,
        };
        match is_untouched {
            true => RegistryError::NothingDone(known),
            false => RegistryError::Away(known),
        }
    }
}

/// Tells whether for certain nothing was done: the server says so, it did not let the call in, or it was not connected to.
fn tells_nothing_done(status: &Status) -> bool {
    let said = status.metadata().contains_key(wire::UNTOUCHED);
    let mut cause = status.source();
    let mut is_unsent = false;
    while let Some(error) = cause {
        is_unsent |= error.is::<ConnectError>();
        cause = error.source();
    }
    said || is_unsent
        || matches!(
            status.code(),
            Code::Unauthenticated
                | Code::PermissionDenied
                | Code::InvalidArgument
                | Code::ResourceExhausted
                | Code::Unimplemented
        )
}

fn is_passing(status: &Status) -> bool {
    // A connection that breaks under a call is told as unknown or cancelled.
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted
    )
}

impl Default for Forwarded {
    fn default() -> Self {
        Self {
            each: Vec::new(),
            durability: Durability::Durable,
        }
    }
}

impl Forwarded {
    /// The error of a list of which a part may be done.
    fn after(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::NothingDone(why) if !self.each.is_empty() => RegistryError::Away(why),
            error => error,
        }
    }

    fn add(&mut self, keys: &[InstanceKey], outcomes: Vec<Outcome>, durable: bool) {
        let mut outcomes = outcomes.into_iter();
        for key in keys {
            // A server that answers for fewer than it was asked for has not taken the rest.
            let missing = || Outcome {
                refusal: "no_answer".to_owned(),
                message: "the zone-sync did not say what became of it".to_owned(),
            };
            let outcome = outcomes.next().unwrap_or_else(missing);
            self.each.push(match outcome.refusal.as_str() {
                "" => Ok(()),
                NOT_FOUND => Err(RegistryError::NotFound(key.clone())),
                _ => Err(RegistryError::Refused {
                    word: outcome.refusal,
                    message: outcome.message,
                }),
            });
        }
        if !durable {
            self.durability = self.durability.max(Durability::NoStore);
        }
    }

    /// The answer for a list of one.
    ///
    /// # Errors
    /// When it was refused.
    pub fn single(self) -> Result<Durability, RegistryError> {
        let Self { each, durability } = self;
        each.into_iter().next().unwrap_or(Ok(())).map(|()| durability)
    }
}
