//! Lists over HTTP: `POST /v1/instances`, `…/renew` and `…/deregister`, and `PUT /v1/sources/{name}` for everything that
//! one program knows. Each element is answered for itself; only a list that cannot be read is refused as a whole.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension,
    extract::{Path, Request, State},
    response::Response,
};
use causeway_federation::{
    name::Tags,
    registry::{InstanceKey, InstanceSource, Provenance, Registration, RegistryError, check, wire},
};
use http::StatusCode;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    AdminState,
    entry::{noted, rights},
    error::ApiError,
    instances::{durability_word, one, read_body, standing_word, time_to_live},
    view::Envelope,
};
use crate::{actor::AskingConnection, audit::Note};

/// Most elements of one list.
pub const MAX_ELEMENTS: usize = 10_000;
/// Longest list in bytes: 800 for each element, four times what one usually takes.
const MAX_BULK_BYTES: usize = 8 << 20;
/// Lists that are read at once; the memory that they may take.
const MAX_BULKS: usize = 8;

/// One instance in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedInstance {
    pub service: String,
    /// Without it, the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub address: SocketAddr,
    #[serde(default)]
    pub tags: Tags,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_per_second: Option<u64>,
    /// Such as `30s`; without it the registration stays until it is deregistered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

impl ListedInstance {
    #[must_use]
    pub fn key(&self) -> ListedKey {
        ListedKey {
            service: self.service.clone(),
            id: self.id.clone().unwrap_or_else(|| self.address.to_string()),
        }
    }
}

/// Names one instance in a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedKey {
    pub service: String,
    pub id: String,
}

/// Outcome of one element, in the order of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeView {
    pub service: String,
    pub id: String,
    /// As in [`super::RegisteredView`]; only of what was registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// As in [`super::RegisteredView`]; absent from what was refused or renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<String>,
    /// Reason why it was refused, in one word; absent when it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The same for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Result of replacing all that a source has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedView {
    pub source: String,
    pub added: usize,
    pub changed: usize,
    pub removed: usize,
    pub durability: String,
    pub refused: Vec<OutcomeView>,
}

/// Room for lists that are being read.
#[derive(Debug, Clone)]
pub(super) struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BULKS)))
    }
}

type Answer = Result<Response, ApiError>;

pub(super) async fn register(
    State(state): State<AdminState>,
    Extension(slots): Extension<Slots>,
    request: Request,
) -> Answer {
    let provenance = AskingConnection::of(request.extensions()).provenance();
    let rights = rights(&request);
    let (_slot, list) = read_list(&slots, request).await?;
    let (good, mut outcomes) = separate(list, |listed| {
        let registration = registration(listed, provenance)?;
        rights.check_register(&registration.service)?;
        Ok(registration)
    });
    let all = state.instances.register_all(good).await?;
    let durability = durability_word(all.durability);
    fill(&mut outcomes, all.each, |outcome, standing| {
        outcome.standing = Some(standing_word(standing).to_owned());
        outcome.durability = Some(durability.to_owned());
    });
    Ok(answer(&state, outcomes))
}

pub(super) async fn renew(
    State(state): State<AdminState>,
    Extension(slots): Extension<Slots>,
    request: Request,
) -> Answer {
    let rights = rights(&request);
    let (_slot, list) = read_list(&slots, request).await?;
    let (good, mut outcomes) = separate(list, |listed| {
        let key = key(listed)?;
        rights.check_register(&key.service)?;
        Ok(key)
    });
    let each = state.instances.renew_all(good).await?;
    fill(&mut outcomes, each, |_, ()| {});
    Ok(answer(&state, outcomes))
}

pub(super) async fn deregister(
    State(state): State<AdminState>,
    Extension(slots): Extension<Slots>,
    request: Request,
) -> Answer {
    let rights = rights(&request);
    let (_slot, list) = read_list(&slots, request).await?;
    let (good, mut outcomes) = separate(list, |listed| {
        let key = key(listed)?;
        rights.check_register(&key.service)?;
        Ok(key)
    });
    let all = state.instances.deregister_all(good).await?;
    let durability = durability_word(all.durability);
    fill(&mut outcomes, all.each, |outcome, ()| {
        outcome.durability = Some(durability.to_owned());
    });
    Ok(answer(&state, outcomes))
}

