//! Starting a gateway: each part in the order in which the later ones need the earlier.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use causeway_api::{admin::Readiness, elsewhere::PageServer};
use causeway_control::{demand::DemandBook, documents::keep_fetching, renewal::Renewal, topology, trust};
use causeway_dns::{
    HostResolver,
    vips::{self, VipTable},
};
use causeway_history::History;
use causeway_host::{descriptors::Descriptors, own_sockets::OwnSockets};
use causeway_instances::{
    Instances, InstancesConfig,
    sources::{self, SourcesConfig, Troubles},
};
use causeway_proxy::{
    callers::Callers,
    egress::{Egress, EgressConfig, RedirectConfig, TlsListen},
    ingress::{Ingress, IngressConfig},
};
use causeway_routing::{reach::OwnListeners, snapshot::Snapshots};
use causeway_telemetry::Tracer;
use causeway_tunnel::{EndpointKeys, SocketBuffers, TunnelConfig, TunnelSet, Tunnels};
use causeway_zone_sync::service::{SyncConfig, SyncEvent, ZoneSync};
use tokio::sync::{mpsc, watch};

use super::{
    Gateway, GatewayConfig, GatewayStartError, apart,
    apis::start_servers,
    background::BackgroundTasks,
    descriptors, disk,
    exports::keep_exports,
    failback::FailbackKeeper,
    handover::listen_for_successors,
    history::{keep_events, start_history},
    labels::name_services,
    listeners, local_sockets,
    otlp::{self, start_otlp},
    publish::{Sources, publish},
    readiness,
    recheck::keep_rechecking,
    redirect,
    sessions::keep_sessions,
    shifts::{carry_shifts, keep_shifts},
    streams::Streams,
    sync_status::{self, SyncView},
    threads::{DataThreads, start_threads},
    unread,
};

/// Parts that are known before anything of the data path starts.
pub(super) struct Foundation {
    pub(super) instances: Instances,
    pub(super) troubles: Troubles,
    pub(super) zone_sync: ZoneSync,
    pub(super) sync_view: SyncView,
    pub(super) tunnel_set: Arc<TunnelSet>,
    pub(super) snapshots: Snapshots,
    pub(super) generation: watch::Receiver<u64>,
    pub(super) vips: Arc<VipTable>,
    pub(super) demand: DemandBook,
    /// Answers other zones' gateways that ask for pages of the admin API.
    pub(super) pages: PageServer,
    pub(super) history: History,
    pub(super) failback: FailbackKeeper,
    /// Addresses that this process listens on, as far as it does by now.
    pub(super) listeners: watch::Sender<OwnListeners>,
    /// Connections that this gateway has opened to instances.
    pub(super) own_sockets: OwnSockets,
    /// Descriptors that clients may take.
    pub(super) descriptors: Descriptors,
    /// Makes spans, if they are to be sent.
    pub(super) tracer: Tracer,
}

impl Gateway {
    /// Starts a gateway on the current runtime, which becomes its control runtime, and on data threads of its own.
    /// When this returns, DNS, the admin API and the listeners of the zone's services are up; tunnels follow.
    ///
    /// # Errors
    /// When a part cannot start. What had started before it is ended.
    pub async fn start(config: GatewayConfig) -> Result<Self, GatewayStartError> {
        let begun = Instant::now();
        // The last to go where a part cannot start.
        let starting = config.tasks.starting();
        config.check_zone()?;
        config.make_data_folder()?;
        let background = BackgroundTasks::new(config.tasks.clone());
        let ending = background.end_unless_up();
        // Before anything is read that gateways of other trust domains signed.
        if let Some(trusted) = config.anchors.document() {
            let topology = config.topology.current();
            trusted.federate(topology).await;
        }
        let (tracer, mut otlp) = start_otlp(&config)?;
        let known = know(&config, tracer, &background).await?;
        // Only now are the files this process's own, and the socket beside them with them. Whoever is told that this gateway is ready may
        // Only now are the files this process's own, and the socket beside them with them. Whoever is told that this gateway is ready may
        // start a successor at once.
        let handover = listen_for_successors(&config);

        let threads = start_threads(&config)?;
        let ingress = start_ingress(&config, &known);
        let streams = Streams::new(&config, &known, &ingress);
        let tunnels = Tunnels::start(
            tunnel_config(&config)?,
            threads.handles(),
            config.topology.subscribe(),
            known.tunnel_set.clone(),
            Arc::new(streams),
            config.metrics.tunnels.clone(),
        )?;
        let egress = start_egress(&config, &known, &threads);
        let draining = Arc::new(AtomicBool::new(false));
        let checks = checks(&config, &known, &egress, &draining, tunnels.socket_buffers());
        let checks = otlp::with_check(checks, otlp.as_ref());
        egress.start_redirect(&known.vips.bindings()).await?;
        // Whoever is told that this gateway is ready sends clients to it at once.
        egress.opened().await;
        let servers = start_servers(&config, &known, checks, begun).await;
        let servers = without_redirect_unless_up(servers, &egress).await?;
        if let Some(otlp) = &mut otlp {
            otlp.send_metrics(servers.metrics.clone());
        }
        listeners::tell_bound(&known.listeners, &tunnels, &servers);
        start_background(&config, &known, &egress, &ingress, &background);
        follow_trust(&config, &known, &background);
        tracing::info!(gateway = %config.id(), took = ?begun.elapsed(), "the gateway is up");
        ending.disarm();
        starting.up();
        Ok(Self {
            id: config.id().clone(),
            snapshots: known.snapshots,
            generation: known.generation,
            metrics: config.metrics,
            history: known.history,
            instances: known.instances,
            zone_sync: known.zone_sync,
            vips: known.vips,
            tunnels,
            egress,
            ingress,
            dns: servers.dns,
            admin: servers.admin,
            registration: servers.registration,
            draining,
            background,
            failback: known.failback,
            demand: known.demand,
            otlp,
            handed: config.handed.sockets,
            handover,
            topology: config.topology,
            is_succeeded: false,
            late_calls: None,
            threads,
        })
    }
}

