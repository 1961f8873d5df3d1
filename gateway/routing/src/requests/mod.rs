//! Routes of a service against one request: which of them rules it, and why those before it do not.
//!
//! The data path and `causeway explain` compare by the same function. What a route changes of a request is for the proxy, and
//! which instance its split leads to for [`route`](crate::route::route).

use std::{fmt, sync::Arc};

use causeway_federation::{
    name::PortName,
    request_path::{ComparedPath, PathFault, stands_for},
    topology::{CallerSelector, PathMatch, Route, RouteMatch, Service},
};
use http::HeaderMap;

use crate::permit::Caller;

#[cfg(test)]
mod tests;

/// One request, as it would be forwarded.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// As it is written, without the query.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// As in `Host`, with a port or without.
    pub host: &'a str,
    pub headers: &'a HeaderMap,
    /// `None`: nobody that a route could name.
    pub caller: Option<&'a Caller>,
    /// Port of the service that it came to; `None`: the only one, which has no name.
    pub port: Option<&'a PortName>,
}

/// The first condition of a route that a request does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch<'t> {
    Method,
    Path(&'t PathMatch),
    Host(&'t str),
    Header { name: &'t str, value: &'t str },
    Query { name: &'t str, value: &'t str },
    Caller(&'t [CallerSelector]),
    Port(&'t PortName),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => write!(f, "the method is another"),
            Self::Path(path) => write!(f, "the path is not {path}"),
            Self::Host(host) => write!(f, "the host is not {host}"),
            Self::Header { name, value } => write!(f, "it has no {name}: {value}"),
            Self::Query { name, value } => write!(f, "it has no ?{name}={value}"),
            Self::Caller(callers) => {
                let callers: Vec<String> = callers.iter().map(ToString::to_string).collect();
                write!(f, "the caller is not {}", callers.join(" or "))
            }
            Self::Port(port) => write!(f, "the port is not {port}"),
        }
    }
}

/// One route and what it does not have in common with a request; `None`: it matches.
pub type ComparedRoute<'t> = (&'t Arc<Route>, Option<Mismatch<'t>>);

/// Finds the route that rules a request; `None`: none does, and it goes by the service's own split.
///
/// # Errors
/// A path that is none, where a route of the service is for certain paths.
pub fn find<'t>(service: &'t Service, head: &RequestHead<'_>) -> Result<Option<&'t Arc<Route>>, PathFault> {
    if service.routes.is_empty() {
        return Ok(None);
    }
    let compared = Compared::new(service, head)?;
    let matches = |route: &&Arc<Route>| compared.mismatch(&route.matches).is_none();
    Ok(service.routes.iter().find(matches))
}

/// Compares a request with the routes of a service, up to the one that rules it.
///
/// # Errors
/// As [`find`].
pub fn compare<'t>(
    service: &'t Service,
    head: &RequestHead<'_>,
) -> Result<Vec<ComparedRoute<'t>>, PathFault> {
    let compared = Compared::new(service, head)?;
    let mut routes = Vec::new();
    for route in &service.routes {
        let mismatch = compared.mismatch(&route.matches);
        routes.push((route, mismatch));
        if mismatch.is_none() {
            break;
        }
    }
    Ok(routes)
}

/// A request in the form in which it is compared.
struct Compared<'a> {
    head: &'a RequestHead<'a>,
    host: &'a str,
    /// `None`: no route asks for it.
    path: Option<ComparedPath<'a>>,
}

impl<'a> Compared<'a> {
    fn new(service: &Service, head: &'a RequestHead<'a>) -> Result<Self, PathFault> {
        let is_asked_for = service.routes.iter().any(|route| route.matches.path.is_some());
        Ok(Self {
            head,
            host: bare_host(head.host),
            path: is_asked_for.then(|| ComparedPath::read(head.path)).transpose()?,
        })
    }

    /// The cheapest conditions come first, since most routes do not match.
    fn mismatch<'t>(&self, wanted: &'t RouteMatch) -> Option<Mismatch<'t>> {
        if !wanted.methods.is_empty() && !wanted.methods.contains(self.head.method) {
            return Some(Mismatch::Method);
        }
        if let Some(port) = &wanted.port
            && self.head.port != Some(port)
        {
            return Some(Mismatch::Port(port));
        }
        if let Some(host) = wanted.host.as_deref()
            && !self.host.eq_ignore_ascii_case(host)
        {
            return Some(Mismatch::Host(host));
        }
        if !wanted.callers.is_empty() && !self.is_by(&wanted.callers) {
            return Some(Mismatch::Caller(&wanted.callers));
        }
        if let Some(path) = &wanted.path
            && !self.path.as_ref().is_some_and(|own| is_path(path, own))
        {
            return Some(Mismatch::Path(path));
        }
        let mut headers = wanted.headers.iter();
        if let Some((name, value)) = headers.find(|(name, value)| !self.has_header(name, value)) {
            return Some(Mismatch::Header { name, value });
        }
        let mut query = wanted.query.iter();
        let (name, value) = query.find(|(name, value)| !self.has_parameter(name, value))?;
        Some(Mismatch::Query { name, value })
    }

    fn is_by(&self, callers: &[CallerSelector]) -> bool {
        let caller = self.head.caller;
        caller.is_some_and(|caller| callers.iter().any(|wanted| wanted.matches(caller.view())))
    }

    /// A field may be there several times: one of them will do.
    fn has_header(&self, name: &str, value: &str) -> bool {
        let mut values = self.head.headers.get_all(name).iter();
        values.any(|own| own.as_bytes() == value.as_bytes())
    }

    fn has_parameter(&self, name: &str, value: &str) -> bool {
        let mut pairs = self.head.query.unwrap_or_default().split('&');
        pairs.any(|pair| {
            let (own, given) = pair.split_once('=').unwrap_or((pair, ""));
            stands_for(own, name) && stands_for(given, value)
        })
    }
}

pub(crate) fn is_path(wanted: &PathMatch, path: &ComparedPath<'_>) -> bool {
    match wanted {
        PathMatch::Exact(exact) => path.as_bytes() == exact.as_bytes(),
        PathMatch::Prefix(prefix) => path.is_below(prefix.as_bytes()),
        PathMatch::Pattern(pattern) => pattern.matches(path),
        PathMatch::Grpc { service, method } => {
            let rest = path.as_bytes().strip_prefix(b"/");
            let rest = rest.and_then(|rest| rest.strip_prefix(service.as_bytes()));
            let called = rest.and_then(|rest| rest.strip_prefix(b"/"));
            called.is_some_and(|called| method.as_ref().is_none_or(|method| called == method.as_bytes()))
        }
    }
}

/// `shop.example` of `shop.example.:8080`, `::1` of `[::1]:8080`.
fn bare_host(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}
