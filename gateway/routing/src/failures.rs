//! Word of instances that do not accept connections, from those who find out to those who check instances.

use std::fmt;

use causeway_federation::name::ServiceName;

/// Takes word of instances that could not be connected to. It never waits.
pub trait ConnectFailures: fmt::Debug + Send + Sync {
    /// The instance `id` of `service` did not accept a connection just now.
    fn report(&self, service: &ServiceName, id: &str);
}

/// Tells nobody.
impl ConnectFailures for () {
    fn report(&self, _service: &ServiceName, _id: &str) {}
}
