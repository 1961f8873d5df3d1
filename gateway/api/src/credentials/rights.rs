//! Rights of whoever asks: a scope over everything, and scopes over single services (`write:orders,register:cart`). Pure.

use std::{collections::BTreeMap, fmt, str::FromStr};

use causeway_federation::{name::ServiceName, registry::RegistryError, topology::ChangeableParts};

use super::{Scope, ScopeError};

/// Most services that one token or certificate can have rights over.
pub const MAX_SERVICES: usize = 64;

/// Rights that somebody has. Whoever has any may read everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Scope over everything.
    all: Option<Scope>,
    services: BTreeMap<ServiceName, Scope>,
}

/// Right that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequiredRight {
    Everything(Scope),
    Service(Scope, ServiceName),
    /// Of some service; the rest is decided when it is known what of which.
    SomeService(Scope),
}

/// Reason why a text names no rights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RightsError {
    #[error(transparent)]
    Scope(#[from] ScopeError),
    #[error("reading is not of single services: who may do anything may read everything")]
    ReadService,
    #[error("`{0}` is not the name of a service")]
    Service(String),
    #[error("rights over more than {MAX_SERVICES} services: give the scope without a service")]
    TooMany,
}

impl RequiredRight {
    /// The service that it is of.
    #[must_use]
    pub fn service(&self) -> Option<String> {
        match self {
            Self::Service(_, service) => Some(service.to_string()),
            Self::Everything(_) | Self::SomeService(_) => None,
        }
    }
}

impl Rights {
    #[must_use]
    pub fn of(scope: Scope) -> Self {
        Self {
            all: Some(scope),
            services: BTreeMap::new(),
        }
    }

    /// Tells whether they are enough.
    #[must_use]
    pub fn allow(&self, required: &RequiredRight) -> bool {
        match required {
            RequiredRight::Everything(scope) => self.over_everything() >= Some(*scope),
            RequiredRight::Service(scope, service) => self.over(service) >= Some(*scope),
            RequiredRight::SomeService(scope) => {
                let most = self.services.values().copied().max();
                self.over_everything().max(most) >= Some(*scope)
            }
        }
    }

    /// Asks whether instances of a service may be registered, renewed, drained and deregistered.
    ///
    /// # Errors
    /// When they may not.
    pub fn check_register(&self, service: &ServiceName) -> Result<(), RegistryError> {
        match self.over(service) >= Some(Scope::Register) {
            true => Ok(()),
            false => Err(RegistryError::NoRight(service.clone())),
        }
    }

    /// Parts of the topology that may be changed.
    #[must_use]
    pub fn changeable(&self) -> ChangeableParts {
        if self.all == Some(Scope::Write) {
            return ChangeableParts::Everything;
        }
        let written = self.services.iter().filter(|(_, scope)| **scope == Scope::Write);
        ChangeableParts::Blocks(written.map(|(service, _)| service.clone()).collect())
    }

    /// Adds those of another grant.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.all = self.all.max(other.all);
        for (service, scope) in &other.services {
            let known = self.services.entry(service.clone()).or_insert(*scope);
            *known = (*known).max(*scope);
        }
        self
    }

    fn over_everything(&self) -> Option<Scope> {
        self.all.or((!self.services.is_empty()).then_some(Scope::Read))
    }

    fn over(&self, service: &ServiceName) -> Option<Scope> {
        self.over_everything().max(self.services.get(service).copied())
    }
}

