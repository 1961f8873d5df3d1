//! Reasons why the latest tunnel with each gateway ended, in words: told to operators, who see that a zone is gone and ask why.

use std::collections::BTreeMap;

use causeway_federation::name::GatewayId;
use causeway_telemetry::Side;
use parking_lot::Mutex;

use super::refusal::Ended;

/// Most gateways of which an end is kept.
const MAX_GATEWAYS: usize = 4_096;

/// The latest ends, gateway by gateway.
#[derive(Debug, Default)]
pub struct LastEnds(Mutex<BTreeMap<GatewayId, String>>);

impl LastEnds {
    pub(super) fn note(&self, peer: &GatewayId, ended: &Ended) {
        let mut ends = self.0.lock();
        if ends.len() < MAX_GATEWAYS || ends.contains_key(peer) {
            ends.insert(peer.clone(), in_words(ended));
        }
    }

    /// Says why the latest tunnel with a gateway ended.
    #[must_use]
    pub fn of(&self, peer: &GatewayId) -> Option<String> {
        self.0.lock().get(peer).cloned()
    }
}

fn side(by: Side) -> &'static str {
    match by {
        Side::Local => "this gateway",
        Side::Peer => "the other gateway",
    }
}

fn in_words(ended: &Ended) -> String {
    match ended {
        Ended::Closed { by, why } if why.is_empty() => format!("{} closed it", side(*by)),
        Ended::Closed { by, why } => format!("{} closed it: {why}", side(*by)),
        Ended::Lost(loss) => format!("it was lost ({})", loss.word()),
        Ended::Refused { by, refusal, detail } => {
            format!("{} ended it ({}): {detail}", side(*by), refusal.word())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{Loss, TunnelRefusal};

    #[test]
    fn the_latest_end_is_told_in_words_and_no_more_than_so_many_are_kept() {
        let ends = LastEnds::default();
        let gateway = |name: &str| GatewayId::new(name.parse().unwrap(), "gw1".parse().unwrap());
        let revoked = Ended::Refused {
            by: Side::Peer,
            refusal: TunnelRefusal::Revoked,
            detail: "its certificate".to_owned(),
        };
        ends.note(&gateway("west"), &revoked);
        let told = ends.of(&gateway("west"));
        assert_eq!(
            told.as_deref(),
            Some("the other gateway ended it (revoked): its certificate")
        );
        ends.note(&gateway("west"), &Ended::Lost(Loss::TimedOut));
        assert_eq!(
            ends.of(&gateway("west")).as_deref(),
            Some("it was lost (timeout)")
        );
        for nth in 0..2 * MAX_GATEWAYS {
            ends.note(&gateway(&format!("zone-{nth}")), &Ended::Lost(Loss::Reset));
        }
        assert_eq!(ends.0.lock().len(), MAX_GATEWAYS);
    }
}
