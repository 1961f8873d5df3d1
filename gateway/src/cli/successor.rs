//! The end of a gateway's process: told to end, or succeeded by another one, which it starts itself when it is told to. And the
//! beginning of that one: `--take-over`.

use std::{pin::pin, sync::Arc, time::Duration};

use causeway_api::{admin::AdminAddress, registration::RegistrationAddress};
use causeway_control::{ControlMetrics, TopologySource};
use causeway_federation::topology::Style;
use causeway_host::{
    handed::{HandedSockets, UnclaimedSocket},
    passed::PassedSockets,
    service_state::{ServiceState, tell_service_state},
    watchdog::Watchdog,
};
use causeway_identity::LiveIdentity;
use parking_lot::Mutex;
use rustix::process::geteuid;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    Exit, Failure,
    gateway::{GatewayArgs, default_registry},
    ruling,
    signals::{Signals, Told},
    started_successor::{COMING_UP_MAY_TAKE, OwnCommand, StartedSuccessor},
    stored_sockets::{StoredSockets, UnclaimedRemoval},
};
use crate::{
    gateway::{Cut, Findings, Gateway},
    handover::{
        AppliedText, HandoverServer, Incumbent, Offer, RuledBy, Successor, TakeOverCandidate, TakeOverError,
        TakenOver, WaitingSuccessor, take_over,
    },
};

/// Time after which sockets of the process before are closed that nothing here wants any more.
const UNWANTED_AFTER: Duration = Duration::from_secs(10);
/// Longest time that new clients wait for another successor when one has failed.
const ANOTHER_WITHIN: Duration = Duration::from_secs(10);

/// Reads what rules, and takes over where that is wanted: what can be found wrong is found before anything moves. `None`: a
/// topology cannot be used, and every finding was shown.
pub(super) async fn rule(
    args: &GatewayArgs,
    live: &LiveIdentity,
    metrics: &Arc<ControlMetrics>,
) -> Result<Option<(TopologySource, Option<TakenOver>)>, Failure> {
    let open = || ruling::open(args, live, metrics);
    if args.topology.is_none() {
        // What was applied is in a file that one process has at a time.
        let taken = take(args, live).await?;
        return Ok(open()?.map(|topology| (topology, taken)));
    }
    let Some(topology) = open()? else {
        return Ok(None);
    };
    if args.take_over {
        check(&topology, live)?;
    }
    Ok(Some((topology, take(args, live).await?)))
}

/// Checks what would otherwise fail after the moment.
fn check(topology: &TopologySource, live: &LiveIdentity) -> Result<(), Failure> {
    let (current, zone) = (topology.current(), &live.gateway().zone);
    let ours = current.zones.contains_key(zone);
    if ours && current.trust_domain_of(zone) == live.trust_domain() {
        return Ok(());
    }
    let failure = Failure::new(format!(
        "the topology has no zone `{zone}` of trust domain {}: nothing is taken over",
        live.trust_domain()
    ));
    Err(failure
        .exit(Exit::BadInput)
        .hint("the running gateway goes on; correct the topology, or the identity"))
}

async fn take(args: &GatewayArgs, live: &LiveIdentity) -> Result<Option<TakenOver>, Failure> {
    if !args.take_over {
        return Ok(None);
    }
    let admin = args.admin.iter().filter_map(|address| match address {
        AdminAddress::Tcp(address) => Some(*address),
        AdminAddress::Unix(_) => None,
    });
    let registry = match args.registry.unwrap_or(default_registry(args)) {
        RegistrationAddress::At(address) => Some(address),
        RegistrationAddress::Off => None,
    };
    let candidate = TakeOverCandidate {
        gateway: live.id().to_string(),
        threads: args.data_threads(),
        listen: args.listen,
        tcp: admin.chain(registry).collect(),
        dns: args.dns.clone(),
        ruled_by: match &args.topology {
            Some(_) => RuledBy::File,
            None => RuledBy::Applied {
                initial: args.initial_topology.clone(),
            },
        },
    };
    match take_over(&args.data, candidate).await {
        Ok(Some(taken)) => Ok(Some(taken)),
        Ok(None) => {
            tracing::info!("no gateway runs with this --data: there is nothing to take over");
            Ok(None)
        }
        Err(error) => Err(explain(&error)),
    }
}