/// Takes the redirect of clients back where the gateway's own servers could not start: the kernel would keep it for ever.
async fn without_redirect_unless_up<T, E>(servers: Result<T, E>, egress: &Egress) -> Result<T, E> {
    if servers.is_err() {
        egress.remove_redirect().await;
    }
    servers
}

/// Gives the settings of tunnels, with the keys that outlive a restart where something does.
fn tunnel_config(config: &GatewayConfig) -> Result<TunnelConfig, GatewayStartError> {
    let mut tunnel = TunnelConfig {
        tasks: config.tasks.clone(),
        keeps_registry: config.is_apart(),
        handed: config.handed.sockets.clone(),
        predecessor: config.handed.tunnels.clone(),
        ..config.tunnel.clone()
    };
    if let Some(folder) = config.storage.folder() {
        tunnel.keys = EndpointKeys::kept_in(folder)?;
    }
    Ok(tunnel)
}

/// Starts the tasks that follow what is known for as long as the gateway runs.
fn start_background(
    config: &GatewayConfig,
    known: &Foundation,
    egress: &Egress,
    ingress: &Ingress,
    background: &BackgroundTasks,
) {
    let (snapshots, generation) = (known.snapshots.clone(), known.generation.clone());
    let (moving, changes) = ((egress.clone(), ingress.clone()), generation.clone());
    let moving = async move {
        let (egress, ingress) = moving;
        tokio::join!(egress.keep_moving(changes.clone()), ingress.keep_moving(changes));
    };
    background.spawn_to_the_end("open connections that follow", moving);
    let failback = known.failback.clone().keep(snapshots.clone(), egress.clone());
    background.spawn_to_the_end("failback", failback);
    background.spawn("shifts", keep_shifts(config, known));
    background.spawn("events", keep_events(config, known));
    let limiting = egress.clone();
    let planning = known
        .demand
        .clone()
        .keep(snapshots.clone(), known.tunnel_set.clone(), move || {
            limiting.limit_uses()
        });
    background.spawn_to_the_end("capacity", planning);
    let rechecking = keep_rechecking(egress.clone(), ingress.clone(), snapshots, generation);
    background.spawn_to_the_end("permissions of open connections", rechecking);
    let checking = egress.clone();
    let checking = async move { checking.keep_checking_certificates().await };
    background.spawn_to_the_end("certificates of open connections", checking);
    let (redirecting, bindings) = (egress.clone(), known.vips.bindings());
    let redirecting = async move { redirecting.keep_redirect(bindings).await };
    background.spawn("redirect of clients", redirecting);
    let sessions = keep_sessions(
        config.id().clone(),
        known.tunnel_set.clone(),
        known.zone_sync.clone(),
        config.tasks.clone(),
    );
    background.spawn("zone sync sessions", sessions);
    let telling = apart::keep_telling(
        config.topology.subscribe(),
        config.id().zone.clone(),
        config.is_apart(),
    );
    background.spawn("word of the zone's other gateways", telling);
    if let Some(applied) = config.topology.applied() {
        let (tunnels, catalog) = (known.tunnel_set.clone(), known.zone_sync.catalog());
        let fetching = keep_fetching(applied.fetched(), tunnels, catalog);
        background.spawn("topologies of other gateways", fetching);
        let endorsing = topology::keep_endorsing(applied.clone(), config.identity.clone());
        background.spawn("signatures of the topology", endorsing);
    }
    if let Some(renewal) = config.renewal.from_ca() {
        let renewing = renewal
            .clone()
            .run(Some(known.tunnel_set.clone()), config.metrics.identity.clone());
        background.spawn("certificate renewal", renewing);
    }
}

