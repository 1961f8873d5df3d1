//! The validated topology: what every other part of the program reads. Only [`super::parse`] makes one.
//!
//! The structs are `non_exhaustive`: readable everywhere, constructible only here, so a `Topology` that exists is valid.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    capacity_rule::CapacityRule,
    permissions::{CallerSelector, PermissionEntry, Permissions},
    ports::ServicePorts,
    promises::Promise,
    retry::Retry,
    routes::Route,
    shift::Shift,
    sticky::Sticky,
};
use crate::{
    edition::Fingerprint,
    name::{ServiceName, Tags, ZoneName},
    trust::Bundle,
};

/// The whole federation, as one file declares it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Topology {
    pub fingerprint: Fingerprint,
    /// Number of times that the federation's topology had been applied with this one; 0: it was read from a file.
    pub generation: u64,
    /// SPIFFE trust domain of every zone that names no other, lower case, such as `acme.internal`.
    pub trust_domain: String,
    /// The trust bundles by which gateways of different trust domains know each other; empty: there is one trust domain.
    pub trust_domains: BTreeMap<String, Bundle>,
    pub dns: Dns,
    pub tls: Tls,
    /// Zones whose operators may apply the next topology; `None`: every zone.
    pub apply_from: Option<BTreeSet<ZoneName>>,
    pub permissions: Permissions,
    /// In the order of the file.
    pub promises: Vec<Promise>,
    pub zones: BTreeMap<ZoneName, Zone>,
    pub services: BTreeMap<ServiceName, Service>,
    /// Keys that the file has and that nothing acts on in this version.
    pub not_in_force: BTreeSet<String>,
    /// Worked out once, because every connection asks.
    pub(super) names_callers: bool,
}

impl Topology {
    /// Tells whether the operators of `zone` may apply the topology that follows this one.
    #[must_use]
    pub fn may_apply(&self, zone: &ZoneName) -> bool {
        self.zones.contains_key(zone) && self.apply_from.as_ref().is_none_or(|zones| zones.contains(zone))
    }

    /// Tells whether `zone` may run `service`. One that the topology does not declare may run anywhere.
    #[must_use]
    pub fn may_run(&self, service: &ServiceName, zone: &ZoneName) -> bool {
        self.services
            .get(service)
            .is_none_or(|service| service.may_run_in(zone))
    }

    /// The trust domain that the gateways of `zone` are of.
    #[must_use]
    pub fn trust_domain_of(&self, zone: &ZoneName) -> &str {
        self.zones
            .get(zone)
            .map_or(&self.trust_domain, |zone| &zone.trust_domain)
    }

    /// Tells whether a zone has one gateway, as far as the file says: of one that only dials out it says nothing.
    #[must_use]
    pub fn has_one_gateway(&self, zone: &ZoneName) -> bool {
        self.zones.get(zone).is_some_and(|zone| zone.gateways.len() < 2)
    }

    /// Tells whether it matters to anybody who calls.
    #[must_use]
    pub fn names_callers(&self) -> bool {
        self.names_callers
    }
}

/// Demands on the tunnels between zones beyond what always is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tls {
    /// Only X25519MLKEM768 is offered and accepted; without it that is preferred.
    pub require_post_quantum: bool,
}

/// Mesh DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dns {
    /// Lower case, without the final dot: `mesh`.
    pub domain: String,
    pub ttl: Duration,
}

#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Zone {
    /// SPIFFE trust domain of its gateways.
    pub trust_domain: String,
    pub tags: Tags,
    /// Empty: no way in; this zone dials out, and is served over the same tunnels.
    pub gateways: Vec<GatewayAddresses>,
    pub instances: Vec<FixedInstance>,
    /// Questions to DNS for further instances, by this zone's own gateways.
    pub dns_sources: Vec<DnsSource>,
    pub vips: Vips,
    /// Takes instances at loopback addresses from others than this zone's topology, folders and programs of a gateway's own host.
    pub loopback_instances: bool,
    /// Is set while the zone is being emptied.
    pub drain: Option<Drain>,
}

/// The emptying of a zone: it serves only what no other can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Moment at which open connections that others can serve are ended; `None`: those of services without `linger` stay.
    pub by: Option<SystemTime>,
}

/// Instances of one service that DNS knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct DnsSource {
    pub service: ServiceName,
    pub question: DnsQuestion,
    /// Of every instance that is found.
    pub tags: Tags,
    /// Of every instance that is found, unless SRV records say it.
    pub weight: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsQuestion {
    /// SRV records: hosts, ports, and with `weighted` the weights too.
    Srv { name: String, weighted: bool },
    /// A and AAAA records.
    Addresses { name: String, port: u16 },
}

