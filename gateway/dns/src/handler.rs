//! From the bytes of a question to the bytes of its answer. Mesh names and remembered answers are ready at once;
//! anything that has to wait (an upstream, a new virtual address) is handed back to be finished by a task.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Instant, SystemTime},
};

use causeway_routing::{snapshot::Snapshots, target::Target};
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Record},
    serialize::binary::BinEncoder,
};
use hickory_server::{net::xfer::Protocol, server::Request, zone_handler::MessageResponseBuilder};
use parking_lot::Mutex;

use super::{
    DnsMetrics,
    access::QueryAccess,
    answer::{MeshView, Resolution, Sections, answer, mesh_domain},
    forward::{CachedAnswer, ForwardedQuestion, Forwarder},
    rate::QueryRates,
};
use crate::vips::VipTable;

/// Largest answer over UDP, in bytes, whatever the client says it takes: fits every path without fragments.
const MAX_UDP_BYTES: u16 = 1232;
/// Size that every client takes over UDP, in bytes (RFC 1035 §4.2.1).
const MIN_UDP_BYTES: u16 = 512;
/// A DNS header, in bytes.
const HEADER_BYTES: usize = 12;

#[derive(Debug)]
pub(super) struct Handler {
    pub snapshots: Snapshots,
    pub vips: Arc<VipTable>,
    pub forwarder: Forwarder,
    pub access: QueryAccess,
    pub rates: Mutex<QueryRates>,
    pub metrics: Arc<DnsMetrics>,
    /// Addresses at which mesh DNS listens, without wildcards.
    pub servers: Vec<IpAddr>,
}

/// Outcome of a question.
pub(super) enum DnsReply {
    /// Not a question: no answer, so that nobody can make two servers talk to each other.
    None,
    Ready(Vec<u8>),
    /// For [`Handler::finish`].
    Later(Box<Later>),
}

pub(super) struct Later {
    request: Request,
    work: Work,
}

enum Work {
    Claim(Target),
    Forward(ForwardedQuestion),
}

impl Handler {
    /// Answers `bytes`, never waiting for anything.
    pub(super) fn reply(
        &self,
        bytes: &[u8],
        client: SocketAddr,
        protocol: Protocol,
        now: Instant,
    ) -> DnsReply {
        if bytes.len() < HEADER_BYTES || bytes[2] & 0x80 != 0 {
            return DnsReply::None;
        }
        let client_ip = client.ip().to_canonical();
        if !self.access.allows(client_ip, now) || !self.rates.lock().allows(client, now) {
            return self.refuse(bytes, ResponseCode::Refused);
        }
        // One question, as every client sends it; also spares the decoder a forged count.
        if bytes[4..6] != [0, 1] {
            return self.refuse(bytes, ResponseCode::FormErr);
        }
        let Ok(request) = Request::from_bytes(bytes.to_vec(), client, protocol) else {
            return self.refuse(bytes, ResponseCode::FormErr);
        };
        self.dispatch(request, now)
    }

    /// Just a header and a code: the question was not read.
    fn refuse(&self, bytes: &[u8], code: ResponseCode) -> DnsReply {
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let op_code = OpCode::from_u8((bytes[2] >> 3) & 0x0f);
        self.metrics.dns_answered("refused", word(code));
        match Message::error_msg(id, op_code, code).to_vec() {
            Ok(bytes) => DnsReply::Ready(bytes),
            Err(_) => DnsReply::None,
        }
    }

    fn dispatch(&self, request: Request, now: Instant) -> DnsReply {
        let code = match (request.queries.queries().first(), request.edns.as_ref()) {
            _ if request.metadata.op_code != OpCode::Query => Some(ResponseCode::NotImp),
            (_, Some(edns)) if edns.version() > 0 => Some(ResponseCode::BADVERS),
            (Some(query), _) if query.query_class() != DNSClass::IN => Some(ResponseCode::Refused),
            (Some(_), _) => None,
            (None, _) => Some(ResponseCode::FormErr),
        };
        if let Some(code) = code {
            self.metrics.dns_answered("refused", word(code));
            return ready(encode(&request, code, false, [&[], &[], &[]]));
        }
        match self.mesh(&request) {
            Resolution::Answer(sections) => self.mesh_reply(&request, &sections),
            Resolution::Claim(target) => later(request, Work::Claim(target)),
            Resolution::NotOurs => self.forward(request, now),
        }
    }

    fn mesh(&self, request: &Request) -> Resolution {
        let Some(query) = request.queries.queries().first() else {
            return Resolution::NotOurs;
        };
        let view = MeshView {
            snapshot: &self.snapshots.load(),
            names: &self.vips.names(),
            listening: self.vips.listening(),
            servers: &self.servers,
        };
        answer(view, query.original().name(), query.query_type())
    }

    fn mesh_reply(&self, request: &Request, sections: &Sections) -> DnsReply {
        self.metrics.dns_answered("mesh", word(sections.code));
        let Sections {
            code,
            answers,
            authorities,
            additionals,
            told,
        } = sections;
        if let Some(target) = told {
            self.vips.told(target, SystemTime::now());
        }
        ready(encode(request, *code, true, [answers, authorities, additionals]))
    }