/// Tells the other gateways whom this one believes, and gets from them what is newer.
fn follow_trust(config: &GatewayConfig, known: &Foundation, background: &BackgroundTasks) {
    let telling = trust::keep_told(config.identity.clone(), known.zone_sync.clone());
    background.spawn("word of the trust document", telling);
    let counting = trust::keep_counted(config.identity.clone(), known.zone_sync.clone());
    background.spawn("count of ended connections", counting);
    if let Some(trusted) = config.anchors.document() {
        let (tunnels, catalog) = (known.tunnel_set.clone(), known.zone_sync.catalog());
        let federating = trust::keep_federating(trusted.clone(), config.topology.subscribe());
        background.spawn_to_the_end("trust domains of the topology", federating);
        let fetching = keep_fetching(trusted.fetched(), tunnels, catalog);
        background.spawn("trust documents of other gateways", fetching);
    }
}

/// Starts everything that a snapshot is made of, and what follows from one.
async fn know(
    config: &GatewayConfig,
    tracer: Tracer,
    background: &BackgroundTasks,
) -> Result<Foundation, GatewayStartError> {
    let id = config.id();
    let listeners = watch::Sender::new(OwnListeners::new(listeners::configured(config)));
    let instances = Instances::start(
        InstancesConfig {
            zone: id.zone.clone(),
            listeners: listeners.subscribe(),
            data_dir: config.storage.folder().map(Path::to_owned),
            shared: config.shared_registry(),
            tasks: config.tasks.clone(),
            health: config.handed.findings.health.clone(),
        },
        config.topology.subscribe(),
        config.metrics.instances.clone(),
    )?;
    let troubles = start_sources(config, &instances, background).await;
    let (zone_sync, events) = start_zone_sync(config).await?;
    let named = config.metrics.registry.services().clone();
    let naming = name_services(named, config.topology.subscribe());
    background.spawn_to_the_end("names of services in metrics", naming);
    let tunnel_set = Arc::<TunnelSet>::default();
    let (snapshots, generation, publishing) = publish(Sources {
        zone: id.zone.clone(),
        topology: config.topology.subscribe(),
        instances: instances.subscribe(),
        catalog: zone_sync.catalog(),
        tunnels: tunnel_set.clone(),
        listeners: listeners.clone(),
        in_place: Default::default(),
    });
    background.spawn_to_the_end("snapshots", publishing);
    let exporting = keep_exports(
        zone_sync.clone(),
        config.topology.subscribe(),
        instances.subscribe(),
    );
    background.spawn("exports", exporting);
    let sync_view = SyncView::default();
    let watching = sync_status::watch(
        zone_sync.clone(),
        events,
        sync_view.clone(),
        config.metrics.sync.clone(),
    );
    background.spawn("status of zone sync", watching);
    let history = start_history(config, background);
    let vips = listeners::open_vips(config, &snapshots)?;
    let following = vips::follow(vips.clone(), snapshots.clone(), generation.clone());
    background.spawn("virtual addresses", following);
    carry_shifts(config, &snapshots.load());
    Ok(Foundation {
        failback: FailbackKeeper::carrying_on(config, &snapshots.load()),
        instances,
        troubles,
        zone_sync,
        sync_view,
        tunnel_set,
        snapshots,
        generation,
        vips,
        demand: DemandBook::carrying_on(config.id(), &config.handed.findings.estimates),
        pages: page_server(config),
        history,
        listeners,
        own_sockets: OwnSockets::default(),
        descriptors: Descriptors::default(),
        tracer,
    })
}

fn page_server(config: &GatewayConfig) -> PageServer {
    let metrics = config.metrics.api.clone();
    PageServer::new(config.gate.clone(), config.identity.clone(), metrics)
}

/// Starts what feeds the registry by itself.
async fn start_sources(
    config: &GatewayConfig,
    instances: &Instances,
    background: &BackgroundTasks,
) -> Troubles {
    let sources = SourcesConfig {
        zone: config.id().zone.clone(),
        topology: config.topology.subscribe(),
        folder: config.instances_folder.clone(),
        resolver: HostResolver::new(config.dns.upstreams.clone(), &config.dns.listen),
    };
    sources::start(sources, instances, |name, task| background.spawn(name, task)).await
}

