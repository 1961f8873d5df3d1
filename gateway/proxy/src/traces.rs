//! Spans of connections and requests, in the words of the semantic conventions where those have some.

use causeway_federation::name::ServiceName;
use causeway_telemetry::{AccessRecord, ActiveSpan, ConnectionOutcome, RequestFacts, Role, TraceContext};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpStream;
use tracing::field;

/// Field of HTTP that tells the place in a trace (W3C Trace Context).
const PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Field that says what other tracing systems know of it; it is handed on as it is.
const STATE: HeaderName = HeaderName::from_static("tracestate");
/// Most fields of it that are looked at.
const MAX_STATES: usize = 8;

/// Methods that spans are named after; any other is one word.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// Reads the place in a trace that a request says it has; `None`: none that can be read, and a trace begins with it.
pub(crate) fn parent_of(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(PARENT).iter();
    let (parent, None) = (parents.next()?, parents.next()) else {
        return None;
    };
    let context = TraceContext::told(parent.to_str().ok()?.trim())?;
    let states: Vec<_> = headers.get_all(STATE).iter().take(MAX_STATES).collect();
    let states: Vec<_> = states.iter().filter_map(|state| state.to_str().ok()).collect();
    match states.is_empty() {
        true => Some(context),
        false => Some(context.with_state(&states.join(","))),
    }
}

/// Has a request tell this place in its trace. What other systems say belongs to a parent, and goes where there is none.
pub(crate) fn tell_parent(headers: &mut HeaderMap, context: &TraceContext, has_parent: bool) {
    if !has_parent {
        headers.remove(STATE);
    }
    if let Ok(parent) = HeaderValue::try_from(context.parent()) {
        headers.insert(PARENT, parent);
    }
}

/// Has the lines of the log that stand under the current span name this one.
pub(crate) fn tell_log(span: &ActiveSpan) {
    let lines = tracing::Span::current();
    lines.record("trace_id", field::display(span.id()));
    if let Some(id) = span.span_id() {
        lines.record("span_id", field::display(id));
    }
}

/// Name of a request's spans: its method, if it is one that everybody knows.
pub(crate) fn method_word(method: &str) -> &'static str {
    let known = METHODS.into_iter().find(|known| *known == method);
    known.unwrap_or("HTTP")
}

/// Says of which service a span is.
pub(crate) fn describe_service(span: &mut ActiveSpan, service: &ServiceName) {
    span.set("causeway.service", service.as_str().to_owned());
}

/// Says which instance a span leads to.
pub(crate) fn describe_instance(span: &mut ActiveSpan, id: &str, socket: &TcpStream) {
    span.set("causeway.instance", id.to_owned());
    span.set("network.transport", "tcp");
    if let Ok(address) = socket.peer_addr() {
        let ip = address.ip().to_string();
        span.set("server.address", ip.clone());
        span.set("server.port", i64::from(address.port()));
        span.set("network.peer.address", ip);
        span.set("network.peer.port", i64::from(address.port()));
    }
}

/// Says what became of a connection or request, and ends its span.
pub(crate) fn end_span(mut span: ActiveSpan, record: &AccessRecord) {
    if !span.is_recorded() {
        return;
    }
    describe_service(&mut span, &record.service);
    if let Some(port) = &record.port {
        span.set("causeway.port", port.to_string());
    }
    span.set("causeway.connection", record.connection.to_string());
    span.set("causeway.attempts", i64::from(record.attempts));
    span.set("causeway.outcome", record.outcome.word());
    span.set("causeway.tags", record.tags.to_string());
    span.set("causeway.from_zone", record.from_zone.to_string());
    let own = match record.role {
        Role::Egress => Some(&record.from_zone),
        Role::Ingress => record.to_zone.as_ref(),
    };
    if let Some(own) = own {
        span.set("causeway.zone", own.to_string());
    }
    if let Some(zone) = &record.to_zone {
        span.set("causeway.to_zone", zone.to_string());
    }
    if let Some(peer) = &record.peer {
        span.set("causeway.gateway", peer.to_string());
    }
    if let Some(client) = record.client {
        span.set("client.address", client.ip().to_string());
        span.set("client.port", i64::from(client.port()));
    }
    if let Some(caller) = &record.caller {
        span.set("causeway.caller", caller.to_string());
    }
    if let Some(route) = &record.route {
        span.set("causeway.route", route.to_string());
    }
    span.set("server.address", record.service.as_str().to_owned());
    match &record.request {
        Some(request) => describe_request(&mut span, request),
        None => {
            let transport = match record.role {
                Role::Egress => "tcp",
                Role::Ingress => "quic",
            };
            span.set("network.transport", transport);
        }
    }
    describe_end(&mut span, record.outcome);
}

/// Says how a connection, a request or a try of one ended, if that was not well.
pub(crate) fn describe_end(span: &mut ActiveSpan, outcome: ConnectionOutcome) {
    // One that has lost a race was not waited for: that is no failure.
    let is_well = matches!(
        outcome,
        ConnectionOutcome::Served | ConnectionOutcome::Answered | ConnectionOutcome::LostRace
    );
    if !is_well {
        span.fail(outcome.word());
    }
}

fn describe_request(span: &mut ActiveSpan, request: &RequestFacts) {
    span.set("network.protocol.name", "http");
    if let Some(method) = &request.method {
        match method_word(method) {
            "HTTP" => {
                span.set("http.request.method", "_OTHER");
                span.set("http.request.method_original", method.clone());
            }
            known => span.set("http.request.method", known),
        }
    }
    if let Some(path) = &request.path {
        span.set("url.path", path.clone());
    }
    if let Some(code) = request.grpc_status {
        span.set("rpc.system", "grpc");
        span.set("rpc.grpc.status_code", i64::from(code));
    }
    if let Some(status) = request.status {
        span.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.fail(status.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT_TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter();
        let fields = fields.map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).unwrap())
        });
        fields.collect()
    }

    #[test]
    fn a_request_has_one_parent_or_none() {
        let one = fields(&[("traceparent", PARENT_TEXT), ("tracestate", "a=b")]);
        assert_eq!(parent_of(&one).unwrap().parent(), PARENT_TEXT);
        let mut two = one;
        two.append(PARENT, HeaderValue::from_static(PARENT_TEXT));
        assert_eq!(parent_of(&two), None);
        assert_eq!(parent_of(&fields(&[("traceparent", "nonsense")])), None);
        assert_eq!(parent_of(&HeaderMap::new()), None);
    }

    #[test]
    fn what_other_systems_say_goes_with_the_parent_that_it_belongs_to() {
        let context = TraceContext::told(PARENT_TEXT).unwrap();
        let mut headers = fields(&[("traceparent", "nonsense"), ("tracestate", "a=b")]);
        tell_parent(&mut headers, &context, false);
        assert_eq!(headers, fields(&[("traceparent", PARENT_TEXT)]));
        let mut headers = fields(&[("tracestate", "a=b")]);
        tell_parent(&mut headers, &context, true);
        assert_eq!(
            headers,
            fields(&[("tracestate", "a=b"), ("traceparent", PARENT_TEXT)])
        );
    }

    #[test]
    fn spans_have_few_names() {
        assert_eq!(method_word("GET"), "GET");
        assert_eq!(method_word("get"), "HTTP");
        assert_eq!(method_word("BREW"), "HTTP");
    }
}
