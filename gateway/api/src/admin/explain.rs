//! `/v1/explain`: where a request would go now, and why. The decision is made elsewhere, by the very function that the
//! data path calls; these are the words for it.

use std::{sync::Arc, time::Duration};

use causeway_federation::{
    name::{PortName, ServiceName, Tags, ZoneName},
    topology::{ConnectionPolicy, Protocol, Service, Topology},
    trust::RevokedNames,
};
use causeway_routing::{
    permit::RequestLine,
    route::{self, Destination, FullDecision, Reason, ReasonSubject, Why},
    snapshot::Snapshot,
    target::Binding,
};
use serde::{Deserialize, Serialize};

use super::{
    explain_query::Asked,
    permission::{self, CallersVerdict, CallersView, PermissionVerdict, PermissionView},
    view::{EjectionView, moment},
};

/// Most instances and zones that are told of as ejected.
const MAX_EJECTED_TOLD: usize = 20;

/// A routing decision in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The target, as `orders{version=v2}@west`, and the port that was asked about, as `orders:admin`.
    pub target: String,
    /// The zone that the connection comes from.
    pub from: String,
    /// Steps that were considered, arms of the split first and then each zone for each arm.
    pub steps: Vec<ExplainedStep>,
    /// Candidates that would be asked, first to last; empty when nobody can serve it.
    pub candidates: Vec<ExplainedCandidate>,
    /// Reason why the first candidate is the first, or why there is none.
    pub outcome: String,
    /// Tells whether the caller that was asked about may call; absent when none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<PermissionView>,
    /// Callers that may call, when no caller was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callers: Option<CallersView>,
    /// Time for which open connections stay where they are, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_connections: Option<String>,
    /// Time limits, retries, ejection and limits that are in force, as `retry: 2 more on reset; of GET; at most 20%`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Instances and zones that come after the others now, and why, in a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ejected: Vec<String>,
    /// Route by which the gateway answers itself, so that nobody is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
}

/// One filter and what it made of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedStep {
    /// Steps of the same filter in a row are shown together.
    pub filter: String,
    /// Subject that was looked at: a split arm, a zone, a gateway.
    pub subject: String,
    pub verdict: ExplainedVerdict,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainedVerdict {
    Taken,
    /// Would do, after those that were taken.
    InReserve,
    PassedOver,
}

/// One place that would be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedCandidate {
    pub zone: String,
    /// The gateway that would be asked; `None` in the own zone.
    pub gateway: Option<String>,
    /// Tags that the instance must carry.
    pub tags: Tags,
}

/// Puts a decision that was made with its reasons into words.
pub(super) fn explanation(
    decision: &FullDecision,
    own: &ZoneName,
    revoked: Option<&RevokedNames>,
) -> Explanation {
    let in_words_of = |reason: &Reason| {
        let step = step(reason, !decision.target.tags.is_empty());
        match revoked {
            Some(revoked) => with_revoked(step, &reason.subject, revoked),
            None => step,
        }
    };
    let is_arm = |reason: &&Reason| matches!(reason.subject, ReasonSubject::Arm { .. });
    let arms = decision.reasons.iter().filter(is_arm);
    let places = decision.reasons.iter().filter(|reason| !is_arm(reason));
    Explanation {
        target: decision.target.to_string(),
        from: own.to_string(),
        steps: arms.chain(places).map(in_words_of).collect(),
        candidates: decision
            .candidates
            .iter()
            .map(|candidate| in_words(candidate, own))
            .collect(),
        outcome: bare(&decision.why.to_string()) + &shed_share(decision),
        ..Explanation::default()
    }
}

/// Says that the outcome is one of two, where some of what is asked for is shed.
fn shed_share(decision: &FullDecision) -> String {
    let share = decision.reasons.iter().find_map(|reason| match reason.why {
        Why::ShedShare { percent } => Some(percent),
        _ => None,
    });
    share.map_or_else(String::new, |percent| {
        format!(" (drawn anew for each: {percent} % of what is asked for is shed, the rest is served)")
    })
}

