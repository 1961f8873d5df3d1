//! Retries that never come about, tries for which there is no time, and first bytes that travel nowhere.

use std::time::Duration;

use super::{
    super::{
        diagnostic::{Diagnostic, Span},
        fields::Spanned,
        model::Protocol,
        raw::Service,
        retry::Retry,
    },
    Context,
};

pub(super) fn check(context: &Context<'_>) {
    for service in &context.file.services {
        let protocols = service.protocols().unwrap_or_default();
        let of_requests = |protocol: &&&Spanned<Protocol>| protocol.value.is_http();
        let mut spoken = protocols.iter().filter(of_requests);
        let Some(first) = spoken.next() else {
            // What is said there of requests has been reported.
            continue;
        };
        // What holds of every call is for a service with calls alone.
        let protocol = spoken
            .map(|other| other.value)
            .find(|other| *other != first.value);
        let protocol = protocol.map_or(first.value, |_| Protocol::Http);
        if protocols.iter().all(|protocol| protocol.value.is_http()) {
            early(context, service);
        }
        let key = service.of_requests.iter().find(|key| key.value == "retry");
        match (&service.policies.retry, key) {
            (Some(retry), Some(key)) => {
                methods(context, protocol, retry, &key.span);
                times(context, service, retry, &key.span);
            }
            (_, None) => limit(context, service),
            // It cannot be read, which has been reported.
            _ => {}
        }
    }
}

/// Requests are given with their heads, whatever `early` says.
fn early(context: &Context<'_>, service: &Service) {
    if let Some(span) = &service.early_at {
        let message = "`early` is about connections, and the requests of this service are routed one by one";
        let found = Diagnostic::warning("needs-bytes", span, message);
        let hint = "it has no effect with `protocol: http` and `grpc`; remove it";
        context.sink.push(found.hint(hint));
    }
}

fn methods(context: &Context<'_>, protocol: Protocol, retry: &Retry, span: &Span) {
    let message = match protocol {
        _ if retry.methods.is_empty() => "`methods` of this `retry` names none",
        Protocol::Grpc if !retry.methods.contains("POST") => {
            "calls of gRPC are POST, which `methods` of this `retry` leaves out"
        }
        _ => return,
    };
    let found = Diagnostic::warning("no-method-retried", span, message);
    let hint = match protocol {
        Protocol::Grpc => {
            "only `connect-failure` has an effect; write `methods: [POST]` if every call of the service may be made twice"
        }
        _ => "only `connect-failure` has an effect; name methods, or leave `methods` out",
    };
    context.sink.push(found.hint(hint));
}

/// Looks at the time that is left for tries.
fn times(context: &Context<'_>, service: &Service, retry: &Retry, span: &Span) {
    let Some(per_try) = retry.per_try_timeout else {
        return;
    };
    let timeout = service.policies.timeout;
    match timeout {
        None => {
            let message =
                "`per_try_timeout` without a `timeout` of the service: its last try may take for ever";
            let hint = "a try is taken back only where there is another; set `timeout` too, which is for all tries together";
            context
                .sink
                .push(Diagnostic::warning("no-timeout", span, message).hint(hint));
        }
        Some(timeout) if per_try >= timeout => {
            let message =
                "`per_try_timeout` is as long as the service's `timeout`, which leaves no time to try again";
            no_time(context, span, message);
        }
        Some(_) => {}
    }
    let is_too_short = |route: Option<Duration>| route.is_some_and(|timeout| per_try >= timeout);
    for route in service
        .routes
        .iter()
        .filter(|route| is_too_short(route.value.timeout))
    {
        let message = "`per_try_timeout` of the service is as long as the `timeout` of this route, which leaves no time to try again";
        no_time(context, &route.span, message);
    }
}

fn no_time(context: &Context<'_>, span: &Span, message: &str) {
    let found = Diagnostic::warning("no-time-to-retry", span, message);
    let hint = "make `timeout` longer: it is for all tries together";
    context.sink.push(found.hint(hint));
}

/// A limit on what does not happen.
fn limit(context: &Context<'_>, service: &Service) {
    let key = service
        .of_requests
        .iter()
        .find(|key| key.value == "limits.retries");
    if let Some(key) = key {
        let message =
            "`limits.retries` without `retry`: no request of this service is tried again by its word";
        let found = Diagnostic::warning("needs-retry", &key.span, message);
        context
            .sink
            .push(found.hint("it has no effect; add `retry`, or remove it"));
    }
}
