//! Programs that run until they are told to end, as a service manager sees them: ready, answering, ending.

use std::time::Duration;

use causeway_host::{
    service_state::{ServiceState, tell_service_state},
    tasks::Tasks,
    watchdog::{Pulse, Watchdog},
};
use tokio::runtime::Handle;

use super::Failure;

/// Longest time that servers without open connections of others' take to end.
const END_MAY_TAKE: Duration = Duration::from_secs(10);

/// Tells that a server is ready, and from then on that its runtime answers, until it is dropped: then that it ends.
#[must_use]
pub(super) struct Supervised {
    _watchdog: Option<Watchdog>,
}

impl Supervised {
    /// Must be called on the server's runtime. `line` says what it does, for a person.
    pub(super) fn ready(tasks: &Tasks, line: &str) -> Result<Self, Failure> {
        let runtime = Pulse::of_runtime("runtime", Handle::current());
        let watchdog = watchdog(vec![runtime], tasks)?;
        tell_service_state(ServiceState::Ready, line);
        Ok(Self { _watchdog: watchdog })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        tell_service_state(ServiceState::Draining(END_MAY_TAKE), "ends");
    }
}

/// Starts telling that every part answers, if a service manager wants to know.
pub(super) fn watchdog(pulses: Vec<Pulse>, tasks: &Tasks) -> Result<Option<Watchdog>, Failure> {
    Watchdog::start(pulses, tasks)
        .map_err(|error| Failure::new("cannot start the thread of the watchdog").because(&error))
}
