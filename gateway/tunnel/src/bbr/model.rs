//! The model of one path, and the window that follows from it. Pure: the time is an argument.

use std::time::{Duration, Instant};

use super::{
    HEADROOM,
    rate::{DeliveryRate, RateSample, RoundMax},
};

/// Window of a new path: 32 packets of the smallest size.
pub(super) const INITIAL_WINDOW_BYTES: u64 = 32 * 1200;
/// Packets that may always be under way: with fewer, acknowledgements that come for 20 packets at once would stop the path.
const MIN_WINDOW_PACKETS: u64 = 32;
/// Gain until the path is full: doubles what is under way in each round (2 / ln 2).
const STARTUP: Gain = Gain(2_885);
/// Gains in turn, each for a round trip, once the path is full: look for more, let the queue go, and stay.
const CRUISE: [Gain; 8] = [
    Gain(1_500),
    Gain(1_000),
    Gain(1_250),
    Gain(1_250),
    Gain(1_250),
    Gain(1_250),
    Gain(1_250),
    Gain(1_250),
];
/// Gain while the queue of the beginning goes, and in which a path is not slowed down by loss any more.
const NO_QUEUE: Gain = Gain(1_000);
/// Gain while the round trip is measured without a queue.
const PROBE: Gain = Gain(500);
/// The path is full once it delivers less than this more for some rounds.
const GROWTH: Gain = Gain(1_250);
const ROUNDS_WITHOUT_GROWTH: u32 = 3;
/// Time after which the shortest round trip is measured anew.
const ROUND_TRIP_KEPT: Duration = Duration::from_secs(5);
/// Time for which that is done.
const PROBE_FOR: Duration = Duration::from_millis(200);
/// Time for which a sender and a receiver hold packets by themselves, whatever the path: a window that is smaller than what is
/// delivered meanwhile would stop a short path.
const PROBE_HEADROOM: Duration = Duration::from_millis(2);
/// Share of a round's bytes that may be lost, in thousandths: more means that a queue overflows.
const HEAVY_LOSS: u64 = 80;
/// Packets lost in a round with fewer of which nothing is concluded.
const HEAVY_LOSS_PACKETS: u64 = 8;
/// Growth of the ceiling that heavy loss sets, each time that more is looked for.
const CEILING_GROWTH: Gain = Gain(1_250);

/// Factor in thousandths.
#[derive(Debug, Clone, Copy)]
struct Gain(u64);

impl Gain {
    fn of(self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.0) / 1_000
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The window grows until the path is full.
    Startup,
    /// The queue that this has made goes.
    Drain,
    /// The gains of [`CRUISE`] in turn.
    Cruise { step: usize, since: Instant },
    /// Little is under way, to see the round trip without a queue.
    Probe { window: u64, until: Instant },
}

/// Model of one path.
#[derive(Debug, Clone)]
pub(super) struct Model {
    mtu: u64,
    rate: DeliveryRate,
    /// Bytes per second that the path delivers.
    bandwidth: RoundMax,
    /// The shortest round trip of late, and when it was seen.
    shortest: Option<Duration>,
    shortest_at: Instant,
    phase: Phase,
    window: u64,
    round: u64,
    /// Delivered bytes from which a packet belongs to the next round.
    round_ends_at: u64,
    /// Delivered bytes when the round began, and bytes lost since.
    round_began_at: u64,
    lost: u64,
    /// Delivered bytes when acknowledgements were last looked at.
    seen: u64,
    /// Bandwidth when it last grew, and the rounds since.
    grown_to: u64,
    rounds_without_growth: u32,
    /// Most that heavy loss lets be under way.
    ceiling: Option<u64>,
}