pub(super) async fn replace(
    State(state): State<AdminState>,
    Path(name): Path<String>,
    Extension(slots): Extension<Slots>,
    request: Request,
) -> Answer {
    let source = InstanceSource::named(&name)?;
    let provenance = AskingConnection::of(request.extensions()).provenance();
    let (_slot, list) = read_list(&slots, request).await?;
    let (good, outcomes) = separate(list, |listed| registration(listed, provenance));
    let (replaced, durability) = state.instances.replace(source, good).await?;
    let mut refused: Vec<_> = outcomes
        .into_iter()
        .filter(|outcome| outcome.refusal.is_some())
        .collect();
    refused.extend(replaced.refused.iter().map(|(key, error)| OutcomeView {
        service: key.service.to_string(),
        id: key.id.clone(),
        ..refusal(error)
    }));
    let view = ReplacedView {
        source: name,
        added: replaced.added,
        changed: replaced.changed,
        removed: replaced.removed,
        durability: durability_word(durability).to_owned(),
        refused,
    };
    let note = Note {
        counts: Some((view.added + view.changed + view.removed, view.refused.len())),
        ..Note::default()
    };
    let envelope = Envelope::new("replaced", &state.snapshots.load(), vec![view]);
    Ok(noted(envelope, note))
}

fn answer(state: &AdminState, outcomes: Vec<OutcomeView>) -> Response {
    let refused = outcomes
        .iter()
        .filter(|outcome| outcome.refusal.is_some())
        .count();
    let note = Note {
        counts: Some((outcomes.len() - refused, refused)),
        ..Note::default()
    };
    noted(Envelope::new("outcomes", &state.snapshots.load(), outcomes), note)
}

async fn read_list(
    slots: &Slots,
    request: Request,
) -> Result<(OwnedSemaphorePermit, Vec<serde_json::Value>), ApiError> {
    let slot = slots.0.clone().try_acquire_owned().map_err(|_| {
        let error = format!("{MAX_BULKS} lists are being read already");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error).hint("try again in a moment")
    })?;
    let bytes = read_body(request, MAX_BULK_BYTES).await?;
    let list: Vec<serde_json::Value> = serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not a JSON array: {error}"))
            .hint(r#"for example [{"service":"orders","address":"10.1.0.11:8080"}]"#)
    })?;
    if list.len() > MAX_ELEMENTS {
        let error = format!("{} elements are more than {MAX_ELEMENTS}", list.len());
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error).hint(
            "send several lists; a source that knows more hands it over with the gRPC call `Replace`",
        ));
    }
    Ok((slot, list))
}

/// Separates what can be used, and makes an outcome for every element: already refused, or still to be filled in.
fn separate<E: DeserializeOwned, T>(
    list: Vec<serde_json::Value>,
    read: impl Fn(E) -> Result<T, RegistryError>,
) -> (Vec<T>, Vec<OutcomeView>) {
    let mut good = Vec::with_capacity(list.len());
    let outcomes = list.into_iter().map(|element| {
        let named = |key: &str| {
            element[key]
                .as_str()
                .unwrap_or_default()
                .chars()
                .take(160)
                .collect()
        };
        let (service, mut id): (String, String) = (named("service"), named("id"));
        if id.is_empty() {
            id = named("address");
        }
        let outcome = match serde_json::from_value(element).map(&read) {
            Ok(Ok(element)) => {
                good.push(element);
                OutcomeView::default()
            }
            Ok(Err(error)) => refusal(&error),
            Err(error) => OutcomeView {
                refusal: Some("bad_element".to_owned()),
                message: Some(error.to_string()),
                ..OutcomeView::default()
            },
        };
        OutcomeView {
            service,
            id,
            ..outcome
        }
    });
    let outcomes = outcomes.collect();
    (good, outcomes)
}

/// Fills in what became of the elements that could be used, in their order.
fn fill<T>(
    outcomes: &mut [OutcomeView],
    each: Vec<Result<T, RegistryError>>,
    done: impl Fn(&mut OutcomeView, T),
) {
    let open = outcomes.iter_mut().filter(|outcome| outcome.refusal.is_none());
    for (outcome, result) in open.zip(each) {
        match result {
            Ok(result) => done(outcome, result),
            Err(error) => {
                let refusal = refusal(&error);
                (outcome.refusal, outcome.message) = (refusal.refusal, refusal.message);
            }
        }
    }
}

fn refusal(error: &RegistryError) -> OutcomeView {
    OutcomeView {
        refusal: Some(error.word().to_owned()),
        message: Some(error.to_string()),
        ..OutcomeView::default()
    }
}

fn registration(listed: ListedInstance, provenance: Provenance) -> Result<Registration, RegistryError> {
    let ListedKey { service, id } = listed.key();
    let time_to_live = listed.ttl.as_deref().map(time_to_live).transpose();
    let registration = Registration {
        service: wire::service(&service)?,
        id,
        address: listed.address,
        tags: listed.tags,
        weight: listed.weight,
        capacity_per_second: listed.capacity_per_second,
        time_to_live: time_to_live?,
        provenance,
    };
    check(&registration)?;
    Ok(registration)
}

fn key(listed: ListedKey) -> Result<InstanceKey, RegistryError> {
    Ok(InstanceKey {
        service: wire::service(&listed.service)?,
        id: listed.id,
    })
}
