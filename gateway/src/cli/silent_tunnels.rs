//! Tunnels with a zone, told apart by whether anything is heard on them.

use causeway_api::admin::view::LinkView;

use crate::output::Word;

/// Tunnels with a zone's gateways; where nothing is heard on any of them that is said.
pub(super) fn tunnels(links: &[LinkView]) -> Word {
    let of = |silent: bool| -> usize {
        let links = links.iter().filter(|link| is_silent(link) == silent);
        links.map(|link| link.tunnels).sum()
    };
    match (of(false), of(true)) {
        (0, silent @ 1..) => Word::doubtful(format!("{silent} silent")),
        (heard, _) => heard.into(),
    }
}

/// The lowest round trip over the tunnels on which something is heard, in milliseconds.
pub(super) fn round_trip(links: &[LinkView]) -> Option<f64> {
    let heard = links.iter().filter(|link| !is_silent(link));
    heard.filter_map(|link| link.rtt_ms).reduce(f64::min)
}

fn is_silent(link: &LinkView) -> bool {
    matches!(link.state.as_str(), "stalled" | "down")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_on_which_nothing_is_heard_are_silent_and_have_no_round_trip() {
        let link = |state: &str, tunnels, rtt_ms| LinkView {
            state: state.to_owned(),
            tunnels,
            rtt_ms,
            ..LinkView::default()
        };
        let told = |links: &[LinkView]| (tunnels(links).0, round_trip(links));
        for state in ["down", "stalled"] {
            let silent = link(state, 4, Some(1.5));
            assert_eq!(
                told(std::slice::from_ref(&silent)),
                ("4 silent".to_owned(), None),
                "{state}"
            );
            let both = [silent, link("up", 2, Some(3.0))];
            assert_eq!(told(&both), ("2".to_owned(), Some(3.0)), "{state}");
        }
        assert_eq!(told(&[link("down", 0, None)]), ("0".to_owned(), None));
        assert_eq!(told(&[]), ("0".to_owned(), None));
    }
}
