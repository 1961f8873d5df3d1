//! Reasons that a decision took or passed over each arm, zone and gateway: fixed words for metrics and JSON, sentences for
//! people.

use std::fmt;

use causeway_federation::{
    catalog::Age,
    name::{GatewayId, ServiceName, Tags, ZoneName},
};
use serde::Serialize;

use super::TierHealth;
use crate::snapshot::Link;

/// One line of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    pub subject: ReasonSubject,
    /// Tags of the split arm under which this was decided; `None`: for all arms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<Tags>,
    #[serde(flatten)]
    pub why: Why,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subject)?;
        if let Some(arm) = &self.arm {
            write!(f, " {arm}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Subject of a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonSubject {
    Service(ServiceName),
    Arm {
        weight: u32,
    },
    /// This zone's own instances.
    OwnZone(ZoneName),
    Gateway(GatewayId),
    /// Counts from 1.
    Tier(usize),
    /// A zone of the topology none of whose gateways has been heard of.
    Zone(ZoneName),
}

impl fmt::Display for ReasonSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => write!(f, "service {service}"),
            Self::Arm { weight } => write!(f, "arm of weight {weight}"),
            Self::OwnZone(zone) => write!(f, "own zone {zone}"),
            Self::Gateway(gateway) => write!(f, "gateway {gateway}"),
            Self::Tier(tier) => write!(f, "tier {tier}"),
            Self::Zone(zone) => write!(f, "zone {zone}"),
        }
    }
}

/// Reason that something was taken or passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Why {
    /// It is a candidate. `tier` counts from 1; `None` when the name itself names the zone.
    Taken {
        tier: Option<usize>,
        own: bool,
        age: Age,
        link: Link,
        /// Its gateway is shutting down, or the topology drains its zone: it serves those who can go nowhere else.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        draining: bool,
        /// Several of its instances have failed in a row.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        failing: bool,
        /// Its tier was drawn by spill in the place of an earlier one.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        spilled: bool,
        /// No instance is healthy, here or elsewhere, so that those are used that are ill.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        panic: bool,
    },
    /// Part of the traffic that a tier gets by spill.
    TierShare {
        #[serde(flatten)]
        health: TierHealth,
        /// 0 to 100.
        percent: u8,
        /// It was ill, and failback does not let it take all yet that it could.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        returning: bool,
    },
    /// Part of the traffic that a zone gets by its capacity.
    ZoneShare {
        /// 0 to 100.
        percent: u8,
        /// That was measured.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        measured: bool,
    },
    /// Part of the traffic that fits nowhere.
    ShedShare {
        /// 0 to 100.
        percent: u8,
    },
    /// More is asked for than there is capacity for, and this is what is refused.
    Shed,
    /// This arm's candidates come first.
    ArmPicked,
    /// No arm of the split agrees with the tags of the name, so the name alone counts.
    ArmByName,
    /// All that serves this arm is new, or healthy again, and it has a part of its weight.
    ArmStarting {
        /// 0 to 100.
        percent: u8,
    },
    /// This arm's candidates come after, as a last resort.
    ArmInReserve,
    ArmWeightZero,
    ArmContradictsName,
    ArmWithoutHome,
    UnknownService,
    /// No arm has a home anywhere.
    NoHome,
    OtherZoneNamed,
    NotExported,
    MayNotRun,
    NeverHeard,
    Withdrawn,
    NoTunnel,
    NoInstance,
    /// Other zones count one that is drained as ill, and do not tell the two apart.
    NoneHealthy,
    /// This zone's healthy instances are drained.
    Drained,
    NoWeight,
    NotInTopology,
    NoTier,
}

