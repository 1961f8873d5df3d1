//! Permissions: the part of the model that `permissions`, `allow` and `deny` of a file become.
//!
//! What an entry means is said here, by [`CallerSelector::matches`]; which entry decides is said where connections are
//! decided (the gateway's `permit`).

use std::fmt;

use super::routes::RouteMatch;
use crate::name::{CallerIdentity, ServiceName, Tags, ZoneName};

/// The federation's own rules for who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permissions {
    /// For services that have no `allow`.
    pub default: DefaultPermission,
    /// Mode in which what would be refused is only reported.
    pub dry_run: bool,
}

impl Permissions {
    pub(super) const UNSET: Self = Self {
        default: DefaultPermission::Allow,
        dry_run: false,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultPermission {
    Allow,
    Deny,
}

impl DefaultPermission {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Entry of `allow` or `deny`: callers, and those of their requests that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PermissionEntry {
    pub callers: CallerSelector,
    /// Methods and paths alone; without any it is every request, and what is no request as well.
    pub requests: RouteMatch,
}

impl PermissionEntry {
    /// Tells whether it is about some requests, and not about others.
    #[must_use]
    pub fn is_of_requests(&self) -> bool {
        !self.requests.is_any()
    }

    /// Tells whether this one means whatever `other` means.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.callers.covers(&other.callers) && self.requests.covers(&other.requests)
    }
}

/// `web`, `web: GET of /api and below`.
impl fmt::Display for PermissionEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_of_requests() {
            false => write!(f, "{}", self.callers),
            true => write!(f, "{}: {}", self.callers, self.requests),
        }
    }
}

/// Selector of callers: those that have everything that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallerSelector {
    pub who: Who,
    /// Only callers in this zone.
    pub zone: Option<ZoneName>,
    /// Only callers that carry all of these tags.
    pub tags: Tags,
    pub identity: Option<IdentitySelector>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every caller, named or not.
    Anyone,
    /// Callers of whom neither service nor identity is known.
    Anonymous,
    Service(ServiceName),
}

/// One SPIFFE id, or with `/*` at its end all ids below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySelector {
    /// Without `/*`.
    pub(super) base: CallerIdentity,
    pub(super) below: bool,
}

/// Facts known of a caller, as far as selectors ask.
#[derive(Debug, Clone, Copy)]
pub struct CallerView<'a> {
    pub zone: &'a ZoneName,
    pub service: Option<&'a ServiceName>,
    pub tags: &'a Tags,
    pub identity: Option<&'a CallerIdentity>,
}

impl CallerSelector {
    pub(super) fn of(who: Who) -> Self {
        Self {
            who,
            zone: None,
            tags: Tags::default(),
            identity: None,
        }
    }

    #[must_use]
    pub fn matches(&self, caller: CallerView<'_>) -> bool {
        let who = match &self.who {
            Who::Anyone => true,
            Who::Anonymous => caller.service.is_none() && caller.identity.is_none(),
            Who::Service(name) => caller.service == Some(name),
        };
        who && self.zone.as_ref().is_none_or(|zone| zone == caller.zone)
            && caller.tags.matches(&self.tags)
            && self
                .identity
                .as_ref()
                .is_none_or(|wanted| caller.identity.is_some_and(|identity| wanted.matches(identity)))
    }

    /// Tells whether every caller that `other` means is meant by this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let who = match (&self.who, &other.who) {
            (Who::Anyone, _) => true,
            (own, other) => own == other,
        };
        let zone = self.zone.is_none() || self.zone == other.zone;
        let identity = match (&self.identity, &other.identity) {
            (None, _) => true,
            (Some(own), Some(other)) => own.covers(other),
            (Some(_), None) => false,
        };
        who && zone && identity && other.tags.matches(&self.tags)
    }
}

/// As the file has it: `web`, `batch@east`, `*@east`, `anonymous`, `spiffe://…`, or the mapping where no short form says it.
impl fmt::Display for CallerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = |f: &mut fmt::Formatter<'_>| match &self.zone {
            Some(zone) => write!(f, "@{zone}"),
            None => Ok(()),
        };
        if let (Who::Anyone, None, Some(identity)) = (&self.who, &self.zone, &self.identity)
            && self.tags.is_empty()
        {
            return write!(f, "{identity}");
        }
        match &self.who {
            Who::Anyone => f.write_str("*")?,
            Who::Anonymous => f.write_str("anonymous")?,
            Who::Service(name) => write!(f, "{name}")?,
        }
        zone(f)?;
        if !self.tags.is_empty() {
            write!(f, "{}", self.tags)?;
        }
        match &self.identity {
            Some(identity) => write!(f, " as {identity}"),
            None => Ok(()),
        }
    }
}

impl IdentitySelector {
    #[must_use]
    pub fn matches(&self, identity: &CallerIdentity) -> bool {
        if !self.below {
            return self.base == *identity;
        }
        let rest = identity.as_str().strip_prefix(self.base.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    }

    fn covers(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (false, false) => self.base == other.base,
            (false, true) => false,
            (true, false) => self.matches(&other.base),
            (true, true) => self.base == other.base || self.matches(&other.base),
        }
    }

    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.base.trust_domain()
    }

    /// The zone that every identity of this selector is of, if its path says so.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.base.zone()
    }
}

impl fmt::Display for IdentitySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.base, if self.below { "/*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selector() -> impl Strategy<Value = CallerSelector> {
        let who = prop_oneof![
            Just(Who::Anyone),
            Just(Who::Anonymous),
            "[ab]".prop_map(|name| Who::Service(ServiceName::new(&name).unwrap())),
        ];
        let zone =
            proptest::option::of("[xy]").prop_map(|zone| zone.map(|zone| ZoneName::new(&zone).unwrap()));
        let identity = proptest::option::of(("spiffe://d(/[pq]){1,2}", any::<bool>()).prop_map(
            |(text, below)| IdentitySelector {
                base: text.parse().unwrap(),
                below,
            },
        ));
        (who, zone, tags(), identity).prop_map(|(who, zone, tags, identity)| CallerSelector {
            who,
            zone,
            tags,
            identity,
        })
    }

    fn tags() -> impl Strategy<Value = Tags> {
        prop::collection::btree_map("[kl]", "[12]", 0..2).prop_map(|pairs| pairs.into_iter().collect())
    }

    proptest! {
        #[test]
        fn what_covers_another_matches_whatever_it_matches(
            one in selector(), other in selector(), zone in "[xy]", service in proptest::option::of("[ab]"),
            tags in tags(), identity in proptest::option::of("spiffe://d(/[pq]){1,3}"),
        ) {
            let zone = ZoneName::new(&zone).unwrap();
            let service = service.map(|name| ServiceName::new(&name).unwrap());
            let identity = identity.map(|text| text.parse::<CallerIdentity>().unwrap());
            let caller =
                CallerView { zone: &zone, service: service.as_ref(), tags: &tags, identity: identity.as_ref() };
            if one.covers(&other) && other.matches(caller) {
                prop_assert!(one.matches(caller), "{} covers {}", one, other);
            }
            prop_assert!(one.covers(&one));
        }
    }
}
