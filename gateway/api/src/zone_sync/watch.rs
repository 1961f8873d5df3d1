//! Answers to a watcher: everything that there is, then every change, and a sign of life every second. A watcher that
//! falls too far behind is told so and begins anew; it never makes anybody else wait.

use std::{sync::Arc, time::Duration};

use causeway_federation::{name::ServiceName, registry::wire};
use causeway_proto::registry::{self as proto, Gateways, Synced, WatchEvent, watch_event::Event as Told};
use causeway_zone_sync::registry::etcd::{RegistryEvent, SharedRegistry, Subscription, view::InForce};
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError, mpsc},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Events on their way to one watcher. What it does not take stays in the shared queue, until that runs over.
const QUEUE: usize = 256;
/// Interval at which a watcher hears something, so that silence means trouble.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// A watcher that takes nothing at all for this long is given up.
const STUCK: Duration = Duration::from_secs(30);

pub(super) type WatchEvents = ReceiverStream<Result<WatchEvent, Status>>;

/// Subject that a watcher wants to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WatchSubject {
    /// Instances, of one service or of all.
    Instances(Option<ServiceName>),
    /// All that a gateway of the zone needs: instances, health, and who shares the checks.
    Everything,
}

/// The queue of one watcher; `Err`: it is gone.
struct Watcher(mpsc::Sender<Result<WatchEvent, Status>>);

struct Gone;

/// Begins to tell. It ends when the watcher goes, falls behind, or at `stop`.
pub(super) fn start(
    registry: SharedRegistry,
    wanted: WatchSubject,
    place: OwnedSemaphorePermit,
    stop: CancellationToken,
) -> WatchEvents {
    let (sender, events) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let watcher = Watcher(sender);
        // Whoever is gone needs no word of why.
        let _ = tell(&registry, &wanted, &watcher, &stop).await;
        drop(place);
    });
    ReceiverStream::new(events)
}

async fn tell(
    registry: &SharedRegistry,
    wanted: &WatchSubject,
    watcher: &Watcher,
    stop: &CancellationToken,
) -> Result<(), Gone> {
    let Subscription {
        instances,
        reports,
        gateways,
        revision,
        mut events,
    } = registry.subscribe();
    for instance in instances
        .into_iter()
        .filter(|held| wanted.wants(&held.registration.service))
    {
        watcher.tell(put(&instance)).await?;
    }
    if *wanted == WatchSubject::Everything {
        for report in reports {
            watcher
                .tell(Told::Health(proto::HealthReport::clone(&report)))
                .await?;
        }
        watcher.tell(Told::Gateways(Gateways { names: gateways })).await?;
    }
    watcher.tell(synced(registry, revision)).await?;
    let mut signs = interval(SIGN_OF_LIFE);
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => if let Some(told) = wanted.told(event) {
                    watcher.tell(told).await?;
                },
                Err(RecvError::Lagged(missed)) => {
                    let why = format!("this watcher fell behind by {missed} changes; begin anew");
                    return watcher.end(Status::resource_exhausted(why)).await;
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = signs.tick() => watcher.tell(synced(registry, registry.revision())).await?,
            () = stop.cancelled() => {
                let why = "this zone-sync ends it: it is stopping, or the gateway was silent or has attached itself anew";
                return watcher.end(Status::unavailable(why)).await;
            }
        }
    }
}

impl Watcher {
    async fn tell(&self, told: Told) -> Result<(), Gone> {
        self.send(Ok(WatchEvent { event: Some(told) })).await
    }

    async fn end(&self, status: Status) -> Result<(), Gone> {
        self.send(Err(status)).await
    }

    async fn send(&self, item: Result<WatchEvent, Status>) -> Result<(), Gone> {
        match timeout(STUCK, self.0.send(item)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

impl WatchSubject {
    fn wants(&self, service: &ServiceName) -> bool {
        match self {
            Self::Instances(Some(only)) => only == service,
            Self::Instances(None) | Self::Everything => true,
        }
    }

    fn told(&self, event: RegistryEvent) -> Option<Told> {
        match event {
            RegistryEvent::Instance(key, now) if self.wants(&key.service) => Some(match now {
                Some(now) => put(&now),
                None => Told::Removed(wire::key_message(&key)),
            }),
            RegistryEvent::Health(report) if *self == Self::Everything => {
                Some(Told::Health(Arc::unwrap_or_clone(report)))
            }
            RegistryEvent::Gateways(names) if *self == Self::Everything => {
                Some(Told::Gateways(Gateways { names }))
            }
            _ => None,
        }
    }
}

fn put(held: &InForce) -> Told {
    Told::Put(wire::instance_message(
        &held.registration,
        &held.source,
        number(held.revision),
    ))
}

fn synced(registry: &SharedRegistry, revision: i64) -> Told {
    Told::Synced(Synced {
        revision: number(revision),
        trouble: registry.trouble().unwrap_or_default(),
    })
}

/// Revisions of etcd are never negative.
fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
