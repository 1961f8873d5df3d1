//! Trust of the federation, over HTTP: `GET /v1/trust`, and `PUT /v1/trust` with a signed document as the body. What may
//! be taken is decided elsewhere.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use causeway_control::trust::HandError;
use causeway_federation::trust::{MAX_DOCUMENT_BYTES, TrustDocument, TrustRefusal};
use causeway_identity::TrustStoreError;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};

use super::{
    AdminState,
    api::answer,
    error::ApiError,
    view::{self, Envelope},
};

impl From<HandError> for ApiError {
    fn from(error: HandError) -> Self {
        let with = |status| Self::new(status, error.to_string());
        match &error {
            HandError::Stale { .. } => with(StatusCode::CONFLICT)
                .hint("look with `causeway get zones -o wide`, and make the next document on top of what is in force"),
            HandError::Trust(TrustStoreError::Refused(refusal)) => {
                let status = match refusal {
                    TrustRefusal::Unsigned { .. } => StatusCode::FORBIDDEN,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                with(status).hint(refusal.hint())
            }
            HandError::Trust(TrustStoreError::Disk(source)) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("{error}: {source}"),
            )
            .hint("is the --data folder full or read-only?"),
            HandError::Interrupted(_) => {
                with(StatusCode::INTERNAL_SERVER_ERROR).hint("see the log of the gateway")
            }
        }
    }
}

pub(super) async fn shown(State(state): State<AdminState>) -> Result<Response, ApiError> {
    let (identity, snapshot) = (state.identity, state.snapshots.load_full());
    // Who issued each gateway's certificate is looked up by signature, which takes a while for thousands.
    let looked = tokio::task::spawn_blocking(move || (view::trust(&identity, &snapshot), snapshot));
    let (item, snapshot) = looked
        .await
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(answer(Envelope::new("trust", &snapshot, vec![item])))
}

pub(super) async fn hand_in(State(state): State<AdminState>, request: Request) -> Result<Response, ApiError> {
    let trusted = state.trust.as_ref().ok_or_else(|| {
        ApiError::new(StatusCode::FORBIDDEN, "this gateway keeps no trust document")
            .hint("hand it to a gateway that was started with `causeway gateway`")
    })?;
    let body = Limited::new(request.into_body(), MAX_DOCUMENT_BYTES);
    let body = body.collect().await.map_err(|error| {
        let error = format!("the document cannot be read: {error}");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error)
            .hint(format!("a document has at most {MAX_DOCUMENT_BYTES} bytes"))
    })?;
    let document = TrustDocument::decode(&body.to_bytes()).map_err(|error| {
        ApiError::bad_request(format!("the body is no trust document: {error}"))
            .hint("`causeway revoke` and `causeway ca rotate` make them")
    })?;
    trusted.hand_in(Arc::new(document)).await?;
    shown(State(state)).await
}
