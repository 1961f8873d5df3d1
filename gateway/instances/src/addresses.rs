//! The check of an instance's address at the moment when it is registered: what can be there is decided by
//! `causeway_routing::reach`, on the topology and the listeners of that moment.

use std::{net::SocketAddr, sync::Arc};

use causeway_federation::{
    name::ZoneName,
    registry::{Provenance, Registration, RegistryError},
    topology::Topology,
};
use causeway_host::listen::is_own_address;
use causeway_routing::reach::{self, AddressRefusal, OwnListeners};
use tokio::sync::watch;

/// Check of addresses, for one zone.
#[derive(Debug, Clone)]
pub(super) struct AddressCheck {
    pub(super) zone: ZoneName,
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    pub(super) listeners: watch::Receiver<OwnListeners>,
}

impl AddressCheck {
    /// # Errors
    /// When nothing at the address can be an instance.
    pub(super) fn check(&self, registration: &Registration) -> Result<(), RegistryError> {
        let checked = self.check_at(registration.address, registration.provenance);
        checked.map_err(|refusal| RegistryError::ForbiddenAddress {
            reason: refusal.to_string(),
        })
    }

    /// # Errors
    /// When nothing that was put in from that side can be an instance at the address.
    pub(super) fn check_at(&self, address: SocketAddr, provenance: Provenance) -> Result<(), AddressRefusal> {
        let (topology, listeners) = (self.topology.borrow(), self.listeners.borrow());
        let at = (address, provenance);
        reach::check(at, &topology, &self.zone, &listeners, is_own_address)
    }

    /// Separates what may be handed to a registry that the gateways of the zone share from what may not, with the reason. Whatever is
    /// there has come from elsewhere for all of them.
    pub(super) fn shareable(
        &self,
        list: Vec<Registration>,
    ) -> (Vec<Registration>, Vec<Result<(), RegistryError>>) {
        let shared = list.into_iter().map(|registration| Registration {
            provenance: Provenance::Elsewhere,
            ..registration
        });
        let (mut good, mut checked) = (Vec::new(), Vec::new());
        for registration in shared {
            let allowed = self.check(&registration);
            if allowed.is_ok() {
                good.push(registration);
            }
            checked.push(allowed);
        }
        (good, checked)
    }
}
