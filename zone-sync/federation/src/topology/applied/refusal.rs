//! Reasons why a topology is not taken: from an operator or from another gateway.

use super::{
    super::{BeyondRights, Diagnostics, EditError, MAX_OWN_BLOCK_BYTES},
    Applied,
};
use crate::{
    edition::Edition,
    name::{GatewayId, ServiceName, ZoneName},
    signing::Unproven,
};

/// Reason why a topology is not taken. What is in force stays in force.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopologyRefusal {
    #[error("generation {in_force} is in force, not {expected}{}", applied_by(by.as_ref()))]
    Stale {
        expected: u64,
        in_force: u64,
        by: Option<GatewayId>,
    },
    #[error("the topology cannot be used: {0}")]
    Invalid(Box<Diagnostics>),
    #[error("the topology has no zone `{0}`, which this gateway serves")]
    NoOwnZone(ZoneName),
    #[error("in the topology this zone is of trust domain `{would_be}`, and its certificates are of `{is}`")]
    TrustDomain { is: String, would_be: String },
    #[error("zone `{zone}` may not apply topologies: generation {generation} does not let it (`apply_from`)")]
    NotAllowed { zone: ZoneName, generation: u64 },
    #[error("generation {newer}, applied by {by}, is in force elsewhere, and this gateway cannot use it")]
    Behind { newer: Edition, by: GatewayId },
    #[error("there can be no generation after {0}")]
    LastGeneration(u64),
    #[error("the document of generation {edition} is not signed by {by}, which it names")]
    Unsigned {
        edition: Edition,
        by: GatewayId,
        #[source]
        why: Unproven,
    },
    #[error(
        "nobody who may apply stands for generation {edition} now: the certificate that {by} signed it with is not believed any more"
    )]
    Lapsed { edition: Edition, by: GatewayId },
    #[error(
        "generation {edition} cannot overrule what is in force: it is not proven that {by}, which it names, made it"
    )]
    Unproven { edition: Edition, by: GatewayId },
    #[error("service {} under a shift, or would be, and this changes {}", named(.0), if .0.len() == 1 { "it" } else { "them" })]
    UnderShift(Vec<ServiceName>),
    #[error(transparent)]
    BeyondRights(#[from] BeyondRights),
    /// Blocks cannot be put into the text in force.
    #[error(transparent)]
    Block(#[from] EditError),
    #[error("a block of more than {} KiB is for who may change everything", MAX_OWN_BLOCK_BYTES / 1024)]
    LongBlock,
}

impl TopologyRefusal {
    /// A fixed word, for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stale { .. } => "stale",
            Self::Invalid(_) => "invalid",
            Self::NoOwnZone(_) => "no_own_zone",
            Self::TrustDomain { .. } => "trust_domain",
            Self::NotAllowed { .. } => "not_allowed",
            Self::Behind { .. } => "behind",
            Self::LastGeneration(_) => "last_generation",
            Self::Unsigned { .. } => "unsigned",
            Self::Lapsed { .. } => "lapsed",
            Self::Unproven { .. } => "unproven",
            Self::UnderShift(_) => "under_shift",
            Self::BeyondRights(_) => "scope",
            Self::Block(_) => "block",
            Self::LongBlock => "long_block",
        }
    }

    /// Advice on what to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Stale { .. } => {
                "see what changed with `causeway get topology --history`, and apply again on top of it"
            }
            Self::Invalid(_) => "`causeway validate FILE` shows every mistake with its line",
            Self::NoOwnZone(_) => {
                "a zone leaves the federation by ending its gateways and applying elsewhere"
            }
            Self::TrustDomain { .. } => {
                "another trust domain takes new certificates everywhere, and a restart"
            }
            Self::NotAllowed { .. } => "apply it at a gateway of a zone that may, or have one add this zone",
            Self::Behind { .. } => {
                "the log of this gateway says why; run the same version everywhere, or apply at another gateway"
            }
            Self::LastGeneration(_) => "begin anew: end every gateway, and start them with --topology FILE",
            Self::Unsigned { .. } => {
                "a peer sent what it made up, or the certificate that it was signed with has ended or is revoked: a gateway of a zone \
                 that may apply (`apply_from`) has to be reachable that has it in force"
            }
            Self::Lapsed { .. } | Self::Unproven { .. } => {
                "a gateway of a zone that may apply (`apply_from`) signs what it runs again whenever its certificate is renewed: have \
                 one within reach, or apply again there"
            }
            Self::UnderShift(_) => {
                "`causeway shift status SERVICE` shows it; wait for its end, or end it with `causeway shift abort SERVICE`; \
                 `causeway apply --force` does both at once"
            }
            Self::BeyondRights(_) => {
                "a token or certificate of the scope `write:SERVICE` changes the block of that service; its ports, `run_in`, `criticality` and \
                 `class`, the zones and all else take `write`: ask who may"
            }
            Self::Block(error) => error.hint(),
            Self::LongBlock => "shorten it, or ask who may change everything",
        }
    }

    /// Tells whether the others run it and this gateway cannot follow: then an apply here would be of the past.
    pub(super) fn leaves_behind(&self) -> bool {
        matches!(
            self,
            Self::Invalid(_) | Self::NoOwnZone(_) | Self::TrustDomain { .. }
        )
    }
}

impl Applied {
    /// # Errors
    /// When another generation is in force.
    pub fn expect_generation(&self, expected: u64) -> Result<(), TopologyRefusal> {
        let in_force = self.edition().generation;
        match in_force == expected {
            true => Ok(()),
            false => Err(TopologyRefusal::Stale {
                expected,
                in_force,
                by: self.document().map(|document| document.by().clone()),
            }),
        }
    }
}

/// `orders is`, `orders and web are`, `a, b, c and 7 more are`.
fn named(services: &[ServiceName]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = services.iter().take(SHOWN).map(ServiceName::as_str).collect();
    match (services.len().saturating_sub(SHOWN), shown.as_slice()) {
        (0, [one]) => format!("{one} is"),
        (0, several) => format!("{} are", several.join(", ")),
        (more, several) => format!("{} and {more} more are", several.join(", ")),
    }
}

fn applied_by(by: Option<&GatewayId>) -> String {
    by.map_or_else(String::new, |by| format!(": {by} applied it"))
}
