//! The key `drain` of a zone.

use std::time::SystemTime;

use super::{EditError, EditedKey, with_key};
use crate::{
    name::ZoneName,
    topology::{Drain, Zone, parse},
};

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
    let value = drain.map(in_words);
    with_key(text, &EditedKey::Drain(zone.clone()), value.as_deref(), &wanted)
}

/// As the value of the key.
fn in_words(drain: &Drain) -> String {
    match drain.by {
        None => "true".to_owned(),
        Some(by) => format!("{{ by: '{}' }}", timestamp(by)),
    }
}

/// As changes tell of it.
pub(in crate::topology) fn drain_in_words(zone: &Zone) -> String {
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
        assert_eq!(refused, Err(EditError::ByHand(EditedKey::Drain(zone("south")))));
        let unknown = with_drain(BLOCK, &zone("plant"), None);
        assert_eq!(unknown, Err(EditError::UnknownZone(zone("plant"))));
        assert_eq!(
            with_drain("version: 2", &zone("east"), None),
            Err(EditError::Unreadable)
        );
    }

    #[test]
    fn a_remark_beside_the_key_and_ends_of_lines_stay() {
        let marked = BLOCK.replace(
            "    tags: { region: us }",
            "    drain: true      # rack 7 moves\n    tags: { region: us }",
        );
        let later = with_drain(&marked, &zone("east"), Some(&by(1_795_000_000))).unwrap();
        assert!(
            later.contains("    drain: { by: '2026-11-18T11:06:40Z' }      # rack 7 moves\n"),
            "{later}"
        );
        let back = with_drain(&later, &zone("east"), Some(&Drain { by: None })).unwrap();
        assert_eq!(back, marked);
        let of_windows = BLOCK.replace('\n', "\r\n");
        let edited = with_drain(&of_windows, &zone("east"), Some(&Drain { by: None })).unwrap();
        assert!(edited.contains("    drain: true\r\n    tags:"), "{edited:?}");
        assert_eq!(edited.matches('\n').count(), edited.matches("\r\n").count());
        assert_eq!(with_drain(&edited, &zone("east"), None).unwrap(), of_windows);
    }
}
