//! Room for names by tag and by zone, which questions bring and which take a listening socket each: pure.
//!
//! A few tags have many combinations, and anybody who may ask could ask for all of them. So each service has a share, and a new
//! name takes the place of one that is gone or that nobody has asked for lately.

use std::cmp::Reverse;

use causeway_federation::name::ServiceName;
use causeway_routing::target::Target;

/// Most names by tag and by zone that have an address at once, so that queries cannot fill the range or open sockets
/// without end.
pub(super) const MAX_NARROWED_NAMES: usize = 1024;
/// Most names by tag of one service that have an address at once.
pub(super) const MAX_TAGGED_NAMES_OF_SERVICE: usize = 256;
/// Time for which a name that nobody asks for is sure of its place, in seconds: ten minutes, since some clients keep an
/// answer for longer than they should.
pub(super) const KEEP_UNUSED_SECONDS: u64 = 600;

/// Name by tag or by zone that has an address.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldName<'a> {
    pub(super) target: &'a Target,
    /// Time at which it was last asked for, in seconds since the Unix epoch.
    pub(super) asked: u64,
    /// Its tags are known, and its service and zone are there.
    pub(super) exists: bool,
}

/// Reason why there is no room for a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoomForName {
    #[error("{MAX_NARROWED_NAMES} names by tag and by zone have addresses already, and all are in use")]
    All,
    #[error("{MAX_TAGGED_NAMES_OF_SERVICE} names by tag of `{0}` have addresses already, and all are in use")]
    OfService(ServiceName),
}

/// Finds room for `target` among `held`: the name that makes way for it, or `None` while there is room for all. Who is gone
/// goes first, then the name with most tags, and of those the one that was asked for longest ago.
pub(super) fn make_room(
    held: &[HeldName<'_>],
    target: &Target,
    now: u64,
) -> Result<Option<Target>, NoRoomForName> {
    let shares =
        |other: &HeldName<'_>| !other.target.tags.is_empty() && other.target.service == target.service;
    let has_share = target.tags.is_empty()
        || held.iter().filter(|name| shares(name)).count() < MAX_TAGGED_NAMES_OF_SERVICE;
    if has_share && held.len() < MAX_NARROWED_NAMES {
        return Ok(None);
    }
    let may_go = |name: &&HeldName<'_>| {
        (has_share || shares(name)) && (!name.exists || name.asked.saturating_add(KEEP_UNUSED_SECONDS) <= now)
    };
    let first = held
        .iter()
        .filter(may_go)
        .min_by_key(|name| (name.exists, Reverse(name.target.tags.len()), name.asked));
    match (first, has_share) {
        (Some(name), _) => Ok(Some(name.target.clone())),
        (None, true) => Err(NoRoomForName::All),
        (None, false) => Err(NoRoomForName::OfService(target.service.clone())),
    }
}

#[cfg(test)]
mod tests {
    use causeway_routing::testbed;

    use super::*;

    const NOW: u64 = 100_000;

    fn name(service: &str, tags: &[(&str, &str)], zone: &str) -> Target {
        Target {
            service: testbed::service(service),
            tags: testbed::tags(tags),
            zone: Some(testbed::zone(zone)),
        }
    }

    fn held(targets: &[Target], asked: u64) -> Vec<HeldName<'_>> {
        let held = targets.iter().map(|target| HeldName {
            target,
            asked,
            exists: true,
        });
        held.collect()
    }

    fn names(service: &str, tags: &[(&str, &str)], count: usize) -> Vec<Target> {
        (0..count)
            .map(|number| name(service, tags, &format!("z{number}")))
            .collect()
    }

    #[test]
    fn the_tags_of_one_service_take_no_more_than_its_share() {
        let tagged = names("a", &[("v", "1")], MAX_TAGGED_NAMES_OF_SERVICE);
        let held = held(&tagged, NOW);
        let full = NoRoomForName::OfService(testbed::service("a"));
        assert_eq!(make_room(&held, &name("a", &[("v", "2")], "x"), NOW), Err(full));
        assert_eq!(make_room(&held, &name("b", &[("v", "2")], "x"), NOW), Ok(None));
        assert_eq!(make_room(&held, &name("a", &[], "x"), NOW), Ok(None));
    }

    #[test]
    fn a_name_that_nobody_asks_for_makes_way_and_one_in_use_does_not() {
        let by_zone = names("a", &[], MAX_NARROWED_NAMES - 2);
        let tagged = [
            name("a", &[("v", "1")], "x"),
            name("a", &[("v", "1"), ("w", "1")], "x"),
        ];
        let mut held: Vec<HeldName<'_>> =
            [held(&by_zone, 1), held(&tagged, NOW - KEEP_UNUSED_SECONDS)].concat();
        let new = name("b", &[], "x");
        let room = |held: &[HeldName<'_>]| make_room(held, &new, NOW);
        assert_eq!(
            room(&held),
            Ok(Some(tagged[1].clone())),
            "the one with most tags first"
        );
        held[MAX_NARROWED_NAMES - 1].asked += 1;
        assert_eq!(room(&held), Ok(Some(tagged[0].clone())));
        held[3].exists = false;
        assert_eq!(
            room(&held),
            Ok(Some(by_zone[3].clone())),
            "who is gone goes first"
        );
        held[3].exists = true;
        held.iter_mut().for_each(|name| name.asked = NOW);
        held[7].asked = NOW - KEEP_UNUSED_SECONDS;
        assert_eq!(room(&held), Ok(Some(by_zone[7].clone())));
        held[7].asked += 1;
        assert_eq!(room(&held), Err(NoRoomForName::All));
    }
}
