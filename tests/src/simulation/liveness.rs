//! The end of a run: the faults heal, and within a bound that follows from the protocol's own times everyone must hold
//! what everyone says.

use std::time::Duration;

use causeway_federation::catalog::Age;
use causeway_zone_sync::replica::limits::{
    HEARTBEAT, RAISE_INTERVAL, RAISE_STRIDE, SILENCE, WANT_AFTER, WANT_PATIENCE,
};

use super::{
    node::Start,
    oracle::{Verdict, show, violation},
    sessions::LONGEST_PAUSE,
    world::{Happening, World},
};

/// Longest until the last gateway is up again and has the whole topology.
const RECOVERY: Duration = Duration::from_secs(2);
/// Heartbeats that a repair may wait for: one that tells of a loss, one for what came meanwhile.
const REPAIRS: u32 = 3;

impl World {
    /// Ends every fault. What they left behind stays: dead sessions that nobody has noticed, half of what was on its way,
    /// lost disks, wrong clocks.
    pub fn heal(&mut self) -> Verdict {
        self.trace.note(self.now, || "* everything heals".to_owned());
        self.healed = Some(self.now);
        self.strides = self.strides_behind();
        for pair in 0..self.network.pairs.len() {
            self.network.pairs[pair].pace = [Duration::ZERO; 2];
            (0..2).for_each(|side| self.uncut(pair, side));
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].frozen_until = self.nodes[node].frozen_until.min(self.now);
            self.thaw(node);
            let at = self.soon(RECOVERY);
            let start = Start::Disk;
            self.at(at, Happening::Start { node, start });
            self.topology.zones.insert(self.nodes[node].id.zone.clone());
        }
        self.topology.number = self.topology.number.wrapping_add(1).max(1);
        self.spread_topology(RECOVERY);
        Ok(())
    }

    /// Time after the faults within which everyone must agree, in true time:
    /// - the last gateway is up, with the whole topology: `RECOVERY`;
    /// - an end that holds on to a dead session lets go of it, by its transport or by `SILENCE`; it may be that the other
    ///   end has to do so next, because it took part in that session only;
    /// - a session is opened anew: `LONGEST_PAUSE`, and a second one in the place of one that was refused meanwhile;
    /// - a gateway that lost its disk learns from its peers how far it had come: at most one step in `RAISE_INTERVAL`,
    ///   and two peers may know different ends; where lies had driven it up by many strides, as many steps;
    /// - losses are noticed by the next heartbeat: `REPAIRS`;
    /// - over relays, each hop asks after `WANT_AFTER` and tries its peers two at a time, each with `WANT_PATIENCE`, and the
    ///   last that it tries may be the one;
    /// - each of these may come late, and on a slow clock takes longer.
    fn longest_disagreement(&self) -> Duration {
        let hops = self
            .reach()
            .into_iter()
            .map(|(_, _, hops)| hops)
            .max()
            .unwrap_or(1);
        let degrees = (0..self.nodes.len()).map(|node| self.network.pairs_of(node).len());
        let peers = u32::try_from(degrees.max().unwrap_or(0)).unwrap_or(u32::MAX);
        let a_hop = WANT_AFTER + WANT_PATIENCE * (peers / 2 + 1) + HEARTBEAT * REPAIRS;
        let by_clocks =
            SILENCE * 2 + RAISE_INTERVAL * (2 + self.strides) + HEARTBEAT * REPAIRS + a_hop * (hops - 1);
        let late = (self.character.lateness + self.character.latency * 2) * 20;
        RECOVERY + LONGEST_PAUSE * 2 + by_clocks * self.character.slowness() / 1000 + late
    }

    /// Number of whole strides that an origin's disk is behind what it once wrote, at most.
    fn strides_behind(&self) -> u32 {
        let honest = self.nodes.iter().filter(|node| !node.is_liar);
        let strides = honest.map(|node| {
            let latest = self.oracle.latest_incarnation(&node.id);
            latest.saturating_sub(node.disk.incarnation) / RAISE_STRIDE
        });
        u32::try_from(strides.max().unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Ends the run once everyone agrees.
    pub fn check_liveness(&mut self) -> Verdict {
        let Some(healed) = self.healed else {
            return Ok(());
        };
        let disagreement = self.disagreement();
        let Some(disagreement) = disagreement else {
            self.counts.runs = 1;
            self.counts.agreed_after = self.now.since(healed);
            self.counts.lasted = self.now.since(Default::default());
            self.is_over = true;
            return Ok(());
        };
        let longest = self.longest_disagreement();
        if self.now.since(healed) <= longest {
            return Ok(());
        }
        violation(format!("{longest:?} after the faults had ended, {disagreement}"))
    }

    /// The first of what two gateways do not agree on that can know of each other, directly or by what others pass on.
    fn disagreement(&mut self) -> Option<String> {
        let reach = self.reach();
        for (holder, origin, hops) in reach {
            if let Some(difference) = self.differs(holder, origin) {
                return Some(format!("{difference} ({hops} hops)"));
            }
        }
        None
    }

    fn differs(&mut self, holder: usize, origin: usize) -> Option<String> {
        let pair = (holder, origin);
        let (holder, origin) = (&self.nodes[holder], &self.nodes[origin]);
        let (Some(here), Some(there)) = (&holder.life, &origin.life) else {
            return Some(format!("{} or {} is down", holder.id, origin.id));
        };
        let (entry, own) = (here.catalog().entry(&origin.id), there.own());
        let Some(entry) = entry else {
            return Some(format!("{} holds nothing of {}", holder.id, origin.id));
        };
        let held = &entry.record;
        // Protocol 1 has no sum of the exports: deltas of a life that shares its stamps with an earlier one go unnoticed.
        let shares_stamps = self.oracle.is_forgetful(&origin.id) && holder.speaks.min(origin.speaks) < 2;
        if held != own && !(shares_stamps && show(held) == show(own)) {
            let content = if show(held) == show(own) {
                " with other content"
            } else {
                ""
            };
            let (held, own) = (show(held), show(own));
            return Some(format!(
                "{} holds {held} of {}, which is at {own}{content}",
                holder.id, origin.id
            ));
        }
        // What passes through several relays may be late now and then; it must have been fresh once.
        if entry.age == Age::Fresh {
            self.fresh_since.insert(pair);
        }
        if self.fresh_since.contains(&pair) {
            return None;
        }
        Some(format!("{} finds {} {:?}", holder.id, origin.id, entry.age))
    }

    /// Pairs of who can know of whom, and over how many sessions.
    fn reach(&self) -> Vec<(usize, usize, u32)> {
        let count = self.nodes.len();
        let mut hops = vec![vec![0; count]; count];
        for pair in &self.network.pairs {
            let [a, b] = pair.ends;
            (hops[a][b], hops[b][a]) = (1, 1);
        }
        let knows_zone = |hops: &Vec<Vec<u32>>, holder: usize, zone: usize| {
            (0..count).any(|other| hops[holder][other] == 1 && self.nodes[other].zone == zone)
        };
        for round in 2..=u32::try_from(count).unwrap_or(u32::MAX) {
            let before = hops.clone();
            for pair in &self.network.pairs {
                for [holder, relay] in [pair.ends, [pair.ends[1], pair.ends[0]]] {
                    for origin in 0..count {
                        let all_sign = [holder, relay, origin]
                            .iter()
                            .all(|at| self.nodes[*at].speaks > 1);
                        let zones = [holder, relay, origin].map(|at| self.nodes[at].zone);
                        let is_relayed = all_sign && before[relay][origin] == round - 1;
                        let are_apart = zones[0] != zones[2] && zones[1] != zones[2];
                        // A zone of which a gateway is met is not asked for.
                        if is_relayed
                            && are_apart
                            && hops[holder][origin] == 0
                            && !knows_zone(&before, holder, zones[2])
                        {
                            hops[holder][origin] = round;
                        }
                    }
                }
            }
        }
        let all = hops.iter().enumerate().flat_map(|(holder, row)| {
            row.iter()
                .enumerate()
                .map(move |(origin, hops)| (holder, origin, *hops))
        });
        let is_honest = |at: usize| !self.nodes[at].is_liar;
        all.filter(|(holder, origin, hops)| *hops > 0 && is_honest(*holder) && is_honest(*origin))
            .collect()
    }
}
