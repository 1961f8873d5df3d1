//! One question to its records: SRV with the addresses of its targets, or the addresses of a name.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use causeway_dns::{HostResolver, LookupError};
use causeway_federation::topology::DnsQuestion;
use hickory_proto::rr::{RData, Record, RecordType, rdata::SRV};

/// Instances that one question may find; further ones are left out, and that is said.
const MAX_FOUND: usize = 1_000;
/// Targets of SRV records whose addresses are asked for.
const MAX_TARGETS: usize = 256;

/// One instance, as DNS tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DnsInstance {
    pub address: SocketAddr,
    /// `None`: what the topology says.
    pub weight: Option<u32>,
}

/// Outcome of one question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DnsAnswer {
    pub found: BTreeSet<DnsInstance>,
    /// Time for which it may be believed.
    pub lifetime: Duration,
    /// Reason why it is not complete, or not an answer at all; then what is missing may still be there.
    pub failure: Option<String>,
}

impl DnsAnswer {
    fn nothing() -> Self {
        Self {
            lifetime: Duration::MAX,
            ..Self::default()
        }
    }

    fn fail(&mut self, why: impl ToString) {
        self.failure.get_or_insert_with(|| why.to_string());
    }

    fn add(&mut self, found: DnsInstance) {
        if self.found.len() < MAX_FOUND {
            self.found.insert(found);
        } else {
            self.fail(format!(
                "more than {MAX_FOUND} instances were found, and the rest is left out"
            ));
        }
    }

    fn lives(&mut self, lifetime: Duration) {
        self.lifetime = self.lifetime.min(lifetime);
    }
}

pub(super) async fn ask(resolver: &HostResolver, question: &DnsQuestion) -> DnsAnswer {
    match question {
        DnsQuestion::Srv { name, weighted } => services(resolver, name, *weighted).await,
        DnsQuestion::Addresses { name, port } => {
            let mut answer = DnsAnswer::nothing();
            for ip in addresses(resolver, name, &mut answer).await {
                let address = SocketAddr::new(ip, *port);
                answer.add(DnsInstance {
                    address,
                    weight: None,
                });
            }
            answer
        }
    }
}

async fn services(resolver: &HostResolver, name: &str, weighted: bool) -> DnsAnswer {
    let mut answer = DnsAnswer::nothing();
    let lookup = match resolver.ask(name, RecordType::SRV).await {
        Ok(lookup) => lookup,
        Err(error) => {
            answer.fail(error);
            return answer;
        }
    };
    answer.lives(lookup.lifetime);
    let records = preferred(&lookup.answers);
    if records.len() > MAX_TARGETS {
        answer.fail(format!(
            "more than {MAX_TARGETS} SRV records, and the rest is left out"
        ));
    }
    for record in records.into_iter().take(MAX_TARGETS) {
        let mut ips = addresses_of(&record.target.to_ascii(), &lookup.additionals);
        if ips.is_empty() {
            ips = addresses(resolver, &record.target.to_ascii(), &mut answer).await;
        }
        for ip in ips {
            answer.add(DnsInstance {
                address: SocketAddr::new(ip, record.port),
                weight: weighted.then(|| weight(record)),
            });
        }
    }
    answer
}

/// The records of the lowest priority: the others are for when these cannot be reached (RFC 2782), which failover between
/// zones is for here. A target of `.` says that the service is not to be had.
fn preferred(answers: &[Record]) -> Vec<&SRV> {
    let records = answers.iter().filter_map(|record| match &record.data {
        RData::SRV(srv) if !srv.target.is_root() => Some(srv),
        _ => None,
    });
    let lowest = records.clone().map(|srv| srv.priority).min();
    records.filter(|srv| Some(srv.priority) == lowest).collect()
}

/// In SRV records a weight of 0 means a very small share, and here it means none at all.
fn weight(record: &SRV) -> u32 {
    u32::from(record.weight).max(1)
}

/// Addresses that came along with the SRV records.
fn addresses_of(target: &str, additionals: &[Record]) -> Vec<IpAddr> {
    let its = additionals
        .iter()
        .filter(|record| record.name.to_ascii().eq_ignore_ascii_case(target));
    its.filter_map(ip).collect()
}

/// The v4 and v6 addresses of a name. Where one of the two cannot be had, the other still counts.
async fn addresses(resolver: &HostResolver, name: &str, answer: &mut DnsAnswer) -> Vec<IpAddr> {
    let (four, six) = tokio::join!(
        resolver.ask(name, RecordType::A),
        resolver.ask(name, RecordType::AAAA)
    );
    let mut ips = Vec::new();
    for lookup in [four, six] {
        match lookup {
            Ok(lookup) => {
                let found: Vec<IpAddr> = lookup.answers.iter().filter_map(ip).collect();
                // "None of this kind" does not hurry anybody while there are some of the other kind.
                if !found.is_empty() || ips.is_empty() {
                    answer.lives(lookup.lifetime);
                }
                ips.extend(found);
            }
            Err(error @ (LookupError::Failed { .. } | LookupError::Name(_))) => answer.fail(error),
        }
    }
    ips
}

fn ip(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}
