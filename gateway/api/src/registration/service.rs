//! The calls of the registry service, carried out on this gateway's instances. Each list is bounded, and each element is
//! answered for itself.

use std::{pin::Pin, sync::Arc};

use causeway_federation::registry::{Registration, RegistryError, wire};
use causeway_instances::{Instances, MAX_REPLACEMENTS};
use causeway_proto::registry::{
    AttachRequest, DeregisterReply, DeregisterRequest, HeartbeatReply, HeartbeatRequest, InstanceKey,
    Outcome, RegisterReply, RegisterRequest, ReplaceReply, ReplaceRequest, WatchEvent, WatchRequest,
    registry_server::Registry,
};
use causeway_zone_sync::registry::Durability;
use futures_util::Stream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    gated::{counted, noted, objects, rights},
    replace, watch,
};
use crate::{actor::AskingConnection, audit::Note, credentials::Rights};

/// Watchers at once.
const MAX_WATCHERS: usize = 256;

/// Serves the registry of this gateway.
#[derive(Debug)]
pub struct Registrar {
    instances: Instances,
    watchers: Arc<Semaphore>,
    /// Streams of whole sources that are being read; each may hold as much as the whole registry.
    replacements: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Registrar {
    #[must_use]
    pub fn new(instances: Instances, stop: CancellationToken) -> Self {
        Self {
            instances,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            replacements: Arc::new(Semaphore::new(MAX_REPLACEMENTS)),
            stop,
        }
    }
}

#[tonic::async_trait]
impl Registry for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let provenance = AskingConnection::of(request.extensions()).provenance();
        let rights = rights(request.extensions());
        let list = request.into_inner().registrations;
        check_length(list.len())?;
        let (good, read) = separate(list.into_iter().map(|element| {
            let read = wire::registration(element)?;
            rights.check_register(&read.service)?;
            Ok(Registration { provenance, ..read })
        }));
        let named: Vec<_> = good.iter().map(Registration::key).collect();
        let object = objects(named.iter());
        let all = self.instances.register_all(good).await.map_err(refuse_call)?;
        let reply = RegisterReply {
            outcomes: weave(read, all.each),
            durable: all.durability == Durability::Durable,
        };
        let note = counted(&reply.outcomes, object);
        Ok(noted(reply, note))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterReply>, Status> {
        let rights = rights(request.extensions());
        let (good, read) = keys(request.into_inner().keys, &rights)?;
        let object = objects(good.iter());
        let all = self.instances.deregister_all(good).await.map_err(refuse_call)?;
        let reply = DeregisterReply {
            outcomes: weave(read, all.each),
            durable: all.durability == Durability::Durable,
        };
        let note = counted(&reply.outcomes, object);
        Ok(noted(reply, note))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let rights = rights(request.extensions());
        let (good, read) = keys(request.into_inner().keys, &rights)?;
        let each = self.instances.renew_all(good).await.map_err(refuse_call)?;
        Ok(Response::new(HeartbeatReply {
            outcomes: weave(read, each),
        }))
    }

    async fn replace(
        &self,
        request: Request<Streaming<ReplaceRequest>>,
    ) -> Result<Response<ReplaceReply>, Status> {
        let _place = self.replacements.try_acquire().map_err(|_| {
            Status::resource_exhausted(format!(
                "busy: {MAX_REPLACEMENTS} sources are being replaced already; try again"
            ))
        })?;
        let provenance = AskingConnection::of(request.extensions()).provenance();
        let handed = replace::read(request.into_inner()).await?;
        let (source, mut wanted, refusals) = handed.split();
        for registration in &mut wanted {
            registration.provenance = provenance;
        }
        let mut note = Note {
            object: Some(source.to_string()),
            ..Note::default()
        };
        let done = self.instances.replace(source, wanted).await;
        let (replaced, _) = done.map_err(refuse_call)?;
        let changed = replaced.added + replaced.changed + replaced.removed;
        let reply = replace::reply(refusals, &replaced);
        note.counts = Some((changed, reply.refused.len()));
        Ok(noted(reply, note))
    }

    type WatchStream = watch::RegistrationEvents;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<watch::RegistrationEvents>, Status> {
        let service = request.into_inner().service;
        let only = match service.as_str() {
            "" => None,
            name => Some(wire::service(name).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        let place = self.watchers.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("busy: there are {MAX_WATCHERS} watchers already"))
        })?;
        let published = self.instances.subscribe();
        let events = watch::watch(published, only, place, self.stop.clone());
        Ok(Response::new(events))
    }

    type AttachStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn attach(
        &self,
        _request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented(
            "this is a gateway with a registry of its own; gateways share one by attaching to `causeway zone-sync`",
        ))
    }
}

fn check_length(length: usize) -> Result<(), Status> {
    if length > wire::MAX_LIST {
        return Err(Status::invalid_argument(format!(
            "{length} elements in one call are more than {}; make several calls",
            wire::MAX_LIST
        )));
    }
    Ok(())
}

type Read = Vec<Result<(), RegistryError>>;

fn keys(
    keys: Vec<InstanceKey>,
    rights: &Rights,
) -> Result<(Vec<causeway_federation::registry::InstanceKey>, Read), Status> {
    check_length(keys.len())?;
    Ok(separate(keys.into_iter().map(|element| {
        let key = wire::key(element)?;
        rights.check_register(&key.service)?;
        Ok(key)
    })))
}

/// Separates what could be read, and notes for each element whether it could.
fn separate<T>(list: impl Iterator<Item = Result<T, RegistryError>>) -> (Vec<T>, Read) {
    let mut good = Vec::new();
    let read = list
        .map(|element| element.map(|element| good.push(element)))
        .collect();
    (good, read)
}

/// The outcomes in the order of the request: what could not be read, and in between what became of the rest.
fn weave<T>(read: Read, done: Vec<Result<T, RegistryError>>) -> Vec<Outcome> {
    let mut done = done.into_iter();
    let each = read.into_iter().map(|read| match read {
        Err(error) => wire::outcome::<()>(&Err(error)),
        // As many were done as could be read.
        Ok(()) => wire::outcome(&done.next().unwrap_or(Err(RegistryError::Stopped))),
    });
    each.collect()
}

/// Makes the status for what keeps a whole call from being done; that of one element is its outcome.
fn refuse_call(error: RegistryError) -> Status {
    match error {
        RegistryError::Stopped | RegistryError::Away(_) | RegistryError::NothingDone(_) => {
            Status::unavailable(error.to_string())
        }
        _ => Status::invalid_argument(format!("{}: {error}", error.word())),
    }
}