/// Says of a zone or gateway that is revoked that nothing of it is believed, in the place of what follows from it.
fn with_revoked(step: ExplainedStep, subject: &ReasonSubject, revoked: &RevokedNames) -> ExplainedStep {
    // Only what is revoked for ever covers a certificate that begins last of all.
    let is_revoked = match subject {
        ReasonSubject::Gateway(id) => revoked.covers(id.zone.as_str(), Some(id), u64::MAX),
        ReasonSubject::Zone(zone) => revoked.covers(zone.as_str(), None, u64::MAX),
        _ => false,
    };
    match is_revoked && step.verdict == ExplainedVerdict::PassedOver {
        true => ExplainedStep {
            reason: "its certificates are revoked, so nothing of it is believed (`causeway revoke`)"
                .to_owned(),
            ..step
        },
        false => step,
    }
}

/// Says which port was asked about, if one was.
pub(super) fn with_port(explanation: Explanation, asked: &Asked) -> Explanation {
    let Some(port) = asked.port.clone() else {
        return explanation;
    };
    let target = asked.target.clone();
    Explanation {
        target: Binding {
            target,
            port: Some(port),
        }
        .to_string(),
        ..explanation
    }
}

/// Adds what is in force for connections and requests at `port`, with `route` and its time limit if one rules the request, and how long open
/// connections stay where they are.
pub(super) fn with_policies(
    explanation: Explanation,
    topology: &Topology,
    (service, port): (Option<&Service>, Option<&PortName>),
    route: Option<(Arc<str>, Option<Duration>)>,
) -> Explanation {
    let port = service.and_then(|service| Some((service, service.ports.get(port)?)));
    let Some((service, port)) = port else {
        return explanation;
    };
    let route = route.as_ref().map(|(name, timeout)| (&**name, *timeout));
    let policies = service.policies(port.protocol, route).into_iter();
    Explanation {
        policies: policies.map(|(key, says)| format!("{key}: {says}")).collect(),
        open_connections: Some(stay(service, port.protocol) + &ends_of_drains(topology)),
        ..explanation
    }
}

/// Puts the criticality of the request that is asked about in the place of its service's.
pub(super) fn with_criticality(mut explanation: Explanation, said: Option<String>) -> Explanation {
    if let Some(said) = said {
        let said = format!("criticality: {said}");
        let mut policies = explanation.policies.iter_mut();
        match policies.find(|line| line.starts_with("criticality: ")) {
            Some(line) => *line = said,
            None => explanation.policies.push(said),
        }
    }
    explanation
}

/// Adds what comes after the others now.
pub(super) fn with_ejected(explanation: Explanation, ejected: &[EjectionView]) -> Explanation {
    Explanation {
        ejected: ejected
            .iter()
            .take(MAX_EJECTED_TOLD)
            .map(ToString::to_string)
            .collect(),
        ..explanation
    }
}

/// Says which zones open connections leave by a moment.
fn ends_of_drains(topology: &Topology) -> String {
    let zones = topology.zones.iter();
    let ends = zones.filter_map(|(zone, declared)| {
        let by = moment(declared.drain.as_ref()?.by?);
        Some(format!(
            "; in {zone}, which drains, those that others can serve are ended by {by}"
        ))
    });
    ends.collect()
}

fn stay(service: &Service, protocol: Protocol) -> String {
    let ConnectionPolicy { linger, max_age, .. } = service.connections;
    let mut parts = Vec::new();
    let who = match protocol {
        Protocol::Http | Protocol::Grpc => {
            parts.push("requests are routed one by one".to_owned());
            "upgraded connections"
        }
        Protocol::Tcp | Protocol::Tls | Protocol::Udp => "open connections",
    };
    match linger {
        // Nothing becomes of its connections but more calls.
        _ if protocol == Protocol::Grpc => {}
        Some(linger) => parts.push(format!(
            "{who} are ended {} after they belong elsewhere",
            humantime::format_duration(linger)
        )),
        None => parts.push(format!(
            "{who} stay where they are for as long as both sides want"
        )),
    }
    if let Some(age) = max_age {
        let age = humantime::format_duration(age);
        parts.push(format!(
            "at the age of {age}, give or take a tenth, every connection ends"
        ));
    }
    parts.join("; ")
}

