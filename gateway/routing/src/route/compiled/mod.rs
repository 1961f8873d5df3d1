//! Parts that decisions about a service have in common while nothing changes, worked out once: the arms of its splits and the homes of each,
//! with their weights. A request without reasons is left with a draw of its arm and of a home of it.
//!
//! It is made by the filters of [`route`](super::route()) themselves and draws as they do, so that one seed gives one candidate, compiled or
//! not. What is rarer, or hangs on what changes in place, is left to them: see [`CompiledService::new`].

mod table;

use std::{ops::Range, sync::Arc};

use causeway_federation::{
    name::{GatewayId, ServiceName, Tags},
    topology::{Criticality, Service, SplitArm},
};
use rand::{Rng, SeedableRng as _, rngs::SmallRng};

use super::{
    Candidate, Destination, Question, Request,
    arms::Arm,
    draw,
    homes::{self, Grounds, Home, Homes},
    reason::{Reasons, Why},
};
use crate::{
    outlier::Ejected,
    snapshot::Snapshot,
    sticky::{StickyKey, number_of},
    target::Target,
};

pub use table::CompiledServices;

/// Most homes of all arms together of a service that is compiled: at about 100 bytes each. Of one with more, the homes themselves are what
/// a decision costs.
const MAX_HOMES: usize = 256;

/// A service whose decisions are left with two draws.
#[derive(Debug)]
pub(super) struct CompiledService {
    criticality: Criticality,
    /// The arms of the service's own split, and then those of its routes.
    arms: Box<[CompiledArm]>,
    own: usize,
    routes: Box<[CompiledSplit]>,
    homes: Box<[CompiledHome]>,
}

/// Split of a route, and its arms.
#[derive(Debug)]
struct CompiledSplit {
    split: Arc<[SplitArm]>,
    arms: Range<usize>,
}

/// An arm of weight above 0.
#[derive(Debug)]
struct CompiledArm {
    tags: Tags,
    weight: f64,
    /// Number by which a key draws it.
    number: u64,
    homes: Range<usize>,
    /// Homes of the best rank.
    best: usize,
    is_last_resort: bool,
}

/// A home in the order of its arm, which is that of draws.
#[derive(Debug)]
struct CompiledHome {
    gateway: Option<GatewayId>,
    grounds: Grounds,
    is_best: bool,
    weight: f64,
    rate: f64,
    zone_weight: f64,
    /// Numbers by which a key draws its zone and itself.
    zone_number: u64,
    number: u64,
}

impl CompiledService {
    /// Works a service out. `None`: it has a shift, shares its traffic among tiers, or starts slowly, all of which changes without a new
    /// snapshot; or has too many homes.
    fn new(snapshot: &Snapshot, name: &ServiceName) -> Option<Self> {
        let service = snapshot.topology.services.get(name)?;
        let is_steered = service.spill.is_some() || service.return_policy().is_some();
        if is_steered || service.active_shift().is_some() {
            return None;
        }
        let mut compiler = ServiceCompiler {
            snapshot,
            service,
            target: Target::service(name.clone()),
            arms: Vec::new(),
            homes: Vec::new(),
        };
        let own = compiler.split(&service.split)?.len();
        let splits = service.routes.iter().filter_map(|route| route.split.as_ref());
        let compiled = splits.map(|split| {
            let arms = compiler.split(split)?;
            Some(CompiledSplit {
                split: split.clone(),
                arms,
            })
        });
        let routes = compiled.collect::<Option<Vec<_>>>()?;
        Some(Self {
            criticality: service.criticality,
            arms: compiler.arms.into(),
            own,
            routes: routes.into(),
            homes: compiler.homes.into(),
        })
    }

    pub(super) fn criticality(&self) -> Criticality {
        self.criticality
    }

    /// Draws the first candidate. `None`: it is not found here.
    pub(super) fn first(&self, request: &Request, rng: &mut impl Rng) -> Option<(Candidate, Why)> {
        let arms = match &request.split {
            None => 0..self.own,
            Some(split) => {
                let is_it = |route: &&CompiledSplit| Arc::ptr_eq(&route.split, split);
                self.routes.iter().find(is_it)?.arms.clone()
            }
        };
        let arm = drawn_arm(self.arms.get(arms)?, request.key, rng)?;
        // Other arms come before it, and their homes are drawn by what the draw of its own has left.
        if arm.is_last_resort {
            return None;
        }
        let home = arm.drawn_home(&self.homes, request.key, rng)?;
        let place = match &home.gateway {
            None => Destination::Local,
            Some(gateway) => Destination::Remote {
                gateway: gateway.clone(),
            },
        };
        let candidate = Candidate {
            place,
            tags: arm.tags.clone(),
            arm: arm.tags.clone(),
            tier: home.grounds.tier,
            in_panic: false,
        };
        Some((candidate, home.grounds.why()))
    }
}

