//! Passing registrations on to the zone-sync that this gateway is attached to. Nothing is kept here: what the zone-sync
//! did not take was not registered.

use std::time::Duration;

use causeway_federation::registry::{InstanceKey, Registration, RegistryError, wire};
use causeway_proto::registry::{
    DeregisterRequest, HeartbeatRequest, Outcome, RegisterRequest, registry_client::RegistryClient,
};
use causeway_zone_sync::registry::Durability;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Code, Response, Status, transport::Channel};

use super::Attach;

/// Longest that a registrant waits, a move to another server included.
const FORWARD_LIMIT: Duration = Duration::from_secs(5);
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
    /// When no zone-sync could be asked, or none answered in time: then it is not known whether it was done.
    pub async fn register(&self, registrations: &[Registration]) -> Result<Forwarded, RegistryError> {
        let mut all = Forwarded::default();
        for part in registrations.chunks(wire::MAX_LIST) {
            let request = RegisterRequest {
                registrations: part.iter().map(wire::registration_message).collect(),
            };
            let keys: Vec<_> = part.iter().map(Registration::key).collect();
            let reply = self
                .call(|mut client| {
                    let request = request.clone();
                    Box::pin(async move { client.register(request).await })
                })
                .await?;
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
            let reply = self
                .call(|mut client| {
                    let request = request.clone();
                    Box::pin(async move { client.deregister(request).await })
                })
                .await?;
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
            let reply = self
                .call(|mut client| {
                    let request = request.clone();
                    Box::pin(async move { client.heartbeat(request).await })
                })
                .await?;
            all.add(part, reply.outcomes, true);
        }
        Ok(all)
    }

    /// Makes a call that may be made again, at the server that is attached to or the next one.
    pub(super) async fn call<T>(
        &self,
        call: impl Fn(RegistryClient<Channel>) -> BoxFuture<'static, Result<Response<T>, Status>>,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + FORWARD_LIMIT;
        let mut clients = self.client.clone();
        let mut failure = String::new();
        loop {
            let client = match timeout_at(deadline, clients.wait_for(Option::is_some)).await {
                Ok(Ok(client)) => client.clone(),
                Ok(Err(_)) => return Err(RegistryError::Stopped),
                Err(_) => return Err(self.away(failure)),
            };
            let Some(client) = client else { continue };
            match timeout_at(deadline, call(client)).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                // The server went away, or the store did: either may be back before the registrant gives up.
                Ok(Err(status)) if is_passing(&status) && Instant::now() + AGAIN_AFTER < deadline => {
                    failure = status.message().to_owned();
                    sleep_until(Instant::now() + AGAIN_AFTER).await;
                }
                Ok(Err(status)) => return Err(self.away(status.message().to_owned())),
                Err(_) => return Err(self.away("no answer in time".to_owned())),
            }
        }
    }

    fn away(&self, failure: String) -> RegistryError {
        let known = match &self.status.borrow().attached {
            Err(detached) if failure.is_empty() => detached.failure.clone(),
            _ => failure,
        };
        RegistryError::Away(known)
    }
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
                "not_found" => Err(RegistryError::NotFound(key.clone())),
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
