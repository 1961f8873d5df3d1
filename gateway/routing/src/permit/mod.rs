//! The pure decision who may call whom, and the rule that decided.
//!
//! [`vouch`] says whether a zone may speak for a caller, [`permit`] whether that caller may call a service, with a request or at all. Neither has a
//! clock, a lock or I/O. Egress, ingress, `causeway explain` and the closing of what a change no longer permits all ask
//! these two. Who a caller is, is found out elsewhere (`causeway_proxy::callers`); what comes of a verdict is told by the data path.

use std::fmt;

use causeway_federation::{
    name::{CallerIdentity, ServiceName, Tags, ZoneName},
    topology::{CallerView, DefaultPermission, JudgedRequests, PermissionEntry, Topology},
};
use serde::{Serialize, Serializer};

mod request;
#[cfg(test)]
mod tests;
mod zone;

pub use request::RequestLine;
pub use zone::shuts_out;

/// Client that calls, as the zone that it calls from says. Of an anonymous caller only the zone is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// Never a claim: the own zone at the egress, the zone of the peer's certificate at the ingress.
    pub zone: ZoneName,
    pub service: Option<ServiceName>,
    /// Of the calling instance; empty for an anonymous caller.
    pub tags: Tags,
    pub identity: Option<CallerIdentity>,
}

impl Caller {
    #[must_use]
    pub fn anonymous(zone: ZoneName) -> Self {
        Self {
            zone,
            service: None,
            tags: Tags::default(),
            identity: None,
        }
    }

    #[must_use]
    pub fn service(zone: ZoneName, service: ServiceName, tags: Tags) -> Self {
        Self {
            zone,
            service: Some(service),
            tags,
            identity: None,
        }
    }

    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.service.is_none() && self.identity.is_none()
    }

    pub(crate) fn view(&self) -> CallerView<'_> {
        CallerView {
            zone: &self.zone,
            service: self.service.as_ref(),
            tags: &self.tags,
            identity: self.identity.as_ref(),
        }
    }
}

/// `web@east`, `anonymous@east`, `spiffe://acme.internal/app/web@east`, `web@east as spiffe://acme.internal/app/web`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, &self.identity) {
            (Some(service), None) => write!(f, "{service}@{}", self.zone),
            (Some(service), Some(identity)) => write!(f, "{service}@{} as {identity}", self.zone),
            (None, Some(identity)) => write!(f, "{identity}@{}", self.zone),
            (None, None) => write!(f, "anonymous@{}", self.zone),
        }
    }
}

/// The place in the topology that decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// `services.<service>.deny[<index>]`
    Deny(ServiceName, usize),
    /// `services.<service>.allow[<index>]`
    Allow(ServiceName, usize),
    /// `services.<service>.allow`: no entry of it means the caller.
    NotAllowed(ServiceName),
    /// `permissions.default`
    Default,
    /// `services.<caller's service>.run_in`: the calling zone may not run the service that it speaks for.
    RunIn(ServiceName),
    /// `trust_domain`: the identity is of another.
    TrustDomain,
    /// The identity names another zone than the one that speaks for it.
    IdentityZone,
    /// `services.<service>.export_to`: what a change of it took away from an open connection.
    ExportTo(ServiceName),
}

impl Rule {
    /// The word for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Deny(..) => "deny",
            Self::Allow(..) | Self::NotAllowed(_) => "allow",
            Self::Default => "default",
            Self::RunIn(_) => "run_in",
            Self::TrustDomain | Self::IdentityZone => "identity",
            Self::ExportTo(_) => "export_to",
        }
    }

    /// Tells whether it is about who may speak for a caller, and not about who may call.
    #[must_use]
    pub fn is_vouching(&self) -> bool {
        matches!(self, Self::RunIn(_) | Self::TrustDomain | Self::IdentityZone)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deny(service, index) => write!(f, "services.{service}.deny[{index}]"),
            Self::Allow(service, index) => write!(f, "services.{service}.allow[{index}]"),
            Self::NotAllowed(service) => write!(f, "services.{service}.allow"),
            Self::Default => f.write_str("permissions.default"),
            Self::RunIn(service) => write!(f, "services.{service}.run_in"),
            Self::TrustDomain => f.write_str("trust_domain"),
            Self::IdentityZone => f.write_str("identity"),
            Self::ExportTo(service) => write!(f, "services.{service}.export_to"),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    Permitted,
    /// It would be forbidden, but permissions are only reported.
    DryRun,
    Forbidden,
}

