//! The answer to a question about the mesh: pure, from one snapshot and the names that have addresses.

use std::net::{IpAddr, SocketAddr};

use causeway_federation::{
    name::{PortName, ZoneName},
    topology::Topology,
};
use causeway_routing::{snapshot::Snapshot, target::Target};
use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{HINFO, NS, PTR, SOA, SRV, TXT},
    },
};

use super::{
    place::{NamePlace, canonical_labels, place, zone_labels},
    status::status,
};
use crate::vips::{Listening, Vip, VipNames};

/// SOA timers, in seconds (RFC 1035 §3.3.13). Nobody transfers this zone; they are here because the record has them.
const REFRESH_SECONDS: i32 = 3600;
const RETRY_SECONDS: i32 = 600;
const EXPIRE_SECONDS: i32 = 86_400;
/// TXT says what is true this second, in seconds.
const STATUS_TTL_SECONDS: u32 = 0;
/// Longest string of a TXT record, in bytes (RFC 1035 §3.3.14).
const MAX_TEXT_BYTES: usize = 255;

/// Material that answers are made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeshView<'a> {
    pub snapshot: &'a Snapshot,
    pub names: &'a VipNames,
    pub listening: &'a Listening,
    /// Addresses at which this zone's mesh DNS listens; empty when it listens on every address.
    pub servers: &'a [IpAddr],
}

/// The sections of an authoritative answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sections {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
    /// Name by tag or by zone whose address this tells.
    pub told: Option<Target>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Resolution {
    Answer(Sections),
    /// A name by tag or by zone that needs an address first; ask again once it has one.
    Claim(Target),
    /// Neither below the mesh domain nor about a virtual address.
    NotOurs,
}

/// The mesh domain. The topology has checked that it is a name.
pub(super) fn mesh_domain(topology: &Topology) -> Name {
    let mut name = Name::from_ascii(&topology.dns.domain).unwrap_or_else(|_| Name::root());
    name.set_fqdn(true);
    name
}

/// Answers `kind` for `name`, which may be in any case.
pub(super) fn answer(view: MeshView<'_>, name: &Name, kind: RecordType) -> Resolution {
    let asked = Asked { view, name, kind };
    let mut lower = [0u8; Name::MAX_LENGTH];
    let Some(labels) = Labels::read(name, &mut lower) else {
        // Bytes that are not text: below the mesh domain there is no such name.
        return match asked.apex().zone_of(name) {
            true => asked.negative(ResponseCode::NXDomain),
            false => Resolution::NotOurs,
        };
    };
    match labels.below(&view.snapshot.topology.dns.domain) {
        Some(below) => asked.mesh(below),
        None if labels.all().last() == Some(&"arpa") => asked.reverse(),
        None => Resolution::NotOurs,
    }
}

/// The labels of a name in lower case, leftmost first, in a buffer of the caller.
struct Labels<'a> {
    labels: [&'a str; 128],
    count: usize,
}

impl<'a> Labels<'a> {
    fn read(name: &Name, buffer: &'a mut [u8; Name::MAX_LENGTH]) -> Option<Self> {
        let mut rest: &'a mut [u8] = buffer;
        let mut labels = [""; 128];
        let mut count = 0;
        for label in name.iter() {
            let (mine, after) = rest.split_at_mut_checked(label.len())?;
            mine.copy_from_slice(label);
            mine.make_ascii_lowercase();
            *labels.get_mut(count)? = std::str::from_utf8(mine).ok()?;
            count += 1;
            rest = after;
        }
        Some(Self { labels, count })
    }

    fn all(&self) -> &[&'a str] {
        &self.labels[..self.count]
    }

    /// The labels left of `domain`; `None` if the name does not end in it.
    fn below(&self, domain: &str) -> Option<&[&'a str]> {
        let mut rest = self.all();
        for label in domain.rsplit('.') {
            rest = match rest {
                [before @ .., last] if *last == label => before,
                _ => return None,
            };
        }
        Some(rest)
    }
}

/// `labels` below `apex`; `None` if that is longer than a name may be.
fn below<'a>(apex: &Name, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
    let name = Name::from_labels(labels.into_iter().map(str::as_bytes)).ok()?;
    name.append_domain(apex).ok()
}

