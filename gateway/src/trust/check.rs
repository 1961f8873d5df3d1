//! Is all well with what this gateway trusts? For `/readyz` and `causeway check`.

use std::time::SystemTime;

use super::Trusted;
use crate::{admin::Check, identity::LiveIdentity};

/// Nothing here keeps local clients from being served, so the worst is a warning.
#[must_use]
pub fn check(identity: &LiveIdentity, trusted: Option<&Trusted>, now: SystemTime) -> Check {
    let (group, name) = ("gateway", "trust");
    let view = identity.trust();
    if let Some(conflict) = view.conflict {
        return Check::warn(
            group,
            name,
            format!(
                "two trust documents were made without knowing of each other: {} is in force, {} is overruled",
                conflict.winner, conflict.loser
            ),
            "is the CA's folder in use in two places? the next generation ends this warning",
        );
    }
    if let Some(refused) = trusted.and_then(Trusted::refused) {
        return Check::warn(
            group,
            name,
            format!(
                "the trust document of generation {}, which {} has, is refused: {}",
                refused.edition, refused.peer, refused.why
            ),
            refused.hint,
        );
    }
    if view.disk_fails {
        return Check::warn(
            group,
            name,
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
            group,
            name,
            format!(
                "the revocation list of {} in {} is out of date; it is honoured all the same",
                list.issuer, list.place
            ),
            "whoever issues it should have put a newer one in its place",
        );
    }
    let revoked: usize = anchors
        .revocations
        .lists()
        .iter()
        .map(|list| list.serials.len())
        .sum();
    let roots = anchors.roots.len();
    let rule = match anchors.edition.generation {
        0 if identity.agent().is_some() => "the bundle of the SPIFFE Workload API rules".to_owned(),
        0 => "ca.pem rules".to_owned(),
        _ => format!("the trust document of generation {} rules", anchors.edition),
    };
    Check::ok(
        group,
        name,
        format!("{rule}; roots: {roots}, revoked certificates: {revoked}"),
    )
}
