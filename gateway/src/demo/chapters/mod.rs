//! The chapters of the story, in order. Each says what is about to happen, does it, and shows what happened.

mod arms;
mod background;
mod capacity;
mod converge;
mod gated;
mod invite;
mod kept;
mod ordinary;
mod outage;
mod ports;
mod routes;
mod shift;
mod spill;
mod split;
mod summary;
mod timeline;

use std::time::Duration;

use causeway_federation::{
    name::{ServiceName, ZoneName},
    topology::Protocol,
};
use causeway_routing::{
    route::{Request, route},
    target::Target,
};
use rand::{SeedableRng, rngs::SmallRng};

use super::{DemoError, DemoPace, federation::DemoFederation, story::Story, tally::Tally};

/// Longest wait for anything that is bound to happen on a machine that is not overwhelmed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Decisions that are drawn to see where a client's connections go.
const DRAWS: usize = 200;

/// Stage that the chapters work with.
pub(super) struct Stage {
    federation: DemoFederation,
    story: Story,
    tally: Tally,
    pace: DemoPace,
}

impl Stage {
    pub(super) fn new(federation: DemoFederation, story: Story, pace: DemoPace) -> Self {
        Self {
            federation,
            story,
            tally: Tally::default(),
            pace,
        }
    }

    /// Tells everything; `true` when every promise held.
    pub(super) async fn tell(&mut self) -> Result<bool, DemoError> {
        converge::tell(self).await?;
        ordinary::tell(self).await?;
        split::tell(self).await?;
        routes::tell(self).await?;
        ports::tell(self).await?;
        outage::tell(self).await?;
        spill::tell(self).await?;
        capacity::tell(self)?;
        shift::tell(self).await?;
        gated::tell(self).await?;
        kept::tell(self).await?;
        summary::tell(self)
    }

    /// Says what a person can try now.
    pub(super) fn invite(&self) -> Result<(), DemoError> {
        invite::tell(self)
    }

    /// Keeps traffic going until `played` resolves.
    pub(super) async fn play(&self, played: impl Future<Output = ()>) -> Result<(), DemoError> {
        background::play(self, played).await
    }

    pub(super) async fn end(self) {
        self.federation.shutdown().await;
    }

    fn zones(&self) -> Vec<ZoneName> {
        self.federation.topology.zones.keys().cloned().collect()
    }

    /// Every zone with every service that the demo's applications can call.
    fn pairs(&self) -> Vec<(ZoneName, ServiceName)> {
        let topology = &self.federation.topology;
        let services = topology.services.iter();
        let services: Vec<_> = services
            .filter(|(_, declared)| declared.ports.primary.protocol != Protocol::Udp)
            .map(|(service, _)| service)
            .collect();
        let pairs = topology.zones.keys().flat_map(|zone| {
            services
                .iter()
                .map(move |service| (zone.clone(), (*service).clone()))
        });
        pairs.collect()
    }

    /// The zones that connections from `zone` to `service` would try, in order, for each of [`DRAWS`] connections.
    fn draws(&self, zone: &ZoneName, service: &ServiceName) -> Result<Vec<Vec<ZoneName>>, DemoError> {
        let snapshot = self.federation.member(zone)?.snapshot();
        let request = Request::new(Target::service(service.clone()));
        let mut rng = SmallRng::seed_from_u64(1);
        let draws = (0..DRAWS).map(|_| {
            let decision = route(&snapshot, &request, &mut rng);
            decision.map(|candidate| candidate.zone(zone).clone()).collect()
        });
        Ok(draws.collect())
    }
}