    fn forward(&self, request: Request, now: Instant) -> DnsReply {
        let Some(query) = request.queries.queries().first() else {
            return DnsReply::None;
        };
        let question = ForwardedQuestion {
            name: query.name().clone(),
            kind: query.query_type(),
            class: query.query_class(),
            dnssec: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            unchecked: request.metadata.checking_disabled,
        };
        match self.forwarder.remembered(&question) {
            Some(stored) => {
                self.metrics.dns_answered("cached", word(stored.code()));
                ready(self.encode_stored(&request, &stored, now))
            }
            None => later(request, Work::Forward(question)),
        }
    }

    /// Writes an upstream's answer, without what that says of the mesh domain: only this server speaks for it.
    fn encode_stored(&self, request: &Request, stored: &CachedAnswer, now: Instant) -> Option<Vec<u8>> {
        let domain = mesh_domain(&self.snapshots.load().topology);
        let mut sections = stored.sections(now);
        for records in &mut sections {
            records.retain(|record| !domain.zone_of(&record.name));
        }
        let [answers, authorities, additionals] = &sections;
        encode(request, stored.code(), false, [answers, authorities, additionals])
    }

    /// Does what had to wait. Bounded in time by the forwarder.
    pub(super) async fn finish(&self, later: Later) -> Option<Vec<u8>> {
        let Later { request, work } = later;
        match work {
            Work::Forward(question) => {
                let stored = self.forwarder.ask(&question).await;
                self.metrics.dns_answered("forwarded", word(stored.code()));
                self.encode_stored(&request, &stored, Instant::now())
            }
            Work::Claim(target) => {
                self.claim(target).await;
                match self.mesh(&request) {
                    Resolution::Answer(sections) => match self.mesh_reply(&request, &sections) {
                        DnsReply::Ready(bytes) => Some(bytes),
                        DnsReply::None | DnsReply::Later(_) => None,
                    },
                    Resolution::Claim(_) | Resolution::NotOurs => self.overloaded(&request),
                }
            }
        }
    }

    /// Gives `target` its address and waits for the egress to listen there.
    async fn claim(&self, target: Target) {
        let (vips, snapshot) = (self.vips.clone(), self.snapshots.load_full());
        let service = snapshot.topology.services.get(&target.service);
        let ports = service.map(|service| service.ports.iter().map(|port| port.number).collect::<Vec<_>>());
        let name = target.to_string();
        let claim = tokio::task::spawn_blocking(move || vips.claim(&snapshot, &target, SystemTime::now()));
        match (claim.await, ports) {
            (Ok(Ok(vip)), Some(ports)) => {
                let addresses: Vec<SocketAddr> = vip
                    .addresses()
                    .flat_map(|address| ports.iter().map(move |port| SocketAddr::new(address, *port)))
                    .collect();
                if !self.vips.listening().wait_for(&addresses).await {
                    tracing::debug!(%name, ?addresses, "the egress does not listen on a new virtual address yet");
                }
            }
            (Ok(Err(error)), _) => {
                tracing::warn!(%name, error = &error as &dyn std::error::Error, "a name got no virtual address");
            }
            // The service or the runtime is gone: the answer says so.
            (Ok(Ok(_)), None) | (Err(_), _) => {}
        }
    }

    /// Too much is under way, or no address is left: the client may ask again.
    pub(super) fn overloaded(&self, request: &Request) -> Option<Vec<u8>> {
        self.metrics.dns_answered("refused", word(ResponseCode::ServFail));
        encode(request, ResponseCode::ServFail, false, [&[], &[], &[]])
    }

    /// As [`Handler::overloaded`], for a question that nobody has time for.
    pub(super) fn give_up(&self, later: &Later) -> Option<Vec<u8>> {
        self.overloaded(&later.request)
    }
}

fn ready(bytes: Option<Vec<u8>>) -> DnsReply {
    bytes.map_or(DnsReply::None, DnsReply::Ready)
}

fn later(request: Request, work: Work) -> DnsReply {
    DnsReply::Later(Box::new(Later { request, work }))
}

/// Over UDP what does not fit is left out and TC is set, so that the client asks again over TCP.
fn encode(
    request: &Request,
    code: ResponseCode,
    authoritative: bool,
    [answers, authorities, additionals]: [&[Record]; 3],
) -> Option<Vec<u8>> {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.message_type = MessageType::Response;
    metadata.authoritative = authoritative;
    metadata.recursion_available = true;
    metadata.response_code = code;
    let max_bytes = match request.protocol() {
        Protocol::Udp => request.max_payload().clamp(MIN_UDP_BYTES, MAX_UDP_BYTES),
        _ => u16::MAX,
    };
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_BYTES);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let response = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
        metadata,
        answers,
        authorities,
        &[],
        additionals,
    );
    let mut bytes = Vec::with_capacity(usize::from(MIN_UDP_BYTES));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(max_bytes);
    match response.destructive_emit(&mut encoder) {
        Ok(_) => Some(bytes),
        Err(error) => {
            tracing::debug!(%error, "an answer cannot be encoded");
            None
        }
    }
}

/// The codes that metrics tell apart.
fn word(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "noerror",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::ServFail => "servfail",
        ResponseCode::Refused => "refused",
        ResponseCode::FormErr => "formerr",
        ResponseCode::NotImp => "notimp",
        _ => "other",
    }
}
