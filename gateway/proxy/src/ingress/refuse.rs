//! Judges what a calling zone may ask for, and says how it is told yes or no.

use std::sync::Arc;

use causeway_federation::{
    name::{MAX_LABEL_BYTES, MAX_TAGS, PortName, ServiceName, SpiffeIdError, Tags, ZoneName},
    topology::{ServicePort, ServicePorts, Topology},
};
use causeway_host::share::NoShare;
use causeway_proto::tunnel::{Connect, Ready, Refusal, RefusalReason, StreamReply, stream_reply::Outcome};
use causeway_routing::{
    hops::MAX_HOPS,
    permit::{Caller, Rule, Verdict, decide},
    snapshot::Snapshot,
};
use causeway_tunnel::{
    RecvHalf, SendHalf, StreamCode, WriteFrameError, stream_refusal, write_frame, write_refusal,
};

use crate::dial::{DialError, InstanceConnection};

/// Longest explanation that is sent. It may quote the caller's tags, which may fill a frame of their own.
const MAX_MESSAGE_CHARS: usize = 1024;

/// A request that passed the checks.
pub(super) struct PermittedRequest {
    pub(super) service: ServiceName,
    pub(super) port: ServicePort,
    pub(super) tags: Tags,
    pub(super) caller: Arc<Caller>,
    pub(super) verdict: Verdict,
}

/// Reason that a stream is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RefusedStream {
    pub(crate) reason: RefusalReason,
    /// Is set if another gateway or zone may well accept the same request.
    pub(crate) retryable: bool,
    pub(crate) message: String,
    /// Rule that forbids it, and the caller, where permissions do.
    pub(crate) forbidden: Option<(Arc<Caller>, Rule)>,
}

impl RefusedStream {
    fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            retryable: stream_refusal(reason).is_retryable(),
            message: message.into().chars().take(MAX_MESSAGE_CHARS).collect(),
            forbidden: None,
        }
    }

    pub(super) fn forbidden(caller: Arc<Caller>, service: &ServiceName, rule: Rule) -> Self {
        let (reason, message) = match rule.is_vouching() {
            true => (
                RefusalReason::Unvouched,
                format!("zone {} may not vouch for {caller}: {rule}", caller.zone),
            ),
            false => (
                RefusalReason::Forbidden,
                format!("{caller} may not call {service}: {rule}"),
            ),
        };
        Self {
            forbidden: Some((caller, rule)),
            ..Self::new(reason, message)
        }
    }

    /// Lets the caller ask elsewhere if what this gateway goes by is not what the caller goes by: one of both is behind, and
    /// another gateway may have taken up what this one has not.
    pub(super) fn unless_alike(mut self, connect: &Connect, topology: &Topology) -> Self {
        let own = topology.fingerprint.compared();
        let of_topology = matches!(
            self.reason,
            RefusalReason::NotExported | RefusalReason::Forbidden | RefusalReason::Unvouched
        );
        self.retryable |= of_topology && !connect.topology.is_empty() && connect.topology != own;
        self
    }

    pub(super) fn bad_header(message: impl Into<String>) -> Self {
        Self::new(RefusalReason::BadHeader, message)
    }

    pub(super) fn overloaded(message: &str) -> Self {
        Self::new(RefusalReason::Overloaded, message)
    }

    pub(super) fn too_many_hops() -> Self {
        let message = format!(
            "the connection has come through {MAX_HOPS} gateways already: an instance's address leads back to a gateway"
        );
        Self::new(RefusalReason::TooManyHops, message)
    }

    pub(super) fn draining() -> Self {
        Self::new(RefusalReason::Draining, "this gateway is shutting down")
    }
}

impl From<DialError> for RefusedStream {
    fn from(error: DialError) -> Self {
        let reason = match &error {
            DialError::NoInstance { .. } => RefusalReason::NoInstance,
            DialError::Connect { .. } => RefusalReason::ConnectFailed,
            DialError::NoDescriptor(NoShare::NoneFree) => RefusalReason::Overloaded,
            DialError::NoDescriptor(NoShare::Crowded { .. }) => RefusalReason::Crowded,
        };
        Self::new(reason, error.to_string())
    }
}