impl Why {
    /// Tells whether this names a candidate.
    #[must_use]
    pub fn taken(self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    /// Tells whether it is a candidate only because no instance is healthy anywhere.
    #[must_use]
    pub fn is_panic(self) -> bool {
        matches!(self, Self::Taken { panic: true, .. })
    }

    /// A fixed word, for metrics and the access log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken { panic: true, .. } => "panic",
            Self::Taken {
                link: Link::Stalled, ..
            } => "stalled",
            Self::Taken { draining: true, .. } => "draining",
            // Whoever is not ejected would have come before it.
            Self::Taken { failing: true, .. } => "ejected",
            Self::Taken { spilled: true, .. } => "spilled",
            Self::Taken { own: true, .. } => "own_zone",
            Self::Taken { tier: None, .. } => "named_zone",
            Self::Taken { tier: Some(1), .. } => "first_tier",
            Self::Taken { .. } => "later_tier",
            Self::TierShare { .. } => "tier_share",
            Self::ZoneShare { .. } => "zone_share",
            Self::ShedShare { .. } => "shed_share",
            Self::Shed => "shed",
            Self::ArmPicked => "arm_picked",
            Self::ArmByName => "arm_by_name",
            Self::ArmStarting { .. } => "arm_starting",
            Self::ArmInReserve => "arm_in_reserve",
            Self::ArmWeightZero => "arm_weight_zero",
            Self::ArmContradictsName => "arm_contradicts_name",
            Self::ArmWithoutHome => "arm_without_home",
            Self::UnknownService => "unknown_service",
            Self::NoHome => "no_candidate",
            Self::OtherZoneNamed => "other_zone_named",
            Self::NotExported => "not_exported",
            Self::MayNotRun => "may_not_run",
            Self::NeverHeard => "never_heard",
            Self::Withdrawn => "withdrawn",
            Self::NoTunnel => "no_tunnel",
            Self::NoInstance => "no_instance",
            Self::NoneHealthy => "none_healthy",
            Self::Drained => "drained",
            Self::NoWeight => "no_weight",
            Self::NotInTopology => "not_in_topology",
            Self::NoTier => "no_tier",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Taken { .. } => "taken",
            Self::TierShare { .. } | Self::ZoneShare { .. } | Self::ShedShare { .. } => "has a share",
            Self::Shed => "shed: more is asked for than there is capacity for",
            Self::ArmPicked => "picked by weight",
            Self::ArmByName => "the name asks for tags that no arm of the split has; the name alone counts",
            Self::ArmStarting { .. } => "has a part of its weight",
            Self::ArmInReserve => "used only when the arms before it serve nowhere",
            Self::ArmWeightZero => "passed over: its weight is 0",
            Self::ArmContradictsName => "passed over: the name asks for other tags",
            Self::ArmWithoutHome => {
                "no zone can serve it now; its share goes to the other arms, those of weight 0 aside"
            }
            Self::UnknownService => "passed over: the topology has no such service",
            Self::NoHome => "no zone can serve it now",
            Self::OtherZoneNamed => "passed over: the name asks for another zone",
            Self::NotExported => "passed over: export_to leaves this zone out",
            Self::MayNotRun => "passed over: run_in leaves it out",
            Self::NeverHeard => "passed over: zone sync has not heard of it",
            Self::Withdrawn => "passed over: not heard for too long",
            Self::NoTunnel => "passed over: no tunnel is up",
            Self::NoInstance => "passed over: no instance carries the tags",
            Self::NoneHealthy => {
                "passed over: no instance with the tags is healthy (one that is drained does not count)"
            }
            Self::Drained => "passed over: every healthy instance with the tags is drained",
            Self::NoWeight => "passed over: all healthy instances have weight 0",
            Self::NotInTopology => "passed over: the topology has no such zone",
            Self::NoTier => "passed over: no failover tier matches it",
        }
    }
}

impl Why {
    /// Words of one that tells of a share; `None`: it tells of something else.
    fn share_in_words(&self) -> Option<String> {
        let words = match self {
            Self::TierShare {
                health,
                percent,
                returning,
            } => {
                let TierHealth { healthy, instances } = health;
                let more = if *returning {
                    ", and more as it comes back"
                } else {
                    ""
                };
                format!("{healthy} of {instances} instances can serve: {percent} % of the traffic{more}")
            }
            Self::ZoneShare { percent, measured } => {
                let measured = if *measured { "measured " } else { "" };
                format!("takes {percent} % of the traffic, as its {measured}capacity allows")
            }
            Self::ArmStarting { percent } => format!("at its slow start: it has {percent} % of its weight"),
            Self::ShedShare { percent } => {
                format!("{percent} % of the traffic is shed: there is no capacity for it")
            }
            _ => return None,
        };
        Some(words)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(share) = self.share_in_words() {
            return f.write_str(&share);
        }
        let Self::Taken {
            tier,
            own,
            age,
            link,
            draining,
            failing,
            spilled,
            panic,
        } = self
        else {
            return f.write_str(self.sentence());
        };
        match tier {
            Some(tier) => write!(f, "taken: tier {tier}")?,
            None => f.write_str("taken: named by the client")?,
        }
        if *spilled {
            f.write_str(", which has a share because earlier ones have too few healthy instances")?;
        }
        if *own {
            f.write_str(", own zone first")?;
        }
        if *panic {
            f.write_str(", in panic: no instance is healthy anywhere, so those that are ill are used")?;
        }
        if *age != Age::Fresh {
            f.write_str(match link {
                Link::Up => ", as its tunnel answers, though zone sync has not heard of it for a while",
                _ => ", by a quarter of its weight: not heard for a while",
            })?;
        }
        if *failing {
            f.write_str(", ejected, so after all that are not: its instances have failed in a row")?;
        }
        if *draining {
            f.write_str(", after those that stay: its zone or gateway drains")?;
        }
        if *link == Link::Stalled {
            f.write_str(", last: its tunnels have gone silent")?;
        }
        Ok(())
    }
}

/// Collects reasons, or drops them unformed when nobody asked.
#[derive(Debug)]
pub(super) struct Reasons {
    list: Option<Vec<Reason>>,
}

impl Reasons {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            list: wanted.then(Vec::new),
        }
    }

    pub(super) fn wanted(&self) -> bool {
        self.list.is_some()
    }

    pub(super) fn note(&mut self, subject: impl FnOnce() -> ReasonSubject, arm: Option<&Tags>, why: Why) {
        if let Some(list) = &mut self.list {
            list.push(Reason {
                subject: subject(),
                arm: arm.cloned(),
                why,
            });
        }
    }

    pub(super) fn note_if(&mut self, why: Option<Why>, subject: impl FnOnce() -> ReasonSubject, arm: &Tags) {
        if let Some(why) = why {
            self.note(subject, Some(arm), why);
        }
    }

    pub(super) fn into_vec(self) -> Vec<Reason> {
        self.list.unwrap_or_default()
    }
}