fn explain(error: &TakeOverError) -> Failure {
    if let TakeOverError::Topology(unusable) = error {
        // Each finding with its line.
        crate::output::tell(&unusable.render(Style::Colour));
    }
    let failure = Failure::new("cannot take over; the running gateway goes on").because(error);
    let failure = match error {
        TakeOverError::NoTopology => failure.exit(Exit::Usage),
        TakeOverError::Topology(_) => failure.exit(Exit::BadInput),
        _ => failure,
    };
    failure.hint(match error {
        TakeOverError::Refused(_) => {
            "what it says is what must be the same, or waited for; a restart changes anything"
        }
        TakeOverError::Broken(_) => "its log says why; a restart always works",
        TakeOverError::NoTopology | TakeOverError::Topology(_) => {
            "`causeway validate` shows what is wrong with a file; a gateway goes on with what it has"
        }
        TakeOverError::Bind { .. } => "is the address this host's own and the port free?",
    })
}

/// Takes clients, and says that this process serves.
pub(super) async fn take_clients(taken: Option<TakenOver>, gateway: &Gateway, live: &LiveIdentity) {
    if let Some(taken) = &taken {
        let linked = &taken.handed.findings.linked;
        gateway.take_clients(linked, || taken.is_gone()).await;
    }
    tell_serving(taken, gateway, live);
}

/// Tells the service manager that this process serves, and then the process before, which may end from then on: its end must not be
/// taken for the service's.
fn tell_serving(taken: Option<TakenOver>, gateway: &Gateway, live: &LiveIdentity) {
    let state = match taken {
        Some(_) => ServiceState::TookOver,
        None => ServiceState::Ready,
    };
    tell_service_state(state, &serving(live));
    if let Some(taken) = taken {
        taken.started(gateway.carry_limits());
    }
}

/// One line for a person who looks at the service.
fn serving(live: &LiveIdentity) -> String {
    format!(
        "serves zone {} as gateway {}",
        live.gateway().zone,
        live.gateway().gateway
    )
}

/// Takes up what a service manager has passed, beside what was handed over.
pub(super) fn take_up_passed(sockets: &HandedSockets, passed: PassedSockets) {
    sockets.take_up_stored(passed.stored);
    let hint = "pass TCP listeners and UDP sockets only; unix sockets are made in --data";
    for what in sockets.pass(passed.sockets) {
        tracing::warn!(
            what,
            hint,
            "closed a socket that the service manager has passed and that a gateway has no use for"
        );
    }
    if passed.strange > 0 {
        let count = passed.strange;
        tracing::warn!(
            count,
            hint,
            "the service manager has passed what is no socket; it is left alone"
        );
    }
}

/// Closes in a while what was handed over or passed and nothing has taken.
pub(super) fn close_unclaimed(sockets: HandedSockets, stored: Option<UnclaimedRemoval>) {
    tokio::spawn(async move {
        tokio::time::sleep(UNWANTED_AFTER).await;
        let unclaimed = sockets.close_the_rest();
        if let Some(stored) = stored {
            stored.remove(unclaimed.clone()).await;
        }
        let (passed, handed): (Vec<_>, Vec<_>) = unclaimed.into_iter().partition(|socket| socket.is_passed);
        for UnclaimedSocket { kind, address, .. } in passed {
            tracing::warn!(
                %kind,
                %address,
                hint = "it is found by its address: compare ListenStream= and ListenDatagram= of the socket unit with the gateway's flags and services",
                "closed a socket that the service manager has passed and that nothing here is for"
            );
        }
        let closed = handed.len() + sockets.close_unix().len();
        if closed > 0 {
            tracing::info!(
                closed,
                "closed sockets of the process before that nothing needs any more"
            );
        }
    });
}

