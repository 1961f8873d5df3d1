//! Limits and ejections: what is told of them, and what another process goes on with.

use std::time::Instant;

use causeway_federation::name::ServiceName;
use causeway_routing::{limits::CarriedLimits, outlier::CarriedEjection};

use super::Egress;

impl Egress {
    /// Everything that is ejected, or has come back and not gone well since, for another process to go on with.
    #[must_use]
    pub fn ejections(&self) -> Vec<CarriedEjection> {
        self.shared.outliers.carried()
    }

    /// Limits as another process is to go on with them.
    #[must_use]
    pub fn limits_left(&self) -> CarriedLimits {
        self.shared.limits.carried()
    }

    /// Those without what rates have left.
    #[must_use]
    pub fn limits_held(&self) -> CarriedLimits {
        self.shared.limits.held()
    }

    /// Limits of services that were reached within the last minute, in the words of the topology.
    #[must_use]
    pub fn limits_reached(&self) -> Vec<(ServiceName, &'static str)> {
        self.shared.limits.reached_lately(Instant::now())
    }

    /// Goes on with what the process before says of limits now.
    pub fn carry_limits(&self, left: &CarriedLimits) {
        self.shared.limits.carry_on(left);
    }

    /// Tells whether processes before hold anything that counts towards limits here.
    #[must_use]
    pub fn counts_elsewhere(&self) -> bool {
        self.shared.limits.is_elsewhere()
    }

    /// Accepts clients from now on, where that was held back.
    pub fn accept_clients(&self) {
        self.shared.accepts.cancel();
    }

    /// Waits until clients are to be accepted here.
    pub async fn accepts_clients(&self) {
        if self.shared.config.holds_back {
            self.shared.accepts.cancelled().await;
        }
    }
}