/// Draws as [`arms::ordered`](super::arms::ordered) does; an arm without a home takes no draw of homes, and the next one has its place.
fn drawn_arm<'a>(
    arms: &'a [CompiledArm],
    key: Option<StickyKey>,
    rng: &mut impl Rng,
) -> Option<&'a CompiledArm> {
    let mut least: Option<(f64, &CompiledArm)> = None;
    for arm in arms {
        let drawn = match key {
            Some(key) => key.draw(arm.number, arm.weight),
            None => draw(arm.weight, rng),
        };
        let is_less = least.is_none_or(|(least, _)| drawn.total_cmp(&least).is_lt());
        if is_less && !arm.homes.is_empty() {
            least = Some((drawn, arm));
        }
    }
    Some(least?.1)
}

impl CompiledArm {
    /// Draws as [`homes::of_arm`] does, of which only the best rank can come first.
    fn drawn_home<'a>(
        &self,
        all: &'a [CompiledHome],
        key: Option<StickyKey>,
        rng: &mut impl Rng,
    ) -> Option<&'a CompiledHome> {
        let homes = all.get(self.homes.clone())?;
        if self.best == 1 {
            return homes.iter().find(|home| home.is_best);
        }
        let mut least: Option<((f64, f64), &CompiledHome)> = None;
        for home in homes {
            let drawn = match key.filter(|_| home.gateway.is_some()) {
                Some(key) if home.is_best => {
                    let zone = key.draw(home.zone_number, home.zone_weight);
                    (zone, key.draw(home.number, home.weight))
                }
                Some(_) => continue,
                None if home.is_best => (draw(home.rate, rng), 0.0),
                None => {
                    rng.next_u64();
                    continue;
                }
            };
            let is_less = |least: (f64, f64)| {
                let zone = drawn.0.total_cmp(&least.0);
                zone.then_with(|| drawn.1.total_cmp(&least.1)).is_lt()
            };
            if least.is_none_or(|(least, _)| is_less(least)) {
                least = Some((drawn, home));
            }
        }
        Some(least?.1)
    }
}

/// A service that is being worked out.
struct ServiceCompiler<'s> {
    snapshot: &'s Snapshot,
    service: &'s Service,
    target: Target,
    arms: Vec<CompiledArm>,
    homes: Vec<CompiledHome>,
}

impl ServiceCompiler<'_> {
    /// Adds the arms of a split. `None`: there are too many homes.
    fn split(&mut self, split: &[SplitArm]) -> Option<Range<usize>> {
        let begin = self.arms.len();
        for arm in split.iter().filter(|arm| arm.weight > 0) {
            let homes = self.homes_of(&arm.tags)?;
            let of_arm = &self.homes[homes.clone()];
            self.arms.push(CompiledArm {
                number: number_of(&arm.tags.to_string()),
                tags: arm.tags.clone(),
                weight: f64::from(arm.weight),
                best: of_arm.iter().filter(|home| home.is_best).count(),
                is_last_resort: of_arm.iter().all(|home| home.grounds.is_last_resort()),
                homes,
            });
        }
        Some(begin..self.arms.len())
    }

    /// Adds the homes of an arm, unless another one with the same tags has them already.
    fn homes_of(&mut self, tags: &Tags) -> Option<Range<usize>> {
        if let Some(known) = self.arms.iter().find(|arm| arm.tags == *tags) {
            return Some(known.homes.clone());
        }
        let snapshot = self.snapshot;
        let zone = snapshot.topology.zones.get(&snapshot.zone);
        let question = Question {
            snapshot,
            service: self.service,
            target: &self.target,
            port: None,
            own_tags: zone.map(|zone| &zone.tags),
            key: None,
            criticality: self.service.criticality,
            draws_tier: true,
            in_panic: false,
        };
        let arm = Arm {
            split_tags: tags.clone(),
            tags: tags.clone(),
            weight: 1,
            by_name: false,
        };
        // What is drawn is not kept, and what is ejected is looked at by every decision.
        let mut rng = SmallRng::seed_from_u64(0);
        let nothing = Ejected::default();
        let found = homes::of_arm(&question, (&arm, &nothing), &mut Reasons::new(false), &mut rng);
        let Homes { left, .. } = found;
        let begin = self.homes.len();
        if begin + left.len() > MAX_HOMES {
            return None;
        }
        let best = left.iter().map(|home| home.grounds.rank()).min();
        let compiled = left.iter().map(|home| CompiledHome {
            is_best: Some(home.grounds.rank()) == best,
            ..CompiledHome::of(home)
        });
        self.homes.extend(compiled);
        Some(begin..self.homes.len())
    }
}

impl CompiledHome {
    fn of(home: &Home<'_>) -> Self {
        let number = |gateway: &GatewayId| number_of(&gateway.to_string());
        let zone_number = home.zone().map(|zone| number_of(zone.as_str()));
        Self {
            gateway: home.gateway.cloned(),
            grounds: home.grounds,
            is_best: false,
            weight: home.weight,
            rate: home.rate,
            zone_weight: home.zone_weight,
            zone_number: zone_number.unwrap_or_default(),
            number: home.gateway.map(number).unwrap_or_default(),
        }
    }
}