/// `write`, `register,write:orders`, as it is given.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.all.map(|scope| scope.to_string());
        let services = self.services.iter();
        let services = services.map(|(service, scope)| format!("{scope}:{service}"));
        let parts: Vec<String> = all.into_iter().chain(services).collect();
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Rights {
    type Err = RightsError;

    fn from_str(text: &str) -> Result<Self, RightsError> {
        let mut rights = Self::default();
        for part in text.split(',') {
            let (scope, service) = match part.split_once(':') {
                None => (part, None),
                Some((scope, service)) => (scope, Some(service)),
            };
            let scope: Scope = scope.parse()?;
            let one = match service {
                None => Self::of(scope),
                Some(_) if scope == Scope::Read => return Err(RightsError::ReadService),
                Some(name) => {
                    let name = ServiceName::new(name);
                    let name = name.map_err(|_| {
                        RightsError::Service(
                            part.chars()
                                .take(80)
                                .collect::<String>()
                                .escape_debug()
                                .to_string(),
                        )
                    })?;
                    Self {
                        all: None,
                        services: BTreeMap::from([(name, scope)]),
                    }
                }
            };
            rights = rights.and(&one);
            if rights.services.len() > MAX_SERVICES {
                return Err(RightsError::TooMany);
            }
        }
        Ok(rights)
    }
}

/// `write`, `write:orders`, `write of some service`.
impl fmt::Display for RequiredRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything(scope) => write!(f, "{scope}"),
            Self::Service(scope, service) => write!(f, "{scope}:{service}"),
            Self::SomeService(scope) => write!(f, "{scope} of some service"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(text: &str) -> Rights {
        text.parse().unwrap()
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::new(name).unwrap()
    }

    #[test]
    fn rights_over_a_service_open_it_and_reading_and_nothing_else() {
        let team = rights("write:orders,register:cart");
        let allows = |required: RequiredRight| team.allow(&required);
        assert!(allows(RequiredRight::Everything(Scope::Read)));
        assert!(!allows(RequiredRight::Everything(Scope::Register)));
        assert!(!allows(RequiredRight::Everything(Scope::Write)));
        assert!(allows(RequiredRight::Service(Scope::Write, service("orders"))));
        assert!(!allows(RequiredRight::Service(Scope::Write, service("cart"))));
        assert!(!allows(RequiredRight::Service(Scope::Register, service("web"))));
        assert!(allows(RequiredRight::SomeService(Scope::Write)));
        assert!(!rights("read,register:cart").allow(&RequiredRight::SomeService(Scope::Write)));
        assert_eq!(team.check_register(&service("orders")), Ok(()));
        assert_eq!(team.check_register(&service("cart")), Ok(()));
        assert!(team.check_register(&service("web")).is_err());
        let parts = ChangeableParts::Blocks([service("orders")].into());
        assert_eq!(team.changeable(), parts);
        assert_eq!(rights("write").changeable(), ChangeableParts::Everything);
        assert_eq!(
            rights("register").changeable(),
            ChangeableParts::Blocks([].into())
        );
        assert!(!Rights::default().allow(&RequiredRight::Everything(Scope::Read)));
    }

    #[test]
    fn every_scope_includes_those_before_it_over_everything() {
        for (at, has) in Scope::ALL.into_iter().enumerate() {
            for (above, needs) in Scope::ALL.into_iter().enumerate() {
                let required = [
                    RequiredRight::Everything(needs),
                    RequiredRight::Service(needs, service("orders")),
                    RequiredRight::SomeService(needs),
                ];
                assert!(
                    required
                        .iter()
                        .all(|required| Rights::of(has).allow(required) == (above <= at))
                );
            }
        }
    }

    #[test]
    fn rights_print_as_they_are_given_and_nothing_else_is_one() {
        for text in [
            "read",
            "write",
            "register,write:orders",
            "register:cart,write:orders",
        ] {
            assert_eq!(rights(text).to_string(), text);
        }
        assert_eq!(rights("register:orders,write:orders").to_string(), "write:orders");
        for bad in [
            "",
            "write,",
            "write:",
            "write:No",
            "read:orders",
            "all:orders",
            "write:a b",
            "write: orders",
        ] {
            assert!(bad.parse::<Rights>().is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MAX_SERVICES).map(|n| format!("write:s{n}")).collect();
        assert_eq!(many.join(",").parse::<Rights>(), Err(RightsError::TooMany));
        assert!(many[1..].join(",").parse::<Rights>().is_ok());
    }
}
