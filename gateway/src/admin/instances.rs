//! Registering over HTTP: `PUT`, `POST …/renew` and `DELETE` of `/v1/instances/{service}/{id}`. What a registration
//! means is the registry's business; here a request becomes one, or a clear refusal.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use causeway_zone_sync::{
    name::{MAX_TAGS, ServiceName, Tags},
    registry::Registration,
};
use futures_util::future::BoxFuture;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};

use super::{AdminState, error::ApiError, view::Envelope};

/// Longest body of a request in bytes.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;
/// Longest instance id in bytes.
const MAX_ID_BYTES: usize = 128;
/// Shortest and longest time to live: a lease shorter than this is lost to any hiccup, a longer one is no lease.
const TIME_TO_LIVE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Why the registry did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryRefusal {
    /// There is no such instance.
    #[error("no instance `{id}` of `{service}` is registered")]
    NotFound { service: ServiceName, id: String },
    /// The registration breaks a rule or a limit.
    #[error("{0}")]
    Invalid(String),
    /// The registry cannot store it now.
    #[error("{0}")]
    Unavailable(String),
}

/// The zone's registry, as far as the admin API uses it.
pub trait InstanceRegistry: Send + Sync + 'static {
    fn register(&self, registration: Registration) -> BoxFuture<'_, Result<(), RegistryRefusal>>;
    fn renew<'a>(
        &'a self,
        service: &'a ServiceName,
        id: &'a str,
    ) -> BoxFuture<'a, Result<(), RegistryRefusal>>;
    fn deregister<'a>(
        &'a self,
        service: &'a ServiceName,
        id: &'a str,
    ) -> BoxFuture<'a, Result<(), RegistryRefusal>>;
}

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

fn one() -> u32 {
    1
}

impl From<RegistryRefusal> for ApiError {
    fn from(refusal: RegistryRefusal) -> Self {
        let error = refusal.to_string();
        match refusal {
            RegistryRefusal::NotFound { .. } => {
                Self::not_found(error).hint("it may have expired; register it again with PUT")
            }
            RegistryRefusal::Invalid(_) => Self::bad_request(error),
            RegistryRefusal::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, error),
        }
    }
}

pub(super) async fn register(
    State(state): State<AdminState>,
    Path((service, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let service = known_service(&state, &service)?;
    let body: InstanceBody = read_json(request).await?;
    let registration = registration(service, id, body.clone())?;
    state.instances.register(registration).await?;
    let snapshot = state.snapshots.load();
    Ok(Json(Envelope::new("instances", &snapshot, vec![body])).into_response())
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

/// A service that the topology names: an instance of any other would never be sent anything.
pub(super) fn known_service(state: &AdminState, text: &str) -> Result<ServiceName, ApiError> {
    let service = service_name(text)?;
    let topology = &state.snapshots.load().topology;
    if topology.services.contains_key(&service) {
        return Ok(service);
    }
    let known: Vec<_> = topology.services.keys().map(ServiceName::as_str).collect();
    Err(ApiError::not_found(format!("the topology has no service `{service}`")).hint(named(&known)))
}

/// The services there are, as far as they fit on a line.
fn named(known: &[&str]) -> String {
    /// More names than this help nobody.
    const SHOWN: usize = 12;
    match known.len() {
        0 => "the topology has no services".to_owned(),
        count if count <= SHOWN => format!("its services are {}", known.join(", ")),
        count => format!(
            "its services are {} and {} more",
            known[..SHOWN].join(", "),
            count - SHOWN
        ),
    }
}

fn registration(service: ServiceName, id: String, body: InstanceBody) -> Result<Registration, ApiError> {
    if id.is_empty() || id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
        let error = format!("an instance id has 1 to {MAX_ID_BYTES} bytes without control characters");
        return Err(ApiError::bad_request(error));
    }
    if body.tags.len() > MAX_TAGS {
        return Err(ApiError::bad_request(format!(
            "an instance has at most {MAX_TAGS} tags"
        )));
    }
    let unspecified = body.address.ip().is_unspecified() || body.address.port() == 0;
    if unspecified {
        let error = format!("`{}` is not an address that can be connected to", body.address);
        return Err(ApiError::bad_request(error).hint("give the IP and port that the instance listens on"));
    }
    Ok(Registration {
        service,
        id,
        address: body.address,
        tags: body.tags,
        weight: body.weight,
        capacity_per_second: body.capacity_per_second,
        time_to_live: body.ttl.as_deref().map(time_to_live).transpose()?,
    })
}

fn time_to_live(text: &str) -> Result<Duration, ApiError> {
    let duration = humantime::parse_duration(text)
        .ok()
        .filter(|ttl| TIME_TO_LIVE.contains(ttl));
    duration.ok_or_else(|| {
        ApiError::bad_request(format!("`{text}` is not a time to live between 1s and 24h"))
            .hint("for example 30s")
    })
}

/// Reads a whole JSON body of at most [`MAX_BODY_BYTES`].
async fn read_json<T: serde::de::DeserializeOwned>(request: Request) -> Result<T, ApiError> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES);
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let error = format!("the body is longer than {MAX_BODY_BYTES} bytes");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(error) => return Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not an instance: {error}")).hint(
            r#"for example {"address":"10.1.0.11:8080","tags":{"version":"v1"},"weight":1,"ttl":"30s"}"#,
        )
    })
}
