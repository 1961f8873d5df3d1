//! The calls of the registry service, carried out on the shared registry. Each list is bounded, and each element is
//! answered for itself; what keeps a whole call from being done is its status.

use std::sync::Arc;

use causeway_control::trust::Trusted;
use causeway_federation::registry::{CallSession, Registration, RegistryError, wire};
use causeway_proto::registry::{
    AttachRequest, DeregisterReply, DeregisterRequest, HeartbeatReply, HeartbeatRequest, InstanceKey,
    RegisterReply, RegisterRequest, ReplaceReply, ReplaceRequest, WatchRequest, registry_server::Registry,
};
use causeway_zone_sync::registry::etcd::{Contact, RegisterError, SharedRegistry, Unavailable};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};

use super::{attach, replace, watch};
use crate::{
    actor::AskingConnection,
    audit::Note,
    credentials::Rights,
    registration::{counted, noted, objects, rights},
};

/// Watchers at once.
const MAX_WATCHERS: usize = 1_024;
/// Gateways attached at once: far more than share a zone's traffic.
const MAX_ATTACHED: usize = 256;
/// Whole sources that are being read at once; each may hold as much as the whole registry.
const MAX_REPLACEMENTS: usize = 4;

/// Serves the registry of the zone.
#[derive(Debug)]
pub(super) struct RegistryService {
    registry: SharedRegistry,
    watchers: Arc<Semaphore>,
    attached: Arc<Semaphore>,
    replacements: Arc<Semaphore>,
    /// Trust document that says whom to believe, as gateways tell it.
    trusted: Option<Trusted>,
    stop: CancellationToken,
}

impl RegistryService {
    pub(super) fn new(registry: SharedRegistry, trusted: Option<Trusted>, stop: CancellationToken) -> Self {
        Self {
            trusted,
            registry,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            attached: Arc::new(Semaphore::new(MAX_ATTACHED)),
            replacements: Arc::new(Semaphore::new(MAX_REPLACEMENTS)),
            stop,
        }
    }

    /// Session that the call names, if it is a gateway's, after it was let in.
    fn caller<T>(&self, request: &Request<T>) -> Result<Option<CallSession>, Status> {
        let Some(named) = request.metadata().get(wire::SESSION) else {
            return Ok(None);
        };
        let named = named.to_str().ok().and_then(|text| text.parse().ok());
        let caller: CallSession = named.ok_or_else(|| {
            Status::invalid_argument(format!("{} must read GATEWAY/SESSION/EPOCH", wire::SESSION))
        })?;
        self.registry.admit(&caller).map_err(unavailable)?;
        Ok(Some(caller))
    }

