//! The request that `/v1/explain` is asked about, and which route of the service rules it, in words.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use causeway_federation::{
    name::PortName,
    request_path::PathFault,
    topology::{Criticality, Route, RouteAction, Service, SplitArm, Sticky, Topology},
};
use causeway_routing::{
    capacity::{CRITICALITY, criticality_by_header},
    permit::{Caller, RequestLine},
    requests::{RequestHead, compare},
    sticky::{StickyKey, key_of, key_of_request},
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    error::ApiError,
    explain::{ExplainedStep, ExplainedVerdict, Explanation},
};

const FILTER: &str = "routes";

/// Request that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AskedRequest {
    method: String,
    /// With its query.
    target: String,
    /// `None`: the mesh name of the service.
    host: Option<String>,
    headers: HeaderMap,
}

impl Default for AskedRequest {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            target: "/".to_owned(),
            host: None,
            headers: HeaderMap::new(),
        }
    }
}

impl AskedRequest {
    /// Takes up one parameter of the question.
    pub(super) fn take(&mut self, key: &str, value: String) -> Result<(), ApiError> {
        match key {
            "method" => self.method = value,
            "path" if value.starts_with('/') || value == "*" => self.target = value,
            "path" => {
                return Err(
                    ApiError::bad_request(format!("`{value}` is not a path")).hint("it begins with `/`")
                );
            }
            "host" => self.host = Some(value),
            _ => {
                let (name, value) = header(&value).ok_or_else(|| {
                    ApiError::bad_request(format!("`{value}` is not a header"))
                        .hint("write it as `x-canary:1`")
                })?;
                self.headers.append(name, value);
            }
        }
        Ok(())
    }
}

fn header(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    Some((name, HeaderValue::from_str(value.trim()).ok()?))
}

/// Routes that were compared with a request, and the one that rules it.
#[derive(Debug, Default)]
pub(super) struct Ruling {
    steps: Vec<ExplainedStep>,
    route: Option<Arc<Route>>,
    /// Method and path that an instance would be asked for.
    forwarded: Option<(String, String)>,
    /// Key that it has in common with others of its user.
    key: Option<StickyKey>,
    /// Criticality that it says itself.
    said: Option<Criticality>,
}

impl Ruling {
    /// Finds the route of `service` that rules `request`, as the data path does.
    pub(super) fn of(
        topology: &Topology,
        (name, service, port): (&str, &Service, Option<&PortName>),
        request: Option<&AskedRequest>,
        caller: Option<&Caller>,
    ) -> Result<Self, ApiError> {
        let Some(request) = request else {
            return Ok(Self::unasked(service));
        };
        let port = service.ports.get(port);
        if !port.is_some_and(|port| port.protocol.is_http()) {
            let error = format!("`{name}` carries connections, and looks into no request");
            return Err(ApiError::bad_request(error).hint("routes are for `protocol: http` and `grpc`"));
        }
        let own = format!("{name}.{}", topology.dns.domain);
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.target.as_str(), None),
        };
        let head = RequestHead {
            method: &request.method,
            path,
            query,
            host: request.host.as_deref().unwrap_or(&own),
            headers: &request.headers,
            caller,
            port: port.and_then(|port| port.name.as_ref()),
        };
        let compared = compare(service, &head).map_err(refused)?;
        let steps = compared.iter().map(|(route, mismatch)| match mismatch {
            None => step(
                &route.label,
                ExplainedVerdict::Taken,
                format!("{} matches", route.matches),
            ),
            Some(mismatch) => step(&route.label, ExplainedVerdict::PassedOver, mismatch.to_string()),
        });
        let last = compared.last().filter(|(_, mismatch)| mismatch.is_none());
        let mut steps: Vec<ExplainedStep> = steps.collect();
        if last.is_none() && !steps.is_empty() {
            let reason = "no route matches".to_owned();
            steps.push(step("the service's own split", ExplainedVerdict::Taken, reason));
        }
        let route = last.map(|(route, _)| (*route).clone());
        let of_route = route.as_ref().and_then(|route| route.sticky.as_deref());
        let sticky = of_route.or(service.sticky.as_deref());
        let key = sticky.and_then(|sticky| key(sticky, &request.headers, caller));
        steps.extend(sticky.map(|sticky| by_mark(sticky, key)));
        let said = caller.and_then(|caller| criticality_by_header(service, caller, &request.headers));
        steps.extend(by_header(service, &request.headers, said));
        let forwarded = route
            .as_ref()
            .map_or(path.into(), |route| route.forwarded_path(path));
        Ok(Self {
            steps,
            forwarded: Some((request.method.clone(), forwarded.into_owned())),
            key,
            route,
            said,
        })
    }

    /// The request as the permissions of `service` look at it.
    pub(super) fn line(&self, service: &Service) -> Result<Option<RequestLine<'_>>, ApiError> {
        let Some((method, path)) = &self.forwarded else {
            return Ok(None);
        };
        RequestLine::read(service, method, path).map_err(refused)
    }

    /// Says that there are routes, where nobody has said what the request is.
    fn unasked(service: &Service) -> Self {
        let subject = match service.routes.len() {
            0 => return Self::default(),
            1 => "1 route".to_owned(),
            count => format!("{count} routes"),
        };
        let reason =
            "for requests that match; --method, --path, --host and --header ask about one".to_owned();
        Self {
            steps: vec![step(&subject, ExplainedVerdict::InReserve, reason)],
            ..Self::default()
        }
    }

    pub(super) fn key(&self) -> Option<StickyKey> {
        self.key
    }

    pub(super) fn split(&self) -> Option<Arc<[SplitArm]>> {
        self.route.as_ref()?.split.clone()
    }

    /// That of the request or its route, in the place of the service's own.
    pub(super) fn criticality(&self) -> Option<Criticality> {
        let of_route = self.route.as_ref().and_then(|route| route.criticality);
        self.said.or(of_route)
    }

    /// The same in words, with who says so.
    pub(super) fn criticality_in_words(&self) -> Option<String> {
        let of_route = self.route.as_ref();
        let of_route = of_route.and_then(|route| Some((route.criticality?, &route.label)));
        match (self.said, of_route) {
            (Some(said), _) => Some(format!("{}, as its caller says", said.word())),
            (None, Some((said, label))) => Some(format!("{}, of {label}", said.word())),
            (None, None) => None,
        }
    }

    /// Name of the route that rules the request, and its time limit.
    pub(super) fn route_timeout(&self) -> Option<(Arc<str>, Option<Duration>)> {
        let route = self.route.as_ref()?;
        Some((route.label.clone(), route.timeout))
    }

    /// Says by what the requests of one user are kept together, and where copies go.
    pub(super) fn policies(&self, service: &Service) -> Vec<String> {
        let route = self.route.as_ref();
        let of_route = route.and_then(|route| Some((route.sticky.as_deref()?, &route.label)));
        let sticky = match of_route {
            Some((sticky, label)) => Some(format!("sticky: {sticky}, of {label}")),
            None => service.sticky.as_ref().map(|sticky| format!("sticky: {sticky}")),
        };
        let mirror = route.and_then(|route| Some((route.mirror.as_ref()?, &route.label)));
        let mirror = mirror.map(|(mirror, label)| format!("mirror: {mirror}, of {label}"));
        sticky.into_iter().chain(mirror).collect()
    }

    /// Adds the routes to what is explained, in front of the split that follows from them.
    pub(super) fn add_to(&self, explanation: Explanation) -> Explanation {
        let route = self.route.as_ref();
        let answered = route.and_then(|route| {
            let answer = match &route.action {
                RouteAction::Forward => return None,
                RouteAction::Redirect(redirect) => format!("a redirect with status {}", redirect.status),
                RouteAction::Answer(answer) => format!("status {}", answer.status),
            };
            Some(format!("by {} the gateway answers itself: {answer}", route.label))
        });
        match answered {
            Some(outcome) => Explanation {
                steps: self.steps.clone(),
                candidates: Vec::new(),
                outcome,
                answered_by: route.map(|route| route.label.to_string()),
                ..explanation
            },
            None => Explanation {
                steps: [self.steps.clone(), explanation.steps].concat(),
                ..explanation
            },
        }
    }
}

