//! The end of a run: the faults heal, and within a bound that follows from the protocol's own times everyone must hold
//! what everyone says.

use std::time::Duration;

use causeway_zone_sync::{
    catalog::Age,
    replica::limits::{HEARTBEAT, RAISE_INTERVAL, SILENCE},
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

    /// How long after the faults everyone must agree, in true time:
    /// - the last gateway is up, with the whole topology: `RECOVERY`;
    /// - an end that holds on to a dead session lets go of it, by its transport or by `SILENCE`; it may be that the other
    ///   end has to do so next, because it took part in that session only;
    /// - a session is opened anew: `LONGEST_PAUSE`, and a second one in the place of one that was refused meanwhile;
    /// - a gateway that lost its disk learns from its peers how far it had come: at most one step in `RAISE_INTERVAL`,
    ///   and two peers may know different ends;
    /// - losses are noticed by the next heartbeat: `REPAIRS`;
    /// - each of these may come late, and on a slow clock takes longer.
    fn longest_disagreement(&self) -> Duration {
        let by_clocks = SILENCE * 2 + RAISE_INTERVAL * 2 + HEARTBEAT * REPAIRS;
        let late = (self.character.lateness + self.character.latency * 2) * 20;
        RECOVERY + LONGEST_PAUSE * 2 + by_clocks * self.character.slowness() / 1000 + late
    }

    /// Ends the run once everyone agrees.
    pub fn check_liveness(&mut self) -> Verdict {
        let Some(healed) = self.healed else {
            return Ok(());
        };
        let disagreement = self.disagreement();
        let Some(disagreement) = disagreement else {
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

    /// The first of what two gateways with a tunnel do not agree on.
    fn disagreement(&self) -> Option<String> {
        let pairs = self.network.pairs.iter();
        let mut each = pairs.flat_map(|pair| [pair.ends, [pair.ends[1], pair.ends[0]]]);
        each.find_map(|[holder, origin]| self.differs(holder, origin))
    }

    fn differs(&self, holder: usize, origin: usize) -> Option<String> {
        let (holder, origin) = (&self.nodes[holder], &self.nodes[origin]);
        let (Some(here), Some(there)) = (&holder.life, &origin.life) else {
            return Some(format!("{} or {} is down", holder.id, origin.id));
        };
        if origin.is_liar || holder.is_liar {
            return None;
        }
        let (entry, own) = (here.catalog().entry(&origin.id), there.own());
        let Some(entry) = entry else {
            return Some(format!("{} holds nothing of {}", holder.id, origin.id));
        };
        let held = &entry.record;
        if held != own {
            return Some(format!(
                "{} holds {} of {}, which is at {}{}",
                holder.id,
                show(held),
                origin.id,
                show(own),
                if show(held) == show(own) {
                    " with other content"
                } else {
                    ""
                }
            ));
        }
        (entry.age != Age::Fresh).then(|| format!("{} finds {} {:?}", holder.id, origin.id, entry.age))
    }
}
