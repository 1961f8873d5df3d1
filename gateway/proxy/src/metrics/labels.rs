//! Label sets of the data path.

use std::sync::Arc;

use causeway_telemetry::{
    KnownNames, NamedLabels,
    labels::{ArmLabel, ServiceLabel, ZoneLabel},
};
use prometheus_client::encoding::EncodeLabelSet;

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByRole {
    pub(super) role: &'static str,
    pub(super) service: ServiceLabel,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOutcome {
    pub(super) role: &'static str,
    pub(super) service: ServiceLabel,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByRoute {
    pub(super) service: ServiceLabel,
    /// Names and places of routes are bounded by the topology.
    pub(super) route: Arc<str>,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByDirection {
    pub(super) role: &'static str,
    pub(super) service: ServiceLabel,
    pub(super) direction: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByService {
    pub(super) service: ServiceLabel,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceLimit {
    pub(super) service: ServiceLabel,
    pub(super) limit: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServicePart {
    pub(super) service: ServiceLabel,
    pub(super) part: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceReason {
    pub(super) service: ServiceLabel,
    pub(super) reason: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByServiceWhy {
    pub(super) service: ServiceLabel,
    pub(super) why: &'static str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByRoleServiceRule {
    pub(super) role: &'static str,
    pub(super) service: ServiceLabel,
    pub(super) rule: &'static str,
    pub(super) result: &'static str,
}

/// Of a request: where it went, and what its client got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByRequest {
    pub(super) service: ServiceLabel,
    /// Zone that it was given to, or none.
    pub(super) zone: ZoneLabel,
    pub(super) arm: ArmLabel,
    pub(super) outcome: &'static str,
    /// Class of the status.
    pub(super) status: &'static str,
    pub(super) grpc_status: &'static str,
}

impl NamedLabels for ByRequest {
    fn is_named(&self, known: &KnownNames) -> bool {
        known.has_service(&self.service)
            && known.has_zone(&self.zone)
            && known.has_arm(&self.service, &self.arm)
    }
}

impl NamedLabels for ByRoute {
    fn is_named(&self, known: &KnownNames) -> bool {
        known.has_service(&self.service) && known.has_route(&self.service, &self.route)
    }
}

macro_rules! named_by_service {
    ($($labels:ty),+) => {$(
        impl NamedLabels for $labels {
            fn is_named(&self, known: &KnownNames) -> bool {
                known.has_service(&self.service)
            }
        }
    )+};
}

named_by_service!(
    ByRole,
    ByOutcome,
    ByDirection,
    ByService,
    ByServiceLimit,
    ByServicePart,
    ByServiceReason,
    ByServiceWhy,
    ByRoleServiceRule
);
