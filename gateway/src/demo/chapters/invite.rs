//! Invitation to what a person can try while everything is left running.

use super::Stage;
use crate::{demo::DemoError, output::Word};

pub(super) fn tell(stage: &Stage) -> Result<(), DemoError> {
    let Stage {
        federation, story, ..
    } = stage;
    story.blank()?;
    story.title("Everything is left running. Ctrl-C ends it.")?;
    story.blank()?;
    let domain = &federation.topology.dns.domain;
    let (mut gateways, mut names) = (Vec::new(), Vec::new());
    for member in &federation.members {
        let gateway = &member.gateway;
        let dns = gateway.dns_addresses().first().map(ToString::to_string);
        let admin = gateway.admin_address().map(ToString::to_string);
        gateways.push(vec![
            Word::from(gateway.id()),
            dns.unwrap_or_default().into(),
            admin.unwrap_or_default().into(),
        ]);
        for (address, bound) in gateway.vips().bindings().borrow().iter() {
            if bound.target.is_whole() {
                let name = format!("{}.{domain}", bound.target.service);
                names.push(vec![gateway.id().into(), name.into(), Word::from(address)]);
            }
        }
    }
    story.table(&["GATEWAY", "MESH DNS", "ADMIN API"], gateways)?;
    story.blank()?;
    story.table(&["FROM", "NAME", "VIRTUAL ADDRESS"], names)?;
    story.blank()?;
    story.block(&commands(stage))?;
    Ok(())
}

/// Commands for the first gateway that has something to call.
fn commands(stage: &Stage) -> String {
    for member in &stage.federation.members {
        let gateway = &member.gateway;
        let (Some(dns), Some(admin)) = (gateway.dns_addresses().first(), gateway.admin_address()) else {
            continue;
        };
        let bindings = gateway.vips().bindings();
        let bindings = bindings.borrow();
        let Some((address, bound)) = bindings.first_key_value() else {
            continue;
        };
        let (service, domain) = (&bound.target.service, &stage.federation.topology.dns.domain);
        return format!(
            "See it, in a browser: http://{admin}/\n\
             Try it, as an application in {zone}:\n  \
             dig +short @{ip} -p {port} {service}.{domain}\n  \
             curl http://{address}/\n  \
             causeway get zones --admin {admin}\n  \
             causeway explain {service} --admin {admin}\n  \
             curl -s http://{admin}/metrics\n",
            zone = member.zone(),
            ip = dns.ip(),
            port = dns.port(),
        );
    }
    String::new()
}
