//! A path of one bottleneck, on which the model is tried: a rate, a delay, a queue and a share of packets that is lost. It sends
//! and paces as quinn does, and acknowledges as its peers do.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{HEADROOM, model::Model};

const PACKET: u64 = 1452;
const TICK: Duration = Duration::from_micros(100);
const ACK_EVERY: usize = 20;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
struct Path {
    bytes_per_second: u64,
    one_way: Duration,
    queue_bytes: u64,
    loss: f64,
}

/// A path of 100 Mbit/s and 40 ms whose queue holds what it carries in a round trip.
const PATH: Path = Path {
    bytes_per_second: 12_500_000,
    one_way: Duration::from_millis(20),
    queue_bytes: 500_000,
    loss: 0.0,
};

struct Simulation {
    path: Path,
    model: Model,
    rng: SmallRng,
    now: Instant,
    next: u64,
    in_flight: BTreeMap<u64, Instant>,
    /// Bytes that the application still has to send; `None`: always more.
    offered: Option<u64>,
    limited: bool,
    free_at: Instant,
    arriving: VecDeque<(Instant, u64)>,
    received: Vec<u64>,
    ack_due: Option<Instant>,
    acks: VecDeque<(Instant, Vec<u64>)>,
    heard_at: Instant,
    smoothed: Duration,
    tokens: f64,
}

/// Sums over a while.
#[derive(Debug, Default)]
struct Report {
    delivered: u64,
    lost: u64,
    longest_round_trip: Duration,
}

impl Simulation {
    fn new(path: Path) -> Self {
        let now = Instant::now();
        Self {
            path,
            model: Model::new(now, 1452),
            rng: SmallRng::seed_from_u64(7),
            now,
            next: 0,
            in_flight: BTreeMap::new(),
            offered: None,
            limited: false,
            free_at: now,
            arriving: VecDeque::new(),
            received: Vec::new(),
            ack_due: None,
            acks: VecDeque::new(),
            heard_at: now,
            smoothed: 100 * MS,
            tokens: 0.0,
        }
    }

    fn run(&mut self, time: Duration) -> Report {
        let mut report = Report::default();
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.receive();
            self.hear(&mut report);
            self.give_up(&mut report);
            self.send();
        }
        report
    }

    /// Share of what the path could have delivered in `time`.
    fn share(&mut self, time: Duration) -> f64 {
        let could = self.path.bytes_per_second as f64 * time.as_secs_f64();
        self.run(time).delivered as f64 / could
    }

    fn receive(&mut self) {
        while self.arriving.front().is_some_and(|(at, _)| *at <= self.now) {
            self.received
                .extend(self.arriving.pop_front().map(|(_, number)| number));
            self.ack_due.get_or_insert(self.now + HEADROOM);
            if self.received.len() >= ACK_EVERY {
                self.acknowledge();
            }
        }
        if self.ack_due.is_some_and(|due| due <= self.now) {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        self.ack_due = None;
        let arrives = self.now + self.path.one_way;
        self.acks.push_back((arrives, std::mem::take(&mut self.received)));
    }

    fn hear(&mut self, report: &mut Report) {
        while self.acks.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, numbers)) = self.acks.pop_front() else {
                return;
            };
            let Some(largest) = numbers.last().copied() else {
                continue;
            };
            self.heard_at = self.now;
            for number in numbers {
                let Some(sent) = self.in_flight.remove(&number) else {
                    continue;
                };
                self.model.on_acknowledged(self.now, sent, PACKET);
                report.delivered += PACKET;
                if number == largest {
                    let round_trip = self.now - sent;
                    self.smoothed = (self.smoothed * 7 + round_trip) / 8;
                    report.longest_round_trip = report.longest_round_trip.max(round_trip);
                }
            }
            let under_way = self.under_way();
            self.model.on_end_acks(self.now, under_way, self.limited);
            let kept = self.in_flight.split_off(&largest.saturating_sub(3));
            let lost = std::mem::replace(&mut self.in_flight, kept).len() as u64 * PACKET;
            if lost > 0 {
                report.lost += lost;
                self.model.on_lost(lost, false);
            }
        }
    }

    /// Takes all for lost that is under way, once nothing was heard for long.
    fn give_up(&mut self, report: &mut Report) {
        if self.in_flight.is_empty() || self.now - self.heard_at < self.smoothed * 3 + 50 * MS {
            return;
        }
        self.heard_at = self.now;
        let lost = std::mem::take(&mut self.in_flight).len() as u64 * PACKET;
        report.lost += lost;
        self.model.on_lost(lost, self.path.loss >= 1.0);
    }

    fn under_way(&self) -> u64 {
        self.in_flight.len() as u64 * PACKET
    }

    fn send(&mut self) {
        let window = self.model.window();
        let per_second = window as f64 * 1.25 / self.smoothed.as_secs_f64();
        let burst = (per_second / 1.25 * 0.002).clamp(10.0 * PACKET as f64, 256.0 * PACKET as f64);
        self.tokens = (self.tokens + per_second * TICK.as_secs_f64()).min(burst);
        self.limited = false;
        loop {
            if self.offered.is_some_and(|left| left < PACKET) {
                self.limited = true;
                return;
            }
            if self.under_way() + PACKET >= window || self.tokens < PACKET as f64 {
                return;
            }
            self.tokens -= PACKET as f64;
            self.offered = self.offered.map(|left| left - PACKET);
            if self.in_flight.is_empty() {
                self.heard_at = self.now;
            }
            self.in_flight.insert(self.next, self.now);
            self.model.on_sent(self.now);
            self.carry(self.next);
            self.next += 1;
        }
    }

    fn carry(&mut self, number: u64) {
        let begins = self.free_at.max(self.now);
        let queued = (begins - self.now).as_secs_f64() * self.path.bytes_per_second as f64;
        let is_lost = self.path.loss > 0.0 && self.rng.random::<f64>() < self.path.loss;
        if is_lost || queued > self.path.queue_bytes as f64 {
            return;
        }
        let takes = Duration::from_nanos(PACKET * 1_000_000_000 / self.path.bytes_per_second);
        self.free_at = begins + takes;
        self.arriving
            .push_back((self.free_at + self.path.one_way, number));
    }

    /// Offers `bytes` each `pause`, for `time`.
    fn trickle(&mut self, bytes: u64, pause: Duration, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.offered = Some(bytes);
            self.run(pause);
            assert!(self.model.window() >= 32 * PACKET);
        }
        self.offered = None;
    }
}

