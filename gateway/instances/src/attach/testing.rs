//! Test server: a zone-sync in memory. Several of them over one [`Store`] stand for several processes over one etcd.
//!
//! It does what the contract says of `Attach`, `Register`, `Deregister` and `Heartbeat`, and nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
};

use causeway_federation::registry::{
    CallSession, InstanceKey, InstanceSource, Registration, RegistryError, wire,
};
use causeway_proto::registry::{
    AttachRequest, DeregisterReply, DeregisterRequest, Gateways, HealthReport, HeartbeatReply,
    HeartbeatRequest, Outcome, RegisterReply, RegisterRequest, ReplaceReply, ReplaceRequest, Synced,
    WatchEvent, WatchRequest, attach_request,
    registry_server::{Registry, RegistryServer},
    watch_event::Event,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, runtime::Runtime, sync::mpsc};
use tokio_stream::{
    Stream,
    wrappers::{TcpListenerStream, UnboundedReceiverStream},
};
use tonic::{Request, Response, Status, Streaming};

use super::ServerAddress;

/// State that the servers share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    revision: u64,
    instances: BTreeMap<InstanceKey, (Registration, InstanceSource, u64)>,
    health: BTreeMap<InstanceKey, HealthReport>,
    gateways: BTreeMap<String, (u64, mpsc::UnboundedSender<Result<WatchEvent, Status>>)>,
    /// Tells one attachment of a gateway from the next.
    attachments: u64,
    /// Answer to every registration.
    refusal: Option<Status>,
    /// The answer to the next deregistration is lost.
    loses_answer: bool,
    /// Sessions of the attachments, and what each attempt to register named.
    sessions: Vec<String>,
    attempts: Vec<CallSession>,
}

impl State {
    fn tell(&mut self, event: &Event) {
        for (_, gateway) in self.gateways.values() {
            let event = Some(event.clone());
            let _ = gateway.send(Ok(WatchEvent { event }));
        }
    }

    fn names(&self) -> Event {
        let names = self.gateways.keys().cloned().collect();
        Event::Gateways(Gateways { names })
    }

    fn put(&mut self, registration: Registration, source: InstanceSource) {
        self.revision += 1;
        let event = wire::instance_message(&registration, &source, self.revision);
        self.instances
            .insert(registration.key(), (registration, source, self.revision));
        self.tell(&Event::Put(event));
    }

    fn remove(&mut self, key: &InstanceKey) -> Result<(), RegistryError> {
        let gone = self.instances.remove(key);
        gone.ok_or_else(|| RegistryError::NotFound(key.clone()))?;
        self.revision += 1;
        self.health.remove(key);
        self.tell(&Event::Removed(wire::key_message(key)));
        Ok(())
    }
}

impl Store {
    pub(crate) fn put(&self, registration: Registration) {
        self.0.lock().put(registration, InstanceSource::Registered);
    }

    /// Answers every registration with this.
    pub(crate) fn refuse(&self, refusal: Status) {
        self.0.lock().refusal = Some(refusal);
    }

    /// Carries out the next deregistration, and breaks the call before it is answered.
    pub(crate) fn lose_answer(&self) {
        self.0.lock().loses_answer = true;
    }

    /// Session of each attachment that was ever made.
    pub(crate) fn sessions(&self) -> Vec<String> {
        self.0.lock().sessions.clone()
    }

    /// Session and epoch that each attempt to register named.
    pub(crate) fn attempts(&self) -> Vec<CallSession> {
        self.0.lock().attempts.clone()
    }

    /// Without telling anybody: as if it had happened while nobody was attached.
    pub(crate) fn lose(&self, key: &InstanceKey) {
        self.0.lock().instances.remove(key);
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.lock().instances.keys().map(|key| key.id.clone()).collect()
    }

    pub(crate) fn gateways(&self) -> BTreeSet<String> {
        self.0.lock().gateways.keys().cloned().collect()
    }

    /// Reports by instance: which gateway said how it is.
    pub(crate) fn reports(&self) -> BTreeMap<String, (String, bool)> {
        let state = self.0.lock();
        let health = state.health.iter();
        health
            .map(|(key, r)| {
                (
                    key.id.clone(),
                    (
                        r.gateway.clone(),
                        r.health() == causeway_proto::registry::Health::Healthy,
                    ),
                )
            })
            .collect()
    }
}