impl Model {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            rate: DeliveryRate::default(),
            bandwidth: RoundMax::default(),
            shortest: None,
            shortest_at: now,
            phase: Phase::Startup,
            window: INITIAL_WINDOW_BYTES,
            round: 0,
            round_ends_at: 0,
            round_began_at: 0,
            lost: 0,
            seen: 0,
            grown_to: 0,
            rounds_without_growth: 0,
            ceiling: None,
        }
    }

    /// Bytes that may be under way.
    pub(super) fn window(&self) -> u64 {
        let window = match self.phase {
            Phase::Probe { window, .. } => window,
            _ => self.window,
        };
        window
            .min(self.ceiling.unwrap_or(u64::MAX))
            .max(self.min_window())
    }

    pub(super) fn on_sent(&mut self, now: Instant) {
        self.rate.on_sent(now);
    }

    pub(super) fn on_acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.rate.on_acknowledged(now, sent, bytes);
    }

    pub(super) fn on_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    pub(super) fn on_lost(&mut self, bytes: u64, persistent: bool) {
        self.lost += bytes;
        if persistent {
            // Nothing has come through for a while: what was known of the path need not hold any more.
            self.bandwidth.clear();
            (self.grown_to, self.rounds_without_growth, self.ceiling) = (0, 0, None);
            (self.round_began_at, self.lost) = (self.rate.delivered(), 0);
            (self.phase, self.window) = (Phase::Startup, self.min_window());
        }
    }

    /// Takes up acknowledgements that came together. `limited`: everything that was offered has been sent.
    pub(super) fn on_end_acks(&mut self, now: Instant, in_flight: u64, limited: bool) {
        let acknowledged = self.rate.delivered() - self.seen;
        self.seen = self.rate.delivered();
        if let Some(sample) = self.rate.sample(now, in_flight, limited) {
            self.take(now, &sample, limited);
        }
        self.advance(now, in_flight);
        self.resize(acknowledged);
    }

    fn take(&mut self, now: Instant, sample: &RateSample, limited: bool) {
        self.take_round_trip(now, sample.round_trip, limited);
        let is_new_round = sample.delivered_before >= self.round_ends_at;
        if is_new_round {
            self.round += 1;
            self.round_ends_at = self.rate.delivered();
        }
        let best = self.bandwidth.get();
        if !sample.limited || sample.bytes_per_second > best {
            self.bandwidth.put(self.round, sample.bytes_per_second);
        }
        if is_new_round {
            self.end_round(sample.limited);
        }
    }

    fn take_round_trip(&mut self, now: Instant, round_trip: Duration, limited: bool) {
        let is_old = now.saturating_duration_since(self.shortest_at) > ROUND_TRIP_KEPT;
        if self.shortest.is_none_or(|shortest| round_trip <= shortest) {
            (self.shortest, self.shortest_at) = (Some(round_trip), now);
        } else if is_old {
            // Whoever sends less than the path carries makes no queue that would have to go first.
            if !limited && matches!(self.phase, Phase::Cruise { .. }) {
                let window = PROBE.of(self.carried_in(self.shortest.unwrap_or_default() + PROBE_HEADROOM));
                let until = now + PROBE_FOR.max(round_trip);
                self.phase = Phase::Probe { window, until };
            }
            (self.shortest, self.shortest_at) = (Some(round_trip), now);
        }
    }

    fn end_round(&mut self, limited: bool) {
        let delivered = self.rate.delivered() - self.round_began_at;
        self.round_began_at = self.rate.delivered();
        let lost = std::mem::take(&mut self.lost);
        let share = lost.saturating_mul(1_000) / (lost + delivered).max(1);
        let is_heavy = lost > HEAVY_LOSS_PACKETS * self.mtu && share > HEAVY_LOSS;
        // Losses from before the queue has gone say nothing of what is under way now.
        if is_heavy && matches!(self.phase, Phase::Cruise { .. }) {
            let fits = Gain(1_000 - share).of(self.window());
            // Half of what is lost comes on top of what the path holds: all of it would let a short queue overflow for ever, and with
            // nothing a path that loses much by itself would be thought slower and slower.
            let needed = self.product().saturating_mul(1_000) / (1_000 - share / 2);
            self.ceiling = Some(fits.max(needed));
        }
        if self.phase == Phase::Startup && !limited {
            if self.bandwidth.get() >= GROWTH.of(self.grown_to) {
                (self.grown_to, self.rounds_without_growth) = (self.bandwidth.get(), 0);
            } else {
                self.rounds_without_growth += 1;
            }
            let patience = if is_heavy { 1 } else { ROUNDS_WITHOUT_GROWTH };
            if self.rounds_without_growth >= patience {
                self.phase = Phase::Drain;
            }
        }
    }

    /// Goes to the next phase, or the next gain, if it is time.
    fn advance(&mut self, now: Instant, in_flight: u64) {
        match self.phase {
            Phase::Startup => {}
            Phase::Drain if in_flight <= NO_QUEUE.of(self.bridged()) => self.cruise(now),
            Phase::Drain => {}
            Phase::Cruise { step, since } => {
                let lasts = self.shortest.unwrap_or_default() + HEADROOM;
                if now.saturating_duration_since(since) >= lasts {
                    let step = (step + 1) % CRUISE.len();
                    self.phase = Phase::Cruise { step, since: now };
                    if step == 0 {
                        self.lift_ceiling();
                    }
                }
            }
            Phase::Probe { until, .. } if now >= until => self.cruise(now),
            Phase::Probe { .. } => {}
        }
    }

    fn cruise(&mut self, now: Instant) {
        // Not with the step that looks for more, and for paths that began together not with the same.
        let step = 2 + usize::try_from(self.round % 6).unwrap_or(0);
        self.phase = Phase::Cruise { step, since: now };
    }

    fn lift_ceiling(&mut self) {
        let most = CRUISE[0].of(self.bridged());
        self.ceiling = self
            .ceiling
            .map(|ceiling| CEILING_GROWTH.of(ceiling))
            .filter(|ceiling| *ceiling < most);
    }

    fn resize(&mut self, acknowledged: u64) {
        let bridged = self.bridged();
        self.window = match self.phase {
            // Nothing is known yet.
            Phase::Startup if bridged == 0 => self.window + acknowledged,
            // It never shrinks before the path is known to be full.
            Phase::Startup => {
                let most = STARTUP.of(bridged).max(self.window);
                (self.window + acknowledged).min(most)
            }
            Phase::Drain => NO_QUEUE.of(bridged),
            Phase::Cruise { step, .. } => CRUISE[step].of(bridged).min(self.window + acknowledged),
            Phase::Probe { .. } => self.window,
        }
        .max(self.min_window());
    }

    fn min_window(&self) -> u64 {
        MIN_WINDOW_PACKETS * self.mtu
    }

    /// The bandwidth-delay product: what the path holds without a queue.
    fn product(&self) -> u64 {
        self.carried_in(self.shortest.unwrap_or_default())
    }

    /// The same, with what is delivered while an acknowledgement is kept back.
    fn bridged(&self) -> u64 {
        self.carried_in(self.shortest.unwrap_or_default() + HEADROOM)
    }

    fn carried_in(&self, time: Duration) -> u64 {
        let bytes = u128::from(self.bandwidth.get()) * time.as_micros() / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    #[cfg(test)]
    pub(super) fn rate(&self) -> &DeliveryRate {
        &self.rate
    }
}
