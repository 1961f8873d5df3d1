//! Starting a gateway: each part in the order in which the later ones need the earlier.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Instant, SystemTime},
};

use causeway_zone_sync::service::{SyncConfig, SyncEvent, ZoneSync};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Gateway, GatewayConfig, StartError,
    exports::keep_exports,
    labels::name_services,
    publish::{Sources, publish},
    readiness,
    recheck::keep_rechecking,
    sessions::keep_sessions,
    streams::Streams,
    sync_status::{self, SyncView},
    threads::DataThreads,
};
use crate::{
    admin::{Admin, AdminState},
    attach::{Attach, AttachConfig},
    dns::{Dns, Resolver},
    egress::{Egress, EgressConfig, TlsListen},
    ingress::{Ingress, IngressConfig},
    instances::{Instances, InstancesConfig},
    registration::Registration,
    renewal::{Relay, Renewal},
    snapshot::Snapshots,
    sources::{self, SourcesConfig, Troubles},
    topology, trust,
    tunnel::{TunnelSet, Tunnels},
    vips::{self, VipTable},
    zone_sync::Secure,
};

/// What is known before anything of the data path starts.
struct Knowledge {
    instances: Instances,
    troubles: Troubles,
    zone_sync: ZoneSync,
    sync_view: SyncView,
    tunnel_set: Arc<TunnelSet>,
    snapshots: Snapshots,
    generation: watch::Receiver<u64>,
    vips: Arc<VipTable>,
}

impl Gateway {
    /// Starts a gateway on the current runtime, which becomes its control runtime, and on data threads of its own.
    /// When this returns, DNS, the admin API and the listeners of the zone's services are up; tunnels follow.
    ///
    /// # Errors
    /// When a part cannot start. What had started before it is ended.
    pub async fn start(config: GatewayConfig) -> Result<Self, StartError> {
        let begun = Instant::now();
        check_zone(&config)?;
        if let Some(path) = &config.data_dir {
            make_private_folder(path).map_err(|source| StartError::DataDir {
                path: path.clone(),
                source,
            })?;
        }
        let stop = CancellationToken::new();
        let ending = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        // Before anything is read that gateways of other trust domains signed.
        if let Some(trusted) = &config.trust {
            let topology = config.topology.borrow().clone();
            trusted.federate(topology).await;
        }
        let known = know(&config, &stop, &tasks).await?;

        let count = config.threads;
        let threads = DataThreads::start(count).map_err(|source| StartError::Threads { count, source })?;
        let ingress = start_ingress(&config, &known);
        let streams = Streams {
            ingress: ingress.clone(),
            zone_sync: known.zone_sync.clone(),
            topologies: topology::Server::new(config.applied.clone()),
            ca: Relay::new(
                config.renewal.as_ref().map(Renewal::folder),
                config.metrics.clone(),
            ),
            trust: trust::Server::new(config.identity.clone()),
            control: Handle::current(),
        };
        let tunnels = Tunnels::start(
            config.tunnel.clone(),
            threads.handles(),
            config.topology.clone(),
            known.tunnel_set.clone(),
            Arc::new(streams),
            config.metrics.clone(),
        )?;
        let egress = start_egress(&config, &known, &threads);
        let dns = start_dns(&config, &known)?;
        let draining = Arc::new(AtomicBool::new(false));
        let admin = start_admin(&config, &known, &egress, &draining, begun).await?;
        let registration = start_registration(&config, &known).await?;
        keep_going(&config, &known, &egress, &ingress, &stop, &tasks);
        follow_trust(&config, &known, &stop, &tasks);
        tracing::info!(gateway = %config.id(), took = ?begun.elapsed(), "the gateway is up");
        ending.disarm();
        Ok(Self {
            id: config.id().clone(),
            snapshots: known.snapshots,
            generation: known.generation,
            metrics: config.metrics,
            instances: known.instances,
            zone_sync: known.zone_sync,
            vips: known.vips,
            tunnels,
            egress,
            ingress,
            dns,
            admin,
            registration,
            draining,
            stop,
            tasks,
            threads,
        })
    }
}

