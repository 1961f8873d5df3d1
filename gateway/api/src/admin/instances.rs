//! Registering over HTTP: `PUT`, `POST …/renew` and `DELETE` of `/v1/instances/{service}/{id}`. What a registration
//! means is the registry's business; here a request becomes one, or a clear refusal.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use causeway_federation::{
    name::{ServiceName, Tags},
    registry::{Provenance, Registration, RegistryError},
};
use causeway_instances::RegistrationStanding;
use causeway_zone_sync::registry::Durability;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};

use super::{AdminState, error::ApiError, view::Envelope};
use crate::actor::AskingConnection;

/// Longest body of a request in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;
/// The body of a `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceBody {
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

pub(super) fn one() -> u32 {
    1
}

/// Outcome of a `PUT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisteredView {
    pub service: String,
    pub id: String,
    /// `in_force`; `undeclared`: no traffic until the topology declares the service; `shadowed`: a source
    /// that goes before it has an instance with this id.
    pub standing: String,
    /// `durable`; `no_store`: lost when the gateway restarts; `write_failed`: the same, for now.
    pub durability: String,
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        let (text, word) = (error.to_string(), error.word().to_owned());
        let refusal = match error {
            RegistryError::NotFound(_) => {
                Self::not_found(text).hint("it may have expired; register it with `causeway register`")
            }
            RegistryError::HeldBy { .. } => Self::new(StatusCode::CONFLICT, text),
            RegistryError::ServiceFull(_) | RegistryError::ZoneFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, text).hint("deregister instances that are gone")
            }
            RegistryError::NoTime(_) => Self::bad_request(text).hint("for example 30s"),
            RegistryError::LastHealthy(_) => Self::new(StatusCode::CONFLICT, text).hint(
                "register another one first; or give `--force` (`?force=true`): other zones then take what they can",
            ),
            RegistryError::SharedDrain => Self::new(StatusCode::CONFLICT, text)
                .hint("register it again with `--weight 0`, or drain the zone"),
            RegistryError::TooManyDrains => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, text).hint("undrain some: `causeway check` lists them")
            }
            RegistryError::NoRight(_) => Self::new(StatusCode::FORBIDDEN, text),
            RegistryError::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, text),
            RegistryError::Away(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, text).hint(
                "whether it was done is not known, and doing it again does no harm; try when `causeway check` is content with the registry",
            ),
            RegistryError::NothingDone(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, text)
                .hint("try again when `causeway check` is content with the registry"),
            RegistryError::Refused { ref word, .. } => Self::new(
                match word.as_str() {
                    "held_by_another_source" => StatusCode::CONFLICT,
                    "service_full" | "zone_full" => StatusCode::INSUFFICIENT_STORAGE,
                    _ => StatusCode::BAD_REQUEST,
                },
                text,
            ),
            _ => Self::bad_request(text),
        };
        refusal.word(word)
    }
}

pub(super) async fn register(
    State(state): State<AdminState>,
    Path((service, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = service_name(&service)?;
    let provenance = AskingConnection::of(request.extensions()).provenance();
    let body: InstanceBody = read_json(request).await?;
    let registration = registration(service.clone(), id.clone(), body, provenance)?;
    let accepted = state.instances.register(registration).await?;
    let view = RegisteredView {
        service: service.to_string(),
        id,
        standing: standing_word(accepted.standing).to_owned(),
        durability: durability_word(accepted.durability).to_owned(),
    };
    let snapshot = state.snapshots.load();
    Ok(Json(Envelope::new("registered", &snapshot, vec![view])).into_response())
}

pub(super) fn standing_word(standing: RegistrationStanding) -> &'static str {
    match standing {
        RegistrationStanding::InForce => "in_force",
        RegistrationStanding::Undeclared => "undeclared",
        RegistrationStanding::Shadowed => "shadowed",
    }
}

pub(super) fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::NoStore => "no_store",
        Durability::WriteFailed => "write_failed",
    }
}

pub(super) async fn renew(
    State(state): State<AdminState>,
    Path((service, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    state.instances.renew(&service_name(&service)?, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn deregister(
    State(state): State<AdminState>,
    Path((service, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    state.instances.deregister(&service_name(&service)?, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn service_name(text: &str) -> Result<ServiceName, ApiError> {
    ServiceName::new(text).map_err(|error| ApiError::bad_request(error.to_string()))
}

/// The registry checks what it holds; only what must become another type is checked here.
fn registration(
    service: ServiceName,
    id: String,
    body: InstanceBody,
    provenance: Provenance,
) -> Result<Registration, ApiError> {
    Ok(Registration {
        service,
        id,
        address: body.address,
        tags: body.tags,
        weight: body.weight,
        capacity_per_second: body.capacity_per_second,
        time_to_live: body.ttl.as_deref().map(time_to_live).transpose()?,
        provenance,
    })
}

pub(super) fn time_to_live(text: &str) -> Result<Duration, RegistryError> {
    let shown = || {
        text.chars()
            .take(80)
            .collect::<String>()
            .escape_debug()
            .to_string()
    };
    humantime::parse_duration(text).map_err(|_| RegistryError::NoTime(shown()))
}

/// Reads a whole body.
pub(super) async fn read_body(request: Request, most_bytes: usize) -> Result<Bytes, ApiError> {
    match Limited::new(request.into_body(), most_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let error = format!("the body is longer than {most_bytes} bytes");
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error))
        }
        Err(error) => Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
    }
}

/// Reads a whole JSON body of at most [`MAX_BODY_BYTES`].
async fn read_json<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let bytes = read_body(request, MAX_BODY_BYTES).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not an instance: {error}")).hint(
            r#"for example {"address":"10.1.0.11:8080","tags":{"version":"v1"},"weight":1,"ttl":"30s"}"#,
        )
    })
}
