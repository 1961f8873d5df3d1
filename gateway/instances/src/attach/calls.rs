//! Calls to the zone-sync that this gateway is attached to, each of which names the session of the attachment and how many attempts were given up in it:
//! so that an attempt that arrives late undoes nothing that was done since.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use causeway_federation::{
    name::GatewayName,
    registry::{CallSession, GatewaySession, wire},
};
use causeway_proto::registry::registry_client::RegistryClient;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// A client whose calls name the session.
pub(super) type SessionClient = RegistryClient<InterceptedService<Channel, NamingSession>>;

/// Way to make calls in the session of one attachment. Clones share its epoch.
#[derive(Debug, Clone)]
pub(super) struct SessionCalls {
    channel: Channel,
    gateway: GatewayName,
    session: GatewaySession,
    /// Grows with every attempt that was given up.
    epoch: Arc<AtomicU64>,
}

/// Adds the metadata that names the session.
#[derive(Debug, Clone)]
pub(super) struct NamingSession(Option<MetadataValue<Ascii>>);

/// One attempt at a call. Unless it is over when this is dropped it is given up, and the zone-sync is told so by the calls after it.
#[derive(Debug)]
pub(super) struct CallAttempt {
    epoch: u64,
    session: Arc<AtomicU64>,
    is_over: bool,
}

impl Interceptor for NamingSession {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(named) = &self.0 {
            request.metadata_mut().insert(wire::SESSION, named.clone());
        }
        Ok(request)
    }
}

impl SessionCalls {
    pub(super) fn new(channel: Channel, gateway: GatewayName, session: GatewaySession) -> Self {
        Self {
            channel,
            gateway,
            session,
            epoch: Arc::default(),
        }
    }

    /// A client for one attempt.
    pub(super) fn attempt(&self) -> (SessionClient, CallAttempt) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let named = CallSession {
            gateway: self.gateway.clone(),
            session: self.session,
            epoch,
        };
        // The text is ASCII.
        let naming = NamingSession(named.to_string().parse().ok());
        let client = RegistryClient::with_interceptor(self.channel.clone(), naming)
            .max_decoding_message_size(wire::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(wire::MAX_MESSAGE_BYTES);
        let attempt = CallAttempt {
            epoch,
            session: Arc::clone(&self.epoch),
            is_over: false,
        };
        (client, attempt)
    }
}

impl CallAttempt {
    /// It was answered: nothing of it will be done any more.
    pub(super) fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for CallAttempt {
    fn drop(&mut self) {
        if !self.is_over {
            // Attempts side by side that are all given up are one step.
            self.session.fetch_max(self.epoch + 1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn attempts_that_were_given_up_are_of_an_earlier_epoch_than_the_calls_after_them() {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let calls = SessionCalls::new(channel, "gw1".parse().unwrap(), GatewaySession::new(7));
        let epoch = || calls.attempt().1;
        let (first, second, third) = (epoch(), epoch(), epoch());
        first.over();
        assert_eq!(calls.epoch.load(Ordering::SeqCst), 0);
        drop((second, third));
        assert_eq!(calls.epoch.load(Ordering::SeqCst), 1);
        epoch().over();
        assert_eq!(calls.clone().epoch.load(Ordering::SeqCst), 1);
    }
}
