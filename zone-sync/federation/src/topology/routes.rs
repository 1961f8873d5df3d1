//! Routes of a service, validated: what a request has to have, and what becomes of it then.
//!
//! Comparing a request with them is for `causeway-routing`; nothing here knows of requests.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::{
    model::{Criticality, SplitArm},
    permissions::CallerSelector,
    sticky::Sticky,
};
use crate::{
    name::{PortName, ServiceName, Tags},
    request_path::{PathPattern, replace_prefix},
};

/// One route: of those of a service the first that matches rules a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// Its name, or without one its place: `routes[2]`. Unique in its service.
    pub label: Arc<str>,
    pub matches: RouteMatch,
    /// `None`: the service's own split.
    pub split: Option<Arc<[SplitArm]>>,
    /// `None`: as the service says.
    pub sticky: Option<Arc<Sticky>>,
    /// `None`: as the service says.
    pub criticality: Option<Criticality>,
    /// Longest time from a request's head to that of its answer; `None`: any.
    pub timeout: Option<Duration>,
    pub rewrite: RouteRewrite,
    /// Of the request, before an instance is given it.
    pub request_headers: HeaderChanges,
    /// Of an instance's answer, or of the gateway's own that the route declares.
    pub response_headers: HeaderChanges,
    pub action: RouteAction,
    pub mirror: Option<Mirror>,
}

impl Route {
    /// The path that an instance is asked for when `path` is asked for.
    #[must_use]
    pub fn forwarded_path<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let replaced = self.matches.path.as_ref().and_then(PathMatch::replaced);
        match &self.rewrite.path_prefix {
            Some(new) => replace_prefix(path, replaced.unwrap_or_default().as_bytes(), new).into(),
            None => path.into(),
        }
    }
}

/// Conditions that a request has to meet, all of them; without any it is every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteMatch {
    /// One of them; empty: any.
    pub methods: BTreeSet<String>,
    pub path: Option<PathMatch>,
    /// Lower case, without a port.
    pub host: Option<String>,
    /// Port of the service that the client has connected to.
    pub port: Option<PortName>,
    /// Name, lower case, to exact value.
    pub headers: BTreeMap<String, String>,
    /// Name to exact value, both as they are once decoded.
    pub query: BTreeMap<String, String>,
    /// One of them means the caller; empty: any.
    pub callers: Vec<CallerSelector>,
}

/// Paths that a route is for, in the form in which they are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    Exact(String),
    /// Without a slash at its end: it matches itself and all that lies below. Empty: every path.
    Prefix(String),
    Pattern(PathPattern),
    /// Calls of a gRPC service, or of one of its methods.
    Grpc {
        service: String,
        method: Option<String>,
    },
}

/// Act of a gateway on a request that a route matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RouteAction {
    /// An instance answers it.
    #[default]
    Forward,
    /// The gateway sends the client elsewhere.
    Redirect(RouteRedirect),
    /// The gateway answers it.
    Answer(RouteAnswer),
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteRedirect {
    /// One of 301, 302, 303, 307 and 308.
    pub status: u16,
    /// `host` or `host:port`; `None`: the one that was asked for.
    pub host: Option<String>,
    /// In the place of the path that the route matches, without a slash at its end; `None`: the path stays.
    pub path_prefix: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteAnswer {
    /// 200 to 599.
    pub status: u16,
    pub body: String,
}

/// Changes of what a request asks for, before an instance is given it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteRewrite {
    /// `host` or `host:port`.
    pub host: Option<String>,
    /// In the place of the path that the route matches, without a slash at its end.
    pub path_prefix: Option<String>,
}

/// Changes of header fields. No name, all lower case, is in two of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderChanges {
    /// In the place of whatever is there.
    pub set: BTreeMap<String, String>,
    /// Beside what is there.
    pub add: BTreeMap<String, String>,
    pub remove: BTreeSet<String>,
}

/// Copy of requests for other instances.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Mirror {
    /// `None`: the route's own.
    pub service: Option<ServiceName>,
    /// Only instances that carry all of these.
    pub tags: Tags,
    /// 0 to 100.
    pub percent: f64,
}

impl RouteMatch {
    /// Tells whether every request meets them, because there are none.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Tells whether every request that meets `other` meets these conditions too, as far as the conditions alone say.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let methods =
            self.methods.is_empty() || !other.methods.is_empty() && other.methods.is_subset(&self.methods);
        let paths = match (&self.path, &other.path) {
            (None, _) => true,
            (Some(own), Some(other)) => own.covers(other),
            (Some(_), None) => false,
        };
        let among = |own: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            own.iter().all(|(name, value)| other.get(name) == Some(value))
        };
        let covered = |other: &CallerSelector| self.callers.iter().any(|own| own.covers(other));
        let callers =
            self.callers.is_empty() || !other.callers.is_empty() && other.callers.iter().all(covered);
        methods
            && paths
            && callers
            && (self.host.is_none() || self.host == other.host)
            && (self.port.is_none() || self.port == other.port)
            && among(&self.headers, &other.headers)
            && among(&self.query, &other.query)
    }
}

