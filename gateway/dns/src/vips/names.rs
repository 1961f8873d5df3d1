//! The readers' side of the table: an immutable value, swapped whole.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use causeway_federation::name::ServiceName;
use causeway_routing::target::Target;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::labels::{KnownTags, TagLabels};

/// The virtual addresses of one name: at least one, at most one of each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Vip {
    pub(super) fn of(v4: Option<IpAddr>, v6: Option<IpAddr>) -> Self {
        let mut vip = Self::default();
        for address in v4.into_iter().chain(v6) {
            match address {
                IpAddr::V4(address) => vip.v4 = Some(address),
                IpAddr::V6(address) => vip.v6 = Some(address),
            }
        }
        vip
    }

    pub(super) fn with(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self {
                v4: Some(address),
                ..self
            },
            IpAddr::V6(address) => Self {
                v6: Some(address),
                ..self
            },
        }
    }

    /// The v4 address and then the v6 one, as far as there are.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The addresses for which `keep` holds.
    pub(crate) fn only(&self, keep: impl Fn(IpAddr) -> bool) -> Self {
        Self {
            v4: self.v4.filter(|address| keep(IpAddr::V4(*address))),
            v6: self.v6.filter(|address| keep(IpAddr::V6(*address))),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// Time at which a name was last asked for, in seconds since the Unix epoch. Shared by all editions of the names.
#[derive(Debug, Clone, Default)]
pub(super) struct LastAsked(Arc<AtomicU64>);

impl LastAsked {
    pub(super) fn at(seconds: u64) -> Self {
        Self(Arc::new(seconds.into()))
    }

    pub(super) fn seconds(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn asked(&self, seconds: u64) {
        self.0.fetch_max(seconds, Ordering::Relaxed);
    }
}

/// Names do not become others by being asked for.
impl PartialEq for LastAsked {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for LastAsked {}

/// Name by tag or by zone that has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NarrowedName {
    pub(super) vip: Vip,
    pub(super) last_asked: LastAsked,
}

/// Every name that has an address now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VipNames {
    pub(super) services: BTreeMap<ServiceName, Vip>,
    pub(super) narrowed: BTreeMap<Target, NarrowedName>,
    pub(super) by_address: BTreeMap<IpAddr, Target>,
    /// The tags that are known, of whatever can be asked for.
    pub(super) known: Arc<KnownTags>,
    /// The tags by which names were asked for, without those whose label another tag bears as well.
    pub(super) held: BTreeMap<ServiceName, TagLabels>,
    /// Empty in address mode.
    pub(super) ranges: Vec<IpNet>,
    /// Address of every service, in address mode.
    pub(super) gateway_address: Option<IpAddr>,
}

impl VipNames {
    #[must_use]
    pub fn service(&self, service: &str) -> Option<Vip> {
        self.services.get(service).copied()
    }

    /// The address of any name; of one by tag or by zone only if it was asked for before.
    #[must_use]
    pub fn vip(&self, target: &Target) -> Option<Vip> {
        if target.is_whole() {
            return self.service(target.service.as_str());
        }
        self.narrowed.get(target).map(|name| name.vip)
    }

    /// The one tag of `service` that has this DNS label, known now or by a name that was asked for before; `None` if there is
    /// none, or more than one.
    pub(crate) fn tag_with_label(&self, service: &ServiceName, label: &str) -> Option<(&str, &str)> {
        let held = self.held.get(service).into_iter();
        let held = held.flat_map(|held| held.with_label(label));
        let mut all = held.chain(self.known.with_label(service, label));
        let found = all.next()?;
        all.all(|other| other == found).then_some(found)
    }

    /// Target that an address stands for. Always `None` in address mode, where the port decides.
    #[must_use]
    pub(crate) fn target_at(&self, address: IpAddr) -> Option<&Target> {
        self.by_address.get(&address)
    }

    /// The range that holds all of `network`, if any.
    #[must_use]
    pub(crate) fn range_of(&self, network: &IpNet) -> Option<&IpNet> {
        self.ranges.iter().find(|range| range.contains(network))
    }

    /// Tells whether names by tag and by zone can have an address of their own. Not in address mode.
    #[must_use]
    pub(crate) fn can_narrow(&self) -> bool {
        self.gateway_address.is_none()
    }
}
