//! State of a zone, in the words of `get zones`: more than whether a tunnel is up.

use causeway_api::admin::view::ZoneView;

use crate::output::{Tone, Word};

/// The state of a zone, with what `down` can mean told apart.
pub(super) fn word(zone: &ZoneView) -> &str {
    if zone.state != "down" {
        return &zone.state;
    }
    let last = zone.last_word.as_ref();
    match last.map(|word| (word.reason.as_str(), word.side.as_deref())) {
        // It is this zone's gateway that is believed no more, as the other side says.
        Some(("revoked", Some("peer"))) => "revokes us",
        Some(("revoked", _)) => "revoked",
        _ if zone.links.iter().all(|link| link.age.is_none()) => "never heard",
        _ => "down",
    }
}

/// The same as a cell, with the drain that the topology asks for.
pub(super) fn cell(zone: &ZoneView) -> Word {
    let word = word(zone);
    let tone = match word {
        "revoked" | "revokes us" | "never heard" => Tone::Bad,
        other => Tone::of(other),
    };
    match &zone.drain {
        None => Word(word.to_owned(), tone),
        Some(drain) => Word::doubtful(match &drain.by {
            None => format!("{word}, drains"),
            Some(by) => format!("{word}, drains by {by}"),
        }),
    }
}

/// Gateways of a zone that can be reached, of those that are known of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GatewaysUp {
    up: usize,
    of: usize,
}

impl GatewaysUp {
    /// `None`: this is the zone that answers, which has no tunnels to itself.
    pub(super) fn of(zone: &ZoneView) -> Option<Self> {
        if zone.own {
            return None;
        }
        let up = zone.links.iter().filter(|link| link.state == "up").count();
        // A gateway that the topology names and nobody ever heard of is one that is not up; one that dials out is in no topology.
        let of = zone.links.len().max(zone.gateways.len());
        Some(Self { up, of })
    }

    pub(super) fn are_all(self) -> bool {
        self.up == self.of
    }

    /// `2/3`.
    pub(super) fn cell(self) -> Word {
        let tone = match (self.up, self.are_all()) {
            (_, true) => Tone::Good,
            (0, false) => Tone::Bad,
            (_, false) => Tone::Doubtful,
        };
        Word(format!("{}/{}", self.up, self.of), tone)
    }
}

#[cfg(test)]
mod tests {
    use causeway_api::admin::view::{LastWordView, LinkView};

    use super::*;

    fn zone(state: &str, last: Option<(Option<&str>, &str)>, links: &[(&str, bool)]) -> ZoneView {
        let links = links.iter().map(|(state, heard)| LinkView {
            state: (*state).to_owned(),
            age: heard.then(|| "suspect".to_owned()),
            ..LinkView::default()
        });
        ZoneView {
            name: "west".to_owned(),
            own: false,
            state: state.to_owned(),
            tags: Default::default(),
            gateways: vec![vec!["a:1".to_owned()], vec!["b:1".to_owned()]],
            links: links.collect(),
            last_word: last.map(|(side, reason)| LastWordView {
                side: side.map(str::to_owned),
                reason: reason.to_owned(),
                seconds_ago: 1.0,
            }),
            drain: None,
        }
    }

    #[test]
    fn a_zone_without_a_tunnel_is_told_apart_by_why() {
        let heard = [("down", true)];
        for (zone, expected) in [
            (zone("down", None, &heard), "down"),
            (zone("down", Some((None, "timeout")), &heard), "down"),
            (zone("down", Some((None, "timeout")), &[]), "never heard"),
            (zone("down", None, &[("down", false)]), "never heard"),
            (zone("down", Some((Some("local"), "revoked")), &heard), "revoked"),
            (zone("down", Some((Some("peer"), "revoked")), &[]), "revokes us"),
            (
                zone("draining", Some((Some("local"), "revoked")), &heard),
                "draining",
            ),
        ] {
            assert_eq!(word(&zone), expected, "{zone:?}");
        }
    }

    #[test]
    fn gateways_that_are_declared_or_were_heard_of_count() {
        let told = |links: &[(&str, bool)]| GatewaysUp::of(&zone("up", None, links)).unwrap().cell().0;
        assert_eq!(told(&[]), "0/2");
        assert_eq!(told(&[("up", true)]), "1/2");
        assert_eq!(told(&[("up", true), ("draining", true), ("up", true)]), "2/3");
        let own = ZoneView {
            own: true,
            ..zone("own", None, &[])
        };
        assert_eq!(GatewaysUp::of(&own), None);
    }
}
