//! Asking the upstream resolvers on the gateway's own behalf, over the same forwarder that serves the zone's hosts.

use std::{net::SocketAddr, sync::Arc, time::Duration, time::Instant};

use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, LowerName, Name, Record, RecordType},
};

use super::{
    forward::{ForwardedQuestion, Forwarder},
    upstreams,
};

/// Asks the resolvers of this host, or those that mesh DNS is told to forward to. Clones share what is remembered.
#[derive(Debug, Clone)]
pub struct HostResolver(Arc<Forwarder>);

/// Answer of the resolvers.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Empty for a name that does not exist, or that has no such records.
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    /// Time for which it may be believed.
    pub lifetime: Duration,
}

/// Reason why there is no answer, neither yes nor no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("`{0}` is not a name that DNS can be asked for")]
    Name(String),
    #[error("no resolver answers for {kind} {name}: {code}")]
    Failed {
        name: String,
        kind: RecordType,
        code: ResponseCode,
    },
}

impl HostResolver {
    /// `None`: the resolvers of `/etc/resolv.conf`, except this gateway itself, which `listen`s at these addresses.
    #[must_use]
    pub fn new(configured: Option<Vec<SocketAddr>>, listen: &[SocketAddr]) -> Self {
        Self(Arc::new(Forwarder::new(upstreams(configured, listen))))
    }

    /// # Errors
    /// When no resolver gives an answer within a few seconds.
    pub async fn ask(&self, name: &str, kind: RecordType) -> Result<Lookup, LookupError> {
        let mut full = Name::from_ascii(name).map_err(|_| LookupError::Name(name.to_owned()))?;
        full.set_fqdn(true);
        let question = ForwardedQuestion {
            name: LowerName::from(full),
            kind,
            class: DNSClass::IN,
            dnssec: false,
            unchecked: false,
        };
        let stored = self.0.ask(&question).await;
        match stored.code() {
            ResponseCode::NoError | ResponseCode::NXDomain => {
                let [answers, _, additionals] = stored.sections(Instant::now());
                Ok(Lookup {
                    answers,
                    additionals,
                    lifetime: stored.lifetime(),
                })
            }
            code => Err(LookupError::Failed {
                name: name.to_owned(),
                kind,
                code,
            }),
        }
    }
}
