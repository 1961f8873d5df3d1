//! `/v1/explain`: where a request would go now, and why. The decision is made elsewhere, by the very function that the
//! data path calls; these are the words for it.

use std::{sync::Arc, time::Duration};

use axum::extract::Query;
use causeway_federation::{
    name::{PortName, ServiceName, Tags, ZoneName},
    topology::{ConnectionPolicy, Protocol, Service, Topology},
};
use causeway_routing::{
    permit::{Caller, RequestLine},
    route::{self, Destination, FullDecision, Reason, ReasonSubject, Why},
    snapshot::Snapshot,
    target::{Binding, Target},
};
use http::Uri;
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    error::ApiError,
    explain_request::AskedRequest,
    instances::service_name,
    permission::{self, CallersVerdict, CallersView, PermissionVerdict, PermissionView},
    view::{EjectionView, moment},
};

/// Most instances and zones that are told of as ejected.
const MAX_EJECTED_TOLD: usize = 20;

/// A routing decision in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Question that is to be explained.
pub(super) struct Asked {
    pub(super) target: Target,
    /// Port of the service; `None`: its primary one.
    pub(super) port: Option<PortName>,
    pub(super) caller: Option<Caller>,
    /// `None`: nothing is said of a request.
    pub(super) request: Option<AskedRequest>,
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
pub(super) fn explanation(decision: &FullDecision, own: &ZoneName) -> Explanation {
    let is_arm = |reason: &&Reason| matches!(reason.subject, ReasonSubject::Arm { .. });
    let arms = decision.reasons.iter().filter(is_arm);
    let places = decision.reasons.iter().filter(|reason| !is_arm(reason));
    Explanation {
        target: decision.target.to_string(),
        from: own.to_string(),
        steps: arms
            .chain(places)
            .map(|reason| step(reason, !decision.target.tags.is_empty()))
            .collect(),
        candidates: decision
            .candidates
            .iter()
            .map(|candidate| in_words(candidate, own))
            .collect(),
        outcome: bare(&decision.why.to_string()) + &shed_share(decision),
        permission: None,
        callers: None,
        open_connections: None,
        policies: Vec::new(),
        ejected: Vec::new(),
        answered_by: None,
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
        place => (
            arm.map_or_else(|| "places".to_owned(), |arm| format!("places for {arm}")),
            place.to_string(),
        ),
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

/// Reads `service=orders&port=admin&from=east&tag=version=v2&zone=west&caller=web@east&method=GET&path=/beta&host=shop.example&header=x-a:1`;
/// `tag`, `caller_tag` and `header` may come several times.
pub(super) fn request(state: &AdminState, uri: &Uri) -> Result<Asked, ApiError> {
    let hint = "for example /v1/explain?service=orders&from=east&tag=version=v2&zone=west&caller=web";
    let mut service = None;
    let (mut port, mut zone, mut tags) = (None, None, Vec::new());
    let (mut caller, mut caller_tags) = (None, Vec::new());
    let mut asked: Option<AskedRequest> = None;
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| ApiError::bad_request(error.to_string()).hint(hint))?;
    for (key, value) in pairs {
        match key.as_str() {
            "service" => service = Some(known_service(state, &value)?),
            "from" => check_from(state, &known_zone(state, &value)?)?,
            "port" => port = Some(value),
            "zone" => zone = Some(known_zone(state, &value)?),
            "caller" => caller = Some(value),
            "method" | "path" | "host" | "header" => {
                asked
                    .get_or_insert_with(AskedRequest::default)
                    .take(&key, value)?;
            }
            "tag" | "caller_tag" => match value.split_once('=') {
                Some(pair) if key == "tag" => tags.push(owned(pair)),
                Some(pair) => caller_tags.push(owned(pair)),
                None => {
                    return Err(ApiError::bad_request(format!("`{value}` is not a tag key=value")).hint(hint));
                }
            },
            _ => return Err(ApiError::bad_request(format!("unknown parameter `{key}`")).hint(hint)),
        }
    }
    let service =
        service.ok_or_else(|| ApiError::bad_request("the parameter `service` is missing").hint(hint))?;
    let port = port.map(|port| known_port(state, &service, &port)).transpose()?;
    let tags = tags.into_iter().collect();
    let target = Target { service, tags, zone };
    let caller = match caller {
        Some(text) => Some(permission::read_caller(
            &state.snapshots.load(),
            &text,
            caller_tags.into_iter().collect(),
        )?),
        None if !caller_tags.is_empty() => {
            return Err(ApiError::bad_request("`caller_tag` needs a `caller`").hint(hint));
        }
        None => None,
    };
    Ok(Asked {
        target,
        port,
        caller,
        request: asked,
    })
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Another zone's gateway decides by its own tunnels and health, which are not known here; a guess would mislead.
fn check_from(state: &AdminState, from: &ZoneName) -> Result<(), ApiError> {
    let own = &state.snapshots.load().zone;
    if from == own {
        return Ok(());
    }
    let error =
        format!("this is a gateway of zone {own}; only a gateway of {from} knows what a client there meets");
    Err(ApiError::bad_request(error).hint(format!("ask a gateway of {from}: --admin names its address")))
}

/// A service that the topology names: any other would only be explained as unknown.
fn known_service(state: &AdminState, text: &str) -> Result<ServiceName, ApiError> {
    let service = service_name(text)?;
    let services = &state.snapshots.load().topology.services;
    if services.contains_key(&service) {
        return Ok(service);
    }
    let known: Vec<_> = services.keys().map(ServiceName::as_str).collect();
    let error = ApiError::not_found(format!("the topology has no service `{service}`"));
    Err(error.hint(named("services", &known)))
}

/// A port that the topology names.
fn known_port(state: &AdminState, service: &ServiceName, text: &str) -> Result<PortName, ApiError> {
    let snapshot = state.snapshots.load();
    let declared = snapshot.topology.services.get(service).into_iter();
    let names = declared.flat_map(|service| service.ports.iter());
    let names: Vec<&PortName> = names.filter_map(|port| port.name.as_ref()).collect();
    if let Some(known) = names.iter().find(|name| name.as_str() == text) {
        return Ok((*known).clone());
    }
    let error = ApiError::not_found(format!("`{service}` has no port `{text}`"));
    let known: Vec<&str> = names.into_iter().map(PortName::as_str).collect();
    Err(error.hint(match known.is_empty() {
        true => "its only port has no name".to_owned(),
        false => named("ports", &known),
    }))
}

fn known_zone(state: &AdminState, text: &str) -> Result<ZoneName, ApiError> {
    let zone = ZoneName::new(text).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let zones = &state.snapshots.load().topology.zones;
    if zones.contains_key(&zone) {
        return Ok(zone);
    }
    let known: Vec<_> = zones.keys().map(ZoneName::as_str).collect();
    let error = ApiError::not_found(format!("the topology has no zone `{zone}`"));
    Err(error.hint(named("zones", &known)))
}

/// The names there are, as far as they fit on a line.
fn named(what: &str, known: &[&str]) -> String {
    /// More names than this help nobody.
    const SHOWN: usize = 12;
    match known.len() {
        0 => format!("the topology has no {what}"),
        count if count <= SHOWN => format!("its {what} are {}", known.join(", ")),
        count => format!(
            "its {what} are {} and {} more",
            known[..SHOWN].join(", "),
            count - SHOWN
        ),
    }
}

#[cfg(test)]
mod tests {
    use causeway_federation::topology::parse;

    use super::*;

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
