//! Permission of a caller to call a service, in words, for `/v1/explain`. The decision is made elsewhere, by the
//! functions that the data path calls.

use causeway_federation::{
    name::{CallerIdentity, ServiceName, Tags, ZoneName},
    topology::{DefaultPermission, PermissionEntry, Topology},
};
use causeway_routing::{
    permit::{Caller, Permission, RequestLine, Rule, decide, judged_by},
    snapshot::Snapshot,
};
use serde::{Deserialize, Serialize};

use super::error::ApiError;

/// A caller and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionView {
    /// `web@east`.
    pub caller: String,
    pub verdict: PermissionVerdict,
    /// Place in the topology that decides it, such as `services.orders.deny[0]`.
    pub rule: String,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionVerdict {
    Permitted,
    /// It would be forbidden if permissions were not only reported.
    DryRun,
    Forbidden,
}

/// Callers that may call a service, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallersView {
    pub verdict: CallersVerdict,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallersVerdict {
    Everyone,
    /// It depends on the caller.
    Some,
    /// Not everyone, if permissions were not only reported.
    DryRun,
    Nobody,
}

pub(super) fn callers(topology: &Topology, service: &ServiceName) -> CallersView {
    let known = topology.services.get(service);
    let (allow, deny) = (
        known.and_then(|known| known.allow.as_deref()),
        known.is_some_and(|known| !known.deny.is_empty()),
    );
    let (verdict, reason) = match (allow, topology.permissions.default) {
        (Some([]), _) => (
            CallersVerdict::Nobody,
            format!("services.{service}.allow is empty"),
        ),
        (Some(_), _) if deny => (
            CallersVerdict::Some,
            format!("those that services.{service}.allow means and services.{service}.deny does not"),
        ),
        (Some(_), _) => (
            CallersVerdict::Some,
            format!("those that services.{service}.allow means"),
        ),
        (None, DefaultPermission::Deny) => (
            CallersVerdict::Nobody,
            "without `allow`, permissions.default denies it".to_owned(),
        ),
        (None, DefaultPermission::Allow) if deny => (
            CallersVerdict::Some,
            format!("all but those that services.{service}.deny means"),
        ),
        (None, DefaultPermission::Allow) => (
            CallersVerdict::Everyone,
            "without `allow`, permissions.default allows it".to_owned(),
        ),
    };
    let verdict = match verdict {
        CallersVerdict::Some | CallersVerdict::Nobody if topology.permissions.dry_run => {
            CallersVerdict::DryRun
        }
        verdict => verdict,
    };
    CallersView { verdict, reason }
}

/// Says what `caller` may do, with `request` or, without one, at all.
pub(super) fn permission(
    snapshot: &Snapshot,
    caller: &Caller,
    service: &ServiceName,
    request: Option<&RequestLine<'_>>,
) -> PermissionView {
    let topology = &snapshot.topology;
    let verdict = decide(topology, caller, service, request);
    let mut reason = reason(topology, &verdict.rule, caller);
    if request.is_none() && verdict.passes() && judged_by(topology, caller, service).is_some() {
        reason.push_str("; it depends on the request (--method and --path ask about one)");
    }
    PermissionView {
        caller: caller.to_string(),
        verdict: match verdict.permission {
            Permission::Permitted => PermissionVerdict::Permitted,
            Permission::DryRun => PermissionVerdict::DryRun,
            Permission::Forbidden => PermissionVerdict::Forbidden,
        },
        rule: verdict.rule.to_string(),
        reason,
    }
}

fn reason(topology: &Topology, rule: &Rule, caller: &Caller) -> String {
    match rule {
        Rule::Deny(service, index) => {
            let known = topology.services.get(service);
            format!(
                "{rule} denies `{}`",
                entry(known.map(|known| known.deny.as_slice()), *index)
            )
        }
        Rule::Allow(service, index) => {
            let known = topology.services.get(service);
            let allow = known.and_then(|known| known.allow.as_deref());
            format!("{rule} allows `{}`", entry(allow, *index))
        }
        Rule::NotAllowed(service) if judged_by(topology, caller, service).is_some() => {
            format!("no entry of {rule} means such a request of it")
        }
        Rule::NotAllowed(_) => format!("no entry of {rule} means it"),
        Rule::Default => match topology.permissions.default {
            DefaultPermission::Allow => "without `allow`, permissions.default allows it".to_owned(),
            DefaultPermission::Deny => "without `allow`, permissions.default denies it".to_owned(),
        },
        Rule::RunIn(service) => {
            format!(
                "{rule} leaves zone {} out, so it may not vouch for {service}",
                caller.zone
            )
        }
        Rule::TrustDomain => format!(
            "of zone {} only identities of {} are believed",
            caller.zone,
            topology.trust_domain_of(&caller.zone)
        ),
        Rule::IdentityZone => format!(
            "zone {} may not vouch for an identity of another zone",
            caller.zone
        ),
        Rule::ExportTo(_) => format!("{rule} leaves zone {} out", caller.zone),
    }
}

fn entry(list: Option<&[PermissionEntry]>, index: usize) -> String {
    let entry = list.and_then(|list| list.get(index));
    entry.map(ToString::to_string).unwrap_or_default()
}

/// Reads `web`, `web@east`, `anonymous`, `spiffe://…@east`; without a zone it is in the own one.
pub(super) fn read_caller(snapshot: &Snapshot, text: &str, tags: Tags) -> Result<Caller, ApiError> {
    let hint =
        "for example caller=web, caller=batch@east, caller=anonymous, caller=spiffe://acme.internal/app/web";
    let bad = |error: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("`{text}` is no caller: {error}")).hint(hint)
    };
    let (who, zone) = match text.rsplit_once('@') {
        Some((who, zone)) => (who, ZoneName::new(zone).map_err(|error| bad(&error))?),
        None => (text, snapshot.zone.clone()),
    };
    if !snapshot.topology.zones.contains_key(&zone) {
        return Err(bad(&format!("the topology has no zone `{zone}`")));
    }
    let anonymous = Caller::anonymous(zone.clone());
    let caller = match who {
        "anonymous" => anonymous,
        who if who.starts_with("spiffe://") => Caller {
            identity: Some(who.parse::<CallerIdentity>().map_err(|error| bad(&error))?),
            ..anonymous
        },
        who => Caller::service(
            zone,
            ServiceName::new(who).map_err(|error| bad(&error))?,
            Tags::default(),
        ),
    };
    if caller.service.is_none() && !tags.is_empty() {
        return Err(bad(&"only the instance of a service has tags"));
    }
    Ok(Caller { tags, ..caller })
}
