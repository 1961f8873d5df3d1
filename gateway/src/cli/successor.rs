//! The end of a gateway's process: told to end, or succeeded by another one, which it starts itself when it is told to. And the
//! beginning of that one: `--take-over`.

use std::{
    ffi::OsString,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use causeway_api::{admin::AdminAddress, registration::RegistrationAddress};
use causeway_control::{ControlMetrics, TopologySource};
use causeway_host::{
    handed::{HandedSockets, UnclaimedSocket},
    passed::PassedSockets,
    service_state::{ServiceState, tell_service_state},
    watchdog::Watchdog,
};
use causeway_identity::LiveIdentity;
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;

use super::{
    Exit, Failure,
    gateway::{GatewayArgs, default_registry},
    ruling,
    signals::{Signals, Told},
};
use crate::{
    gateway::{Cut, Gateway},
    handover::{
        HandoverServer, Incumbent, Offer, Successor, TakeOverCandidate, TakeOverError, TakenOver, take_over,
    },
};

/// Flag of a process that takes over.
const TAKE_OVER: &str = "--take-over";
/// Time after which sockets of the process before are closed that nothing here wants any more.
const UNWANTED_AFTER: Duration = Duration::from_secs(10);

/// The program and the arguments of this process, as they were when it started.
#[derive(Debug, Clone)]
pub(super) struct OwnCommand {
    /// `None`: the system does not say.
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
}

impl OwnCommand {
    /// Must be called before the program's file is replaced by another version.
    pub(super) fn of_this_process() -> Self {
        Self {
            program: std::env::current_exe().ok(),
            arguments: std::env::args_os().skip(1).collect(),
        }
    }

    /// Arguments of the successor.
    fn arguments_to_take_over(&self) -> Vec<OsString> {
        let mut arguments = self.arguments.clone();
        if !arguments.iter().any(|argument| argument == TAKE_OVER) {
            arguments.push(TAKE_OVER.into());
        }
        arguments
    }
}

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
    let failure = Failure::new("cannot take over; the running gateway goes on").because(error);
    failure.hint(match error {
        TakeOverError::Refused(_) => "what it says is what must be the same; a restart changes anything",
        TakeOverError::Broken(_) => "its log says why; a restart always works",
        TakeOverError::Bind { .. } => "is the address this host's own and the port free?",
    })
}