/// Runs until a signal ends the gateway or a successor has taken over. The first signal drains, the second ends at once.
pub(super) async fn run_until_told(
    (gateway, watchdog, stored): (Gateway, Option<Watchdog>, Option<StoredSockets>),
    args: &GatewayArgs,
    live: &LiveIdentity,
    own: &OwnCommand,
    server: Option<HandoverServer>,
    mut signals: Signals,
) {
    let starting = StartedSuccessor::default();
    let successor = {
        // One conversation, whatever signals come meanwhile.
        let mut next = pin!(next(server.as_ref(), &gateway, args, live));
        loop {
            tokio::select! {
                told = signals.told() => match told {
                    Told::End => break None,
                    Told::Succeed if server.is_none() => {
                        tracing::warn!("this gateway hands over to no other process: no successor is started");
                    }
                    Told::Succeed if server.as_ref().is_some_and(HandoverServer::is_busy) => {
                        tracing::warn!("another process is about to take over: no successor is started");
                    }
                    Told::Succeed => starting.start(own, &serving(live), COMING_UP_MAY_TAKE),
                },
                successor = &mut next => break Some(successor),
            }
        }
    };
    // Whether the service is alive is for the successor to say from here on, or for nobody.
    drop(watchdog);
    if let Some(stored) = stored {
        stored.leave().await;
    }
    let cut = match (server, successor) {
        (Some(server), Some(successor)) => {
            starting.succeeded_by(successor.process);
            let offer = offer(&gateway, args, live);
            hand_over(gateway, (server, offer), args.drain, successor, signals.next()).await
        }
        (server, _) => {
            starting.end();
            let line = format!("drains for at most {:?}", args.drain);
            tell_service_state(ServiceState::Draining(args.drain), &line);
            if let Some(server) = server {
                server.remove();
            }
            gateway.shutdown(args.drain, signals.next()).await
        }
    };
    if !cut.connections.is_empty() {
        tracing::warn!(connections = cut.connections.len(), "connections were cut");
    }
}

async fn next(
    server: Option<&HandoverServer>,
    gateway: &Gateway,
    args: &GatewayArgs,
    live: &LiveIdentity,
) -> Successor {
    let Some(server) = server else {
        return std::future::pending().await;
    };
    server.next(|| offer(gateway, args, live)).await
}

/// Describes what a successor is to have now.
fn offer(gateway: &Gateway, args: &GatewayArgs, live: &LiveIdentity) -> Offer {
    let succession = gateway.succession();
    Offer {
        incumbent: Incumbent {
            gateway: live.id().to_string(),
            user: geteuid().as_raw(),
            threads: gateway.threads(),
            listen: args.listen,
            predecessors: succession.relays.len(),
        },
        succession,
        sockets: gateway.sockets(),
        unix: gateway.unix_sockets(),
        topology: AppliedText::of(gateway.applied_topology()),
    }
}

async fn hand_over(
    mut gateway: Gateway,
    (server, mut offer): (HandoverServer, Offer),
    drain: Duration,
    successor: Successor,
    force: impl Future<Output = ()>,
) -> Cut {
    match successor.takes_unix {
        true => gateway.leave_unix_sockets(),
        // It finds their files gone, and makes its own.
        false => offer.unix.clear(),
    }
    let (relay, told) = successor.split();
    let findings = gateway.let_go(relay).await;
    let over = CancellationToken::new();
    let leaving = leave(&gateway, (server, offer), (told, findings), drain, &over);
    let finishing = async {
        gateway.finished(drain).await;
        over.cancel();
    };
    tokio::select! {
        _ = async { tokio::join!(leaving, finishing) } => {}
        () = force => tracing::warn!("told to end at once"),
    }
    gateway.finish().await
}

/// Sees to it that somebody serves: the successor that this process has let go for, or, where that fails, another. Whoever else comes
/// before that serves is refused.
async fn leave(
    gateway: &Gateway,
    (server, offer): (HandoverServer, Offer),
    (mut told, findings): (WaitingSuccessor, Findings),
    drain: Duration,
    over: &CancellationToken,
) {
    let offer = Mutex::new(offer);
    let serving = loop {
        if let Some(serving) = server.refuse_others(told.tell(&findings)).await {
            break serving;
        }
        let Some(another) = another(gateway, &server, &offer, drain, over).await else {
            return;
        };
        let (relay, waiting) = another.split();
        gateway.leave_to_another(relay);
        told = waiting;
    };
    gateway.leave_clients(drain).await;
    tokio::select! {
        () = serving.keep_told(gateway.limits_left(), || gateway.limits_held()) => {}
        () = over.cancelled() => {}
    }
}

/// Waits for another successor. For a while whoever connects is still served; then until all is `over` one may still come. `None`: none
/// has.
async fn another(
    gateway: &Gateway,
    server: &HandoverServer,
    offer: &Mutex<Offer>,
    drain: Duration,
    over: &CancellationToken,
) -> Option<Successor> {
    let mut next = pin!(server.next(|| offer.lock().clone()));
    if let Ok(another) = timeout(ANOTHER_WITHIN, &mut next).await {
        return Some(another);
    }
    tracing::error!(waited = ?ANOTHER_WITHIN, "no other successor has come: new clients are refused until one does");
    gateway.leave_clients(drain).await;
    offer.lock().close_listeners();
    tokio::select! {
        another = next => Some(another),
        () = over.cancelled() => None,
    }
}
