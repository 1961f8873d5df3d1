//! Handing everything that one source knows over to the zone-sync.

use causeway_federation::registry::{
    InstanceKey, InstanceSource, Registration, RegistryError, Replaced, wire,
};
use causeway_proto::registry::{Outcome, ReplaceRequest};
use causeway_zone_sync::registry::Durability;

use super::Attach;

impl Attach {
    /// Makes `source` hold exactly `wanted` in the registry that the gateways share.
    ///
    /// # Errors
    /// When no zone-sync could be asked; a part may be done then, and the rest is when it is asked again.
    pub async fn replace(
        &self,
        source: &InstanceSource,
        wanted: Vec<Registration>,
    ) -> Result<(Replaced, Durability), RegistryError> {
        let message = |part: &[Registration]| ReplaceRequest {
            source: source.to_string(),
            registrations: part.iter().map(wire::registration_message).collect(),
        };
        let mut requests: Vec<_> = wanted.chunks(wire::MAX_LIST).map(message).collect();
        if requests.is_empty() {
            // An empty list still has to say whose it is.
            requests.push(message(&[]));
        }
        let (reply, _) = self
            .call(|mut client| {
                let requests = tokio_stream::iter(requests.clone());
                Box::pin(async move { client.replace(requests).await })
            })
            .await?;
        let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let refused = reply.refused.into_iter();
        let replaced = Replaced {
            added: count(reply.added),
            changed: count(reply.changed),
            removed: count(reply.removed),
            refused: refused
                .filter_map(|outcome| refusal(outcome, wanted.first()))
                .collect(),
        };
        Ok((replaced, Durability::Durable))
    }
}

/// Servers begin a message with the instance that it is about; where one does not, the list's first stands for all.
fn refusal(outcome: Outcome, first: Option<&Registration>) -> Option<(InstanceKey, RegistryError)> {
    let named = outcome.message.split_once(": ").and_then(|(key, message)| {
        let (service, id) = key.split_once('/')?;
        let key = InstanceKey {
            service: wire::service(service).ok()?,
            id: id.to_owned(),
        };
        Some((key, message.to_owned()))
    });
    let (key, message) = match named {
        Some(named) => named,
        None => (first?.key(), outcome.message),
    };
    let word = outcome.refusal;
    Some((key, RegistryError::Refused { word, message }))
}
