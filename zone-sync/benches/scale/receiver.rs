//! One gateway in a full mesh: a session with each of the other zones, and all of their exports in its catalog. Each
//! sender is a real replica; what is modelled is only that one receiver is looked at, and not all of them at once.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use causeway_federation::{
    catalog::{Catalog, Export},
    name::GatewayId,
};
use causeway_zone_sync::replica::{LocalChange, Replica};
use prost::Message as _;

use super::{
    Size,
    carry::{Count, decode, settle},
    show::{self, Samples, over_rounds},
    world,
};

/// The receiver's own zone.
const HERE: usize = 0;
/// Between two changes, so that no sender is held back by its pace, and no session falls silent meanwhile.
const STEP: Duration = Duration::from_micros(50);
/// Loads of the catalog that a reader makes in each round with nothing going on, for comparison.
const QUIET_LOADS: usize = 2_000_000;

struct Sender {
    id: GatewayId,
    replica: Replica,
    exports: Vec<Export>,
}

struct Mesh {
    now: Instant,
    id: GatewayId,
    receiver: Replica,
    senders: Vec<Sender>,
}

pub fn run(size: Size) {
    show::heading("One gateway with a session to every other zone");
    let now = Instant::now();
    let senders = (1..size.zones).map(|zone| {
        let (replica, exports) = world::telling(now, zone, [HERE, zone], size.exports);
        let id = world::gateway(zone);
        Sender { id, replica, exports }
    });
    let mut mesh = Mesh {
        now,
        id: world::gateway(HERE),
        // Nothing of its own, so that what the senders hold of it does not count.
        receiver: world::telling(now, HERE, 0..size.zones, 0).0,
        senders: senders.collect(),
    };
    mesh.join(size);
    mesh.deltas(size);
}

impl Mesh {
    /// Everybody connects, and is told everything.
    fn join(&mut self, size: Size) {
        let before = show::resident_bytes();
        let (mut sent, mut received) = (Count::default(), Count::default());
        let started = Instant::now();
        for sender in &mut self.senders {
            self.receiver.handle_connected(self.now, sender.id.clone());
            sender.replica.handle_connected(self.now, self.id.clone());
            let here = (&self.id, &mut self.receiver);
            let (told, heard) = settle(self.now, here, (&sender.id, &mut sender.replica));
            sent.messages += told.messages;
            sent.bytes += told.bytes;
            received.messages += heard.messages;
            received.bytes += heard.bytes;
        }
        let took = started.elapsed();
        let catalog = self.receiver.catalog();
        let held: usize = catalog.entries().map(|entry| entry.record.exports.len()).sum();
        assert_eq!(held, (size.zones - 1) * size.exports, "the catalog is not whole");
        let grown = show::resident_bytes().saturating_sub(before);
        show::figure("exports in the catalog", &held.to_string());
        show::figure(
            "memory for each, growth of RSS",
            &format!("{} bytes", grown / held.max(1)),
        );
        let (messages, bytes) = (received.messages, received.bytes);
        let text = format!(
            "{messages} messages, {bytes} bytes, {} for each export",
            bytes / held.max(1)
        );
        show::figure("heard to learn all of it", &text);
        show::figure(
            "said meanwhile, own record included",
            &format!("{} messages, {} bytes", sent.messages, sent.bytes),
        );
        show::figure(
            "processor time, both sides",
            &format!("{:.2} s", took.as_secs_f64()),
        );
    }

    fn deltas(&mut self, size: Size) {
        let shared = Arc::new(ArcSwap::new(self.receiver.catalog().clone()));
        let quiet = reads(
            &shared,
            |reader| while !reader.is_finished() {},
            Some(QUIET_LOADS),
        );
        let mut rounds = Rounds::default();
        let mut under_load = Samples::default();
        for _ in 0..size.rounds {
            let loads = reads(&shared, |_| self.round(size, &shared, &mut rounds), None);
            under_load = loads;
        }
        rounds.show();
        show_reads("a reader's load and lookup, nothing going on", quiet);
        show_reads("a reader's load and lookup, deltas coming in", under_load);
    }

    /// One change after another, each of the next zone: one export has one healthy instance more or less.
    fn round(&mut self, size: Size, shared: &ArcSwap<Catalog>, rounds: &mut Rounds) {
        let mut steps = Steps::default();
        let count = self.senders.len();
        for change in 0..size.changes {
            self.now += STEP;
            let now = self.now;
            let sender = &mut self.senders[change % count];
            let Some(bytes) = sender.flap(now, change * 7 % size.exports) else {
                continue;
            };
            rounds.told.add(&bytes);

            let mut lap = Lap::new();
            let message = decode(&bytes);
            lap.note(&mut steps.decode);
            self.receiver.handle_message(now, &sender.id, message);
            lap.note(&mut steps.apply);
            while self.receiver.poll_event().is_some() {}
            shared.store(self.receiver.catalog().clone());
            lap.note(&mut steps.publish);
            let mut answer = self.receiver.poll_transmit(now);
            lap.note(&mut steps.answer);
            black_box(self.receiver.poll_timeout());
            lap.note(&mut steps.timer);
            steps.all.add(lap.began.elapsed());

            while let Some((_, message)) = answer {
                let bytes = message.encode_to_vec();
                rounds.answered.add(&bytes);
                sender.replica.handle_message(now, &self.id, decode(&bytes));
                answer = self.receiver.poll_transmit(now);
            }
        }
        rounds.add(steps);
    }
}

