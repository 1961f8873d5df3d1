//! Exchanging the root of a federation for another: what comes after what, and what each step waits for. Everything here but
//! [`folder`] is pure; handing documents to gateways is the command's business.
//!
//! The steps, each of which can be begun again after a crash at any moment:
//! 1. `preparing`: the next CA is made beside the present one.
//! 2. `announcing`: the federation is told to trust both. It goes on when every zone does.
//! 3. `issuing`: the next CA takes the place of the present one, and the document prefers it, so that gateways renew. It
//!    goes on when the certificate of every gateway is of the new root.
//! 4. `retiring`: the federation is told to trust the new root alone. It is over when every zone does.

pub(crate) mod folder;

use std::{collections::BTreeSet, time::SystemTime};

use causeway_api::admin::view::{TrustSummary, TrustedGatewayView, TrustedZoneView};
use causeway_federation::name::ZoneName;
use causeway_identity::ca::issued::rfc3339;
use serde::{Deserialize, Serialize};

/// Step at which a rotation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RotationStep {
    Preparing,
    Announcing,
    Issuing,
    Retiring,
    Done,
}

impl RotationStep {
    #[must_use]
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Preparing => Self::Announcing,
            Self::Announcing => Self::Issuing,
            Self::Issuing => Self::Retiring,
            Self::Retiring | Self::Done => Self::Done,
        }
    }

    /// Describes what is done in it, for people.
    #[must_use]
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Preparing => "preparing: making the next CA",
            Self::Announcing => "announcing: every zone is to trust both roots",
            Self::Issuing => "issuing: every gateway is to get a certificate of the new root",
            Self::Retiring => "retiring: every zone is to trust the new root alone",
            Self::Done => "done",
        }
    }
}

/// Content of `rotation.json`. It is written before the step that it names is begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub step: RotationStep,
    /// SHA-256 of the root that goes.
    pub old: String,
    /// SHA-256 of the root that comes; absent while it is not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    #[serde(with = "rfc3339")]
    pub begun_at: SystemTime,
    /// Zones that are not waited for: they are left behind, and must join anew.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<ZoneName>,
}

/// Goal that a step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Goal {
    /// Generation and fingerprint of the document that everybody is to have.
    pub document: (u64, String),
    /// The root that is to have issued every gateway's certificate.
    pub issuer: Option<String>,
}

/// Reason why a zone is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lack {
    /// No gateway of it is heard.
    Away,
    /// These gateways do not have the document.
    Document(Vec<String>),
    /// These have certificates of another root.
    Certificate(Vec<String>),
}

/// For people, after the zone's name.
impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away => f.write_str("is not heard"),
            Self::Document(gateways) => write!(f, "does not have it yet ({})", gateways.join(", ")),
            Self::Certificate(gateways) => {
                write!(f, "has certificates of another root ({})", gateways.join(", "))
            }
        }
    }
}

/// The zones that lack what `goal` asks for, and what that is; those of `without` are not looked at.
#[must_use]
pub(crate) fn lacking<'a>(
    view: &'a TrustSummary,
    goal: &Goal,
    without: &BTreeSet<ZoneName>,
) -> Vec<(&'a str, Lack)> {
    // Zones of other trust domains get the document as well, but what they announce is that of their own.
    let asked = view
        .own_zones()
        .filter(|zone| !without.iter().any(|name| name.as_str() == zone.name));
    asked
        .filter_map(|zone| Some((zone.name.as_str(), lack(zone, goal)?)))
        .collect()
}

fn lack(zone: &TrustedZoneView, goal: &Goal) -> Option<Lack> {
    // A gateway that was not heard for long is gone, if another one of its zone is there.
    let present: Vec<_> = zone
        .gateways
        .iter()
        .filter(|gateway| gateway.age != "withdrawn")
        .collect();
    if present.is_empty() {
        return Some(Lack::Away);
    }
    let names = |fails: &dyn Fn(&TrustedGatewayView) -> bool| {
        let failing = present.iter().filter(|gateway| fails(gateway));
        failing.map(|gateway| gateway.gateway.clone()).collect::<Vec<_>>()
    };
    let without_document = names(&|gateway| !has(gateway, goal));
    if !without_document.is_empty() {
        return Some(Lack::Document(without_document));
    }
    let of_another = names(&|gateway| goal.issuer.is_some() && gateway.issuer != goal.issuer);
    (!of_another.is_empty()).then_some(Lack::Certificate(of_another))
}

