//! Messages that lying peers heard and may repeat. They are no record of a run: most of what comes is let go.

use std::collections::BTreeMap;

use causeway_federation::name::GatewayId;
use causeway_proto::sync::{self as proto, SyncMessage, sync_message::Body};
use rand::{Rng, rngs::SmallRng};

use super::{liar::origin_message, messages::read_origin};

/// Messages that liars heard and may repeat.
#[derive(Debug, Default)]
pub struct Captured {
    pub records: Vec<proto::Snapshot>,
    pub beats: Vec<proto::Beat>,
    /// Head of each origin's record that was last heard of, as it signed it.
    pub heads: BTreeMap<GatewayId, proto::Signed>,
}

/// Most that is kept of each kind; then something older goes.
const MAX_CAPTURED: usize = 40;

fn keep<T>(all: &mut Vec<T>, one: T, rng: &mut SmallRng) {
    if all.len() < MAX_CAPTURED {
        all.push(one);
    } else if rng.random_bool(0.2) {
        all[rng.random_range(0..MAX_CAPTURED)] = one;
    }
}

impl Captured {
    /// Keeps what `speaker` says that is worth repeating.
    pub fn note(&mut self, message: &SyncMessage, speaker: &GatewayId, rng: &mut SmallRng) {
        let name = |known: &Option<proto::Origin>| known.clone().or(origin_message(speaker));
        if let Some(Body::Delta(delta)) = &message.body
            && let Some((head, of)) = delta
                .head
                .clone()
                .zip(read_origin(delta.origin.as_ref(), speaker))
        {
            self.heads.insert(of, head);
        }
        match &message.body {
            Some(Body::Snapshot(part)) if part.parts == 1 && part.head.is_some() => {
                let origin = name(&part.origin);
                keep(
                    &mut self.records,
                    proto::Snapshot {
                        origin,
                        ..part.clone()
                    },
                    rng,
                );
            }
            Some(Body::Heartbeat(heartbeat)) => {
                for beat in &heartbeat.beats {
                    let origin = name(&beat.origin);
                    let signed = beat.signed.clone();
                    keep(&mut self.beats, proto::Beat { origin, signed }, rng);
                }
            }
            _ => {}
        }
    }
}