/// Adds what a caller may do, with the request that was asked about if one was. Who may not call is not routed; and where callers of another zone are routed to, only
/// the gateways there know.
pub(super) fn with_caller(
    explanation: Explanation,
    snapshot: &Snapshot,
    asked: &Asked,
    line: Option<&RequestLine<'_>>,
) -> Explanation {
    let Some(caller) = &asked.caller else {
        return with_callers(explanation, snapshot, &asked.target.service);
    };
    let permission = permission::permission(snapshot, caller, &asked.target.service, line);
    let unrouted = |outcome: String| Explanation {
        from: caller.zone.to_string(),
        steps: Vec::new(),
        candidates: Vec::new(),
        answered_by: None,
        outcome,
        ..explanation.clone()
    };
    let explanation = if permission.verdict == PermissionVerdict::Forbidden {
        unrouted(permission.reason.clone())
    } else if caller.zone != snapshot.zone {
        unrouted(format!(
            "only a gateway of {} knows where it goes from there",
            caller.zone
        ))
    } else {
        explanation
    };
    Explanation {
        permission: Some(permission),
        ..explanation
    }
}

/// Adds who may call, whoever it is. Where that is nobody, nobody is routed.
fn with_callers(explanation: Explanation, snapshot: &Snapshot, service: &ServiceName) -> Explanation {
    let callers = permission::callers(&snapshot.topology, service);
    let explanation = match callers.verdict {
        CallersVerdict::Nobody => Explanation {
            steps: Vec::new(),
            candidates: Vec::new(),
            answered_by: None,
            outcome: callers.reason.clone(),
            ..explanation
        },
        CallersVerdict::Everyone | CallersVerdict::Some | CallersVerdict::DryRun => explanation,
    };
    Explanation {
        callers: Some(callers),
        ..explanation
    }
}

fn step(reason: &Reason, tags_asked: bool) -> ExplainedStep {
    let arm = reason.arm.as_ref().filter(|tags| !tags.is_empty());
    let any = || "any tags".to_owned();
    let (filter, subject) = match &reason.subject {
        ReasonSubject::Arm { weight } => {
            let tags = arm.map_or_else(any, ToString::to_string);
            ("split".to_owned(), format!("{tags} weight {weight}"))
        }
        ReasonSubject::Tier(tier) => (
            arm.map_or_else(|| "spill".to_owned(), |arm| format!("spill for {arm}")),
            format!("tier {tier}"),
        ),
        place => {
            let filter = match reason.why {
                Why::ZoneShare { .. } | Why::ShedShare { .. } => "capacity",
                why if why.is_panic() => "panic",
                _ => "places",
            };
            (
                arm.map_or_else(|| filter.to_owned(), |arm| format!("{filter} for {arm}")),
                place.to_string(),
            )
        }
    };
    ExplainedStep {
        filter,
        subject,
        verdict: match reason.why {
            Why::Taken { .. } | Why::ArmPicked | Why::ArmByName => ExplainedVerdict::Taken,
            Why::TierShare { percent: 1.., .. } | Why::ZoneShare { .. } | Why::ArmStarting { .. } => {
                ExplainedVerdict::Taken
            }
            Why::ArmInReserve => ExplainedVerdict::InReserve,
            _ => ExplainedVerdict::PassedOver,
        },
        reason: match reason.why {
            // Nobody asked for tags that it could lack.
            Why::NoInstance if arm.is_none() && !tags_asked => "no instance".to_owned(),
            why => bare(&why.to_string()),
        },
    }
}

/// Without the verdict that the sentence begins with: it has a field of its own.
fn bare(sentence: &str) -> String {
    let bare = sentence
        .strip_prefix("passed over: ")
        .or_else(|| sentence.strip_prefix("taken: "));
    bare.unwrap_or(sentence).to_owned()
}