impl std::fmt::Display for DnsQuestion {
    /// `SRV _orders._tcp.svc.acme.internal`, `web.acme.internal:8080`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Srv { name, .. } => write!(f, "SRV {name}"),
            Self::Addresses { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// One gateway's addresses, `host:port`; a host name is resolved anew at every dial, and all addresses are raced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct GatewayAddresses {
    pub addresses: Vec<String>,
}

/// Ranges or address of a zone's virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vips {
    /// Addresses of this host's loopback network; needs no privilege on Linux. Default `127.64.0.0/10`.
    Loopback { range: IpNet },
    /// Ranges that are routed to the gateway's host (AnyIP), for gateways that serve other hosts; v4, v6 or both.
    Routed { ranges: Vec<IpNet> },
    /// The gateway's own address; the port alone tells services apart.
    Address { address: IpAddr },
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FixedInstance {
    pub service: ServiceName,
    pub address: SocketAddr,
    pub tags: Tags,
    /// Share of traffic relative to its peers; 1 by default.
    pub weight: u32,
    /// Requests or connections a second that it can take.
    pub capacity_per_second: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Service {
    pub ports: ServicePorts,
    /// `None`: instances count as healthy as long as they are registered.
    pub health: Option<HealthCheck>,
    /// Never empty: without a split in the file, one arm with no tags. That of the step, while the service is under a shift.
    pub split: Vec<SplitArm>,
    /// The last one that was begun.
    pub shift: Option<Arc<Shift>>,
    /// Never empty: without failover in the file, the caller's own zone and then any zone.
    pub failover: Vec<Tier>,
    pub spill: Option<Spill>,
    pub failback: Option<Failback>,
    /// Use of instances that are ill where none is healthy anywhere (see [`Service::panics`]).
    pub panic: bool,
    /// Time in which the share of what is new, or healthy again, grows to all of it.
    pub slow_start: Option<Duration>,
    pub criticality: Criticality,
    /// Callers whose requests may say their own.
    pub criticality_from: Vec<CallerSelector>,
    /// `None`: every zone.
    pub export_to: Option<BTreeSet<ZoneName>>,
    /// Zones that may have instances of it and speak for them as callers; `None`: every zone.
    pub run_in: Option<BTreeSet<ZoneName>>,
    /// `None`: whatever `permissions.default` says.
    pub allow: Option<Vec<PermissionEntry>>,
    /// Beats `allow`.
    pub deny: Vec<PermissionEntry>,
    /// Longest time from a request's arrival to the head of its answer; `None`: any.
    pub timeout: Option<Duration>,
    pub retry: Option<Arc<Retry>>,
    pub outlier: Option<Outlier>,
    pub limits: RouteLimits,
    pub forwarded: ForwardedFields,
    /// `None`: each request, or connection, by itself.
    pub sticky: Option<Arc<Sticky>>,
    /// First bytes travel with the header (see ARCHITECTURE.md, "Two promises").
    pub early: bool,
    /// Longest time that a connection may go without a byte in either direction; `None`: any.
    pub idle_timeout: Option<Duration>,
    pub connections: ConnectionPolicy,
    /// For requests, in the order in which they are looked at; only of services that speak HTTP.
    pub routes: Vec<Arc<Route>>,
    /// Worked out once, because every request asks.
    pub(super) judged: JudgedRequests,
}

/// Part of a request that the permissions of a service look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum JudgedRequests {
    /// None: who may call may ask for anything.
    #[default]
    Unseen,
    Methods,
    /// And paths.
    Paths,
}

impl JudgedRequests {
    pub(super) fn of<'a>(entries: impl Iterator<Item = &'a PermissionEntry>) -> Self {
        let of_one = |entry: &PermissionEntry| match (entry.is_of_requests(), &entry.requests.path) {
            (false, _) => Self::Unseen,
            (true, None) => Self::Methods,
            (true, Some(_)) => Self::Paths,
        };
        entries.map(of_one).max().unwrap_or_default()
    }
}

impl Service {
    /// The shift that it is under.
    #[must_use]
    pub fn active_shift(&self) -> Option<&Arc<Shift>> {
        self.shift.as_ref().filter(|shift| shift.state.is_active())
    }

    /// The split without the shift that it is under.
    #[must_use]
    pub fn split_before(&self) -> &[SplitArm] {
        self.active_shift().map_or(&self.split, |shift| &shift.from)
    }

