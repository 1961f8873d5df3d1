//! Carries messages between two replicas as bytes, and counts them.

use std::time::Instant;

use causeway_federation::name::GatewayId;
use causeway_proto::sync::SyncMessage;
use causeway_zone_sync::replica::Replica;
use prost::Message as _;

/// Messages and their encoded bytes.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub messages: usize,
    pub bytes: usize,
}

impl Count {
    pub fn add(&mut self, bytes: &[u8]) {
        self.messages += 1;
        self.bytes += bytes.len();
    }
}

pub fn decode(bytes: &[u8]) -> SyncMessage {
    SyncMessage::decode(bytes).expect("an own message can be read")
}

/// Delivers between two until both are quiet; answers what `a` said and what `b` said.
pub fn settle(now: Instant, a: (&GatewayId, &mut Replica), b: (&GatewayId, &mut Replica)) -> (Count, Count) {
    let (mut from_a, mut from_b) = (Count::default(), Count::default());
    loop {
        let said = carry(now, &mut *a.1, (a.0, &mut *b.1), &mut from_a);
        let answered = carry(now, &mut *b.1, (b.0, &mut *a.1), &mut from_b);
        if !said && !answered {
            return (from_a, from_b);
        }
    }
}

/// Everything that `from` has to say now; answers whether there was anything.
fn carry(
    now: Instant,
    from: &mut Replica,
    (name, to): (&GatewayId, &mut Replica),
    count: &mut Count,
) -> bool {
    let mut any = false;
    while let Some((_, message)) = from.poll_transmit(now) {
        let bytes = message.encode_to_vec();
        count.add(&bytes);
        to.handle_message(now, name, decode(&bytes));
        any = true;
    }
    while to.poll_event().is_some() {}
    any
}
