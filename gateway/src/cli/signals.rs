//! Signals: those that end a command that runs until it is told to stop, and those that must not.
//!
//! A signal nobody asked for would end a process at once, without a drain: SIGHUP, which a closed terminal and scripts that
//! mean "read your files again" send, and SIGUSR1 and SIGUSR2, which people try. So a server takes all of them over before it
//! does anything else, its log included; the topology file has a use for SIGHUP, and a gateway for SIGUSR2. SIGPIPE is ignored by Rust's
//! runtime from before `main` on: a reader that is gone is an error of a write. Being process 1 of a container is the
//! other way around: the kernel keeps from it what it has no handler for, so commands that otherwise leave signals alone
//! end by themselves there.

use causeway_host::{first_process::is_first_process, tasks::Tasks};
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{Exit, Failure};

/// SIGTERM and SIGINT, which end a command; nothing else does while this exists, and afterwards.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    succeed: Signal,
}

/// Meaning of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    End,
    /// A successor is to be started (SIGUSR2).
    Succeed,
}

impl Signals {
    /// From here on no signal ends the process by itself, SIGKILL aside.
    pub(super) fn new() -> Result<Self, Failure> {
        for ignored in [SignalKind::hangup(), SignalKind::user_defined1()] {
            // The handler stays when this listener is dropped.
            drop(listen(ignored)?);
        }
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            succeed: listen(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one that means something to a gateway. Cancel-safe.
    pub(super) async fn told(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
            _ = self.succeed.recv() => Told::Succeed,
        }
    }

    /// Waits for the next one that means the end. Cancel-safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits until the command is told to end, or until one of its tasks has ended: a server that carries nobody's connections
/// ends with it, so that whoever runs it starts it again.
pub(super) async fn until_told_or_broken(
    told: impl Future<Output = ()>,
    tasks: &Tasks,
) -> Result<Exit, Failure> {
    tokio::select! {
        () = told => Ok(Exit::Done),
        task = tasks.first_ended() => {
            let broken = Failure::new(format!("task `{}` has ended: {}", task.name, task.ending));
            Err(broken.hint("start it again; the log says what happened before that"))
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new("cannot listen for signals").because(&error))
}

/// Runs a command that ends when it is told to, on a runtime of its own. The signals are taken over before anything else.
pub(super) fn serve<F>(runtime: &mut Builder, command: impl FnOnce(Signals) -> F) -> Result<Exit, Failure>
where
    F: Future<Output = Result<Exit, Failure>>,
{
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new("cannot start the async runtime").because(&error))?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    runtime.block_on(command(signals))
}

/// Runs a command that leaves signals to the system. As process 1, where the system does nothing, SIGTERM and SIGINT end it.
pub(super) async fn unless_ended(
    command: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    if !is_first_process() {
        return command.await;
    }
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::select! {
        ended = command => ended,
        _ = terminate.recv() => Ok(Exit::Signalled(15)),
        _ = interrupt.recv() => Ok(Exit::Signalled(2)),
    }
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_server_ends_when_it_is_told_to_or_with_the_first_of_its_tasks_and_then_says_which() {
        let tasks = Tasks::default();
        let told = until_told_or_broken(future::ready(()), &tasks).await;
        assert_eq!(told.ok(), Some(Exit::Done));
        tokio::spawn(tasks.keep("leases in etcd", future::ready(())));
        let broken = until_told_or_broken(future::pending(), &tasks);
        let broken = tokio::time::timeout(Duration::from_secs(20), broken).await;
        let failure = broken.expect("an end").expect_err("a failure");
        assert!(format!("{failure:?}").contains("leases in etcd"), "{failure:?}");
    }
}