async fn start_zone_sync(
    config: &GatewayConfig,
) -> Result<(ZoneSync, mpsc::Receiver<SyncEvent>), GatewayStartError> {
    let started = ZoneSync::start(SyncConfig {
        origin: config.id().clone(),
        data_dir: config.storage.folder().map(Path::to_owned),
        ages: config.ages,
        tasks: config.tasks.clone(),
        signer: Some(config.identity.signer()?),
        verifier: config.identity.verifier()?,
    });
    Ok(started.await?)
}

fn start_ingress(config: &GatewayConfig, known: &Foundation) -> Ingress {
    let limits = IngressConfig {
        stall_limit: config.stall_limit,
        half_closed_limit: config.half_closed_limit,
        keepalive: config.keepalive,
        failures: known.instances.connect_failures(),
        own_sockets: known.own_sockets.clone(),
        descriptors: known.descriptors.clone(),
        tracer: known.tracer.clone(),
        ..IngressConfig::new(config.threads)
    };
    Ingress::new(
        limits,
        known.snapshots.clone(),
        config.metrics.proxy.clone(),
        config.access.clone(),
    )
}

fn start_egress(config: &GatewayConfig, known: &Foundation, threads: &DataThreads) -> Egress {
    let mut tls = TlsListen::new(
        config.tls_listen.clone(),
        config.identity.clone(),
        known.vips.clone(),
    );
    tls.outlive = config.tls_outlive;
    let limits = EgressConfig {
        stall_limit: config.stall_limit,
        half_closed_limit: config.half_closed_limit,
        keepalive: config.keepalive,
        listening: known.vips.listening().clone(),
        own: known.listeners.clone(),
        descriptors: known.descriptors.clone(),
        failures: known.instances.connect_failures(),
        tls: (!config.tls_listen.is_empty()).then_some(tls),
        redirect: config
            .redirect_port
            .map(|port| RedirectConfig::new(config.id(), port)),
        callers: Callers::of_kernel(config.tasks.clone()),
        tasks: config.tasks.clone(),
        own_sockets: known.own_sockets.clone(),
        handed: config.handed.sockets.clone(),
        ejections: config.handed.findings.ejections.clone(),
        limits: config.handed.findings.limits.clone(),
        holds_back: config.handed.tunnels.is_some(),
        tracer: known.tracer.clone(),
        ..EgressConfig::new(config.threads)
    };
    let egress = Egress::new(
        limits,
        known.snapshots.clone(),
        known.tunnel_set.clone(),
        config.metrics.proxy.clone(),
        config.access.clone(),
    );
    for (thread, handle) in threads.handles().iter().enumerate() {
        let (egress, bindings) = (egress.clone(), known.vips.bindings());
        let serving = async move { egress.run(thread, bindings).await };
        handle.spawn(
            config
                .tasks
                .keep(format!("listeners of data thread {thread}"), serving),
        );
    }
    egress
}

/// In the order in which they are shown.
fn checks(
    config: &GatewayConfig,
    known: &Foundation,
    egress: &Egress,
    draining: &Arc<AtomicBool>,
    buffers: SocketBuffers,
) -> Readiness {
    let (identity, snapshots) = (&config.identity, &known.snapshots);
    let renewal = config.renewal.from_ca().map(Renewal::status);
    let (trusted, topology) = (config.anchors.document().cloned(), config.topology.clone());
    let checks = Readiness::default()
        .with(readiness::running(draining.clone()))
        .with(readiness::tasks(config.tasks.clone()))
        .with(readiness::topology(topology.clone()))
        .with(readiness::keys(topology.clone()))
        .with(readiness::certificate(identity.clone(), renewal))
        .with(readiness::trust(identity.clone(), trusted, topology))
        .with(readiness::listeners(egress.clone()))
        .with(descriptors::check(egress.clone()))
        .with(readiness::limits(egress.clone()))
        .with_sum(readiness::tunnels(snapshots.clone()))
        .with(readiness::buffers(buffers))
        .with(unread::check(config.tunnel.memory.clone()))
        .with_sum(readiness::catalog(snapshots.clone()))
        .with(disk::check(
            known.sync_view.clone(),
            known.instances.clone(),
            config.storage.folder().map(Path::to_owned),
        ))
        .with(disk::audit(config.metrics.api.clone()))
        .with(disk::lines(config.access.clone()))
        .with(local_sockets::check(config))
        .with(readiness::instances(snapshots.clone()))
        .with(readiness::permissions(
            snapshots.clone(),
            config.metrics.proxy.clone(),
        ))
        .with(readiness::sources(known.troubles.clone()))
        .with(apart::check(
            snapshots.clone(),
            known.tunnel_set.clone(),
            config.is_apart(),
        ));
    let checks = match egress.redirect_status() {
        Some(_) => checks.with(redirect::check(egress.clone())),
        None => checks,
    };
    match known.instances.attachment() {
        Some(attachment) => checks.with(readiness::registry(attachment.status())),
        None => checks,
    }
}