/// Permission that was decided, and the rule that decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub permission: Permission,
    pub rule: Rule,
}

impl Verdict {
    /// Tells whether the connection goes through.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.permission != Permission::Forbidden
    }

    fn new(permitted: bool, rule: Rule, topology: &Topology) -> Self {
        let permission = match (permitted, topology.permissions.dry_run) {
            (true, _) => Permission::Permitted,
            (false, true) => Permission::DryRun,
            (false, false) => Permission::Forbidden,
        };
        Self { permission, rule }
    }
}

/// Decides whether `caller` may call `service`, with `request` or, without one, at all. The rules, in the order of the code:
///
/// 1. The first entry of the service's `deny` that means the caller and the request forbids. Without a request, one that is about some
///    requests forbids nothing: there are others.
/// 2. With `allow`, its first entry that means the caller and the request permits; when none does, it forbids. Without a request, one
///    that is about some requests permits: those will be asked about one by one.
/// 3. Without `allow`, and for a service that the topology does not have, `permissions.default` decides.
///
/// With `permissions.dry_run`, what would be forbidden passes as [`Permission::DryRun`].
#[must_use]
pub fn permit(
    topology: &Topology,
    caller: &Caller,
    service: &ServiceName,
    request: Option<&RequestLine<'_>>,
) -> Verdict {
    let view = caller.view();
    let first = |entries: &[PermissionEntry], without_request: bool| {
        entries.iter().position(|entry| {
            entry.callers.matches(view)
                && match request {
                    Some(request) => request.meets(&entry.requests),
                    None => without_request || !entry.is_of_requests(),
                }
        })
    };
    let known = topology.services.get(service);
    if let Some(index) = known.and_then(|known| first(&known.deny, false)) {
        return Verdict::new(false, Rule::Deny(service.clone(), index), topology);
    }
    match known.and_then(|known| known.allow.as_ref()) {
        Some(allow) => match first(allow, true) {
            Some(index) => Verdict::new(true, Rule::Allow(service.clone(), index), topology),
            None => Verdict::new(false, Rule::NotAllowed(service.clone()), topology),
        },
        None => {
            let permitted = topology.permissions.default == DefaultPermission::Allow;
            Verdict::new(permitted, Rule::Default, topology)
        }
    }
}

/// Finds the first entry by which it depends on the request what `caller` may do at `service`; `None`: it does not.
#[must_use]
pub fn judged_by(topology: &Topology, caller: &Caller, service: &ServiceName) -> Option<Rule> {
    let known = topology.services.get(service);
    let known = known.filter(|known| known.judges() != JudgedRequests::Unseen)?;
    let first = |entries: &[PermissionEntry]| {
        let is_judge =
            |entry: &PermissionEntry| entry.is_of_requests() && entry.callers.matches(caller.view());
        entries.iter().position(is_judge)
    };
    let denied = first(&known.deny).map(|index| Rule::Deny(service.clone(), index));
    denied.or_else(|| Some(Rule::Allow(service.clone(), first(known.allow.as_ref()?)?)))
}

/// Checks that the caller's zone may speak for it, and returns the rule that it breaks, if any.
///
/// A zone speaks for its anonymous callers, for callers of services that may run in it, and for identities of its
/// own trust domain whose path names no other zone.
#[must_use]
pub fn vouch(topology: &Topology, caller: &Caller) -> Option<Verdict> {
    let broken = match (&caller.service, &caller.identity) {
        (Some(service), _) if !topology.may_run(service, &caller.zone) => Rule::RunIn(service.clone()),
        (_, Some(identity)) if identity.trust_domain() != topology.trust_domain_of(&caller.zone) => {
            Rule::TrustDomain
        }
        (_, Some(identity)) if !identity.names_no_zone_but(&caller.zone) => Rule::IdentityZone,
        _ => return None,
    };
    Some(Verdict::new(false, broken, topology))
}

/// Both questions: the first that fails, else what [`permit`] says.
#[must_use]
pub fn decide(
    topology: &Topology,
    caller: &Caller,
    service: &ServiceName,
    request: Option<&RequestLine<'_>>,
) -> Verdict {
    match vouch(topology, caller) {
        Some(broken) if !broken.passes() => broken,
        Some(broken) => {
            // Reported only, so what it may call is asked all the same; a stricter answer stands.
            let verdict = permit(topology, caller, service, request);
            if verdict.permission == Permission::Permitted {
                broken
            } else {
                verdict
            }
        }
        None => permit(topology, caller, service, request),
    }
}
