//! A request that may be made again, if it comes to that.

use http::{Method, Request, request::Parts};

use super::body::{RequestBody, SpareBody};
use crate::http::headers::is_idempotent;

/// Head of a request, and the right to give its body again.
pub(super) struct SpareRequest {
    parts: Parts,
    body: SpareBody,
}

impl SpareRequest {
    pub(super) fn of(request: &Request<RequestBody>) -> Option<Self> {
        let body = request.body().spare()?;
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::clone(request.method());
        parts.uri = request.uri().clone();
        parts.version = request.version();
        parts.headers = request.headers().clone();
        Some(Self { parts, body })
    }

    /// The request once more; `None`: too much of its body was sent.
    pub(super) fn again(self) -> Option<Request<RequestBody>> {
        let body = self.body.again()?;
        Some(Request::from_parts(self.parts, body))
    }

    /// Tells whether all of its body that was sent is remembered.
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_whole()
    }

    /// Tells whether it does no harm if it was read once already.
    pub(super) fn is_harmless(&self) -> bool {
        is_idempotent(&self.parts.method) && matches!(self.body, SpareBody::Empty)
    }
}
