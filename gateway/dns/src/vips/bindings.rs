//! Bindings of the egress: each virtual address with each port of its service.

use std::{collections::BTreeMap, net::SocketAddr};

use causeway_routing::{
    snapshot::Snapshot,
    target::{Binding, Target},
};

use super::{former::FormerVips, known::exists, names::VipNames};

/// Works them out. What an address stood for before counts only where it stands for nothing now, and as long as the name can still be
/// asked for.
pub(super) fn bindings(
    names: &VipNames,
    former: &FormerVips,
    snapshot: &Snapshot,
) -> BTreeMap<SocketAddr, Binding> {
    let services = &snapshot.topology.services;
    let whole = names
        .services
        .iter()
        .map(|(name, vip)| (Target::service(name.clone()), *vip));
    let narrowed = names
        .narrowed
        .iter()
        .map(|(target, name)| (target.clone(), name.vip));
    let former = former
        .all()
        .iter()
        .filter(|former| exists(snapshot, &former.target));
    let is_free = |address| names.target_at(address).is_none();
    let former = former.map(|former| (former.target.clone(), former.vip.only(is_free)));
    let mut bindings = BTreeMap::new();
    for (target, vip) in former.chain(whole).chain(narrowed) {
        let service = services.get(&target.service);
        for port in service.into_iter().flat_map(|service| service.ports.iter()) {
            let binding = Binding {
                target: target.clone(),
                port: port.name.clone(),
            };
            for address in vip.addresses() {
                bindings.insert(SocketAddr::new(address, port.number), binding.clone());
            }
        }
    }
    bindings
}

#[cfg(test)]
mod tests {
    use super::{super::tests::snapshot, *};
    use crate::vips::names::Vip;

    fn target(name: &str) -> Target {
        Target::service(name.parse().unwrap())
    }

    #[test]
    fn an_address_of_before_counts_while_its_name_is_there_and_nothing_else_has_it_at_any_port() {
        let vip = Vip::of(Some([127, 64, 0, 1].into()), None);
        let mut former = FormerVips::default();
        former.keep(BTreeMap::from([(target("orders"), vip)]), 600);
        let bound = |names: &VipNames, services: &[&str]| {
            let bound = bindings(
                names,
                &former,
                &snapshot("{ loopback: 127.32.0.0/16 }", services, 0),
            );
            let bound = bound.iter().map(|(at, target)| format!("{at}={target}"));
            bound.collect::<Vec<_>>()
        };
        let mut names = VipNames::default();
        assert_eq!(bound(&names, &["orders"]), ["127.64.0.1:8080=orders"]);
        assert!(bound(&names, &["web"]).is_empty());
        names
            .by_address
            .extend(vip.addresses().map(|address| (address, target("web"))));
        assert!(bound(&names, &["orders", "web"]).is_empty());
    }
}
