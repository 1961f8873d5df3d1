//! Edits of a topology's text that leave everything else of it as it stands, comments too.

use std::{fmt, ops::Range, rc::Rc, time::SystemTime};

use super::{
    Drain, Topology, Zone,
    diagnostic::Sink,
    parse,
    tree::{self, MapEntry, Node, Value},
};
use crate::name::ZoneName;

/// Reason that a text is not edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// It holds no topology.
    Unreadable,
    UnknownZone(ZoneName),
    /// The zone stands in it in a way that only a person should change.
    ByHand(ZoneName),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("the text is no topology that this program can read"),
            Self::UnknownZone(zone) => write!(f, "the topology has no zone {zone}"),
            Self::ByHand(zone) => write!(
                f,
                "zone {zone} is written in a way that cannot be edited line by line"
            ),
        }
    }
}

impl std::error::Error for EditError {}

impl EditError {
    /// The way out.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable => "`causeway get topology` shows it",
            Self::UnknownZone(_) => "`causeway get zones` lists them",
            Self::ByHand(_) => "write the key `drain` of that zone by hand, and `causeway apply` the file",
        }
    }
}

/// Says in the text of a topology that a zone is being emptied, or with `None` that it is not.
///
/// # Errors
/// When the text, or the way in which the zone is written, does not allow it. Whatever is returned differs from `text` in
/// the key `drain` of that zone and in nothing else.
pub fn with_drain(text: &str, zone: &ZoneName, drain: Option<&Drain>) -> Result<String, EditError> {
    let mut wanted = parse(text, "").map_err(|_| EditError::Unreadable)?.topology;
    let known = wanted.zones.get_mut(zone);
    let known = known.ok_or_else(|| EditError::UnknownZone(zone.clone()))?;
    if known.drain.as_ref() == drain {
        return Ok(text.to_owned());
    }
    known.drain = drain.cloned();
    let by_hand = || EditError::ByHand(zone.clone());
    let body = zone_body(text, zone).ok_or_else(by_hand)?;
    let bare = match entry(&body, "drain") {
        Some(drain) => without(text, drain).ok_or_else(by_hand)?,
        None => text.to_owned(),
    };
    let edited = match drain {
        None => bare,
        Some(drain) => {
            let body = zone_body(&bare, zone).ok_or_else(by_hand)?;
            with(&bare, &body, drain).ok_or_else(by_hand)?
        }
    };
    let read = parse(&edited, "").map_err(|_| by_hand())?;
    match is_same(&read.topology, &wanted) {
        true => Ok(edited),
        false => Err(by_hand()),
    }
}

/// Compares all but the fingerprint, which is of the text.
fn is_same(read: &Topology, wanted: &Topology) -> bool {
    super::diff(read, wanted).is_empty()
}

fn entry<'a>(node: &'a Node, key: &str) -> Option<&'a MapEntry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        _ => None,
    }
}

/// The map of a zone's keys.
fn zone_body(text: &str, zone: &ZoneName) -> Option<Rc<Node>> {
    let root = tree::parse(text, &Sink::default())?;
    let zones = entry(&root, "zones")?;
    entry(&zones.value, zone.as_str()).map(|zone| zone.value.clone())
}

/// As the value of the key.
fn in_words(drain: &Drain) -> String {
    match drain.by {
        None => "true".to_owned(),
        Some(by) => format!("{{ by: '{}' }}", timestamp(by)),
    }
}

/// As changes tell of it.
pub(super) fn drain_in_words(zone: &Zone) -> String {
    match &zone.drain {
        None => "false".to_owned(),
        Some(Drain { by: None }) => "true".to_owned(),
        Some(Drain { by: Some(by) }) => format!("by {}", timestamp(*by)),
    }
}

/// RFC 3339, in UTC and whole seconds.
fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Puts the key before the first one of the zone.
fn with(text: &str, body: &Node, drain: &Drain) -> Option<String> {
    let Value::Map(entries) = &body.value else {
        return None;
    };
    let first = entries.first()?.key_span.start;
    let words = in_words(drain);
    let before = text.get(..first)?;
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    let indent = before.get(line..)?;
    // A map in braces may stand over several lines, too.
    let inserted = match before.trim_end().ends_with('{') {
        true => format!("drain: {words}, "),
        false => format!("drain: {words}\n{indent}"),
    };
    Some(format!("{before}{inserted}{}", text.get(first..)?))
}