impl Sender {
    /// The message that tells of a change of one export; `None` when the pace holds it back.
    fn flap(&mut self, now: Instant, export: usize) -> Option<Vec<u8>> {
        let export = &mut self.exports[export];
        export.healthy = 12 - (export.healthy + 1) % 2;
        export.weight = u64::from(export.healthy);
        let change = LocalChange::Exports(self.exports.clone());
        self.replica.handle_local(now, change);
        let (_, message) = self.replica.poll_transmit(now)?;
        Some(message.encode_to_vec())
    }
}

/// Times one step after another.
struct Lap {
    began: Instant,
    last: Instant,
}

impl Lap {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
        }
    }

    fn note(&mut self, samples: &mut Samples) {
        let now = Instant::now();
        samples.add(now - self.last);
        self.last = now;
    }
}

/// Costs of the steps of one delta.
#[derive(Default)]
struct Steps {
    decode: Samples,
    apply: Samples,
    publish: Samples,
    answer: Samples,
    timer: Samples,
    all: Samples,
}

#[derive(Default)]
struct Rounds {
    told: Count,
    answered: Count,
    rounds: Vec<Steps>,
}

impl Rounds {
    fn add(&mut self, steps: Steps) {
        self.rounds.push(steps);
    }

    fn show(mut self) {
        let applied: usize = self.rounds.iter().map(|steps| steps.all.len()).sum();
        let (told, answered) = (
            self.told.bytes / applied.max(1),
            self.answered.bytes / applied.max(1),
        );
        show::figure(
            "bytes of one change, and of its acknowledgement",
            &format!("{told} and {answered}"),
        );
        let steps: [(&str, StepOf); 6] = [
            ("one delta: decoding", |steps| &mut steps.decode),
            ("one delta: applying (handle_message)", |steps| &mut steps.apply),
            ("one delta: publishing the catalog", |steps| &mut steps.publish),
            ("one delta: the answer (poll_transmit)", |steps| &mut steps.answer),
            ("one delta: the next timer (poll_timeout)", |steps| {
                &mut steps.timer
            }),
            ("one delta: all of that", |steps| &mut steps.all),
        ];
        for (what, of) in steps {
            let at = |rounds: &mut [Steps], share| {
                over_rounds(
                    rounds
                        .iter_mut()
                        .map(|steps| of(steps).percentile(share))
                        .collect(),
                )
            };
            let (median, high) = (at(&mut self.rounds, 0.5), at(&mut self.rounds, 0.99));
            show::figure(what, &format!("{median}, p99 {high}"));
        }
    }
}

/// The samples of one step.
type StepOf = fn(&mut Steps) -> &mut Samples;

/// Lets a reader look up exports all the time while `work` is done; answers how long each load and lookup took.
fn reads(
    shared: &Arc<ArcSwap<Catalog>>,
    work: impl FnOnce(&thread::JoinHandle<Samples>),
    most: Option<usize>,
) -> Samples {
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (shared, stop) = (shared.clone(), stop.clone());
        thread::spawn(move || read(&shared, &stop, most.unwrap_or(usize::MAX)))
    };
    work(&reader);
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("the reader does not panic")
}

fn read(shared: &ArcSwap<Catalog>, stop: &AtomicBool, most: usize) -> Samples {
    let mut samples = Samples::default();
    let origins: Vec<_> = shared
        .load()
        .entries()
        .map(|entry| entry.record.origin.clone())
        .collect();
    let tags = world::tags(0);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) && count < most {
        let zone = count * 31 % origins.len();
        let service = world::service(zone + 1, count % 20);
        let began = Instant::now();
        let catalog = shared.load();
        let entry = catalog.entry(&origins[zone]);
        black_box(entry.and_then(|entry| entry.record.exports.get(&service, &tags)));
        drop(catalog);
        samples.add(began.elapsed());
        count += 1;
    }
    samples
}

fn show_reads(what: &str, mut samples: Samples) {
    let text =
        [0.5, 0.99, 0.9999, 1.0].map(|share| format!("{:.1}", samples.percentile(share).as_secs_f64() * 1e6));
    let [median, high, higher, most] = text;
    show::figure(
        what,
        &format!("{median} us, p99 {high}, p99.99 {higher}, longest {most}"),
    );
}