/// Finds the key of a request. An anonymous caller has one by its address, which nobody has asked about.
fn key(sticky: &Sticky, headers: &HeaderMap, caller: Option<&Caller>) -> Option<StickyKey> {
    let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    match (sticky, caller) {
        (Sticky::Caller, None) => None,
        (Sticky::Caller, Some(caller)) if caller.is_anonymous() => None,
        (sticky, Some(caller)) => key_of(sticky, headers, caller, nowhere),
        (Sticky::Cookie { .. } | Sticky::Header(_), None) => key_of_request(sticky, headers),
    }
}

/// Says what the field of the criticality comes to, if the request has it and the service looks at it.
fn by_header(service: &Service, headers: &HeaderMap, said: Option<Criticality>) -> Option<ExplainedStep> {
    if service.criticality_from.is_empty() || !headers.contains_key(CRITICALITY) {
        return None;
    }
    let (verdict, reason) = match said {
        Some(said) => (ExplainedVerdict::Taken, format!("{}: its caller may say so", said.word())),
        None => (
            ExplainedVerdict::PassedOver,
            "its caller may not say one (criticality_from), or it is not one of critical, normal, sheddable; the field is taken out".to_owned(),
        ),
    };
    Some(step(CRITICALITY.as_str(), verdict, reason))
}

fn by_mark(sticky: &Sticky, key: Option<StickyKey>) -> ExplainedStep {
    let (verdict, reason) = match (key, sticky) {
        (Some(_), _) => (ExplainedVerdict::Taken, "arm, zone and instance are drawn by it"),
        (None, Sticky::Cookie { .. }) => (ExplainedVerdict::PassedOver, "it has none, and is given one"),
        (None, _) => (
            ExplainedVerdict::PassedOver,
            "nobody has said what it is; it may go anywhere",
        ),
    };
    ExplainedStep {
        filter: "sticky".to_owned(),
        subject: sticky.to_string(),
        verdict,
        reason: reason.to_owned(),
    }
}

fn refused(fault: PathFault) -> ApiError {
    ApiError::bad_request(format!("such a request is answered with 400: {fault}"))
}

fn step(subject: &str, verdict: ExplainedVerdict, reason: String) -> ExplainedStep {
    ExplainedStep {
        filter: FILTER.to_owned(),
        subject: subject.to_owned(),
        verdict,
        reason,
    }
}