/// Takes an entry out: its line, where it has one for itself, or else its place between commas.
fn without(text: &str, entry: &MapEntry) -> Option<String> {
    let Range { start, .. } = entry.key_span;
    let Range { end, .. } = entry.value.span;
    let line = text.get(..start)?.rfind('\n').map_or(0, |end| end + 1);
    let rest = text.get(end..)?;
    let rest_of_line = rest.split('\n').next().unwrap_or_default();
    let is_own_line = text.get(line..start)?.trim().is_empty()
        && (rest_of_line.trim().is_empty() || rest_of_line.trim_start().starts_with('#'));
    let (from, to) = if is_own_line {
        (line, (end + rest_of_line.len() + 1).min(text.len()))
    } else if let Some(after) = rest.trim_start().strip_prefix(',') {
        (start, text.len() - after.trim_start_matches(' ').len())
    } else {
        let before = text.get(..start)?.trim_end().strip_suffix(',')?;
        (before.len(), end)
    };
    Some(format!("{}{}", text.get(..from)?, text.get(to..)?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const BLOCK: &str = "\
version: 1
trust_domain: acme.internal
zones:
  # The old data center.
  east:            # with a remark
    tags: { region: us }
    gateways: [gw.east:7800]
  west: { gateways: [gw.west:7800], tags: { region: eu } }
  north: {
    gateways: []
  }
services:
  orders: { port: 80 }
";

    fn zone(name: &str) -> ZoneName {
        ZoneName::new(name).unwrap()
    }

    fn by(seconds: u64) -> Drain {
        Drain {
            by: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn a_zone_is_marked_in_place_and_unmarked_without_a_trace() {
        for (name, drain, line) in [
            (
                "east",
                Drain { by: None },
                "    drain: true\n    tags: { region: us }\n",
            ),
            (
                "east",
                by(1_795_000_000),
                "    drain: { by: '2026-11-18T11:06:40Z' }\n    tags:",
            ),
            (
                "north",
                Drain { by: None },
                "    drain: true, gateways: []
  }",
            ),
            (
                "west",
                Drain { by: None },
                "  west: { drain: true, gateways: [gw.west:7800], ",
            ),
            (
                "west",
                by(1_795_000_000),
                "  west: { drain: { by: '2026-11-18T11:06:40Z' }, gateways:",
            ),
        ] {
            let edited = with_drain(BLOCK, &zone(name), Some(&drain)).unwrap();
            assert!(edited.contains(line), "{edited}");
            assert_eq!(
                parse(&edited, "").unwrap().topology.zones[&zone(name)].drain,
                Some(drain)
            );
            assert_eq!(with_drain(&edited, &zone(name), None).unwrap(), BLOCK);
            let moved = with_drain(&edited, &zone(name), Some(&by(1_795_000_060))).unwrap();
            assert!(
                moved.contains("11:07:40Z") && moved.matches("drain:").count() == 1,
                "{moved}"
            );
        }
    }

    #[test]
    fn what_is_so_already_stays_as_it_stands() {
        assert_eq!(with_drain(BLOCK, &zone("east"), None).unwrap(), BLOCK);
        let hand = BLOCK.replace("tags: { region: us }", "drain:   true   # since Monday");
        let drained = with_drain(&hand, &zone("east"), Some(&Drain { by: None }));
        assert_eq!(drained.unwrap(), hand);
    }

    #[test]
    fn a_key_between_others_or_at_the_end_goes_with_its_comma() {
        for written in [
            "{ gateways: [gw.west:7800], drain: true, tags: { region: eu } }",
            "{ gateways: [gw.west:7800], tags: { region: eu }, drain: true }",
            "{ drain: true, gateways: [gw.west:7800], tags: { region: eu } }",
        ] {
            let text = BLOCK.replace("{ gateways: [gw.west:7800], tags: { region: eu } }", written);
            assert_eq!(with_drain(&text, &zone("west"), None).unwrap(), BLOCK);
        }
    }

    #[test]
    fn what_would_change_more_than_the_zone_is_left_to_a_person() {
        let shared = BLOCK
            .replace(
                "  west: { gateways: [gw.west:7800], tags: { region: eu } }",
                "  west: &shared\n    gateways: []",
            )
            .replace("services:", "  south: *shared\nservices:");
        assert!(parse(&shared, "").is_ok());
        let refused = with_drain(&shared, &zone("south"), Some(&Drain { by: None }));
        assert_eq!(refused, Err(EditError::ByHand(zone("south"))));
        let unknown = with_drain(BLOCK, &zone("plant"), None);
        assert_eq!(unknown, Err(EditError::UnknownZone(zone("plant"))));
        assert_eq!(
            with_drain("version: 2", &zone("east"), None),
            Err(EditError::Unreadable)
        );
    }
}
