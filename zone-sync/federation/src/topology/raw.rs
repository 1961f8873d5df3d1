//! The file as it was written, key by key, with the places that later findings point at.
//!
//! What could not be read is absent here and already reported; the checks go on with the rest. Nothing outside this
//! folder sees these types: [`super::Topology`] is what the program reads.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    diagnostic::Span,
    fields::{Listed, Spanned},
    model::{
        ConnectionPolicy, Criticality, Dns, DnsSource, Drain, Failback, ForwardedFields, GatewayAddresses,
        HealthCheck, Outlier, Protocol, RouteLimits, Spill, SplitArm, TierTag, TierZone, Tls,
    },
    permissions::{CallerSelector, PermissionEntry, Permissions},
    promises::PromisedLoss,
    retry::Retry,
    routes::{HeaderChanges, Mirror, PathMatch, RouteAction, RouteMatch, RouteRewrite},
    shift::Shift,
    sticky::Sticky,
};
use crate::{
    name::{PortName, ServiceName, Tags, ZoneName},
    request_path::PathPattern,
    trust::Bundle,
};

pub(super) struct File {
    pub trust_domain: Option<Spanned<String>>,
    pub trust_domains: Vec<TrustDomain>,
    pub dns: Dns,
    pub tls: Tls,
    pub apply_from: Option<Listed<Spanned<ZoneName>>>,
    pub permissions: Permissions,
    pub promises: Vec<Spanned<Promise>>,
    pub zones: Vec<Zone>,
    pub services: Vec<Service>,
}

impl File {
    /// The trust domain of a zone of the file, where it stands; `None`: it could not be read.
    pub(super) fn trust_domain_of<'a>(&'a self, zone: &'a Zone) -> Option<&'a Spanned<String>> {
        zone.trust_domain.as_ref().or(self.trust_domain.as_ref())
    }
}

pub(super) struct TrustDomain {
    pub name: Spanned<String>,
    /// `None`: not there, or not readable.
    pub bundle: Option<Bundle>,
}

/// Names that a promise is about, or the word that stands for them.
pub(super) enum PromisedNames<W, N> {
    Word(W),
    Named(Vec<Spanned<N>>),
}

pub(super) struct Promise {
    pub lose: PromisedNames<PromisedLoss, ZoneName>,
    /// `None`: everything.
    pub keep: PromisedNames<Option<Criticality>, ServiceName>,
}

pub(super) struct Zone {
    pub name: Spanned<ZoneName>,
    /// `None`: the federation's.
    pub trust_domain: Option<Spanned<String>>,
    pub tags: Tags,
    pub gateways: Vec<Gateway>,
    pub instances: Vec<Instance>,
    pub dns_sources: Vec<Spanned<DnsSource>>,
    /// `None`: the default range.
    pub vips: Option<Vips>,
    pub loopback_instances: bool,
    pub drain: Option<Drain>,
}

/// One gateway with its addresses, and where each of them stands.
pub(super) struct Gateway {
    pub addresses: Vec<Spanned<String>>,
}

impl Gateway {
    pub(super) fn to_model(&self) -> GatewayAddresses {
        let addresses = self.addresses.iter().map(|address| address.value.clone());
        GatewayAddresses {
            addresses: addresses.collect(),
        }
    }
}

pub(super) struct Instance {
    pub service: Option<Spanned<ServiceName>>,
    pub address: Option<Spanned<SocketAddr>>,
    pub tags: Tags,
    pub weight: u32,
    pub capacity: Option<Spanned<u64>>,
}

pub(super) enum Vips {
    Loopback(Spanned<IpNet>),
    Routed(Vec<Spanned<IpNet>>),
    Address(Spanned<IpAddr>),
}

/// One port of a service.
pub(super) struct Port {
    /// `None`: the only one, which needs none.
    pub name: Option<Spanned<PortName>>,
    pub number: Spanned<u16>,
    /// `None`: given, but not readable.
    pub protocol: Option<Spanned<Protocol>>,
    pub target: Option<u16>,
}

