//! Client at the other end of a connection, and the actor that asked for something.

use std::{fmt, net::SocketAddr, sync::Arc};

use causeway_federation::{name::GatewayId, registry::Provenance};
use causeway_host::{own_sockets::SocketPair, places::Place, share::ShareHolder};
use causeway_identity::SpiffeId;

/// A connection to an API, as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskingConnection {
    /// Address that it comes from; `None`: a unix socket.
    pub from: Option<SocketAddr>,
    /// Both of its ends, to tell whether this process opened it itself; `None`: a unix socket.
    pub pair: Option<SocketPair>,
    pub proof: Proof,
}

/// Proof of who the client is, as far as the way that its connection came gives one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// On a unix socket, which only its owner can open: the user, where the system says it.
    Local(Option<u32>),
    /// In the clear: only on loopback, or where the operator said that anybody may do anything.
    Plain,
    /// Over TLS without a certificate.
    Nobody,
    /// Over TLS, with a certificate of the trust roots that names this SPIFFE id.
    Identity(Arc<str>),
    /// Over TLS, with a certificate of the trust roots that names nobody who could be known here: why, and in one word.
    Useless { why: Arc<str>, word: &'static str },
}

impl AskingConnection {
    /// For a listener in the clear.
    #[must_use]
    pub fn plain(from: SocketAddr) -> Self {
        Self {
            from: Some(SocketAddr::new(from.ip().to_canonical(), from.port())),
            pair: None,
            proof: Proof::Plain,
        }
    }

    /// The same, of which the own end is known too.
    #[must_use]
    pub fn at(self, own: SocketAddr) -> Self {
        Self {
            pair: self.from.map(|from| SocketPair::new(from, own)),
            ..self
        }
    }

    /// For a unix socket.
    #[must_use]
    pub fn local(uid: Option<u32>) -> Self {
        Self {
            from: None,
            pair: None,
            proof: Proof::Local(uid),
        }
    }

    /// The connection that a request came on, which its listener put among the extensions; from nobody where none did.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or(Self {
            from: None,
            pair: None,
            proof: Proof::Nobody,
        })
    }

    /// The gateway that is at the other end, where that was proved.
    #[must_use]
    pub fn gateway(&self) -> Option<GatewayId> {
        match &self.proof {
            Proof::Identity(id) => id.parse::<SpiffeId>().ok().map(|id| id.gateway),
            _ => None,
        }
    }

    /// Names the actor that it is when nothing more has to be proved.
    #[must_use]
    pub fn unproved(&self) -> Actor {
        match (&self.proof, self.from) {
            (Proof::Identity(id), _) => Actor::Identity(id.clone()),
            (Proof::Local(Some(uid)), _) => Actor::User(*uid),
            (Proof::Local(None), _) => Actor::Loopback,
            (_, Some(from)) if from.ip().is_loopback() => Actor::Loopback,
            _ => Actor::Anyone,
        }
    }

    /// Side from which whoever is at the other end puts in instances.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        Provenance::of_this_host(match (&self.proof, self.from) {
            (Proof::Local(_), _) => true,
            (_, from) => from.is_some_and(|from| from.ip().to_canonical().is_loopback()),
        })
    }

    /// The address for a log: `10.0.0.7:40000`, or `unix`.
    #[must_use]
    pub fn place(&self) -> String {
        self.from
            .map_or_else(|| "unix".to_owned(), |from| from.to_string())
    }
}

/// Maker of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Some program on this host.
    Loopback,
    /// A user of this host, by number.
    User(u32),
    /// Whoever holds the token of this name.
    Token(Arc<str>),
    /// Whoever holds a certificate with this SPIFFE id.
    Identity(Arc<str>),
    /// Not known: `--admin-insecure` or `--registry-insecure`.
    Anyone,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::User(uid) => write!(f, "local uid {uid}"),
            Self::Token(name) => write!(f, "token {name}"),
            Self::Identity(id) => f.write_str(id),
            Self::Anyone => f.write_str("anyone"),
        }
    }
}

/// Names the party that takes its share with a request: whoever proved who they are, else the user or host that the connection comes from.
pub(crate) fn share_holder(extensions: &http::Extensions) -> ShareHolder {
    let place = extensions.get::<Arc<Place>>();
    let came = || {
        let holder = place.and_then(|place| place.holder());
        holder.unwrap_or(ShareHolder::ThisHost)
    };
    match extensions.get::<Actor>() {
        Some(actor @ (Actor::Token(_) | Actor::Identity(_))) => ShareHolder::Named(actor.to_string().into()),
        Some(Actor::User(uid)) => ShareHolder::User(*uid),
        Some(Actor::Loopback | Actor::Anyone) | None => came(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_to_prove_nothing_is_named_by_the_way_that_they_came() {
        let named = |connection: AskingConnection| connection.unproved().to_string();
        assert_eq!(named(AskingConnection::local(Some(1000))), "local uid 1000");
        assert_eq!(named(AskingConnection::local(None)), "loopback");
        assert_eq!(
            named(AskingConnection::plain("127.0.0.1:5".parse().unwrap())),
            "loopback"
        );
        assert_eq!(
            named(AskingConnection::plain("[::ffff:127.0.0.1]:5".parse().unwrap())),
            "loopback"
        );
        assert_eq!(
            named(AskingConnection::plain("10.0.0.7:5".parse().unwrap())),
            "anyone"
        );
        let side = |connection: AskingConnection| connection.provenance().is_this_host();
        assert!(
            side(AskingConnection::local(Some(0)))
                && side(AskingConnection::plain("[::1]:5".parse().unwrap()))
        );
        assert!(!side(AskingConnection::plain("10.0.0.7:5".parse().unwrap())));
        let id = "spiffe://acme.internal/zone/east/gateway/gw1";
        let proved = AskingConnection {
            from: "10.0.0.7:5".parse().ok(),
            pair: None,
            proof: Proof::Identity(id.into()),
        };
        let gateway = proved.gateway().map(|gateway| gateway.to_string());
        assert_eq!(
            (named(proved).as_str(), gateway.as_deref()),
            (id, Some("east/gw1"))
        );
    }
}
