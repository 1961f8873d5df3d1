//! Requests of an application: their heads, plain or such that a route is for them.

use std::fmt::Write as _;

use bytes::Bytes;
use causeway_federation::topology::{PathMatch, Route, Service};
use causeway_routing::requests::{RequestHead, find};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use http_body_util::Full;

use super::instance::{GRPC, REQUEST_HEADER};

/// Method of requests that may be made once: no two instances are ever given one, as with the bytes of a connection. One that may be made
/// twice (`GET`) would be sent again to another zone where nothing was heard of it.
const METHOD: &str = "POST";
/// Path of a plain call.
const PLAIN_CALL: &str = "/demo.Instances/Ask";
/// Method of a gRPC service where a route names none.
const ANY_METHOD: &str = "Ask";

/// Head of a request, without its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DemoRequest {
    method: String,
    path: String,
    query: Option<String>,
    /// `None`: the name that was resolved.
    host: Option<String>,
    headers: Vec<(String, String)>,
}

impl Default for DemoRequest {
    fn default() -> Self {
        Self {
            method: METHOD.to_owned(),
            path: "/".to_owned(),
            query: None,
            host: None,
            headers: Vec::new(),
        }
    }
}

impl DemoRequest {
    /// The simplest request that meets the conditions of `route`; `None`: it takes more than the demo knows of.
    pub(super) fn for_route(route: &Route) -> Option<Self> {
        let wanted = &route.matches;
        if wanted.port.is_some() {
            return None;
        }
        let path = match &wanted.path {
            None => "/".to_owned(),
            Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) if path.is_empty() => "/".to_owned(),
            Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) => path.clone(),
            Some(PathMatch::Grpc { service, method }) => {
                format!("/{service}/{}", method.as_deref().unwrap_or(ANY_METHOD))
            }
            Some(PathMatch::Pattern(_)) => return None,
        };
        let query: Vec<String> = wanted
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._~/=&".contains(&byte))
        };
        let query = (!query.is_empty()).then(|| query.join("&"));
        (plain(&path) && query.as_deref().is_none_or(plain)).then(|| Self {
            method: wanted
                .methods
                .first()
                .map_or_else(|| METHOD.to_owned(), String::clone),
            path,
            query,
            host: wanted.host.clone(),
            headers: wanted.headers.clone().into_iter().collect(),
        })
    }

    /// The route of `service` that rules it, being sent to `name`; `None`: none does.
    pub(super) fn ruled_by<'t>(&self, service: &'t Service, name: &str) -> Option<&'t Route> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_str(value).ok()?);
        }
        let head = RequestHead {
            caller: None,
            port: service.ports.primary.name.as_ref(),
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            host: self.host.as_deref().unwrap_or(name),
            headers: &headers,
        };
        find(service, &head).ok().flatten().map(|route| &**route)
    }

    /// The head as it goes over the wire, to the host `name` unless it names another.
    pub(super) fn head(&self, name: &str, number: u64) -> String {
        let Self { method, path, .. } = self;
        let host = self.host.as_deref().unwrap_or(name);
        let query = self
            .query
            .as_ref()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let mut head =
            format!("{method} {path}{query} HTTP/1.1\r\nhost: {host}\r\n{REQUEST_HEADER}: {number}\r\n");
        for (name, value) in &self.headers {
            // Writing to a string cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("content-length: 0\r\nconnection: close\r\n\r\n");
        head
    }

    /// The same as a call of gRPC with this message.
    pub(super) fn call(
        &self,
        name: &str,
        number: u64,
        message: Bytes,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let host = self.host.as_deref().unwrap_or(name);
        let path = match self.path.as_str() {
            "/" => PLAIN_CALL,
            path => path,
        };
        let mut request = Request::post(format!("http://{host}{path}"))
            .header(header::CONTENT_TYPE, GRPC)
            .header(header::TE, "trailers")
            .header(REQUEST_HEADER, number);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(message))
    }

    /// Tells it from others: `POST /beta with x-canary: 1`.
    pub(super) fn told(&self) -> String {
        let query = self
            .query
            .as_ref()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let mut told = format!("{} {}{query}", self.method, self.path);
        if let Some(host) = &self.host {
            told.push_str(&format!(" at {host}"));
        }
        for (name, value) in &self.headers {
            told.push_str(&format!(" with {name}: {value}"));
        }
        told
    }
}