pub(super) struct Service {
    pub name: Spanned<ServiceName>,
    /// The primary one first. Those that could not be read at all are left out.
    pub ports: Vec<Port>,
    /// Tells whether that is all of them.
    pub has_all_ports: bool,
    pub health: Option<HealthCheck>,
    pub split: Option<Listed<Spanned<SplitArm>>>,
    pub shift: Option<Spanned<Shift>>,
    pub failover: Option<Vec<Spanned<Tier>>>,
    pub export_to: Option<Listed<Spanned<ZoneName>>>,
    pub run_in: Option<Listed<Spanned<ZoneName>>>,
    pub allow: Option<Listed<Spanned<Permitted>>>,
    pub deny: Option<Listed<Spanned<Permitted>>>,
    pub forwarded: Option<ForwardedFields>,
    pub criticality: Option<Criticality>,
    pub criticality_from: Option<Vec<Spanned<CallerSelector>>>,
    pub early: bool,
    /// Place of the key, if it is `true`.
    pub early_at: Option<Span>,
    pub idle_timeout: Option<Duration>,
    pub connections: Option<Spanned<ConnectionPolicy>>,
    pub routes: Vec<Spanned<Route>>,
    pub policies: Policies,
    /// Keys about requests, where they stand.
    pub of_requests: Vec<Spanned<&'static str>>,
    /// Keys that are accepted but not yet in force, where they stand.
    pub waiting: Vec<Spanned<&'static str>>,
}

impl Service {
    /// Protocols of its ports, where they stand; `None`: one could not be read, so that nothing can be concluded from the others.
    pub(super) fn protocols(&self) -> Option<Vec<&Spanned<Protocol>>> {
        let protocols = self.ports.iter().map(|port| port.protocol.as_ref());
        let protocols: Option<Vec<_>> = protocols.collect();
        protocols.filter(|all| self.has_all_ports && !all.is_empty())
    }
}

/// Policies that are read and kept as they are.
#[derive(Default)]
pub(super) struct Policies {
    pub spill: Option<Spanned<Spill>>,
    pub failback: Option<Failback>,
    pub panic: Option<Spanned<bool>>,
    pub slow_start: Option<Duration>,
    pub timeout: Option<Duration>,
    pub retry: Option<Arc<Retry>>,
    pub outlier: Option<Outlier>,
    pub limits: RouteLimits,
    pub sticky: Option<Spanned<Arc<Sticky>>>,
}

pub(super) struct Tier {
    pub zone: Option<TierZone>,
    /// Place of the zone in the text, for findings about it.
    pub zone_span: Span,
    pub tags: BTreeMap<String, TierTag>,
}

impl Tier {
    /// Tells whether both ask for the same zones.
    pub(super) fn is_like(&self, other: &Tier) -> bool {
        self.zone == other.zone && self.tags == other.tags
    }
}

pub(super) struct Route {
    pub name: Option<Spanned<String>>,
    /// `None`: not readable.
    pub conditions: Option<Conditions>,
    pub split: Option<Listed<Spanned<SplitArm>>>,
    pub sticky: Option<Arc<Sticky>>,
    pub criticality: Option<Criticality>,
    pub timeout: Option<Duration>,
    pub rewrite: RouteRewrite,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub action: RouteAction,
    pub mirror: Option<Spanned<Mirror>>,
}

impl Route {
    /// Callers that it is for, where they stand.
    pub(super) fn callers(&self) -> &[Spanned<CallerSelector>] {
        let conditions = self.conditions.as_ref();
        conditions.map_or(&[], |conditions| &conditions.callers)
    }
}

/// Entry of `allow` or `deny`.
pub(super) struct Permitted {
    pub callers: CallerSelector,
    /// Methods and paths alone.
    pub requests: Conditions,
}

impl Permitted {
    pub(super) fn is_of_requests(&self) -> bool {
        self.requests.pattern.is_some() || !self.requests.matches.is_any()
    }

    /// The entry with the compiled pattern; `None`: it could not be compiled.
    pub(super) fn compiled(&self) -> Option<PermissionEntry> {
        Some(PermissionEntry {
            callers: self.callers.clone(),
            requests: self.requests.compiled()?,
        })
    }
}

/// A regular expression of a route, compiled once the number of them is known to be within its limit.
pub(super) struct Pattern {
    pub text: Spanned<String>,
    pub compiled: OnceCell<PathPattern>,
}

/// Conditions that a request has to meet for a route to match.
#[derive(Default)]
pub(super) struct Conditions {
    /// Without the pattern.
    pub matches: RouteMatch,
    pub pattern: Option<Pattern>,
    /// Those of `matches`, where they stand.
    pub callers: Vec<Spanned<CallerSelector>>,
    /// That of `matches`, where it stands.
    pub port: Option<Spanned<PortName>>,
}

impl Conditions {
    /// Tells whether they name a path that another can take the place of.
    pub(super) fn has_replaced(&self) -> bool {
        let path = self.matches.path.as_ref();
        path.is_some_and(|path| path.replaced().is_some())
    }

    /// The conditions with the compiled pattern; `None`: it could not be compiled.
    pub(super) fn compiled(&self) -> Option<RouteMatch> {
        let mut matches = self.matches.clone();
        if let Some(pattern) = &self.pattern {
            matches.path = Some(PathMatch::Pattern(pattern.compiled.get()?.clone()));
        }
        Some(matches)
    }
}
