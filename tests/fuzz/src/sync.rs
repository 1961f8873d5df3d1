//! Target `sync`: a peer that says what it likes to a replica which also has a session with an honest peer.
//!
//! The input is a script of steps: messages of the hostile peer, time that passes, reconnections, local changes. After
//! every step: what is held of the honest zones is what they wrote, no version went back, every limit holds, whatever the
//! replica says can be read, and it never falls out with the honest peer. At the end the honest ones agree.

mod conversation;
mod script;
mod world;

use script::Step;
use world::World;

pub use conversation::seeds;

/// Most steps of one script that are carried out: more only makes a run slower.
const MAX_STEPS: usize = 96;
/// Most of them in which time passes: heartbeats make each of them long.
const MAX_WAITS: usize = 6;

pub fn run(data: &[u8]) {
    let mut world = World::new();
    let mut waits = 0;
    for step in script::steps(data).take(MAX_STEPS) {
        waits += usize::from(matches!(step, Step::Wait(_)));
        if waits > MAX_WAITS {
            break;
        }
        world.take(step);
        world.check();
    }
    world.finish();
}