/// Checks a request of zone `from`, as its gateway's certificate says, against the topology.
pub(super) fn check(
    connect: &Connect,
    snapshot: &Snapshot,
    from: &ZoneName,
) -> Result<PermittedRequest, RefusedStream> {
    let service = ServiceName::new(&connect.service);
    let service = service
        .map_err(|error| RefusedStream::bad_header(format!("the service name is not valid: {error}")))?;
    let port = port(connect)?;
    if connect.tags.len() > MAX_TAGS {
        return Err(RefusedStream::bad_header(format!(
            "more than {MAX_TAGS} tags are asked for"
        )));
    }
    let Some(known) = snapshot.topology.services.get(&service) else {
        let message = format!("zone {} knows no service {service}", snapshot.zone);
        return Err(RefusedStream::new(RefusalReason::UnknownService, message));
    };
    if !known.is_exported_to(from) {
        let message = format!("service {service} is not exported to zone {from}");
        return Err(RefusedStream::new(RefusalReason::NotExported, message));
    }
    let caller = Arc::new(caller(connect, from)?);
    let verdict = decide(&snapshot.topology, &caller, &service, None);
    if !verdict.passes() {
        return Err(RefusedStream::forbidden(caller, &service, verdict.rule));
    }
    if !known.may_run_in(&snapshot.zone) {
        let message = format!("service {service} may not run in zone {}", snapshot.zone);
        return Err(RefusedStream::new(RefusalReason::NoInstance, message));
    }
    let Some(port) = port_among(&known.ports, port.as_ref(), connect.primary_port) else {
        let message = format!(
            "zone {} knows no port {} of {service}",
            snapshot.zone, connect.port
        );
        return Err(RefusedStream::new(RefusalReason::UnknownPort, message));
    };
    Ok(PermittedRequest {
        service,
        port: port.clone(),
        tags: connect.tags.iter().collect(),
        caller,
        verdict,
    })
}

/// Name of the port that a header asks for.
pub(super) fn port(connect: &Connect) -> Result<Option<PortName>, RefusedStream> {
    match connect.port.as_str() {
        "" => Ok(None),
        name => PortName::new(name)
            .map(Some)
            .map_err(|error| RefusedStream::bad_header(format!("the port's name is not valid: {error}"))),
    }
}

/// Finds the port that is wanted. While a service changes from one port to several, zones may differ in whether the primary one has a name.
fn port_among<'t>(
    ports: &'t ServicePorts,
    wanted: Option<&PortName>,
    is_primary: bool,
) -> Option<&'t ServicePort> {
    let only = || Some(&ports.primary).filter(|only| is_primary && only.name.is_none());
    ports.get(wanted).or_else(only)
}

/// The caller that a header names. Its zone is never what the header says: it is that of the peer's certificate.
pub(super) fn caller(connect: &Connect, from: &ZoneName) -> Result<Caller, RefusedStream> {
    let anonymous = Caller::anonymous(from.clone());
    let service = match connect.caller.as_str() {
        "" => None,
        name => Some(ServiceName::new(name).map_err(|error| {
            RefusedStream::bad_header(format!("the caller's service name is not valid: {error}"))
        })?),
    };
    let identity = match connect.caller_identity.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error: SpiffeIdError| {
            RefusedStream::bad_header(format!("the caller's identity is not valid: {error}"))
        })?),
    };
    let short =
        |(key, value): (&String, &String)| key.len() <= MAX_LABEL_BYTES && value.len() <= MAX_LABEL_BYTES;
    let tags = &connect.caller_tags;
    if tags.len() > MAX_TAGS || !tags.iter().all(short) || (service.is_none() && !tags.is_empty()) {
        return Err(RefusedStream::bad_header("the caller's tags are not valid"));
    }
    Ok(Caller {
        service,
        tags: tags.iter().collect(),
        identity,
        ..anonymous
    })
}

/// Tells the caller that an instance has been reached.
pub(super) async fn write_ready(
    send: &mut SendHalf,
    dialled: &InstanceConnection,
    is_lent: bool,
) -> Result<(), WriteFrameError> {
    let outcome = Some(Outcome::Ready(Ready {
        instance: dialled.instance.number(),
        warm: dialled.is_warm,
        lent: is_lent,
    }));
    write_frame(send, &StreamReply { outcome }).await
}

/// Answers a refusal and ends the stream.
pub(super) async fn answer(refused: RefusedStream, mut send: SendHalf, mut recv: RecvHalf) {
    let refusal = Refusal {
        reason: refused.reason.into(),
        retryable: refused.retryable,
        message: refused.message,
    };
    // The caller may be gone, which needs no answer.
    let _ = write_refusal(&mut send, refusal).await;
    let _ = recv.stop(StreamCode::Refused);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_header_says_of_its_caller_the_zone_is_the_peers(
            service in "[a-z*]{0,3}|.{0,80}", identity in "(spiffe://)?[a-z./]{0,20}|.{0,40}",
            tags in prop::collection::btree_map("[a-z]{0,2}", ".{0,70}", 0..3),
        ) {
            let header = Connect {
                caller: service.clone(),
                caller_identity: identity.clone(),
                caller_tags: tags.clone(),
                ..Connect::default()
            };
            let from = ZoneName::new("east").unwrap();
            match caller(&header, &from) {
                Ok(caller) => {
                    prop_assert_eq!(&caller.zone, &from);
                    prop_assert_eq!(caller.service.map(String::from).unwrap_or_default(), service);
                    prop_assert_eq!(caller.identity.map(|it| it.to_string()).unwrap_or_default(), identity);
                    prop_assert_eq!(caller.tags.len(), tags.len());
                }
                Err(refused) => prop_assert_eq!(refused.reason, RefusalReason::BadHeader),
            }
        }
    }
}