fn in_words(candidate: &route::Candidate, own: &ZoneName) -> ExplainedCandidate {
    ExplainedCandidate {
        zone: candidate.zone(own).to_string(),
        gateway: match &candidate.place {
            Destination::Local => None,
            Destination::Remote { gateway } => Some(gateway.gateway.to_string()),
        },
        tags: candidate.tags.clone(),
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::{
        name::GatewayId,
        topology::parse,
        trust::{RevokedName, RevokedUntil},
    };

    use super::*;

    #[test]
    fn capacity_and_panic_have_headers_of_their_own() {
        let place = |why| Reason {
            subject: ReasonSubject::Zone("east".parse().unwrap()),
            arm: None,
            why,
        };
        let taken = |panic| Why::Taken {
            tier: Some(1),
            own: true,
            age: causeway_federation::catalog::Age::Fresh,
            link: causeway_routing::snapshot::Link::Up,
            draining: false,
            failing: false,
            spilled: false,
            panic,
        };
        for (why, filter) in [
            (Why::NoneHealthy, "places"),
            (taken(false), "places"),
            (taken(true), "panic"),
            (
                Why::ZoneShare {
                    percent: 50,
                    measured: false,
                },
                "capacity",
            ),
            (Why::ShedShare { percent: 50 }, "capacity"),
        ] {
            assert_eq!(step(&place(why), false).filter, filter, "{why:?}");
        }
    }

    #[test]
    fn a_revoked_zone_is_said_to_be_revoked() {
        let (zone, gateway) = (
            |name: &str| ReasonSubject::Zone(name.parse().unwrap()),
            |zone: &str, name: &str| GatewayId::new(zone.parse().unwrap(), name.parse().unwrap()),
        );
        let subjects = [
            zone("west"),
            ReasonSubject::Gateway(gateway("west", "gw1")),
            ReasonSubject::Gateway(gateway("plant", "gw2")),
            ReasonSubject::Gateway(gateway("plant", "gw1")),
            zone("east"),
        ];
        let passed_over = |subject: &ReasonSubject| ExplainedStep {
            filter: "places".to_owned(),
            subject: subject.to_string(),
            verdict: ExplainedVerdict::PassedOver,
            reason: "zone sync has not heard of it".to_owned(),
        };
        let mut revoked = RevokedNames::default();
        revoked.insert(RevokedName::Zone("west".parse().unwrap()), RevokedUntil::Forever);
        // It was let in again.
        revoked.insert(
            RevokedName::Zone("east".parse().unwrap()),
            RevokedUntil::Seconds(7),
        );
        revoked.insert(
            RevokedName::Gateway(gateway("plant", "gw2")),
            RevokedUntil::Forever,
        );
        let told = subjects
            .iter()
            .map(|subject| with_revoked(passed_over(subject), subject, &revoked));
        let told: Vec<bool> = told.map(|step| step.reason.contains("revoked")).collect();
        assert_eq!(told, [true, true, true, false, false]);
    }

    #[test]
    fn it_is_told_how_long_open_connections_stay() {
        for (service, told) in [
            (
                "",
                "open connections stay where they are for as long as both sides want",
            ),
            (
                "protocol: tls, connections: { linger: 90s }",
                "open connections are ended 1m 30s after they belong elsewhere",
            ),
            (
                "protocol: http, connections: { linger: 5s, max_age: 1h }",
                "requests are routed one by one; upgraded connections are ended 5s after they belong elsewhere; \
                 at the age of 1h, give or take a tenth, every connection ends",
            ),
            ("protocol: grpc", "requests are routed one by one"),
        ] {
            let text = format!(
                "version: 1\ntrust_domain: a.b\nzones: {{ east: {{ gateways: [] }} }}\nservices: {{ orders: {{ port: 80, {service} }} }}\n"
            );
            let topology = parse(&text, "test.yaml").unwrap().topology;
            let orders = &topology.services["orders"];
            assert_eq!(stay(orders, orders.ports.primary.protocol), told);
        }
    }
}