    /// A watcher is told what is known, of whatever age; but not nothing, as if that were all.
    fn check_known(&self) -> Result<(), Status> {
        if *self.registry.contact().borrow() == Contact::Never {
            let why = self.registry.trouble().unwrap_or_default();
            return Err(Status::unavailable(format!(
                "this zone-sync knows nothing yet: {why}; try another one of the zone, or look at its log"
            )));
        }
        if self.stop.is_cancelled() {
            return Err(Status::unavailable(
                "this zone-sync is stopping; go to another one of the zone",
            ));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Registry for RegistryService {
    type WatchStream = watch::WatchEvents;
    type AttachStream = watch::WatchEvents;

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let caller = self.caller(&request)?;
        let rights = rights(request.extensions());
        let list = request.into_inner().registrations;
        check_length(list.len())?;
        let list = list.into_iter().map(|element| {
            let read = wire::registration(element)?;
            rights.check_register(&read.service)?;
            Ok(read)
        });
        let list: Vec<Result<Registration, RegistryError>> = list.collect();
        let named: Vec<_> = list.iter().flatten().map(Registration::key).collect();
        let object = objects(named.iter());
        let done = self.registry.register(list, caller.as_ref()).await;
        let done = done.map_err(unavailable)?;
        let outcomes: Vec<_> = done.iter().map(wire::outcome).collect();
        let note = counted(&outcomes, object);
        let durable = true;
        Ok(noted(RegisterReply { outcomes, durable }, note))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterReply>, Status> {
        let caller = self.caller(&request)?;
        let rights = rights(request.extensions());
        let keys = keys(request.into_inner().keys, &rights)?;
        let object = objects(keys.iter().flatten());
        let done = self.registry.deregister(keys, caller.as_ref()).await;
        let done = done.map_err(unavailable)?;
        let outcomes: Vec<_> = done.iter().map(wire::outcome).collect();
        let note = counted(&outcomes, object);
        let durable = true;
        Ok(noted(DeregisterReply { outcomes, durable }, note))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        self.caller(&request)?;
        let rights = rights(request.extensions());
        let keys = keys(request.into_inner().keys, &rights)?;
        // Before anything is known, every key would be `not_found`, and every registrant would register anew.
        self.check_known()?;
        let done = self.registry.heartbeat(keys).await;
        Ok(Response::new(HeartbeatReply {
            outcomes: done.iter().map(wire::outcome).collect(),
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
        self.check_known()?;
        let caller = self.caller(&request)?;
        let handed = replace::read(request.into_inner()).await?;
        let done = self
            .registry
            .replace(&handed.source, handed.registrations, caller.as_ref());
        let done = done.await;
        match done {
            Ok(replaced) => {
                let changed = replaced.added + replaced.changed + replaced.removed;
                let note = Note {
                    object: Some(handed.source),
                    counts: Some((changed as usize, replaced.refused.len())),
                    ..Note::default()
                };
                Ok(noted(replace::reply(replaced), note))
            }
            Err(RegisterError::Refused(refused)) => Err(refuse_call(&refused)),
            Err(RegisterError::Unavailable(error)) => Err(unavailable(error)),
        }
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<watch::WatchEvents>, Status> {
        let service = request.into_inner().service;
        let only = match service.as_str() {
            "" => None,
            name => Some(wire::service(name).map_err(|error| refuse_call(&error))?),
        };
        self.check_known()?;
        let place = place(&self.watchers, "watchers", MAX_WATCHERS)?;
        let events = watch::start(
            self.registry.clone(),
            watch::WatchSubject::Instances(only),
            place,
            self.stop.clone(),
        );
        Ok(Response::new(events))
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<watch::WatchEvents>, Status> {
        self.check_known()?;
        let peer = AskingConnection::of(request.extensions()).gateway();
        let place = place(&self.attached, "attached gateways", MAX_ATTACHED)?;
        attach::start(
            &self.registry,
            request.into_inner(),
            peer,
            place,
            (self.trusted.clone(), self.stop.clone()),
        )
        .await
        .map(Response::new)
    }
}

fn place(of: &Arc<Semaphore>, what: &str, most: usize) -> Result<OwnedSemaphorePermit, Status> {
    let place = of.clone().try_acquire_owned();
    place.map_err(|_| Status::resource_exhausted(format!("busy: there are {most} {what} already")))
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

type Keys = Vec<Result<causeway_federation::registry::InstanceKey, RegistryError>>;

fn keys(keys: Vec<InstanceKey>, rights: &Rights) -> Result<Keys, Status> {
    check_length(keys.len())?;
    let keys = keys.into_iter().map(|element| {
        let key = wire::key(element)?;
        rights.check_register(&key.service)?;
        Ok(key)
    });
    Ok(keys.collect())
}

fn unavailable(error: Unavailable) -> Status {
    let mut status = Status::unavailable(error.to_string());
    if error.is_untouched {
        let yes = MetadataValue::from_static("true");
        status.metadata_mut().insert(wire::UNTOUCHED, yes);
    }
    status
}

fn refuse_call(error: &RegistryError) -> Status {
    Status::invalid_argument(format!("{}: {error}", error.word()))
}
