//! The world: the queue of what happens when, and what happens. One seed decides everything in it; there are no threads,
//! no sockets and no clock but its own.
//!
//! It mirrors the tokio shell of zone sync (its task, sessions and saver) closely enough that whatever the shell can do
//! to a `Replica` happens here too, and far more often.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use causeway_federation::name::{GatewayId, GatewayName, ZoneName};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    captured::Captured,
    character::{Character, Shape},
    clock::{Clock, Moment, RIGHT_RATE},
    network::{Network, Pair},
    node::{Node, Start, Topology},
    oracle::{Oracle, Verdict, Violation, violation},
    report::Counts,
    services::Services,
    trace::Trace,
};

/// Event that happens at a moment.
#[derive(Debug, Clone, Copy)]
pub enum Happening {
    /// The next fault or change of the run.
    Step,
    Arrival {
        session: u64,
        side: usize,
    },
    Opened {
        session: u64,
        side: usize,
    },
    /// An end learns that its session is dead; where `cuts` is set, only if that cut is still on.
    Lost {
        session: u64,
        side: usize,
        cuts: Option<u64>,
    },
    Dial {
        pair: usize,
    },
    Wake {
        node: usize,
        life: u64,
    },
    Saved {
        node: usize,
        life: u64,
    },
    Exports {
        node: usize,
        life: u64,
    },
    Topology {
        node: usize,
    },
    Start {
        node: usize,
        start: Start,
    },
    Thaw {
        node: usize,
    },
    Uncut {
        pair: usize,
        side: usize,
    },
    /// Checks of everything, and of whether everyone agrees.
    Sweep,
}

/// Interval at which everything is checked, whether or not something happened there.
const SWEEP: Duration = Duration::from_millis(200);

pub struct World {
    pub now: Moment,
    sequence: u64,
    queue: BTreeMap<(Moment, u64), Happening>,
    pub rng: SmallRng,
    pub character: Character,
    pub nodes: Vec<Node>,
    pub places: BTreeMap<GatewayId, usize>,
    pub services: Vec<Services>,
    pub network: Network,
    pub oracle: Oracle,
    pub trace: Trace,
    pub counts: Counts,
    pub topology: Topology,
    /// Time at which a gateway's present session with a peer began, by its own clock.
    pub linked_at: BTreeMap<(usize, usize), Instant>,
    /// The word for which a session was last refused.
    pub refused_as: Option<&'static str>,
    /// Zones that a gateway ever asked the other end of a session for.
    pub asked: BTreeSet<(u64, usize, ZoneName)>,
    /// Messages that liars heard.
    pub captured: Captured,
    pub steps_left: usize,
    /// Time at which the faults ended.
    pub healed: Option<Moment>,
    /// Number of the largest steps that an origin's incarnation was behind then.
    pub strides: u32,
    /// Pairs of holder and origin that were found fresh since the faults ended.
    pub fresh_since: BTreeSet<(usize, usize)>,
    pub is_over: bool,
}

