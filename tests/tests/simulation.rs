//! A few hundred seeds of the simulation of zone sync; `make simulate` runs as many as you like.

use causeway_tests::{
    measured::measured,
    simulation::{run_many, run_with_trace},
};

/// Seeds of every test run. More are for `make simulate`.
const SEEDS: u64 = 240;

#[test]
fn every_promise_of_zone_sync_holds_in_every_seed() {
    match run_many(0..SEEDS) {
        Ok(sum) => {
            assert_eq!(sum.runs, SEEDS);
            measured(&format!("simulation: {sum}"));
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_seed_replays_event_by_event() {
    for seed in [3, 14] {
        let (first, second) = (run_with_trace(seed).1, run_with_trace(seed).1);
        assert!(
            first.len() > 100,
            "seed {seed} has a trace of {} lines",
            first.len()
        );
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
