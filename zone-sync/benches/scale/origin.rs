//! One zone that tells all others of its changes, over links with a delay: messages, bytes and round trips. In a full mesh
//! every record goes straight from its origin to each peer, so one origin with a session to every other zone is all of
//! the mesh that one change touches; the receivers hold only this origin's record.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_federation::{catalog::Export, name::GatewayId};
use causeway_zone_sync::replica::{LocalChange, Replica};
use prost::Message as _;

use super::{
    Size,
    carry::{Count, decode},
    show, world,
};

/// The zone that changes.
const ORIGIN: usize = 0;
/// The same between any two zones.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// Receiver, link and bytes of a message.
type Delivery = (usize, usize, Vec<u8>);

struct Star {
    now: Instant,
    replicas: Vec<Replica>,
    numbers: BTreeMap<GatewayId, usize>,
    exports: Vec<Export>,
    /// Messages under way, by when it arrives, then in the order it was sent.
    wire: BTreeMap<(Instant, usize), Delivery>,
    sent: usize,
    count: Count,
    /// Time for which the origin worked.
    worked: Duration,
}

pub fn run(size: Size) {
    show::heading("One zone tells every other, 50 ms of round trip");
    let now = Instant::now();
    let (origin, exports) = world::telling(now, ORIGIN, 0..size.zones, size.exports);
    let mut replicas = vec![origin];
    replicas.extend((1..size.zones).map(|zone| world::telling(now, zone, [ORIGIN, zone], 0).0));
    let mut star = Star {
        now,
        replicas,
        numbers: (0..size.zones).map(|zone| (world::gateway(zone), zone)).collect(),
        exports,
        wire: BTreeMap::new(),
        sent: 0,
        count: Count::default(),
        worked: Duration::ZERO,
    };
    star.join();
    star.flap("one export changes", &[Duration::ZERO]);
    let burst = [
        Duration::ZERO,
        Duration::from_millis(5),
        Duration::from_millis(20),
    ];
    star.flap("three changes within 20 ms", &burst);
}

impl Star {
    fn join(&mut self) {
        for zone in 1..self.replicas.len() {
            self.replicas[ORIGIN].handle_connected(self.now, world::gateway(zone));
            self.replicas[zone].handle_connected(self.now, world::gateway(ORIGIN));
        }
        self.collect();
        self.until_all_hold("everybody connects and learns the record");
    }

    fn flap(&mut self, what: &str, at: &[Duration]) {
        // Whatever was under way before is not of this change.
        self.run_until(self.now + ROUND_TRIP * 4);
        (self.count, self.worked) = (Count::default(), Duration::ZERO);
        let start = self.now;
        for (number, offset) in at.iter().enumerate() {
            self.run_until(start + *offset);
            let export = &mut self.exports[number];
            export.healthy = 12 - (export.healthy + 1) % 2;
            let change = LocalChange::Exports(self.exports.clone());
            self.replicas[ORIGIN].handle_local(self.now, change);
            self.collect();
        }
        self.until_all_hold(what);
    }

    fn until_all_hold(&mut self, what: &str) {
        let start = self.now;
        let mut held = Vec::new();
        let mut missing: Vec<usize> = (1..self.replicas.len()).collect();
        while !missing.is_empty() {
            self.step();
            let own = self.replicas[ORIGIN].own().version;
            let origin = world::gateway(ORIGIN);
            missing.retain(|zone| {
                let entry = self.replicas[*zone].catalog().entry(&origin);
                let there = entry.is_some_and(|entry| entry.record.version == own);
                held.extend(there.then_some(self.now - start));
                !there
            });
        }
        // The acknowledgements are part of what a change costs.
        self.run_until(self.now + ROUND_TRIP);
        let trips =
            |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() / ROUND_TRIP.as_secs_f64());
        let text = format!(
            "{:.1} to {:.1} round trips",
            trips(held.first()),
            trips(held.last())
        );
        show::figure(&format!("{what}: all {} hold it", held.len()), &text);
        let peers = held.len().max(1);
        let (messages, bytes) = (self.count.messages, self.count.bytes);
        let text = format!(
            "{messages} messages, {bytes} bytes; {} bytes for each zone",
            bytes / peers
        );
        show::figure("  said by both sides", &text);
        let each = self.worked.as_secs_f64() * 1e6 / f64::from(u32::try_from(peers).unwrap_or(u32::MAX));
        show::figure(
            "  the origin's processor time",
            &format!(
                "{:.2} ms, {each:.1} us for each zone",
                self.worked.as_secs_f64() * 1e3
            ),
        );
    }

    fn run_until(&mut self, end: Instant) {
        while self.next_time().is_some_and(|next| next <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    fn next_time(&self) -> Option<Instant> {
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let timers = self.replicas.iter().filter_map(Replica::poll_timeout);
        timers.chain(arrival).min().map(|next| next.max(self.now))
    }

    /// The next thing that happens: arrivals, or timers.
    fn step(&mut self) {
        let Some(next) = self.next_time() else { return };
        self.now = next;
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= next) {
            let (from, to, bytes) = entry.remove();
            let began = Instant::now();
            self.replicas[to].handle_message(next, &world::gateway(from), decode(&bytes));
            self.note_work(to, began);
        }
        for zone in 0..self.replicas.len() {
            if self.replicas[zone].poll_timeout().is_some_and(|due| due <= next) {
                let began = Instant::now();
                self.replicas[zone].handle_timeout(next);
                self.note_work(zone, began);
            }
        }
        self.collect();
    }

    /// Puts on the wire what anybody has to say.
    fn collect(&mut self) {
        for from in 0..self.replicas.len() {
            let began = Instant::now();
            while let Some((peer, message)) = self.replicas[from].poll_transmit(self.now) {
                let bytes = message.encode_to_vec();
                self.count.add(&bytes);
                self.sent += 1;
                let key = (self.now + ROUND_TRIP / 2, self.sent);
                self.wire.insert(key, (from, self.numbers[&peer], bytes));
            }
            while self.replicas[from].poll_event().is_some() {}
            self.note_work(from, began);
        }
    }

    fn note_work(&mut self, zone: usize, began: Instant) {
        if zone == ORIGIN {
            self.worked += began.elapsed();
        }
    }
}