/// Starts the tasks that follow what is known for as long as the gateway runs.
fn keep_going(
    config: &GatewayConfig,
    known: &Knowledge,
    egress: &Egress,
    ingress: &Ingress,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) {
    tasks.spawn(stop.clone().run_until_cancelled_owned(keep_rechecking(
        egress.clone(),
        ingress.clone(),
        known.snapshots.clone(),
        known.generation.clone(),
    )));
    let checking = egress.clone();
    let checking = async move { checking.keep_checking_certificates().await };
    tasks.spawn(stop.clone().run_until_cancelled_owned(checking));
    tasks.spawn(stop.clone().run_until_cancelled_owned(keep_sessions(
        config.id().clone(),
        known.tunnel_set.clone(),
        known.zone_sync.clone(),
    )));
    if let Some(applied) = &config.applied {
        let (tunnels, catalog) = (known.tunnel_set.clone(), known.zone_sync.catalog());
        let fetching = topology::keep_fetching(applied.clone(), tunnels, catalog);
        tasks.spawn(stop.clone().run_until_cancelled_owned(fetching));
    }
    if let Some(renewal) = &config.renewal {
        let renewing = renewal
            .clone()
            .run(Some(known.tunnel_set.clone()), config.metrics.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(renewing));
    }
}

/// Tells the other gateways whom this one believes, and gets from them what is newer.
fn follow_trust(config: &GatewayConfig, known: &Knowledge, stop: &CancellationToken, tasks: &TaskTracker) {
    let telling = trust::keep_told(config.identity.clone(), known.zone_sync.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(telling));
    if let Some(trusted) = &config.trust {
        let (tunnels, catalog) = (known.tunnel_set.clone(), known.zone_sync.catalog());
        let federating = trust::keep_federating(trusted.clone(), config.topology.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(federating));
        let fetching = trust::keep_fetching(trusted.clone(), tunnels, catalog);
        tasks.spawn(stop.clone().run_until_cancelled_owned(fetching));
    }
}

/// Starts everything that a snapshot is made of, and what follows from one.
async fn know(
    config: &GatewayConfig,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Knowledge, StartError> {
    let id = config.id();
    let instances = Instances::start(
        InstancesConfig {
            zone: id.zone.clone(),
            data_dir: config.data_dir.clone(),
            shared: (!config.zone_sync.is_empty()).then(|| AttachConfig {
                id: id.clone(),
                servers: config.zone_sync.clone(),
                secure: (!config.zone_sync_insecure).then(|| Secure::new(config.identity.clone())),
            }),
        },
        config.topology.clone(),
        config.metrics.clone(),
    )?;
    let troubles = start_sources(config, &instances, stop, tasks).await;
    let (zone_sync, events) = start_zone_sync(config).await?;
    let naming = name_services(config.metrics.clone(), config.topology.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(naming));
    let tunnel_set = Arc::<TunnelSet>::default();
    let (snapshots, generation) = publish(
        Sources {
            zone: id.zone.clone(),
            topology: config.topology.clone(),
            instances: instances.subscribe(),
            catalog: zone_sync.catalog(),
            tunnels: tunnel_set.clone(),
        },
        stop.clone(),
    );
    let exporting = keep_exports(zone_sync.clone(), config.topology.clone(), instances.subscribe());
    tasks.spawn(stop.clone().run_until_cancelled_owned(exporting));
    let sync_view = SyncView::default();
    let watching = sync_status::watch(
        zone_sync.clone(),
        events,
        sync_view.clone(),
        config.metrics.clone(),
    );
    tasks.spawn(stop.clone().run_until_cancelled_owned(watching));
    let vips = open_vips(config, &snapshots)?;
    tasks.spawn(vips::follow(
        vips.clone(),
        snapshots.clone(),
        generation.clone(),
        stop.clone(),
    ));
    Ok(Knowledge {
        instances,
        troubles,
        zone_sync,
        sync_view,
        tunnel_set,
        snapshots,
        generation,
        vips,
    })
}

fn open_vips(config: &GatewayConfig, snapshots: &Snapshots) -> Result<Arc<VipTable>, StartError> {
    let vips = match &config.data_dir {
        Some(folder) => VipTable::open(folder, SystemTime::now())?,
        None => VipTable::in_memory(),
    };
    // Once here, so that the listeners of a gateway that has just started are not late.
    if let Err(error) = vips.refresh(&snapshots.load(), SystemTime::now()) {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "virtual addresses are not complete"
        );
    }
    Ok(Arc::new(vips))
}