    /// Tags of which an instance must carry some to be given any: those of the arms with a weight, of its routes too. `None`: it has no split.
    #[must_use]
    pub fn weighted_arms(&self) -> Option<Vec<&Tags>> {
        let weighted = self.all_arms().filter(|arm| arm.weight > 0).map(|arm| &arm.tags);
        (!self.split.is_empty()).then(|| weighted.collect())
    }

    /// Arms of its split, and of those of its routes.
    pub fn all_arms(&self) -> impl Iterator<Item = &SplitArm> {
        let of_routes = self.routes.iter().filter_map(|route| route.split.as_deref());
        of_routes.chain([&self.split[..]]).flatten()
    }

    /// Tells whether `zone` may see and call this service when another zone serves it.
    #[must_use]
    pub fn is_exported_to(&self, zone: &ZoneName) -> bool {
        self.export_to.as_ref().is_none_or(|zones| zones.contains(zone))
    }

    /// Part of a request that its permissions look at.
    #[must_use]
    pub fn judges(&self) -> JudgedRequests {
        self.judged
    }

    /// Tells whether it says itself who may call it, or where callers go.
    #[must_use]
    pub fn names_callers(&self) -> bool {
        let sticks = |sticky: &Option<Arc<Sticky>>| sticky.as_deref() == Some(&Sticky::Caller);
        let asks = |route: &Arc<Route>| !route.matches.callers.is_empty() || sticks(&route.sticky);
        let goes_by = || sticks(&self.sticky) || self.routes.iter().any(asks);
        self.allow.is_some() || !self.deny.is_empty() || !self.criticality_from.is_empty() || goes_by()
    }

    /// Tells whether instances of this service may be in `zone`.
    #[must_use]
    pub fn may_run_in(&self, zone: &ZoneName) -> bool {
        self.run_in.as_ref().is_none_or(|zones| zones.contains(zone))
    }
}

/// Order in which requests and connections are refused where there is no capacity for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Criticality {
    /// Refused last.
    Critical,
    #[default]
    Normal,
    /// Refused first.
    Sheddable,
}

impl Criticality {
    /// Reads the word in the file.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }

    /// From those that are served first to those that are refused first.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Normal, Self::Sheddable];

    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Normal => "normal",
            Self::Sheddable => "sheddable",
        }
    }

    /// Place in [`Criticality::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Fields of a request that tell an instance where it came from: what becomes of those that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedFields {
    /// The client is added to those that it has come through.
    #[default]
    Append,
    /// The client takes their place.
    Replace,
    /// They go on as they came, and none is added.
    Off,
}

impl ForwardedFields {
    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Replace => "replace",
            Self::Off => "off",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Http,
    Grpc,
    Tls,
    Udp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    pub probe: Probe,
    pub every: Duration,
    pub timeout: Duration,
    /// Consecutive failures that make an instance unhealthy.
    pub fall: u32,
    /// Consecutive successes that make it healthy again.
    pub rise: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// `GET path` answers 200 to 399.
    Http { path: String },
    /// `grpc.health.v1.Health/Check` of this service name (empty: the server as a whole) answers SERVING.
    Grpc { service: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SplitArm {
    pub tags: Tags,
    /// Relative to the other arms; 0 takes nothing.
    pub weight: u32,
}

/// One step of a failover list. A tier with neither zone nor tags means any zone.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tier {
    pub zone: Option<TierZone>,
    /// Tags that the serving *zone* must carry.
    pub tags: BTreeMap<String, TierTag>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierZone {
    /// The caller's own zone.
    Own,
    Named(ZoneName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierTag {
    /// Whatever value the caller's own zone has for this key.
    Own,
    Is(String),
}

#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Spill {
    /// Below this share of healthy instances (0 to 1) traffic spills to the next tier.
    pub healthy_below: f64,
    pub capacity: CapacityRule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failback {
    pub hold: Duration,
    pub ramp: Duration,
}

#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Outlier {
    pub consecutive: u32,
    pub eject: Duration,
    /// Share (0 to 1) of instances that may be ejected at once.
    pub max: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteLimits {
    /// Clients' connections at once.
    pub connections: Option<u32>,
    /// Connections and requests at once that wait for an instance.
    pub pending: Option<u32>,
    /// Requests at once.
    pub requests: Option<u32>,
    /// Requests at once that are tried again.
    pub retries: Option<u32>,
    /// New connections, or requests where they are looked at.
    pub rate_per_second: Option<u64>,
    /// The same, of one caller.
    pub rate_per_caller: Option<u64>,
}

/// Limits on how long an open connection stays where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionPolicy {
    /// Longest time where a new one would not be put any more; `None`: any.
    pub linger: Option<Duration>,
    /// Age at which it ends, give or take a tenth; `None`: none.
    pub max_age: Option<Duration>,
}
