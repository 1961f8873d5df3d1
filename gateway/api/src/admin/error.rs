//! Errors of the API: a status, and a JSON body `{"error": …, "hint": …, "details": …}`.

use axum::{
    Extension, Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use serde::Serialize;

use crate::{audit::Note, credentials::Denied};

/// Answer to a client whose request is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub error: String,
    pub hint: Option<String>,
    /// All there is to say, in many lines.
    pub details: Option<String>,
    /// For the audit log; without one, what the status is called.
    pub word: Option<String>,
    /// For the audit log: name of what was to be changed, where the path of the request does not say it.
    pub object: Option<Box<str>>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let error = error.into();
        Self {
            status,
            error,
            hint: None,
            details: None,
            word: None,
            object: None,
        }
    }

    pub(crate) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(crate) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    #[must_use]
    pub(crate) fn word(mut self, word: impl Into<String>) -> Self {
        self.word = Some(word.into());
        self
    }

    #[must_use]
    pub(crate) fn object(mut self, object: Option<String>) -> Self {
        self.object = object.map(String::into_boxed_str);
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }
}

impl From<&Denied> for ApiError {
    fn from(denied: &Denied) -> Self {
        let status = match denied.is_unauthenticated() {
            true => StatusCode::UNAUTHORIZED,
            false => StatusCode::FORBIDDEN,
        };
        let error = Self::new(status, denied.to_string());
        error.hint(denied.hint()).word(denied.word())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            details: Option<String>,
        }
        let Self {
            status,
            error,
            hint,
            details,
            word,
            object,
        } = self;
        let note = Note {
            object: object.map(String::from),
            error: Some(word.unwrap_or_else(|| status_word(status))),
            ..Note::default()
        };
        let body = Body { error, hint, details };
        (status, Extension(note), Json(body)).into_response()
    }
}

/// `not_found` for 404.
fn status_word(status: StatusCode) -> String {
    let name = status.canonical_reason().unwrap_or("refused");
    name.to_ascii_lowercase().replace([' ', '-'], "_")
}
