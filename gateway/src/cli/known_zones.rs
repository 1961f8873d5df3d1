//! Zones that a CA has issued certificates to, by which a mistyped name is noticed. A name that is new is no mistake by
//! itself, so it is told and not refused.

use std::{collections::BTreeSet, path::Path};

use causeway_identity::ca::issued::{self, Issued};

use super::register::note;

/// Most zones that are named.
const MAX_NAMED: usize = 12;

/// Says on standard error when the CA has issued to other zones and never to this one. A record that cannot be read is told
/// by what follows.
pub(super) fn note_if_new(folder: &Path, zone: &str) {
    let record = issued::read(folder).unwrap_or_default();
    if let Some(text) = doubt(&record.issued, zone) {
        note(&text);
    }
}

/// `None`: the zone is known, or none is.
fn doubt(issued: &[Issued], zone: &str) -> Option<String> {
    let known: BTreeSet<&str> = issued.iter().filter_map(|one| zone_of(&one.id)).collect();
    if known.is_empty() || known.contains(zone) {
        return None;
    }
    let named: Vec<&str> = known.iter().copied().take(MAX_NAMED).collect();
    let more = match known.len() - named.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    Some(format!(
        "this CA has never issued a certificate to zone `{zone}`; it has to {}{more}",
        named.join(", ")
    ))
}

/// The zone of a gateway's SPIFFE id; `None`: it is another caller's.
fn zone_of(id: &str) -> Option<&str> {
    let (_, rest) = id.split_once("/zone/")?;
    let (zone, _) = rest.split_once("/gateway/")?;
    Some(zone)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn issued(id: &str) -> Issued {
        Issued {
            serial: "01".to_owned(),
            id: id.to_owned(),
            issuer: String::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            parent: None,
            address: None,
            key: None,
            how: "issue".to_owned(),
            dns_names: Vec::new(),
        }
    }

    #[test]
    fn a_zone_that_the_ca_does_not_know_is_told_with_those_that_it_knows() {
        let east = issued("spiffe://a.b/zone/east/gateway/gw1");
        let west = issued("spiffe://a.b/zone/west/gateway/gw1");
        let caller = issued("spiffe://a.b/app/web");
        let all = [west, east, caller];
        assert_eq!(doubt(&all, "west"), None);
        assert_eq!(doubt(&[], "wset"), None, "the first of all");
        let text = doubt(&all, "wset").unwrap();
        assert!(
            text.contains("`wset`") && text.ends_with("it has to east, west"),
            "{text}"
        );
    }
}
