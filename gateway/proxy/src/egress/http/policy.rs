//! Time limit and retries of one request, as its service declares them. Looked up once for each request.

use std::{sync::Arc, time::Duration};

use causeway_federation::topology::{Retry, Route};
use causeway_routing::{
    retry::{TryEnd, is_tried_again},
    snapshot::Snapshot,
};
use http::Method;

use super::serve::HttpConnection;
use crate::dial::uptime;

/// Rules for one request.
pub(super) struct RequestPolicy {
    /// Longest time from its arrival to the head of its answer.
    pub(super) timeout: Option<Duration>,
    retry: Option<(Arc<Retry>, Method)>,
}

impl RequestPolicy {
    /// Looks up the rules for a request with this method, which adds to what its service has left for retries.
    pub(super) fn of(connection: &HttpConnection, snapshot: &Snapshot, method: &Method) -> Self {
        let shared = &connection.shared;
        let name = &connection.arrival.target.service;
        let service = snapshot.topology.services.get(name);
        let retry = service.and_then(|service| service.retry.clone());
        if let Some(retry) = &retry {
            shared.budgets.lock().earn(uptime(), name, retry.budget);
        }
        Self {
            timeout: service.and_then(|service| service.timeout),
            retry: retry.map(|retry| (retry, method.clone())),
        }
    }

    /// Has what the request's route says take the place of what its service says.
    pub(super) fn with_route(self, route: Option<&Route>) -> Self {
        let of_route = route.and_then(|route| route.timeout);
        Self {
            timeout: of_route.or(self.timeout),
            ..self
        }
    }

    /// Tries after the first.
    pub(super) fn attempts(&self) -> u32 {
        self.retry.as_ref().map_or(0, |(retry, _)| retry.attempts)
    }

    pub(super) fn per_try_timeout(&self) -> Option<Duration> {
        self.retry.as_ref()?.0.per_try_timeout
    }

    /// Tells whether it may be tried again once an instance has been given it.
    pub(super) fn may_repeat(&self) -> bool {
        let repeats = |(retry, method): &(Arc<Retry>, Method)| retry.methods.contains(method.as_str());
        self.retry.as_ref().is_some_and(repeats)
    }

    /// Tells whether it is tried again after this end of a try.
    pub(super) fn is_tried_again(&self, end: TryEnd) -> bool {
        let again = |(retry, method): &(Arc<Retry>, Method)| is_tried_again(retry, method.as_str(), end);
        self.retry.as_ref().is_some_and(again)
    }
}
