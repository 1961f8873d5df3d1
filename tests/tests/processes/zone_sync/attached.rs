//! A gateway that is attached to a zone-sync.

use std::time::Duration;

use causeway_proto::registry::{
    AttachRequest, Attachment, Health, HealthReport, WatchEvent, attach_request::Request, watch_event::Event,
};
use causeway_tests::zone_sync::{ZoneSyncProcess, connect, key, next};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::PATIENCE;

/// A gateway as the contract has it: attached, and alive every second until this is dropped.
pub struct Gateway {
    pub requests: mpsc::Sender<AttachRequest>,
    pub events: Streaming<WatchEvent>,
}

impl Gateway {
    pub async fn attach(zone_sync: &ZoneSyncProcess, zone: &str, name: &str) -> Result<Self, tonic::Status> {
        Self::attach_in(zone_sync, zone, name, String::new()).await
    }

    /// Attaches in a session.
    pub async fn attach_in(
        zone_sync: &ZoneSyncProcess,
        zone: &str,
        name: &str,
        session: String,
    ) -> Result<Self, tonic::Status> {
        let (requests, outgoing) = mpsc::channel(64);
        let attachment = Attachment {
            zone: zone.to_owned(),
            gateway: name.to_owned(),
            session,
        };
        let request = |request| AttachRequest {
            request: Some(request),
        };
        requests
            .try_send(request(Request::Attachment(attachment)))
            .unwrap();
        let mut client = connect(zone_sync.address).await.unwrap();
        let events = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        let alive = requests.downgrade();
        tokio::spawn(async move {
            while let Some(requests) = alive.upgrade() {
                let alive = request(Request::Alive(causeway_proto::registry::Alive {}));
                if requests.send(alive).await.is_err() {
                    return;
                }
                drop(requests);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Ok(Self { requests, events })
    }

    pub async fn report(&self, number: u32, health: Health) {
        let report = HealthReport {
            key: Some(key(number)),
            health: health.into(),
            failure: String::new(),
            gateway: "somebody-else".to_owned(),
        };
        let request = Some(Request::Health(report));
        self.requests.send(AttachRequest { request }).await.unwrap();
    }

    /// Reads on until it is told what `found` looks for.
    pub async fn until<T>(&mut self, what: &str, mut found: impl FnMut(Event) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = found(next(&mut self.events).await.unwrap()) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("waited in vain until {what}"))
    }

    /// Reads on until the zone-sync ends the attachment.
    pub async fn until_ended(&mut self) {
        let reading = async { while next(&mut self.events).await.is_ok() {} };
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        ended.unwrap_or_else(|_| panic!("the attachment goes on"));
    }

    pub async fn until_gateways(&mut self, names: &[&str]) {
        let wanted: Vec<_> = names.iter().map(ToString::to_string).collect();
        self.until("these gateways are present", |event| {
            matches!(event, Event::Gateways(told) if told.names == wanted).then_some(())
        })
        .await;
    }
}
