//! Is all well with what this gateway trusts? For `/readyz` and `causeway check`.

use std::time::{Duration, SystemTime};

use causeway_federation::topology::Topology;
use causeway_identity::{Anchors, Identity, LiveIdentity, describe_root};
use causeway_telemetry::Check;

use super::Trusted;

const GROUP: &str = "gateway";
const NAME: &str = "trust";
/// A root that ends sooner is told of: by then another one has to be in everybody's topology.
const BUNDLE_ENDS_WITHIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Nothing here keeps local clients from being served, so the worst is a warning.
#[must_use]
pub fn check(
    identity: &LiveIdentity,
    trusted: Option<&Trusted>,
    topology: &Topology,
    now: SystemTime,
) -> Check {
    let view = identity.trust();
    if let Some(conflict) = view.conflict {
        return Check::warn(
            GROUP,
            NAME,
            format!(
                "two trust documents were made without knowing of each other: {} is in force, {} is overruled",
                conflict.winner, conflict.loser
            ),
            "is the CA's folder in use in two places? the next generation ends this warning",
        );
    }
    if let Some(refused) = trusted.and_then(Trusted::refused) {
        return Check::warn(
            GROUP,
            NAME,
            format!(
                "the trust document of generation {}, which {} has, is refused: {}",
                refused.edition, refused.peer, refused.why
            ),
            refused.hint,
        );
    }
    if view.disk_fails {
        return Check::warn(
            GROUP,
            NAME,
            "the trust document in force is not on disk; a restart would go back to an older one",
            "is the --data folder full or read-only?",
        );
    }
    let current = identity.current();
    let anchors = current.anchors();
    if let Some(list) = anchors
        .revocations
        .lists()
        .iter()
        .find(|list| list.is_overdue(now))
    {
        return Check::warn(
            GROUP,
            NAME,
            format!(
                "the revocation list of {} in {} is out of date; it is honoured all the same",
                list.issuer, list.place
            ),
            "whoever issues it should have put a newer one in its place",
        );
    }
    match trust_domains(&current, topology, now) {
        Some(amiss) => amiss,
        None => Check::ok(GROUP, NAME, in_force(anchors, identity.agent().is_some())),
    }
}

/// Says what is believed, in one line; `from_agent`: the identity comes from the SPIFFE Workload API.
fn in_force(anchors: &Anchors, from_agent: bool) -> String {
    let lists = anchors.revocations.lists().iter();
    let revoked: usize = lists.map(|list| list.serials.len()).sum();
    let roots = anchors.roots.len();
    let rule = match anchors.edition.generation {
        0 if from_agent => "the bundle of the SPIFFE Workload API rules".to_owned(),
        0 => "ca.pem rules".to_owned(),
        _ => format!("the trust document of generation {} rules", anchors.edition),
    };
    let names = match anchors.revocations.names().len() {
        0 => String::new(),
        count => format!(", revoked names: {count}"),
    };
    let others = match anchors.federated.domains().count() {
        0 => String::new(),
        count => format!("; other trust domains: {count}"),
    };
    format!("{rule}; roots: {roots}, revoked certificates: {revoked}{names}{others}")
}

/// Finds what is amiss between this gateway's trust domain and the others of the topology.
fn trust_domains(identity: &Identity, topology: &Topology, now: SystemTime) -> Option<Check> {
    let own = identity.trust_domain();
    let (zone, wanted) = (
        &identity.gateway().zone,
        topology.trust_domain_of(&identity.gateway().zone),
    );
    if wanted != own {
        return Some(Check::warn(
            GROUP,
            NAME,
            format!(
                "in the topology zone {zone} is of trust domain {wanted}, and this gateway's certificate of {own}: other zones refuse it"
            ),
            "correct `trust_domain` in the topology, or get a certificate of that trust domain with `causeway join`",
        ));
    }
    let issuer = identity.issuer();
    if let (Some(bundle), Some(issuer)) = (topology.trust_domains.get(own), issuer)
        && !bundle.roots().contains_key(&issuer)
        && identity.anchors().edition.generation == 0
    {
        return Some(Check::warn(
            GROUP,
            NAME,
            format!(
                "the topology's bundle of {own} lacks the root of this gateway's certificate: zones of other trust domains refuse it"
            ),
            format!("put the CA's certificate, {issuer}, into the bundle"),
        ));
    }
    let anchors = identity.anchors();
    anchors.federated.domains().find_map(|(domain, anchors)| {
        let ends = anchors.roots.values().filter_map(|root| describe_root(root).1);
        let last = ends.max();
        let ended = last.is_none_or(|end| end < now + BUNDLE_ENDS_WITHIN);
        let zones = topology.zones.values().any(|zone| zone.trust_domain == domain);
        (ended && zones).then(|| {
            let end = last.map_or_else(
                || "none of its roots can be used".to_owned(),
                |end| format!("its last root ends at {}", humantime::format_rfc3339_seconds(end)),
            );
            Check::warn(
                GROUP,
                NAME,
                format!("the bundle of {domain} is running out: {end}"),
                "ask its operators for their CA's new certificate, and put it beside the old one in the topology",
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use causeway_federation::name::GatewayId;

    use super::*;
    use causeway_identity::{
        ca::{Ca, LEAF_VALIDITY},
        testbed::{OURS, THEIRS, partners},
    };
    use causeway_telemetry::Status;

    #[test]
    fn what_is_amiss_between_trust_domains_is_told_before_it_hurts() {
        let [ours, theirs, stranger] = [OURS, THEIRS, OURS].map(|domain| Ca::new(domain).unwrap());
        let id = GatewayId::new("east".parse().unwrap(), "gw1".parse().unwrap());
        let own = ours.issue(&id, LEAF_VALIDITY).unwrap();
        let said = |topology: &Topology, now: SystemTime| {
            let identity = LiveIdentity::from(own.federated(topology));
            let check = check(&identity, None, topology, now);
            (check.status, check.message)
        };
        let now = SystemTime::now();
        let (status, message) = said(&partners(OURS, &ours, &[&theirs]), now);
        assert_eq!(status, Status::Ok, "{message}");
        assert!(message.ends_with("other trust domains: 1"), "{message}");
        let later = describe_root(theirs.certificate()).1.unwrap() - BUNDLE_ENDS_WITHIN / 2;
        for (topology, now, part) in [
            (
                partners(THEIRS, &ours, &[&theirs]),
                now,
                "in the topology zone east is of trust domain partner.example",
            ),
            (
                partners(OURS, &stranger, &[&theirs]),
                now,
                "lacks the root of this gateway's certificate",
            ),
            (
                partners(OURS, &ours, &[&theirs]),
                later,
                "the bundle of partner.example is running out",
            ),
        ] {
            let (status, message) = said(&topology, now);
            assert!(
                status == Status::Warn && message.contains(part),
                "{status:?} {message}"
            );
        }
    }
}