/// Tells the service manager that this process serves, and then the process before, which may end from then on: its end must not be
/// taken for the service's.
pub(super) fn tell_serving(taken: Option<TakenOver>, live: &LiveIdentity) {
    let state = match taken {
        Some(_) => ServiceState::TookOver,
        None => ServiceState::Ready,
    };
    tell_service_state(state, &serving(live));
    if let Some(taken) = taken {
        taken.started();
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
pub(super) fn close_unclaimed(sockets: HandedSockets) {
    tokio::spawn(async move {
        tokio::time::sleep(UNWANTED_AFTER).await;
        let (passed, handed): (Vec<_>, Vec<_>) = sockets
            .close_the_rest()
            .into_iter()
            .partition(|socket| socket.is_passed);
        for UnclaimedSocket { kind, address, .. } in passed {
            tracing::warn!(
                %kind,
                %address,
                hint = "it is found by its address: compare ListenStream= and ListenDatagram= of the socket unit with the gateway's flags and services",
                "closed a socket that the service manager has passed and that nothing here is for"
            );
        }
        if !handed.is_empty() {
            tracing::info!(
                closed = handed.len(),
                "closed sockets of the process before that nothing needs any more"
            );
        }
    });
}

/// Listens for successors. `None`: the folder's file system has no sockets.
pub(super) fn listen(args: &GatewayArgs) -> Option<HandoverServer> {
    let bound = HandoverServer::bind(&args.data);
    bound
        .inspect_err(|error| {
            tracing::warn!(%error, "this gateway can be restarted, and hands over to no other process");
        })
        .ok()
}

/// Runs until a signal ends the gateway or a successor has taken over. The first signal drains, the second ends at once.
pub(super) async fn run_until_told(
    (gateway, watchdog): (Gateway, Option<Watchdog>),
    args: &GatewayArgs,
    live: &LiveIdentity,
    own: &OwnCommand,
    server: Option<HandoverServer>,
    mut signals: Signals,
) {
    let starting = StartedSuccessor::default();
    let successor = loop {
        tokio::select! {
            told = signals.told() => match told {
                Told::End => break None,
                Told::Succeed => start_successor(own, &starting, &serving(live)),
            },
            successor = next(server.as_ref(), &gateway, args, live) => break Some(successor),
        }
    };
    // Whether the service is alive is for the successor to say from here on, or for nobody.
    drop(watchdog);
    starting.is_over.store(true, Ordering::Relaxed);
    let cut = match successor {
        Some(successor) => hand_over(gateway, args.drain, successor, signals.next()).await,
        None => {
            let line = format!("drains for at most {:?}", args.drain);
            tell_service_state(ServiceState::Draining(args.drain), &line);
            starting.end();
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
    let offer = || {
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
        }
    };
    server.next(offer).await
}

async fn hand_over(
    mut gateway: Gateway,
    drain: Duration,
    successor: Successor,
    force: impl Future<Output = ()>,
) -> Cut {
    let (relay, told) = successor.split();
    let health = gateway.let_go(relay).await;
    let (heard, hearing) = oneshot::channel();
    std::thread::spawn(move || {
        told.tell(&health);
        // It has ended meanwhile if nobody waits.
        let _ = heard.send(());
    });
    let cut = gateway.finish(drain, force).await;
    // What becomes of the successor is told here, as long as there is somebody to tell it.
    let _ = hearing.await;
    cut
}

/// The process that this one has started and that has not taken over yet.
#[derive(Debug, Clone, Default)]
struct StartedSuccessor {
    process: Arc<Mutex<Option<OwnedFd>>>,
    /// This process goes on no more, whatever becomes of the other.
    is_over: Arc<AtomicBool>,
}

impl StartedSuccessor {
    fn hold(&self, child: &Child) {
        // A kernel that has no such handles leaves the process to whoever looks for it.
        *self.process.lock() = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok();
    }

    /// Ends it: whoever ends this process wants no other one.
    fn end(&self) {
        if let Some(process) = self.process.lock().take() {
            let _ = pidfd_send_signal(process, Signal::TERM);
        }
    }
}

/// Starts a process with the program and the arguments of this one, which takes over once it is ready. `serving` is what this one goes on
/// with if it does not.
fn start_successor(own: &OwnCommand, starting: &StartedSuccessor, serving: &str) {
    let Some(program) = own.program.clone() else {
        return tracing::error!(
            "the system does not say which program this is: start the successor with --take-over"
        );
    };
    if starting.process.lock().is_some() {
        return tracing::warn!("a successor is being started already");
    }
    let mut command = Command::new(&program);
    command.args(own.arguments_to_take_over()).stdin(Stdio::null());
    // Names the process that is to tell the service manager that it answers: not this one then.
    command.env_remove("WATCHDOG_PID");
    let starting = starting.clone();
    let goes_on = format!("{serving}; the last hand-over has failed, see the log");
    tell_service_state(ServiceState::HandingOver, "a successor is being started");
    match command.spawn() {
        Ok(mut child) => {
            tracing::info!(program = %program.display(), process = child.id(), "started a successor");
            starting.hold(&child);
            // Not one of the runtime's threads, whose end waits for what they do.
            std::thread::spawn(move || {
                let ended = child.wait();
                starting.process.lock().take();
                if !starting.is_over.load(Ordering::Relaxed) {
                    tell_service_state(ServiceState::Ready, &goes_on);
                }
                match ended {
                    Ok(status) => tracing::error!(%status, "the successor has ended"),
                    Err(error) => tracing::error!(%error, "the successor cannot be waited for"),
                }
            });
        }
        Err(error) => {
            tracing::error!(program = %program.display(), %error, "cannot start a successor; this process goes on");
            tell_service_state(ServiceState::Ready, &goes_on);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_has_the_same_arguments_and_takes_over_once() {
        let arguments = |given: &[&str]| {
            let own = OwnCommand {
                program: None,
                arguments: given.iter().map(OsString::from).collect(),
            };
            own.arguments_to_take_over()
        };
        let expected = ["gateway", "--zone", "east", "--take-over"].map(OsString::from);
        assert_eq!(arguments(&["gateway", "--zone", "east"]), expected);
        let again = ["gateway", "--take-over", "--zone", "east"];
        assert_eq!(arguments(&again), again.map(OsString::from));
    }
}
