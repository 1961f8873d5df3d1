//! A request made ready: brought into the form in which an instance is to have it, and ruled by the first route of its service
//! that matches.

use std::sync::Arc;

use bytes::Bytes;
use causeway_federation::{
    request_path::PathFault,
    topology::{Criticality, Route},
};
use causeway_routing::{
    callers::FoundCaller,
    capacity::{CRITICALITY, criticality_by_header},
    permit::Rule,
    requests::{RequestHead, find},
    snapshot::Snapshot,
};
use http::{Request, Response, Version, header, request::Parts};
use hyper::body::{Body as _, Incoming};

use super::{body::RequestBody, serve::HttpConnection};
use crate::{
    egress::permission::admit_request,
    http::{
        forwarded::add_forwarded,
        grpc::is_grpc,
        headers::{add_via, drop_disguised, strip_hop_by_hop, to_origin_form},
        routed::{change_request, declared_answer, drop_twins},
        sticky::StickyMark,
        upgrade::{asked_for, set_upgrade},
        version2::{frame_body, join_fields, to_version_2},
    },
    open::UpgradeRequest,
};

/// Request that can be served, and the route that rules it.
pub(super) struct PreparedRequest {
    /// `None`: it goes by the service's own split.
    pub(super) route: Option<Arc<Route>>,
    /// That of the request itself, or of its route; `None`: that of the service.
    pub(super) criticality: Option<Criticality>,
    /// The rule that permits it; `None`: permissions do not look at requests.
    pub(super) rule: Option<Rule>,
    pub(super) sticky: StickyMark,
    pub(super) to: RequestServer,
}

/// Server of a request.
pub(super) enum RequestServer {
    Instance(Box<Request<RequestBody>>),
    /// The gateway, by this answer.
    Gateway(Response<Bytes>),
}