impl PathMatch {
    /// The path, with all below it, that a rewrite takes the place of; `None`: it has no such path.
    #[must_use]
    pub fn replaced(&self) -> Option<&str> {
        match self {
            Self::Exact(path) => Some(path.trim_end_matches('/')),
            Self::Prefix(path) => Some(path),
            Self::Pattern(_) | Self::Grpc { .. } => None,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        let below = |prefix: &str, path: &str| {
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match (self, other) {
            (Self::Prefix(prefix), Self::Exact(path) | Self::Prefix(path)) => below(prefix, path),
            (Self::Prefix(prefix), Self::Grpc { service, .. }) => below(prefix, &format!("/{service}")),
            (
                Self::Grpc {
                    service,
                    method: None,
                },
                Self::Grpc { service: other, .. },
            ) => service == other,
            (own, other) => own == other,
        }
    }
}

impl HeaderChanges {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// `canary: GET of /beta and below with x-canary: 1`, as `diff` shows it, without what becomes of a request.
impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let methods: Vec<&str> = self.methods.iter().map(String::as_str).collect();
        match methods.is_empty() {
            true => f.write_str("any request")?,
            false => f.write_str(&methods.join(" or "))?,
        }
        if let Some(path) = &self.path {
            write!(f, " of {path}")?;
        }
        if let Some(host) = &self.host {
            write!(f, " at {host}")?;
        }
        if let Some(port) = &self.port {
            write!(f, " on port {port}")?;
        }
        for (name, value) in &self.headers {
            write!(f, " with {name}: {value}")?;
        }
        for (name, value) in &self.query {
            write!(f, " with ?{name}={value}")?;
        }
        if !self.callers.is_empty() {
            let callers: Vec<String> = self.callers.iter().map(ToString::to_string).collect();
            write!(f, " by {}", callers.join(" or "))?;
        }
        Ok(())
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) if path.is_empty() => f.write_str("/ and below"),
            Self::Prefix(path) => write!(f, "{path} and below"),
            Self::Pattern(pattern) => write!(f, "a path like {}", pattern.as_str()),
            Self::Grpc { service, method } => {
                write!(f, "the gRPC service {service}")?;
                match method {
                    Some(method) => write!(f, ", method {method}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The changes in words: `set x-a: 1, remove x-b`.
impl fmt::Display for HeaderChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self
            .set
            .iter()
            .map(|(name, value)| format!("set {name}: {value}"));
        let add = self
            .add
            .iter()
            .map(|(name, value)| format!("add {name}: {value}"));
        let remove = self.remove.iter().map(|name| format!("remove {name}"));
        let all: Vec<String> = set.chain(add).chain(remove).collect();
        f.write_str(&all.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::permissions::Who, *};

    fn matching(path: Option<PathMatch>) -> RouteMatch {
        RouteMatch {
            path,
            ..RouteMatch::default()
        }
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.to_owned())
    }

    fn grpc(service: &str, method: Option<&str>) -> PathMatch {
        PathMatch::Grpc {
            service: service.to_owned(),
            method: method.map(str::to_owned),
        }
    }

    #[test]
    fn a_path_covers_what_lies_below_it() {
        let exact = |path: &str| PathMatch::Exact(path.to_owned());
        let pattern = PathMatch::Pattern(PathPattern::new("^/a").unwrap());
        for (own, other, covers) in [
            (prefix(""), prefix("/a"), true),
            (prefix(""), exact("/"), true),
            (prefix("/a"), prefix("/a/b"), true),
            (prefix("/a"), exact("/a"), true),
            (prefix("/a"), exact("/ab"), false),
            (prefix("/a/b"), prefix("/a"), false),
            (prefix("/a"), pattern.clone(), false),
            (pattern.clone(), pattern, true),
            (exact("/a"), exact("/a"), true),
            (exact("/a"), prefix("/a"), false),
            (prefix("/p.S"), grpc("p.S", Some("Get")), true),
            (grpc("p.S", None), grpc("p.S", Some("Get")), true),
            (grpc("p.S", Some("Get")), grpc("p.S", None), false),
        ] {
            let (own, other) = (matching(Some(own)), matching(Some(other)));
            assert_eq!(own.covers(&other), covers, "{own} / {other}");
        }
        assert!(matching(None).covers(&matching(Some(prefix("/a")))));
        assert!(
            !matching(Some(prefix(""))).covers(&matching(None)),
            "`*` has no such path"
        );
    }

    #[test]
    fn more_conditions_are_covered_by_fewer() {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        let broad = RouteMatch {
            methods: ["GET".to_owned(), "HEAD".to_owned()].into(),
            headers: pairs(&[("x-a", "1")]),
            ..RouteMatch::default()
        };
        let narrow = RouteMatch {
            methods: ["GET".to_owned()].into(),
            headers: pairs(&[("x-a", "1"), ("x-b", "2")]),
            query: pairs(&[("q", "1")]),
            host: Some("shop.example".to_owned()),
            ..RouteMatch::default()
        };
        assert!(broad.covers(&narrow) && !narrow.covers(&broad));
        let other_value = RouteMatch {
            headers: pairs(&[("x-a", "2")]),
            ..narrow.clone()
        };
        assert!(!broad.covers(&other_value));
        let on = |port: &str| RouteMatch {
            port: Some(PortName::new(port).unwrap()),
            ..narrow.clone()
        };
        assert!(broad.covers(&on("admin")) && on("admin").covers(&on("admin")));
        assert!(!on("admin").covers(&narrow) && !on("admin").covers(&on("http")));
        let any_method = RouteMatch {
            methods: BTreeSet::new(),
            ..narrow.clone()
        };
        assert!(!broad.covers(&any_method));
        let by = |names: &[&str]| RouteMatch {
            callers: names
                .iter()
                .map(|name| CallerSelector::of(Who::Service(ServiceName::new(name).unwrap())))
                .collect(),
            ..RouteMatch::default()
        };
        assert!(by(&["web", "batch"]).covers(&by(&["web"])));
        assert!(!by(&["web"]).covers(&by(&["web", "batch"])));
        assert!(!by(&["web"]).covers(&narrow) && RouteMatch::default().covers(&by(&["web"])));
    }
}
