//! Applying a topology over HTTP: `PUT /v1/topology?generation=6&dry_run=true` and `POST /v1/topology/diff` with the file
//! as the body; `GET /v1/topology?text=true` and `GET /v1/topology/history`. What may be applied is decided elsewhere;
//! here a request becomes a text, and a refusal an answer.

use axum::{
    extract::{Query, Request, State},
    response::Response,
};
use causeway_zone_sync::topology::{Diagnostics, MAX_FILE_BYTES, Style, applied::Refusal, diff, parse};
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

use super::{
    AdminState,
    api::answer,
    entry::noted,
    error::ApiError,
    view::{self, ChangesView, Envelope},
};
use crate::{
    audit::Note,
    telemetry::log::in_one_line,
    topology::{AppliedTopology, ApplyError, Applying},
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    /// The whole file as well.
    #[serde(default)]
    text: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// The generation that must be in force for this to be done.
    generation: Option<u64>,
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

type Parameters<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Refused(refusal) => refused(&refusal),
            ApplyError::Disk(ref source) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("{error}: {}", in_one_line(source)),
            )
            .hint("is the --data folder full or read-only?"),
            ApplyError::Sign(ref source) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{error}: {}", in_one_line(source)),
            )
            .hint("is the key of this gateway's identity one that can sign?"),
            ApplyError::Interrupted(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                .hint("see the log of the gateway"),
        }
    }
}

fn refused(refusal: &Refusal) -> ApiError {
    let status = match refusal {
        Refusal::Stale { .. } | Refusal::Behind { .. } | Refusal::LastGeneration(_) => StatusCode::CONFLICT,
        Refusal::NotAllowed { .. } | Refusal::Unsigned { .. } => StatusCode::FORBIDDEN,
        Refusal::Invalid(_) | Refusal::NoOwnZone(_) | Refusal::TrustDomain { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    };
    let error = ApiError::new(status, refusal.to_string()).hint(refusal.hint());
    match refusal {
        Refusal::Invalid(findings) => error.details(findings.render(Style::Plain)),
        _ => error,
    }
}

pub(super) async fn shown(
    State(state): State<AdminState>,
    parameters: Parameters<Shown>,
) -> Result<Response, ApiError> {
    let Query(Shown { text }) = understood(parameters, "/v1/topology?text=true")?;
    let snapshot = state.snapshots.load_full();
    let item = view::topology(&snapshot, state.applied.as_ref(), text);
    Ok(answer(Envelope::new("topology", &snapshot, vec![item])))
}

pub(super) async fn history(State(state): State<AdminState>) -> Result<Response, ApiError> {
    let items = view::generations(&applied(&state)?.view());
    let snapshot = state.snapshots.load_full();
    Ok(answer(Envelope::new("generations", &snapshot, items)))
}

pub(super) async fn apply(
    State(state): State<AdminState>,
    parameters: Parameters<Wish>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(wish) = understood(parameters, "/v1/topology?generation=6&dry_run=true")?;
    let applied = applied(&state)?;
    let text = read_text(request).await?;
    let applying = match wish.dry_run {
        true => Applying::Dry,
        false => Applying::Now,
    };
    let outcome = applied.apply(wish.generation, text, applying).await?;
    let item = view::outcome(&outcome, in_words(&outcome.draft.warnings));
    let note = Note {
        object: Some("topology".to_owned()),
        generation: Some(item.generation),
        ..Note::default()
    };
    let snapshot = state.snapshots.load_full();
    Ok(noted(Envelope::new("changes", &snapshot, vec![item]), note))
}

/// Answers where a file rules, too.
pub(super) async fn difference(
    State(state): State<AdminState>,
    request: Request,
) -> Result<Response, ApiError> {
    let text = read_text(request).await?;
    let snapshot = state.snapshots.load_full();
    let latest = state.applied.as_ref().map(AppliedTopology::topology);
    let current = latest.map_or_else(|| snapshot.topology.clone(), |latest| latest.borrow().clone());
    let compared = tokio::task::spawn_blocking(move || {
        let parsed = parse(&text, "topology")?;
        Ok::<_, Diagnostics>(ChangesView {
            applied: false,
            same: parsed.topology.fingerprint == current.fingerprint,
            generation: current.generation,
            fingerprint: current.fingerprint.to_string(),
            changes: view::changes(&diff(&current, &parsed.topology)),
            warnings: in_words(&parsed.warnings),
        })
    });
    let compared = compared
        .await
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let item = compared.map_err(|findings| refused(&Refusal::Invalid(Box::new(findings))))?;
    Ok(answer(Envelope::new("changes", &snapshot, vec![item])))
}

fn in_words(warnings: &Diagnostics) -> String {
    warnings.render(Style::Plain)
}

fn applied(state: &AdminState) -> Result<&AppliedTopology, ApiError> {
    state.applied.as_ref().ok_or_else(|| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "a file rules the topology of this gateway, so nothing can be applied to it",
        )
        .hint("edit the file that --topology names; or start every gateway with --initial-topology instead")
    })
}

fn understood<T>(parameters: Parameters<T>, example: &str) -> Result<Query<T>, ApiError> {
    parameters
        .map_err(|error| ApiError::bad_request(error.body_text()).hint(format!("for example {example}")))
}

/// The whole body, which has to be UTF-8 and within the limit of a topology.
async fn read_text(request: Request) -> Result<String, ApiError> {
    let body = Limited::new(request.into_body(), MAX_FILE_BYTES);
    let bytes = match body.collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let error = format!("the topology is longer than {MAX_FILE_BYTES} bytes");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(error) => return Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
    };
    String::from_utf8(bytes.into()).map_err(|_| {
        ApiError::bad_request("the body is not UTF-8 text")
            .hint("send the file itself: curl -T topology.yaml 'localhost:7810/v1/topology?generation=6'")
    })
}
