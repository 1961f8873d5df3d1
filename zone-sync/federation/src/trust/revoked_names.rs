//! Names whose certificates are revoked: of a zone, or of one gateway. One line stands for every certificate that the name ever
//! had, so no holder can make the list long by renewing.

use std::collections::BTreeMap;

use causeway_proto::trust as proto;

use crate::name::{GatewayId, GatewayName, ZoneName};

/// Most names in a document. A zone that is revoked whole takes one, however many gateways it has.
pub const MAX_REVOKED_NAMES: usize = 4_096;
/// Most bytes of one in a document: two labels of 63, a time, and what encodes them.
pub(super) const MAX_REVOKED_NAME_BYTES: usize = 160;

/// Name that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokedName {
    /// Every gateway of a zone, and every caller whose SPIFFE id names it.
    Zone(ZoneName),
    Gateway(GatewayId),
}

/// Certificates of a name that are revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedUntil {
    /// Every one, whenever it was or will be issued.
    Forever,
    /// Those whose validity begins before this, in seconds since 1970: the name was let in again.
    Seconds(u64),
}

impl RevokedUntil {
    /// Tells whether a certificate whose validity begins at `not_before` (seconds since 1970) is revoked.
    #[must_use]
    pub fn covers(self, not_before: u64) -> bool {
        match self {
            Self::Forever => true,
            Self::Seconds(seconds) => not_before < seconds,
        }
    }
}

/// Names that were revoked, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedNames(BTreeMap<RevokedName, RevokedUntil>);

impl RevokedNames {
    pub fn insert(&mut self, name: RevokedName, until: RevokedUntil) {
        self.0.insert(name, until);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RevokedName, RevokedUntil)> {
        self.0.iter().map(|(name, until)| (name, *until))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether a certificate is revoked that names `zone` (and, if it is a gateway's, `gateway`) and begins at `not_before`.
    #[must_use]
    pub fn covers(&self, zone: &str, gateway: Option<&GatewayId>, not_before: u64) -> bool {
        let revoked = |name: &RevokedName| self.0.get(name).is_some_and(|until| until.covers(not_before));
        let zone = || ZoneName::new(zone).is_ok_and(|zone| revoked(&RevokedName::Zone(zone)));
        let gateway = || gateway.is_some_and(|gateway| revoked(&RevokedName::Gateway(gateway.clone())));
        !self.0.is_empty() && (gateway() || zone())
    }

    pub(super) fn message(&self) -> Vec<proto::RevokedName> {
        let one = |(name, until): (&RevokedName, RevokedUntil)| {
            let (zone, gateway) = match name {
                RevokedName::Zone(zone) => (zone, String::new()),
                RevokedName::Gateway(id) => (&id.zone, id.gateway.to_string()),
            };
            proto::RevokedName {
                zone: zone.to_string(),
                gateway,
                not_before_seconds: match until {
                    RevokedUntil::Forever => 0,
                    RevokedUntil::Seconds(seconds) => seconds,
                },
            }
        };
        self.iter().map(one).collect()
    }

    /// `None` when there are too many, one is named twice, or something is no name.
    pub(super) fn read(message: &[proto::RevokedName]) -> Option<Self> {
        if message.len() > MAX_REVOKED_NAMES {
            return None;
        }
        let mut names = Self::default();
        for one in message {
            let zone = ZoneName::new(&one.zone).ok()?;
            let name = match one.gateway.as_str() {
                "" => RevokedName::Zone(zone),
                gateway => RevokedName::Gateway(GatewayId::new(zone, GatewayName::new(gateway).ok()?)),
            };
            let until = match one.not_before_seconds {
                0 => RevokedUntil::Forever,
                seconds => RevokedUntil::Seconds(seconds),
            };
            if names.0.insert(name, until).is_some() {
                return None;
            }
        }
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str) -> GatewayId {
        let (zone, gateway) = name.split_once('/').unwrap();
        GatewayId::new(zone.parse().unwrap(), gateway.parse().unwrap())
    }

    #[test]
    fn a_name_covers_every_certificate_of_it_until_it_is_let_in_again() {
        let mut names = RevokedNames::default();
        names.insert(RevokedName::Zone("west".parse().unwrap()), RevokedUntil::Forever);
        names.insert(
            RevokedName::Gateway(gateway("north/gw1")),
            RevokedUntil::Seconds(100),
        );
        let covers = |id: &str, at| names.covers(id.split('/').next().unwrap(), Some(&gateway(id)), at);
        assert!(covers("west/gw1", u64::MAX) && covers("west/gw2", 0));
        assert!(names.covers("west", None, 7), "callers of the zone too");
        assert!(covers("north/gw1", 99) && !covers("north/gw1", 100));
        assert!(!covers("north/gw2", 0) && !names.covers("north", None, 0) && !covers("east/gw1", 0));
        assert_eq!(RevokedNames::read(&names.message()), Some(names));
    }

    #[test]
    fn names_that_are_none_or_come_twice_or_are_too_many_are_refused() {
        let one = |zone: &str, gateway: &str| proto::RevokedName {
            zone: zone.to_owned(),
            gateway: gateway.to_owned(),
            not_before_seconds: 0,
        };
        assert_eq!(RevokedNames::read(&[one("", "")]), None);
        assert_eq!(RevokedNames::read(&[one("west", "No Name")]), None);
        assert_eq!(RevokedNames::read(&[one("west", ""), one("west", "")]), None);
        let many: Vec<_> = (0..=MAX_REVOKED_NAMES)
            .map(|nth| one(&format!("z{nth}"), ""))
            .collect();
        assert_eq!(RevokedNames::read(&many), None);
        assert!(RevokedNames::read(&many[1..]).is_some());
    }

    #[test]
    fn a_name_is_as_short_as_the_limit_of_documents_says() {
        use prost::Message as _;
        let label = "a".repeat(63);
        let longest = proto::RevokedName {
            zone: label.clone(),
            gateway: label,
            not_before_seconds: u64::MAX,
        };
        // And the tag and length before it.
        assert!(longest.encoded_len() + 4 <= MAX_REVOKED_NAME_BYTES);
    }
}