/// Reason that a request cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnfitRequest {
    #[error("its target or a field is none")]
    Form(#[from] http::Error),
    #[error("its path cannot be compared with routes and permissions")]
    Path(#[from] PathFault),
    #[error("its caller may not make it")]
    Forbidden(Rule),
}

/// Makes a request of `found` ready for an instance that speaks `version`, if it is permitted. Its body is remembered if it may be given again.
pub(super) fn prepare(
    connection: &HttpConnection,
    snapshot: &Snapshot,
    request: Request<Incoming>,
    version: Version,
    may_repeat: bool,
    found: &FoundCaller,
) -> Result<PreparedRequest, UnfitRequest> {
    let (mut parts, body) = request.into_parts();
    let (client, is_call) = (parts.version, is_grpc(&parts.headers));
    let host = connection.arrival.endpoints.local.to_string();
    bring_into_form(&mut parts, connection, version, &host)?;
    // Compared is what would be forwarded.
    let route = route_of(connection, snapshot, &mut parts, found)?;
    let sticky = mark_of(connection, &parts, route.as_deref(), found);
    let criticality = said_criticality(connection, snapshot, &mut parts, found);
    let criticality = criticality.or(route.as_ref().and_then(|route| route.criticality));
    let answer = route
        .as_ref()
        .and_then(|route| declared_answer(&parts, route, is_call));
    if let (None, Some(route)) = (&answer, &route) {
        change_request(&mut parts, route)?;
    }
    // Of the path that an instance would be asked for: that is what the other end sees.
    let rule = permitted(connection, &parts, found)?;
    if let Some(answer) = answer {
        let to = RequestServer::Gateway(answer);
        let sticky = StickyMark::default();
        return Ok(PreparedRequest {
            route,
            criticality,
            rule,
            sticky,
            to,
        });
    }
    match version {
        Version::HTTP_2 => to_version_2(&mut parts.uri, &mut parts.headers, &host)?,
        _ if client == Version::HTTP_2 && !body.is_end_stream() => frame_body(&mut parts.headers),
        _ => {}
    }
    let body = match version == Version::HTTP_2 || may_repeat {
        true => RequestBody::replayed(body, client),
        false => RequestBody::new(body, client),
    };
    let to = RequestServer::Instance(Box::new(Request::from_parts(parts, body)));
    Ok(PreparedRequest {
        route,
        criticality,
        rule,
        sticky,
        to,
    })
}

/// Criticality that a request says itself. Who may not say one has the field taken out, so that no instance passes it on.
fn said_criticality(
    connection: &HttpConnection,
    snapshot: &Snapshot,
    parts: &mut Parts,
    found: &FoundCaller,
) -> Option<Criticality> {
    let service = snapshot
        .topology
        .services
        .get(&connection.arrival.target.service)?;
    if service.criticality_from.is_empty() {
        return None;
    }
    drop_disguised(&mut parts.headers, [CRITICALITY.as_str()].into_iter());
    let said = criticality_by_header(service, &found.caller, &parts.headers);
    if said.is_none() {
        parts.headers.remove(CRITICALITY);
    }
    said
}

/// Finds the mark that keeps it with others of its user, by its route or its service.
fn mark_of(
    connection: &HttpConnection,
    parts: &Parts,
    route: Option<&Route>,
    found: &FoundCaller,
) -> StickyMark {
    let HttpConnection { shared, arrival, .. } = connection;
    let snapshot = shared.snapshots.load();
    let service = snapshot.topology.services.get(&arrival.target.service);
    let of_service = service.and_then(|service| service.sticky.as_ref());
    let Some(sticky) = route.and_then(|route| route.sticky.as_ref()).or(of_service) else {
        return StickyMark::default();
    };
    let client = (arrival.endpoints.client.ip(), connection.socket.is_tls());
    StickyMark::of(sticky, &parts.headers, &found.caller, client, &mut shared.rng())
}

/// Asks whether the client may make this request; `None`: permissions do not look at it.
fn permitted(
    connection: &HttpConnection,
    parts: &Parts,
    found: &FoundCaller,
) -> Result<Option<Rule>, UnfitRequest> {
    let (handle, method, path) = (
        connection.opened.handle(),
        parts.method.as_str(),
        parts.uri.path(),
    );
    if parts.headers.contains_key(header::UPGRADE) {
        handle.may_upgrade(UpgradeRequest {
            method: method.to_owned(),
            path: path.to_owned(),
        });
    }
    match admit_request(&connection.shared, &handle.connection, found, (method, path))? {
        None => Ok(None),
        Some(Ok(admitted)) => Ok(Some(admitted.rule)),
        Some(Err(forbidden)) => Err(UnfitRequest::Forbidden(forbidden.rule)),
    }
}

/// Takes out of a request what ends here, and adds what this gateway says. `host` is the name of one that asks for none.
fn bring_into_form(
    parts: &mut Parts,
    connection: &HttpConnection,
    version: Version,
    host: &str,
) -> Result<(), http::Error> {
    let protocols = asked_for(parts.version, &parts.headers).filter(|_| version == Version::HTTP_11);
    strip_hop_by_hop(&mut parts.headers);
    if let Some(protocols) = protocols {
        set_upgrade(&mut parts.headers, protocols);
    }
    add_via(&mut parts.headers, parts.version);
    if parts.version == Version::HTTP_2 {
        join_fields(&mut parts.headers);
    }
    if parts.version == Version::HTTP_10 {
        // Nobody would be told to go on.
        parts.headers.remove(header::EXPECT);
    }
    parts.version = version;
    to_origin_form(&parts.method, &mut parts.uri, &mut parts.headers, host)?;
    add_forwarded(&mut parts.headers, connection.origin(), connection.forwarded());
    Ok(())
}

/// The first route of the service that matches.
fn route_of(
    connection: &HttpConnection,
    snapshot: &Snapshot,
    parts: &mut Parts,
    found: &FoundCaller,
) -> Result<Option<Arc<Route>>, PathFault> {
    let service = snapshot.topology.services.get(&connection.arrival.target.service);
    let Some(service) = service.filter(|service| !service.routes.is_empty()) else {
        return Ok(None);
    };
    drop_twins(&mut parts.headers, &service.routes);
    let host = parts.headers.get(header::HOST);
    let head = RequestHead {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        host: host.and_then(|host| host.to_str().ok()).unwrap_or_default(),
        headers: &parts.headers,
        caller: Some(&found.caller),
        port: connection.arrival.port.as_ref(),
    };
    find(service, &head).map(Option::<&Arc<Route>>::cloned)
}