#[test]
fn a_path_that_loses_a_percent_is_filled() {
    let mut simulation = Simulation::new(Path { loss: 0.01, ..PATH });
    simulation.run(2 * SECOND);
    let share = simulation.share(20 * SECOND);
    assert!(share > 0.9, "{share}");
}

#[test]
fn a_clean_path_is_filled_and_its_queue_stays_short() {
    let mut simulation = Simulation::new(PATH);
    simulation.run(2 * SECOND);
    let report = simulation.run(20 * SECOND);
    let share = report.delivered as f64 / (20 * PATH.bytes_per_second) as f64;
    assert!(share > 0.93, "{share}");
    assert!(report.longest_round_trip < 90 * MS, "{report:?}");
    assert_eq!(report.lost, 0);
}

#[test]
fn a_short_path_is_filled() {
    let mut simulation = Simulation::new(Path {
        one_way: MS / 10,
        queue_bytes: 200_000,
        ..PATH
    });
    simulation.run(SECOND);
    let share = simulation.share(10 * SECOND);
    assert!(share > 0.9, "{share}");
}

#[test]
fn a_queue_that_holds_little_does_not_overflow_for_long() {
    let mut simulation = Simulation::new(Path {
        queue_bytes: 60_000,
        ..PATH
    });
    simulation.run(2 * SECOND);
    let report = simulation.run(20 * SECOND);
    let share = report.delivered as f64 / (20 * PATH.bytes_per_second) as f64;
    let lost = report.lost as f64 / (report.lost + report.delivered) as f64;
    assert!(share > 0.8 && lost < 0.08, "{share} {lost}");
}

#[test]
fn a_path_that_becomes_longer_is_filled_again() {
    let mut simulation = Simulation::new(Path {
        one_way: 5 * MS,
        ..PATH
    });
    simulation.run(3 * SECOND);
    simulation.path.one_way = 40 * MS;
    simulation.run(8 * SECOND);
    let share = simulation.share(10 * SECOND);
    assert!(share > 0.85, "{share}");
}

#[test]
fn a_path_that_becomes_slower_or_faster_is_followed() {
    let mut simulation = Simulation::new(PATH);
    simulation.run(3 * SECOND);
    simulation.path.bytes_per_second /= 5;
    simulation.run(4 * SECOND);
    let slow = simulation.run(6 * SECOND);
    assert!(
        slow.delivered as f64 / (6 * simulation.path.bytes_per_second) as f64 > 0.85,
        "{slow:?}"
    );
    assert!(slow.longest_round_trip < 140 * MS, "{slow:?}");
    simulation.path.bytes_per_second *= 5;
    simulation.run(4 * SECOND);
    let share = simulation.share(6 * SECOND);
    assert!(share > 0.85, "{share}");
}

#[test]
fn little_traffic_says_nothing_of_the_path_and_much_is_carried_soon_after() {
    let mut simulation = Simulation::new(PATH);
    simulation.trickle(PACKET, 50 * MS, 30 * SECOND);
    simulation.run(SECOND);
    let share = simulation.share(5 * SECOND);
    assert!(share > 0.85, "at first: {share}");
    let before = simulation.model.window();
    simulation.trickle(10 * PACKET, 100 * MS, 60 * SECOND);
    assert!(simulation.model.window() > before / 2);
    simulation.run(SECOND / 2);
    let share = simulation.share(5 * SECOND);
    assert!(share > 0.85, "after a minute of little: {share}");
}

#[test]
fn silence_changes_nothing_and_keeps_no_memory() {
    let mut simulation = Simulation::new(PATH);
    simulation.run(3 * SECOND);
    let before = simulation.model.window();
    simulation.offered = Some(0);
    simulation.run(60 * SECOND);
    assert!(simulation.model.window() >= before / 2);
    assert!(simulation.model.rate().capacity() <= 64);
    simulation.offered = None;
    simulation.run(SECOND / 2);
    let share = simulation.share(5 * SECOND);
    assert!(share > 0.85, "{share}");
}

#[test]
fn a_path_that_was_cut_is_filled_again() {
    let mut simulation = Simulation::new(PATH);
    simulation.run(3 * SECOND);
    simulation.path.loss = 1.0;
    simulation.run(3 * SECOND);
    assert_eq!(
        simulation.model.window(),
        32 * PACKET,
        "little is sent into nothing"
    );
    simulation.path.loss = 0.01;
    simulation.run(2 * SECOND);
    let share = simulation.share(5 * SECOND);
    assert!(share > 0.85, "{share}");
}

#[test]
fn heavy_loss_by_itself_does_not_stop_a_path() {
    let mut simulation = Simulation::new(Path { loss: 0.15, ..PATH });
    simulation.run(5 * SECOND);
    let share = simulation.share(10 * SECOND);
    assert!(share > 0.3, "{share}");
}