/// One server. Dropping it ends it at once, with every connection, as a kill would.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    pub(crate) async fn start(store: &Store) -> Self {
        Self::start_at(store, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(store: &Store, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let store = store.clone();
        let started = runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            let service = RegistryServer::new(store);
            let serving = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(serving);
            address
        });
        Self {
            address: started.await.unwrap(),
            runtime: Some(runtime),
        }
    }

    /// The address of a server that is not there.
    pub(crate) fn gone(address: SocketAddr) -> Self {
        Self {
            address,
            runtime: None,
        }
    }

    pub(crate) fn server_address(&self) -> ServerAddress {
        self.address.to_string().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Takes a gateway out of the store when its attachment ends.
struct Presence(Store, String, u64);

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        if state
            .gateways
            .get(&self.1)
            .is_some_and(|(number, _)| *number == self.2)
        {
            state.gateways.remove(&self.1);
        }
        let names = state.names();
        state.tell(&names);
    }
}

fn outcomes<T>(done: impl IntoIterator<Item = Result<T, RegistryError>>) -> Vec<Outcome> {
    done.into_iter().map(|done| wire::outcome(&done)).collect()
}

#[tonic::async_trait]
impl Registry for Store {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;
    type AttachStream = Self::WatchStream;

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterReply>, Status> {
        let mut state = self.0.lock();
        let named = request.metadata().get(wire::SESSION).unwrap();
        state.attempts.push(named.to_str().unwrap().parse().unwrap());
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let list = request.into_inner().registrations.into_iter();
        let each = list.map(|message| {
            wire::registration(message)
                .map(|registration| state.put(registration, InstanceSource::Registered))
        });
        let outcomes = outcomes(each);
        Ok(Response::new(RegisterReply {
            outcomes,
            durable: true,
        }))
    }

    async fn deregister(
        &self,
        request: Request<DeregisterRequest>,
    ) -> Result<Response<DeregisterReply>, Status> {
        let mut state = self.0.lock();
        let list = request.into_inner().keys.into_iter();
        let each = list.map(|message| wire::key(message).and_then(|key| state.remove(&key)));
        let outcomes = outcomes(each);
        if std::mem::take(&mut state.loses_answer) {
            return Err(Status::unknown("the connection broke"));
        }
        Ok(Response::new(DeregisterReply {
            outcomes,
            durable: true,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let state = self.0.lock();
        let list = request.into_inner().keys.into_iter();
        let each = list.map(|message| {
            let key = wire::key(message)?;
            let known = state.instances.contains_key(&key);
            known.then_some(()).ok_or(RegistryError::NotFound(key))
        });
        let outcomes = outcomes(each);
        Ok(Response::new(HeartbeatReply { outcomes }))
    }

    async fn replace(
        &self,
        request: Request<Streaming<ReplaceRequest>>,
    ) -> Result<Response<ReplaceReply>, Status> {
        let (mut messages, mut reply) = (request.into_inner(), ReplaceReply::default());
        let (mut source, mut wanted) = (String::new(), BTreeMap::new());
        while let Some(message) = messages.message().await? {
            source = message.source;
            let list = message.registrations.into_iter();
            wanted.extend(
                list.filter_map(|m| wire::registration(m).ok())
                    .map(|r| (r.key(), r)),
            );
        }
        let source =
            InstanceSource::named(&source).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut state = self.0.lock();
        let held = state.instances.iter().filter(|(_, (_, of, _))| *of == source);
        let gone: Vec<_> = held
            .map(|(key, _)| key.clone())
            .filter(|key| !wanted.contains_key(key))
            .collect();
        for key in gone {
            reply.removed += u32::from(state.remove(&key).is_ok());
        }
        for registration in wanted.into_values() {
            state.put(registration, source.clone());
            reply.added += 1;
        }
        Ok(Response::new(reply))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not in this test server"))
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.request);
        let Some(attach_request::Request::Attachment(attachment)) = first else {
            return Err(Status::invalid_argument("say who you are first"));
        };
        let (events, stream) = mpsc::unbounded_channel();
        let presence = {
            let mut state = self.0.lock();
            let put = |event| drop(events.send(Ok(WatchEvent { event: Some(event) })));
            for (registration, source, revision) in state.instances.values() {
                put(Event::Put(wire::instance_message(
                    registration,
                    source,
                    *revision,
                )));
            }
            state
                .health
                .values()
                .cloned()
                .for_each(|report| put(Event::Health(report)));
            state.sessions.push(attachment.session);
            state.attachments += 1;
            let number = state.attachments;
            state
                .gateways
                .insert(attachment.gateway.clone(), (number, events.clone()));
            let names = state.names();
            state.tell(&names);
            put(Event::Synced(Synced {
                revision: state.revision,
                ..Synced::default()
            }));
            Presence(self.clone(), attachment.gateway, number)
        };
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if let Some(attach_request::Request::Health(report)) = request.request {
                    let mut state = presence.0.0.lock();
                    let key = wire::key(report.key.clone().unwrap_or_default()).unwrap();
                    state.health.insert(key, report.clone());
                    state.tell(&Event::Health(report));
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream))))
    }
}
