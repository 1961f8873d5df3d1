//! The process that a gateway starts itself to take its place, when it is told to: one at a time, which is ended if it does not come up.

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

use causeway_host::service_state::{ServiceState, tell_service_state};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Flag of a process that takes over.
const TAKE_OVER: &str = "--take-over";
/// Longest time from the start of a successor until it takes over: far more than it takes to read everything, and to wait for an agent
/// that gives it its identity.
pub(super) const COMING_UP_MAY_TAKE: Duration = Duration::from_secs(60);

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

/// The process that this one has started and that has not taken over yet. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct StartedSuccessor {
    process: Arc<Mutex<Option<StartedProcess>>>,
    /// This process goes on no more, whatever becomes of the other.
    is_over: Arc<AtomicBool>,
}

#[derive(Debug)]
struct StartedProcess {
    id: u32,
    /// `None`: the kernel has no such handles, and leaves the process to whoever looks for it.
    handle: Option<OwnedFd>,
}

impl StartedProcess {
    fn new(child: &Child) -> Self {
        Self {
            id: child.id(),
            handle: pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok(),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(handle) = &self.handle {
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

impl StartedSuccessor {
    /// Starts a process with the program and the arguments of this one, which takes over once it is ready, unless one is being started
    /// already. It is killed if it has not within `longest`. `serving` is what this process goes on with then. Must be called on a runtime.
    pub(super) fn start(&self, own: &OwnCommand, serving: &str, longest: Duration) {
        let Some(program) = own.program.clone() else {
            return tracing::error!(
                "the system does not say which program this is: start the successor with --take-over"
            );
        };
        if self.process.lock().is_some() {
            return tracing::warn!("a successor is being started already");
        }
        let mut command = Command::new(&program);
        command.args(own.arguments_to_take_over()).stdin(Stdio::null());
        // Names the process that is to tell the service manager that it answers: not this one then.
        command.env_remove("WATCHDOG_PID");
        let goes_on = format!("{serving}; the last hand-over has failed, see the log");
        tell_service_state(ServiceState::HandingOver, "a successor is being started");
        match command.spawn() {
            Ok(child) => {
                tracing::info!(program = %program.display(), process = child.id(), "started a successor");
                self.keep(child, goes_on, longest);
            }
            Err(error) => {
                tracing::error!(program = %program.display(), %error, "cannot start a successor; this process goes on");
                tell_service_state(ServiceState::Ready, &goes_on);
            }
        }
    }

    fn keep(&self, mut child: Child, goes_on: String, longest: Duration) {
        let id = child.id();
        *self.process.lock() = Some(StartedProcess::new(&child));
        let starting = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(longest).await;
            starting.give_up(id, longest);
        });
        let starting = self.clone();
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

    fn give_up(&self, id: u32, longest: Duration) {
        let process = self.process.lock();
        let hangs = process.as_ref().filter(|started| started.id == id);
        if let Some(hangs) = hangs.filter(|_| !self.is_over.load(Ordering::Relaxed)) {
            tracing::error!(
                process = id,
                ?longest,
                "the successor has not come up, and is killed; this process goes on"
            );
            hangs.signal(Signal::KILL);
        }
    }

    /// Notes that this process is about to end, and ends the one that was started: whoever ends this one wants no other.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(started) = &*self.process.lock() {
            started.signal(Signal::TERM);
        }
    }

    /// Notes that process `taker` has taken over, and ends the one that was started if that is another. `None`: it is not known which it is.
    pub(super) fn succeeded_by(&self, taker: Option<u32>) {
        self.is_over.store(true, Ordering::Relaxed);
        let process = self.process.lock();
        let (Some(started), Some(taker)) = (&*process, taker) else {
            return;
        };
        if started.id != taker {
            tracing::warn!(
                process = started.id,
                taker,
                "ended the successor that was started, as another process has come before it"
            );
            started.signal(Signal::TERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Longest wait for what happens at once, on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

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

    /// Starts a process that never takes over, and ignores that it is told to end where it is `stubborn`.
    fn start(starting: &StartedSuccessor, script: &str, longest: Duration) -> u32 {
        let own = OwnCommand {
            program: Some("/bin/sh".into()),
            arguments: ["-c", script].map(OsString::from).to_vec(),
        };
        starting.start(&own, "serves", longest);
        starting.process.lock().as_ref().unwrap().id
    }

    async fn is_gone(starting: &StartedSuccessor, id: u32) {
        let gone = async {
            while starting.process.lock().is_some() || Path::new(&format!("/proc/{id}")).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_successor_that_does_not_come_up_is_killed_and_another_may_be_started() {
        let starting = StartedSuccessor::default();
        let stubborn = "trap '' TERM; exec sleep 1000";
        let first = start(&starting, stubborn, PATIENCE);
        // One at a time.
        assert_eq!(start(&starting, stubborn, PATIENCE), first);
        starting.give_up(first + 1, PATIENCE);
        assert!(Path::new(&format!("/proc/{first}")).exists());
        starting.give_up(first, PATIENCE);
        is_gone(&starting, first).await;
        let second = start(&starting, stubborn, Duration::from_millis(50));
        assert_ne!(second, first);
        is_gone(&starting, second).await;
    }

    #[tokio::test]
    async fn a_successor_that_was_started_ends_when_another_process_takes_over_or_this_one_ends() {
        let waiting = "exec sleep 1000";
        let starting = StartedSuccessor::default();
        let process = start(&starting, waiting, PATIENCE);
        starting.succeeded_by(None);
        starting.succeeded_by(Some(process));
        // It has taken over, and so is not given up.
        starting.give_up(process, PATIENCE);
        assert!(starting.process.lock().is_some());
        starting.succeeded_by(Some(process + 1));
        is_gone(&starting, process).await;
        let starting = StartedSuccessor::default();
        let process = start(&starting, waiting, PATIENCE);
        starting.end();
        is_gone(&starting, process).await;
    }
}
