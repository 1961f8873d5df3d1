//! A request made ready: brought into the form in which an instance is to have it, and ruled by the first route of its service
//! that matches.

use std::sync::Arc;

use bytes::Bytes;
use causeway_federation::{request_path::PathFault, topology::Route};
use causeway_routing::{
    requests::{RequestHead, find},
    snapshot::Snapshot,
};
use http::{Request, Response, Version, header, request::Parts};
use hyper::body::{Body as _, Incoming};

use super::{body::RequestBody, serve::HttpConnection};
use crate::http::{
    forwarded::add_forwarded,
    grpc::is_grpc,
    headers::{add_via, strip_hop_by_hop, to_origin_form},
    routed::{change_request, declared_answer, drop_twins},
    upgrade::{asked_for, set_upgrade},
    version2::{frame_body, join_fields, to_version_2},
};

/// Request that can be served, and the route that rules it.
pub(super) struct PreparedRequest {
    /// `None`: it goes by the service's own split.
    pub(super) route: Option<Arc<Route>>,
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
    #[error("its path cannot be compared with routes")]
    Path(#[from] PathFault),
}

/// Makes a request ready for an instance that speaks `version`. Its body is remembered if it may be given again.
pub(super) fn prepare(
    connection: &HttpConnection,
    snapshot: &Snapshot,
    request: Request<Incoming>,
    version: Version,
    may_repeat: bool,
) -> Result<PreparedRequest, UnfitRequest> {
    let (mut parts, body) = request.into_parts();
    let (client, is_call) = (parts.version, is_grpc(&parts.headers));
    let host = connection.arrival.endpoints.local.to_string();
    bring_into_form(&mut parts, connection, version, &host)?;
    // Compared is what would be forwarded.
    let route = route_of(connection, snapshot, &mut parts)?;
    if let Some(route) = &route {
        if let Some(answer) = declared_answer(&parts, route, is_call) {
            let to = RequestServer::Gateway(answer);
            return Ok(PreparedRequest {
                route: Some(route.clone()),
                to,
            });
        }
        change_request(&mut parts, route)?;
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
    Ok(PreparedRequest { route, to })
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
    };
    find(service, &head).map(Option::<&Arc<Route>>::cloned)
}
