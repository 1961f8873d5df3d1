//! Promises: what goes on when something else is lost, as `causeway simulate` checks it. Nothing in a running gateway acts on them.

use std::{collections::BTreeSet, fmt};

use super::model::Criticality;
use crate::name::{ServiceName, ZoneName};

/// One promise of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Promise {
    pub lose: PromisedLoss,
    pub keep: PromisedRest,
}

/// Loss that a promise is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PromisedLoss {
    /// Each zone, one after another.
    AnyZone,
    /// One gateway of each zone, one after another.
    AnyGateway,
    /// One instance of each kind, one after another.
    AnyInstance,
    /// These zones together; none of them: everything is well.
    Zones(BTreeSet<ZoneName>),
}

/// Traffic that goes on in spite of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PromisedRest {
    All,
    /// Everything of this criticality or a higher one.
    Criticality(Criticality),
    Services(BTreeSet<ServiceName>),
}

impl PromisedRest {
    /// Tells whether traffic of a service is part of it.
    #[must_use]
    pub fn keeps(&self, service: &ServiceName, criticality: Criticality) -> bool {
        match self {
            Self::All => true,
            Self::Criticality(least) => criticality <= *least,
            Self::Services(services) => services.contains(service),
        }
    }
}

/// `lose any zone, keep critical`; `lose east and west, keep orders`.
impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lose {}, keep {}", self.lose, self.keep)
    }
}

impl fmt::Display for PromisedLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyZone => f.write_str("any zone"),
            Self::AnyGateway => f.write_str("any gateway"),
            Self::AnyInstance => f.write_str("any instance"),
            Self::Zones(zones) if zones.is_empty() => f.write_str("nothing"),
            Self::Zones(zones) => f.write_str(&joined(zones.iter().map(ZoneName::as_str))),
        }
    }
}

impl fmt::Display for PromisedRest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Criticality(least) => f.write_str(least.word()),
            Self::Services(services) => f.write_str(&joined(services.iter().map(ServiceName::as_str))),
        }
    }
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(" and ")
}
