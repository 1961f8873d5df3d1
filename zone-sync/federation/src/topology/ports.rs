//! Ports of a service, validated: where clients connect, what they speak there, and which port of an instance each leads to.

use std::{fmt, iter::once, net::SocketAddr};

use super::model::{Protocol, Topology};
use crate::name::{PortName, ServiceName};

/// Ports that clients of a service connect to. Neither numbers nor names are there twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePorts {
    /// Port of whoever asks for none by name. It leads to the address that an instance is registered with, unless it says otherwise.
    pub primary: ServicePort,
    /// In the order of the file.
    pub others: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// `None`: the only one, which has no name.
    pub name: Option<PortName>,
    /// Port that clients connect to.
    pub number: u16,
    pub protocol: Protocol,
    /// Port of an instance that it leads to; `None`: the one that the instance is registered with.
    pub target: Option<u16>,
}

impl ServicePorts {
    /// The primary one first.
    pub fn iter(&self) -> impl Iterator<Item = &ServicePort> {
        once(&self.primary).chain(&self.others)
    }

    /// The primary one first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut ServicePort> {
        once(&mut self.primary).chain(&mut self.others)
    }

    /// The port of this name; without a name, the primary one. `None`: there is none of this name.
    #[must_use]
    pub fn get(&self, name: Option<&PortName>) -> Option<&ServicePort> {
        match name {
            None => Some(&self.primary),
            Some(name) => self.iter().find(|port| port.name.as_ref() == Some(name)),
        }
    }
}

impl ServicePort {
    /// Address at which an instance that is registered with `registered` serves this port.
    #[must_use]
    pub fn at(&self, registered: SocketAddr) -> SocketAddr {
        SocketAddr::new(registered.ip(), self.target.unwrap_or(registered.port()))
    }
}

impl Protocol {
    /// The word in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Udp => "udp",
        }
    }

    /// Tells whether requests are looked at one by one.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Grpc)
    }
}

impl Topology {
    /// A service's port of this name, or without a name its primary one; `None`: there is no such service or port.
    #[must_use]
    pub fn port_of(&self, service: &ServiceName, port: Option<&PortName>) -> Option<&ServicePort> {
        self.services.get(service)?.ports.get(port)
    }
}

/// `8080 http`, `admin 9090 tcp to 9091`, as `diff` shows it.
impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name} ")?;
        }
        write!(f, "{} {}", self.number, self.protocol.word())?;
        match self.target {
            Some(target) if target != self.number => write!(f, " to {target}"),
            Some(_) | None => Ok(()),
        }
    }
}

/// Both for comparison, by their key in the file: number and protocol apart where there is one port without a name, as it is written then.
pub(super) fn in_words(before: &ServicePorts, after: &ServicePorts) -> Vec<(&'static str, String, String)> {
    let (one, other) = (&before.primary, &after.primary);
    if one.name.is_none() && other.name.is_none() {
        return vec![
            ("port", one.number.to_string(), other.number.to_string()),
            (
                "protocol",
                one.protocol.word().to_owned(),
                other.protocol.word().to_owned(),
            ),
        ];
    }
    let all = |ports: &ServicePorts| {
        let all: Vec<String> = ports.iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    vec![("ports", all(before), all(after))]
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn ports(written: &str) -> ServicePorts {
        let text = format!(
            "version: 1\ntrust_domain: acme.internal\nzones: {{ east: {{ gateways: [gw.east:7800] }} }}\nservices:\n  orders: {{ {written} }}\n"
        );
        let topology = parse(&text, "a.yaml").unwrap().topology;
        topology.services["orders"].ports.clone()
    }

    fn name(text: &str) -> PortName {
        PortName::new(text).unwrap()
    }

    #[test]
    fn a_change_is_told_as_the_file_has_it() {
        let plain = ports("port: 80, protocol: http");
        let named =
            ports("protocol: http, ports: { web: 80, raw: { port: 70, protocol: tcp, target: 7070 } }");
        let told = |before: &ServicePorts, after: &ServicePorts| {
            let changes = in_words(before, after).into_iter();
            let changes = changes.filter(|(_, before, after)| before != after);
            changes
                .map(|(key, before, after)| format!("{key}: {before} -> {after}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            told(&plain, &ports("port: 81")),
            ["port: 80 -> 81", "protocol: http -> tcp"]
        );
        assert_eq!(
            told(&plain, &named),
            ["ports: 80 http -> web 80 http, raw 70 tcp to 7070"]
        );
        assert_eq!(told(&named, &named), Vec::<String>::new());
    }

    fn told(ports: &ServicePorts) -> String {
        let told: Vec<String> = ports.iter().map(ToString::to_string).collect();
        told.join(", ")
    }

    #[test]
    fn the_first_port_is_the_primary_one_unless_another_says_so() {
        let first = ports("protocol: http, ports: { http: 8080, admin: { port: 9090, protocol: tcp } }");
        assert_eq!(told(&first), "http 8080 http, admin 9090 tcp");
        let said = ports("ports: { admin: 9090, web: { port: 80, primary: true }, raw: 70 }");
        assert_eq!(told(&said), "web 80 tcp, admin 9090 tcp, raw 70 tcp");
        assert_eq!(said.get(None), said.get(Some(&name("web"))));
        assert_eq!(said.get(Some(&name("else"))), None);
    }

    #[test]
    fn the_primary_port_leads_to_where_an_instance_is_registered_and_others_to_their_own_number() {
        let ports = ports("ports: { http: 8080, admin: 9090, raw: { port: 70, target: 7070 } }");
        let registered = "10.0.0.1:18080".parse().unwrap();
        let at: Vec<u16> = ports.iter().map(|port| port.at(registered).port()).collect();
        assert_eq!(at, [18080, 9090, 7070]);
        assert_eq!(told(&ports), "http 8080 tcp, admin 9090 tcp, raw 70 tcp to 7070");
    }
}
