//! Deterministic simulation of zone sync: the production `Replica` of each of 3 to 50 zones on a simulated network, with
//! simulated clocks and disks. One seed decides everything; a run that fails is repeated by its seed, event by event.
//!
//! There is nothing here of tokio, threads, sockets or real time, and nothing of routing: that gateways agree on what is
//! exported is all that is looked at. Where a promise of zone sync is checked: [`oracle`] for what must hold after every
//! event, [`liveness`] for what must come true once the faults heal, [`liar`] for what a peer may not say.

mod captured;
mod character;
mod clock;
mod faults;
mod gateways;
mod liar;
mod liveness;
mod messages;
mod network;
mod node;
mod oracle;
mod report;
mod services;
mod sessions;
mod trace;
mod world;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

pub use self::report::{Counts, Failure};
use self::{oracle::Violation, world::World};

/// Runs one seed.
///
/// # Errors
/// When a promise was broken; the run is repeated to record what happened.
pub fn run(seed: u64) -> Result<Counts, Box<Failure>> {
    match attempt(seed, false) {
        (Ok(counts), _) => Ok(counts),
        (Err(Violation(first)), _) => {
            let (again, trace) = attempt(seed, true);
            let why = match again {
                Err(Violation(again)) if again == first => first,
                again => format!("{first}\nbut the run could not be repeated: {:?}", again.err()),
            };
            Err(Box::new(Failure { seed, why, trace }))
        }
    }
}

/// Runs many seeds, on every core, and sums up what they counted.
///
/// # Errors
/// One that failed; the others are not gone on with then.
pub fn run_many(seeds: Range<u64>) -> Result<Counts, Box<Failure>> {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let work = || -> Result<Counts, Box<Failure>> {
        let mut sum = Counts::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.load(Ordering::Relaxed) {
                return Ok(sum);
            }
            sum.add(&run(seed).inspect_err(|_| failed.store(true, Ordering::Relaxed))?);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut sum = Counts::default();
        for worker in workers {
            sum.add(&worker.join().expect("a run catches its panics")?);
        }
        Ok(sum)
    })
}

/// Runs one seed and records everything that happens.
pub fn run_with_trace(seed: u64) -> (Result<Counts, Box<Failure>>, Vec<String>) {
    let (result, trace) = attempt(seed, true);
    let result = result.map_err(|Violation(why)| {
        let trace = Vec::new();
        Box::new(Failure { seed, why, trace })
    });
    (result, trace)
}

fn attempt(seed: u64, trace: bool) -> (Result<Counts, Violation>, Vec<String>) {
    let mut world = World::new(seed, trace);
    // A replica that panics has broken a promise too, and its seed must be told.
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result.unwrap_or_else(|_| Err(Violation("a replica panicked".to_owned())));
    let World { counts, trace, .. } = world;
    (result.map(|()| counts), trace.into_lines())
}