impl World {
    #[must_use]
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let character = Character::draw(&mut rng);
        let nodes = nodes(&character, &mut rng);
        let zones = nodes.iter().map(|node| node.id.zone.clone()).collect();
        let liars = nodes.iter().filter(|node| node.is_liar);
        let liars: BTreeSet<_> = liars.map(|node| node.id.clone()).collect();
        let mut world = Self {
            now: Moment::default(),
            sequence: 0,
            queue: BTreeMap::new(),
            places: nodes
                .iter()
                .enumerate()
                .map(|(at, n)| (n.id.clone(), at))
                .collect(),
            services: vec![Services::default(); character.zones.len()],
            network: Network::default(),
            oracle: Oracle::new(nodes.len(), character.ages, liars),
            trace: Trace::new(trace),
            counts: Counts::default(),
            topology: Topology { number: 1, zones },
            linked_at: BTreeMap::new(),
            refused_as: None,
            asked: BTreeSet::new(),
            captured: Captured::default(),
            fresh_since: BTreeSet::new(),
            steps_left: character.steps,
            healed: None,
            strides: 0,
            is_over: false,
            rng,
            character,
            nodes,
        };
        world
            .trace
            .note(world.now, || format!("seed {seed}: {:?}", world.character));
        world.link();
        world.begin();
        world
    }

    /// Decides which zones have tunnels: then each gateway of one has one with each of the other.
    fn link(&mut self) {
        let zones = self.character.zones.len();
        for x in 0..zones {
            for y in x + 1..zones {
                let is_linked = match self.character.shape {
                    Shape::Mesh => true,
                    Shape::Hubs => x < 2,
                    Shape::Sparse(share) => {
                        y == x + 1 || (x == 0 && y == zones - 1) || self.rng.random_bool(share)
                    }
                };
                if is_linked {
                    self.link_zones(x, y);
                }
            }
        }
    }

    fn link_zones(&mut self, x: usize, y: usize) {
        for a in 0..self.nodes.len() {
            for b in a + 1..self.nodes.len() {
                if (self.nodes[a].zone, self.nodes[b].zone) == (x, y) {
                    let latency = self.character.latency.mul_f64(self.rng.random_range(0.5..1.5));
                    self.network.pairs.push(Pair {
                        ends: [a, b],
                        cut: [false; 2],
                        cuts: 0,
                        latency,
                        pace: [Duration::ZERO; 2],
                    });
                }
            }
        }
    }

    fn begin(&mut self) {
        for zone in 0..self.services.len() {
            self.services[zone] = Services::draw(self.character.services, &mut self.rng);
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].topology = self.topology.clone();
            let at = self.soon(Duration::from_secs(2));
            let start = Start::Disk;
            self.at(at, Happening::Start { node, start });
        }
        self.after(SWEEP, Happening::Sweep);
        self.after(self.character.gap, Happening::Step);
    }

    pub fn at(&mut self, at: Moment, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), happening);
    }

    pub fn after(&mut self, time: Duration, happening: Happening) {
        self.at(self.now.after(time), happening);
    }

    /// A moment within `time` from now.
    pub fn soon(&mut self, time: Duration) -> Moment {
        let time = time.mul_f64(self.rng.random());
        self.now.after(time)
    }

    #[must_use]
    pub fn instant(&self, node: usize) -> Instant {
        self.nodes[node].instant(self.now)
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// When a promise was broken.
    pub fn run(&mut self) -> Verdict {
        while !self.is_over {
            let Some(((at, _), happening)) = self.queue.pop_first() else {
                return violation("nothing is left to happen".to_owned());
            };
            self.now = at;
            self.counts.events += 1;
            self.happen(happening)
                .map_err(|Violation(text)| Violation(format!("at {at}, at {happening:?}: {text}")))?;
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Verdict {
        if let Some(node) = self.frozen_node(happening) {
            self.nodes[node].held_up.push(happening);
            return Ok(());
        }
        match happening {
            Happening::Step => self.step(),
            Happening::Arrival { session, side } => self.arrival(session, side),
            Happening::Opened { session, side } => self.opened(session, side),
            Happening::Lost { session, side, cuts } => self.lost(session, side, cuts),
            Happening::Dial { pair } => {
                self.dial(pair);
                Ok(())
            }
            Happening::Wake { node, life } => self.wake(node, life),
            Happening::Saved { node, life } => self.saved(node, life),
            Happening::Exports { node, life } => self.exports(node, life),
            Happening::Topology { node } => self.take_topology(node),
            Happening::Start { node, start } => self.start(node, start),
            Happening::Uncut { pair, side } => {
                self.uncut(pair, side);
                Ok(())
            }
            Happening::Thaw { node } => {
                self.thaw(node);
                Ok(())
            }
            Happening::Sweep => self.sweep(),
        }
    }

    /// Gateway that this concerns, if it does nothing now.
    fn frozen_node(&self, happening: Happening) -> Option<usize> {
        let node = match happening {
            Happening::Arrival { session, side } => {
                let session = self.network.session(session)?;
                self.network.node_at(session, 1 - side)
            }
            Happening::Opened { session, side } | Happening::Lost { session, side, .. } => {
                self.network.node_at(self.network.session(session)?, side)
            }
            Happening::Wake { node, .. }
            | Happening::Saved { node, .. }
            | Happening::Exports { node, .. }
            | Happening::Topology { node } => node,
            _ => return None,
        };
        Some(node).filter(|node| self.nodes[*node].frozen_until > self.now)
    }

    /// A gateway that did nothing goes on, with whatever happened to it meanwhile.
    pub fn thaw(&mut self, node: usize) {
        if self.nodes[node].frozen_until <= self.now {
            for happening in std::mem::take(&mut self.nodes[node].held_up) {
                self.at(self.now, happening);
            }
        }
    }

    fn sweep(&mut self) -> Verdict {
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            if node.life.is_some() && node.frozen_until < self.now {
                self.check_zones(at)?;
                let lateness = self.character.lateness;
                self.oracle
                    .check_ages(at, node.instant(self.now), lateness)
                    .map_err(|Violation(text)| Violation(format!("{}: {text}", node.id)))?;
            }
        }
        self.after(SWEEP, Happening::Sweep);
        self.check_liveness()
    }
}

fn nodes(character: &Character, rng: &mut SmallRng) -> Vec<Node> {
    // The one reading of a real clock: an `Instant` cannot be made otherwise. Only differences to it are ever used.
    let start = Instant::now();
    let mut nodes = Vec::new();
    for (zone, gateways) in character.zones.iter().enumerate() {
        for gateway in 0..*gateways {
            let off = rng.random_range(0..=2 * character.drift);
            nodes.push(Node {
                id: gateway_id(zone, gateway),
                zone,
                clock: Clock::new(start, RIGHT_RATE + off - character.drift),
                disk: Default::default(),
                copies: Vec::new(),
                life: None,
                lives: 0,
                topology: Topology::default(),
                draining: false,
                frozen_until: Moment::default(),
                held_up: Vec::new(),
                is_liar: false,
                speaks: character.programs[rng.random_range(0..character.programs.len())],
            });
        }
    }
    for _ in 0..character.liars {
        let liar = rng.random_range(0..nodes.len());
        nodes[liar].is_liar = true;
    }
    nodes
}

fn gateway_id(zone: usize, gateway: usize) -> GatewayId {
    let zone = ZoneName::new(&format!("z{zone:02}")).expect("a letter and digits are a label");
    let gateway = GatewayName::new(&format!("gw{gateway}")).expect("letters and digits are a label");
    GatewayId::new(zone, gateway)
}
