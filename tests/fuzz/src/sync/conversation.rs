//! The seeds: what an honest peer in the hostile one's place would have said, over changes, restarts, heartbeats and
//! relaying. Fuzzing makes lies of it.

use std::time::{Duration, Instant};

use causeway_proto::sync::SyncMessage;
use causeway_zone_sync::replica::{LocalChange, Replica};
use prost::Message as _;

use super::{
    script::{Step, write_script},
    world::{FAR, HERE, HOSTILE, Written, exports, gateway, replica, stamp},
};

/// Between two changes: more than a heartbeat.
const STEP: Duration = Duration::from_millis(1_100);

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let (conversation, _) = conversation();
    let message = |bytes: &Vec<u8>| write_script(&[Step::Message(bytes)]);
    let mut steps = Vec::new();
    for bytes in &conversation {
        // Late enough for what is asked for only after a while.
        let wait = (steps.len() % 16 == 8).then_some(Step::Wait(50));
        steps.extend(wait);
        steps.push(Step::Message(bytes));
    }
    let local = [
        Step::Exports {
            count: 200,
            healthy: 1,
        },
        Step::Wait(30),
        Step::Exports { count: 7, healthy: 9 },
        Step::Reconnect { greeting: true },
        Step::Wait(140),
    ];
    let mut seeds = vec![
        ("conversation".to_owned(), write_script(&steps)),
        (
            "no-greeting".to_owned(),
            write_script(&[&[Step::Reconnect { greeting: false }], steps.as_slice()].concat()),
        ),
        ("local".to_owned(), write_script(&local)),
    ];
    let numbered = conversation.iter().enumerate();
    seeds.extend(numbered.map(|(i, bytes)| (format!("message-{i:02}"), message(bytes))));
    seeds
}

/// Every version of its record that the zone `far` ever signs.
pub fn far_writes() -> Written {
    conversation().1
}

/// Three replicas in a row; the middle one is what the hostile peer would be if it were honest.
struct Row {
    now: Instant,
    here: Replica,
    middle: Replica,
    far: Replica,
    /// Messages of the middle one to the first.
    said: Vec<Vec<u8>>,
    written: Written,
}

/// Makes what the middle one says to the first, and what the far one writes. The same every time.
fn conversation() -> (Vec<Vec<u8>>, Written) {
    let now = Instant::now();
    let mut row = Row {
        now,
        here: replica(now, HERE),
        middle: replica(now, HOSTILE),
        far: replica(now, FAR),
        said: Vec::new(),
        written: Written::new(),
    };
    row.here.handle_connected(now, gateway(HOSTILE));
    row.middle.handle_connected(now, gateway(HERE));
    row.middle.handle_connected(now, gateway(FAR));
    row.far.handle_connected(now, gateway(HOSTILE));
    let changes = [
        LocalChange::Exports(exports(4, 4)),
        LocalChange::Exports(exports(4, 3)),
        LocalChange::Exports(exports(2, 3)),
        LocalChange::Draining(true),
        LocalChange::Incarnation(5),
        LocalChange::TopologyGeneration(9),
        LocalChange::Exports(exports(5, 1)),
    ];
    for change in changes {
        row.middle.handle_local(row.now, change.clone());
        row.far.handle_local(row.now, change);
        let own = row.far.own();
        row.written.insert((own.origin.clone(), stamp(own)), own.clone());
        row.exchange();
        row.now += STEP;
        for replica in [&mut row.here, &mut row.middle, &mut row.far] {
            replica.handle_timeout(row.now);
        }
    }
    row.exchange();
    (row.said, row.written)
}

impl Row {
    fn exchange(&mut self) {
        while self.carry_one() {}
    }

    fn carry_one(&mut self) -> bool {
        let said = [
            self.here.poll_transmit(self.now).map(|said| (HERE, said)),
            self.middle.poll_transmit(self.now).map(|said| (HOSTILE, said)),
            self.far.poll_transmit(self.now).map(|said| (FAR, said)),
        ];
        let mut any = false;
        for (from, (to, message)) in said.into_iter().flatten() {
            any = true;
            self.deliver(from, to.zone.as_str(), message);
        }
        any
    }

    fn deliver(&mut self, from: &str, to: &str, message: SyncMessage) {
        if (from, to) == (HOSTILE, HERE) {
            self.said.push(message.encode_to_vec());
        }
        let replica = match to {
            HERE => &mut self.here,
            FAR => &mut self.far,
            _ => &mut self.middle,
        };
        replica.handle_message(self.now, &gateway(from), message);
        while replica.poll_event().is_some() {}
    }
}
