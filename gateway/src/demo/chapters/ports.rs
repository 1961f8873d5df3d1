//! Several ports of one service: an application asks mesh DNS for each, and is led to that port of an instance and no other.

use causeway_federation::{
    name::{PortName, ServiceName, ZoneName},
    topology::{Protocol, ServicePort},
};

use super::{Stage, ordinary::ask};
use crate::{
    demo::{DemoError, client::port_record, story},
    output::Word,
};

/// Tells nothing when no service has ports with names that the demo's instances can serve.
pub(super) async fn tell(stage: &mut Stage) -> Result<(), DemoError> {
    let Some((service, ports)) = find(stage) else {
        return Ok(());
    };
    let about = format!(
        "{service} has {} by name. An application in every zone asks mesh DNS for the SRV record of each and sends {} requests there. \
         An instance says at which of its ports it was asked: an answer from another one breaks a promise.",
        story::count(ports.len(), "port"),
        stage.pace.ordinary_requests
    );
    stage.story.chapter("Several ports of one service", &about)?;
    let mut rows = Vec::new();
    for zone in stage.zones() {
        if stage.draws(&zone, &service)?.iter().any(Vec::is_empty) {
            continue;
        }
        for (name, port) in &ports {
            rows.push(visit(stage, &zone, &service, (name, port)).await?);
        }
    }
    let header = ["FROM", "ASKS FOR", "IS TOLD", "SPEAKS", "SERVED BY"];
    Ok(stage.story.table(&header, rows)?)
}

/// The first service with several ports, and those that the demo's instances can serve.
fn find(stage: &Stage) -> Option<(ServiceName, Vec<(PortName, ServicePort)>)> {
    let mut services = stage.federation.topology.services.iter();
    services.find_map(|(name, service)| {
        let served = |port: &&ServicePort| !matches!(port.protocol, Protocol::Grpc | Protocol::Udp);
        let ports = service.ports.iter().filter(served);
        let ports: Vec<_> = ports
            .filter_map(|port| Some((port.name.clone()?, port.clone())))
            .collect();
        (ports.len() > 1).then(|| (name.clone(), ports))
    })
}

async fn visit(
    stage: &mut Stage,
    zone: &ZoneName,
    service: &ServiceName,
    (name, port): (&PortName, &ServicePort),
) -> Result<Vec<Word>, DemoError> {
    let client = stage.federation.client_of_port(zone, service, name).await?;
    let (_, served) = ask(stage, &client).await;
    let domain = stage.federation.topology.dns.domain.as_str();
    Ok(vec![
        zone.into(),
        port_record(service, name, domain).as_str().into(),
        client.virtual_address.into(),
        port.protocol.word().into(),
        served,
    ])
}