/// Tells whether a gateway has the document, or one that came after it.
fn has(gateway: &TrustedGatewayView, goal: &Goal) -> bool {
    let (generation, fingerprint) = &goal.document;
    gateway.generation > *generation
        || (gateway.generation == *generation && gateway.fingerprint == *fingerprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(name: &str, age: &str, generation: u64, issuer: &str) -> TrustedGatewayView {
        TrustedGatewayView {
            gateway: name.to_owned(),
            age: age.to_owned(),
            generation,
            fingerprint: format!("f{generation}"),
            issuer: Some(issuer.to_owned()),
            ended_connections: 0,
        }
    }

    fn view(zones: Vec<(&str, Vec<TrustedGatewayView>)>) -> TrustSummary {
        let zone = |(name, gateways): (&str, Vec<_>)| TrustedZoneView {
            name: name.to_owned(),
            own: false,
            trust_domain: match name {
                "partner" => "partner.example",
                _ => "acme.internal",
            }
            .to_owned(),
            gateways,
        };
        TrustSummary {
            generation: 3,
            fingerprint: "f3".to_owned(),
            trust_domain: "acme.internal".to_owned(),
            roots: Vec::new(),
            revocations: Vec::new(),
            revoked_names: Vec::new(),
            other_trust_domains: Vec::new(),
            zones: zones.into_iter().map(zone).collect(),
        }
    }

    #[test]
    fn a_step_waits_for_every_zone_and_says_for_which_and_why() {
        let view = view(vec![
            (
                "done",
                vec![gateway("gw1", "own", 3, "new"), gateway("gw2", "fresh", 4, "new")],
            ),
            ("away", vec![]),
            ("gone", vec![gateway("gw1", "withdrawn", 3, "new")]),
            (
                "late",
                vec![
                    gateway("gw1", "fresh", 3, "new"),
                    gateway("gw2", "fresh", 2, "new"),
                ],
            ),
            ("partner", vec![gateway("gw1", "fresh", 7, "its own")]),
            ("old", vec![gateway("gw1", "suspect", 3, "old")]),
            (
                "replaced",
                vec![
                    gateway("gw1", "fresh", 3, "new"),
                    gateway("gw2", "withdrawn", 1, "old"),
                ],
            ),
        ]);
        let goal = Goal {
            document: (3, "f3".to_owned()),
            issuer: Some("new".to_owned()),
        };
        let expected = [
            ("away", Lack::Away),
            ("gone", Lack::Away),
            ("late", Lack::Document(vec!["gw2".to_owned()])),
            ("old", Lack::Certificate(vec!["gw1".to_owned()])),
        ];
        assert_eq!(lacking(&view, &goal, &BTreeSet::new()), expected);
        let without = ["away", "gone", "late"].map(|zone| zone.parse().unwrap());
        assert_eq!(lacking(&view, &goal, &without.into()), expected[3..]);
        let goal = Goal { issuer: None, ..goal };
        assert_eq!(lacking(&view, &goal, &BTreeSet::new()), expected[..3]);
    }

    #[test]
    fn another_document_of_the_same_generation_is_not_the_one() {
        let mut other = gateway("gw1", "fresh", 3, "new");
        other.fingerprint = "f9".to_owned();
        let goal = Goal {
            document: (3, "f3".to_owned()),
            issuer: None,
        };
        let view = view(vec![("west", vec![other])]);
        let lack = Lack::Document(vec!["gw1".to_owned()]);
        assert_eq!(lacking(&view, &goal, &BTreeSet::new()), [("west", lack)]);
    }

    #[test]
    fn the_steps_come_in_their_order_and_end() {
        let mut step = RotationStep::Preparing;
        let mut seen = vec![step];
        while step != RotationStep::Done {
            step = step.next();
            seen.push(step);
        }
        assert!(seen.is_sorted() && seen.len() == 5);
        assert_eq!(step.next(), RotationStep::Done);
    }
}