/// What feeds the registry by itself.
async fn start_sources(
    config: &GatewayConfig,
    instances: &Instances,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Troubles {
    let sources = SourcesConfig {
        zone: config.id().zone.clone(),
        topology: config.topology.clone(),
        folder: config.instances_folder.clone(),
        resolver: Resolver::new(config.dns.upstreams.clone(), &config.dns.listen),
    };
    sources::start(sources, instances, tasks, stop).await
}

async fn start_zone_sync(
    config: &GatewayConfig,
) -> Result<(ZoneSync, mpsc::Receiver<SyncEvent>), StartError> {
    let started = ZoneSync::start(SyncConfig {
        origin: config.id().clone(),
        data_dir: config.data_dir.clone(),
        ages: config.ages,
        signer: Some(config.identity.signer()?),
        verifier: config.identity.verifier()?,
    });
    Ok(started.await?)
}

fn start_ingress(config: &GatewayConfig, known: &Knowledge) -> Ingress {
    let limits = IngressConfig {
        failures: known.instances.connect_failures(),
        ..IngressConfig::new(config.threads)
    };
    Ingress::new(
        limits,
        known.snapshots.clone(),
        config.metrics.clone(),
        config.access.clone(),
    )
}

fn start_egress(config: &GatewayConfig, known: &Knowledge, threads: &DataThreads) -> Egress {
    let tls = TlsListen::new(
        config.tls_listen.clone(),
        config.identity.clone(),
        known.vips.clone(),
    );
    let limits = EgressConfig {
        listening: known.vips.listening().clone(),
        failures: known.instances.connect_failures(),
        tls: (!config.tls_listen.is_empty()).then_some(tls),
        ..EgressConfig::new(config.threads)
    };
    let egress = Egress::new(
        limits,
        known.snapshots.clone(),
        known.tunnel_set.clone(),
        config.metrics.clone(),
        config.access.clone(),
    );
    for (thread, handle) in threads.handles().iter().enumerate() {
        let (egress, bindings) = (egress.clone(), known.vips.bindings());
        handle.spawn(async move { egress.run(thread, bindings).await });
    }
    egress
}

fn start_dns(config: &GatewayConfig, known: &Knowledge) -> Result<Option<Dns>, StartError> {
    if config.dns.listen.is_empty() {
        return Ok(None);
    }
    let dns = Dns::start(
        config.dns.clone(),
        known.snapshots.clone(),
        known.vips.clone(),
        config.metrics.clone(),
    )?;
    Ok(Some(dns))
}

async fn start_admin(
    config: &GatewayConfig,
    known: &Knowledge,
    egress: &Egress,
    draining: &Arc<AtomicBool>,
    begun: Instant,
) -> Result<Vec<Admin>, StartError> {
    let bindings = known.vips.bindings();
    let state = AdminState {
        snapshots: known.snapshots.clone(),
        tunnels: known.tunnel_set.clone(),
        metrics: config.metrics.clone(),
        instances: known.instances.clone(),
        readiness: readiness::checks(
            config,
            &known.snapshots,
            egress,
            &known.sync_view,
            known.instances.attachment().map(Attach::status),
            &known.troubles,
            draining,
        ),
        sync: known.sync_view.readings(),
        bindings: Arc::new(move || bindings.borrow().clone()),
        access: config.access.clone(),
        applied: config.applied.clone(),
        gate: config.gate.clone(),
        identity: config.identity.clone(),
        trust: config.trust.clone(),
        started: begun,
    };
    let mut started = Vec::with_capacity(config.admin.len());
    for admin in &config.admin {
        started.push(Admin::start(admin.clone(), state.clone()).await?);
    }
    Ok(started)
}

async fn start_registration(
    config: &GatewayConfig,
    known: &Knowledge,
) -> Result<Option<Registration>, StartError> {
    let Some(registration) = config.registration else {
        return Ok(None);
    };
    let (gate, identity) = (config.gate.clone(), Some(config.identity.clone()));
    let started = Registration::start(registration, known.instances.clone(), gate, identity);
    Ok(Some(started.await?))
}

fn check_zone(config: &GatewayConfig) -> Result<(), StartError> {
    let zone = &config.id().zone;
    match config.topology.borrow().zones.contains_key(zone) {
        true => Ok(()),
        false => Err(StartError::UnknownZone(zone.clone())),
    }
}

/// What lies in it is for this gateway alone.
pub(crate) fn make_private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