fn found(answers: Vec<Record>) -> Resolution {
    Resolution::Answer(Sections {
        answers,
        ..Sections::default()
    })
}

/// One question.
#[derive(Clone, Copy)]
struct Asked<'a> {
    view: MeshView<'a>,
    name: &'a Name,
    kind: RecordType,
}

impl Asked<'_> {
    fn mesh(self, below: &[&str]) -> Resolution {
        match place(self.view.snapshot, self.view.names, below) {
            NamePlace::Nothing => self.negative(ResponseCode::NXDomain),
            NamePlace::Between => self.no_data(),
            // One small record instead of all there are (RFC 8482 §4.2).
            _ if self.kind == RecordType::ANY => {
                let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
                found(vec![self.record(RData::HINFO(hinfo))])
            }
            NamePlace::Apex => self.at_apex(),
            NamePlace::Zone(zone) => self.zone(&zone),
            NamePlace::Name(target) => self.named(&target),
            NamePlace::ServiceRecord(binding) if self.kind == RecordType::SRV => {
                self.with_vip(&binding.target, binding.port.as_ref())
            }
            NamePlace::ServiceRecord(_) => self.no_data(),
        }
    }

    fn topology(&self) -> &Topology {
        &self.view.snapshot.topology
    }

    fn apex(&self) -> Name {
        mesh_domain(self.topology())
    }

    fn ttl(&self) -> u32 {
        u32::try_from(self.topology().dns.ttl.as_secs()).unwrap_or(u32::MAX)
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.ttl(), data)
    }

    /// The name of this zone's mesh DNS: the zone's own name.
    fn server_name(&self, apex: &Name) -> Name {
        below(apex, zone_labels(&self.view.snapshot.zone)).unwrap_or_else(|| apex.clone())
    }

    fn start_of_authority(&self, owner: Name) -> Record {
        // Wraps as serial numbers do (RFC 1982).
        let serial = u32::try_from(self.view.snapshot.generation & u64::from(u32::MAX)).unwrap_or_default();
        let apex = self.apex();
        let server = self.server_name(&apex);
        let mailbox = below(&apex, ["hostmaster"]).unwrap_or_else(|| server.clone());
        let soa = SOA::new(
            server,
            mailbox,
            serial,
            REFRESH_SECONDS,
            RETRY_SECONDS,
            EXPIRE_SECONDS,
            self.ttl(),
        );
        Record::from_rdata(owner, self.ttl(), RData::SOA(soa))
    }

    /// No such name, or no such record: cached for the topology's TTL (RFC 2308 §5).
    fn negative(&self, code: ResponseCode) -> Resolution {
        self.negative_below(code, self.apex())
    }

    fn negative_below(&self, code: ResponseCode, owner: Name) -> Resolution {
        Resolution::Answer(Sections {
            code,
            authorities: vec![self.start_of_authority(owner)],
            ..Sections::default()
        })
    }

    fn no_data(&self) -> Resolution {
        self.negative(ResponseCode::NoError)
    }

    fn at_apex(&self) -> Resolution {
        match self.kind {
            RecordType::SOA => found(vec![self.start_of_authority(self.name.clone())]),
            RecordType::NS => found(vec![self.record(RData::NS(NS(self.server_name(self.name))))]),
            _ => self.no_data(),
        }
    }

    /// The own zone's name is that of its mesh DNS; other zones have no addresses to tell.
    fn zone(&self, zone: &ZoneName) -> Resolution {
        let servers = match *zone == self.view.snapshot.zone {
            true => self.view.servers,
            false => &[],
        };
        self.found_or_no_data(self.addresses(self.name, self.kind, servers.iter().copied()))
    }

    fn found_or_no_data(&self, answers: Vec<Record>) -> Resolution {
        match answers.is_empty() {
            true => self.no_data(),
            false => found(answers),
        }
    }

    fn addresses(
        &self,
        name: &Name,
        kind: RecordType,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Vec<Record> {
        let data = addresses.filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), RecordType::A) => Some(RData::A(address.into())),
            (IpAddr::V6(address), RecordType::AAAA) => Some(RData::AAAA(address.into())),
            _ => None,
        });
        data.map(|data| Record::from_rdata(name.clone(), self.ttl(), data))
            .collect()
    }

    fn named(&self, target: &Target) -> Resolution {
        match self.kind {
            RecordType::A | RecordType::AAAA | RecordType::SRV => self.with_vip(target, None),
            RecordType::TXT => found(
                status(self.view.snapshot, target)
                    .into_iter()
                    .map(|text| text_record(self.name, text))
                    .collect(),
            ),
            _ => self.no_data(),
        }
    }

    /// `port` is that of an SRV record; `None`: the primary one.
    fn with_vip(&self, target: &Target, port: Option<&PortName>) -> Resolution {
        let Some(vip) = self.view.names.vip(target) else {
            return self.without_vip(target);
        };
        let vip = self.listened_on(target, vip);
        if vip.is_empty() {
            return server_failure();
        }
        let resolution = match self.kind {
            RecordType::SRV => self.service_record(target, port, vip),
            kind => self.found_or_no_data(self.addresses(self.name, kind, vip.addresses())),
        };
        match resolution {
            Resolution::Answer(sections) if !target.is_whole() => Resolution::Answer(Sections {
                told: Some(target.clone()),
                ..sections
            }),
            other => other,
        }
    }

    /// Leaves out addresses at which some other program has a port of the service: whoever has the address may connect to any of them.
    fn listened_on(&self, target: &Target, vip: Vip) -> Vip {
        let Some(service) = self.topology().services.get(&target.service) else {
            return vip;
        };
        let listening = self.view.listening;
        vip.only(|address| {
            let mut ports = service.ports.iter();
            ports.all(|port| listening.may_be_given_out(SocketAddr::new(address, port.number)))
        })
    }

    fn service_record(&self, target: &Target, port: Option<&PortName>, vip: Vip) -> Resolution {
        let port = self.topology().port_of(&target.service, port);
        let (Some(port), Some(host)) = (port, self.canonical(target)) else {
            return self.no_data();
        };
        let mut additionals = self.addresses(&host, RecordType::A, vip.addresses());
        additionals.extend(self.addresses(&host, RecordType::AAAA, vip.addresses()));
        Resolution::Answer(Sections {
            answers: vec![self.record(RData::SRV(SRV::new(0, 0, port.number, host)))],
            additionals,
            ..Sections::default()
        })
    }

    fn canonical(&self, target: &Target) -> Option<Name> {
        let labels = canonical_labels(target)?;
        below(&self.apex(), labels.iter().map(String::as_str))
    }

    /// A name that exists without an address: it is given one now, or never has one (address mode), or none is left.
    fn without_vip(&self, target: &Target) -> Resolution {
        let is_whole = target.is_whole();
        match (is_whole, self.view.names.can_narrow()) {
            (true, _) => server_failure(),
            (false, true) => Resolution::Claim(target.clone()),
            (false, false) => self.no_data(),
        }
    }

    /// `PTR` for the ranges of virtual addresses; all other reverse names belong to others.
    fn reverse(&self) -> Resolution {
        let Ok(network) = self.name.parse_arpa_name() else {
            return Resolution::NotOurs;
        };
        let Some(range) = self.view.names.range_of(&network) else {
            return Resolution::NotOurs;
        };
        let bits_per_label = if range.addr().is_ipv4() { 8 } else { 4 };
        let labels = usize::from(range.prefix_len().div_ceil(bits_per_label)) + 2;
        let none = |code| self.negative_below(code, self.name.trim_to(labels));
        if network.prefix_len() < network.max_prefix_len() {
            return none(ResponseCode::NoError);
        }
        let Some(target) = self.view.names.target_at(network.addr()) else {
            return none(ResponseCode::NXDomain);
        };
        match (self.kind, self.canonical(target)) {
            (RecordType::PTR, Some(host)) => found(vec![self.record(RData::PTR(PTR(host)))]),
            _ => none(ResponseCode::NoError),
        }
    }
}

fn server_failure() -> Resolution {
    Resolution::Answer(Sections {
        code: ResponseCode::ServFail,
        ..Sections::default()
    })
}

fn text_record(name: &Name, mut text: String) -> Record {
    // Every text is ASCII, so any byte is a place to cut at.
    text.truncate(MAX_TEXT_BYTES);
    Record::from_rdata(name.clone(), STATUS_TTL_SECONDS, RData::TXT(TXT::new(vec![text])))
}
