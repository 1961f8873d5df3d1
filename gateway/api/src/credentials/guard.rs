//! The decision whether a request from elsewhere may be done, and as whom. Pure but for the tokens that it reads.

use std::{borrow::Cow, path::Path, sync::Arc, time::SystemTime};

use super::{AdmittedActor, Grant, RequiredRight, Rights, TokenFile, token_file::FoundToken};
use crate::actor::{Actor, AskingConnection, Proof};

/// Scheme of a bearer token in `Authorization` (RFC 6750 §2.1); its case does not count.
const BEARER: &[u8] = b"bearer ";

/// The token in a header `Authorization`; `None`: it holds none.
pub(crate) fn bearer(header: &[u8]) -> Option<&[u8]> {
    let scheme = header.get(..BEARER.len())?;
    scheme
        .eq_ignore_ascii_case(BEARER)
        .then(|| header[BEARER.len()..].trim_ascii())
}

/// Proofs that are accepted of clients from elsewhere.
#[derive(Debug, Default)]
pub struct Guard {
    pub tokens: Option<Arc<TokenFile>>,
    pub grants: Vec<Grant>,
}

/// Reason why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("this API wants a bearer token or a client certificate here")]
    NoCredentials,
    /// The process's socket, where it has one: a path, or an address as gRPC writes it.
    #[error("nothing is changed over loopback without credentials: every program of this host reaches it")]
    Loopback { socket: Option<Arc<Path>> },
    #[error("the socket is for the user who runs this process and root, and {}", user(.0))]
    OtherUser(Option<u32>),
    #[error("this gateway has opened this connection itself, to what it took for an instance")]
    OwnConnection,
    #[error("the bearer token is not known")]
    BadToken,
    #[error("the bearer token {0} has expired")]
    ExpiredToken(Arc<str>),
    #[error("the client certificate cannot be used: {why}")]
    BadIdentity { why: Arc<str>, word: &'static str },
    #[error("nothing is granted to {0}")]
    NotGranted(Arc<str>),
    #[error("{actor} may {has} and this needs {needs}")]
    Scope {
        actor: Arc<str>,
        has: Rights,
        needs: RequiredRight,
    },
}

impl Denied {
    /// The word for logs, metrics and the audit log.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoCredentials | Self::Loopback { .. } => "no_credentials",
            Self::OtherUser(_) => "other_user",
            Self::OwnConnection => "own_connection",
            Self::BadToken => "bad_token",
            Self::ExpiredToken(_) => "expired_token",
            Self::BadIdentity { word, .. } => word,
            Self::NotGranted(_) => "not_granted",
            Self::Scope { .. } => "scope",
        }
    }

    /// Says what the client can do about it.
    #[must_use]
    pub fn hint(&self) -> Cow<'static, str> {
        let hint = match self {
            Self::Loopback { socket } => {
                let socket = match socket {
                    Some(path) if path.is_absolute() => format!("unix:{}", path.display()),
                    Some(name) => name.display().to_string(),
                    None => "a unix socket (--admin unix:/PATH of the gateway)".to_owned(),
                };
                return format!(
                    "as the user who runs it or root come over {socket}; or show a token of `causeway admin-token`, which it has to be \
                     started with (--admin-tokens)"
                )
                .into();
            }
            Self::OtherUser(_) => "run it as that user or as root, or show a token over loopback",
            Self::OwnConnection => "deregister the instance whose address leads to this API",
            Self::NoCredentials => {
                "`causeway admin-token issue` makes a token; commands take it with --admin-token-file, or a certificate with \
                 --admin-identity"
            }
            Self::BadToken => {
                "was it revoked, or is it of another gateway? `causeway admin-token list` names those that are known"
            }
            Self::ExpiredToken(_) => "issue a new one with `causeway admin-token issue`",
            Self::BadIdentity { .. } => {
                "a client certificate has one URI name, a SPIFFE id of the federation's trust domain"
            }
            Self::NotGranted(_) => "start the gateway with --admin-allow SCOPE=SPIFFE-ID",
            Self::Scope { .. } => "use a token or certificate with that scope",
        };
        hint.into()
    }

    /// Tells whether other credentials could help (401), or these are known and not enough (403).
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        match self {
            Self::NoCredentials | Self::Loopback { .. } | Self::OwnConnection => true,
            Self::BadToken | Self::ExpiredToken(_) => true,
            Self::OtherUser(_) | Self::BadIdentity { .. } | Self::NotGranted(_) | Self::Scope { .. } => false,
        }
    }

    /// Names who was refused, as far as that is known.
    #[must_use]
    pub fn who(&self) -> String {
        match self {
            Self::ExpiredToken(name) => format!("token {name}"),
            Self::NotGranted(id) => id.to_string(),
            Self::Scope { actor, .. } => actor.to_string(),
            Self::OtherUser(Some(uid)) => Actor::User(*uid).to_string(),
            Self::Loopback { .. } => Actor::Loopback.to_string(),
            Self::NoCredentials
            | Self::OtherUser(None)
            | Self::OwnConnection
            | Self::BadToken
            | Self::BadIdentity { .. } => "unknown".to_owned(),
        }
    }
}

fn user(uid: &Option<u32>) -> String {
    uid.map_or_else(
        || "who is at the other end is not known".to_owned(),
        |uid| format!("not for user {uid}"),
    )
}

impl Guard {
    /// Tells whether there is any way to prove something to it.
    #[must_use]
    pub fn knows_anybody(&self) -> bool {
        self.tokens.is_some() || !self.grants.is_empty()
    }

    /// Decides about one request of which proof is wanted. `authorization` is the header of that name; where there is one it
    /// counts, and a certificate beside it does not.
    ///
    /// # Errors
    /// Why it may not be done.
    pub fn admit(
        &self,
        connection: &AskingConnection,
        authorization: Option<&[u8]>,
        needs: &RequiredRight,
        now: SystemTime,
    ) -> Result<AdmittedActor, Denied> {
        let admitted = match authorization {
            Some(header) => self.holder(header, now)?,
            None => self.identified(&connection.proof)?,
        };
        match admitted.rights.allow(needs) {
            true => Ok(admitted),
            false => Err(Denied::Scope {
                actor: admitted.actor.to_string().into(),
                has: admitted.rights,
                needs: needs.clone(),
            }),
        }
    }

    fn holder(&self, header: &[u8], now: SystemTime) -> Result<AdmittedActor, Denied> {
        let shown = bearer(header).ok_or(Denied::BadToken)?;
        let tokens = self.tokens.as_ref().ok_or(Denied::BadToken)?.tokens();
        match tokens.find(shown, now) {
            Some(FoundToken::Good { name, rights }) => Ok(AdmittedActor {
                actor: Actor::Token(name),
                rights,
            }),
            Some(FoundToken::Expired { name }) => Err(Denied::ExpiredToken(name)),
            None => Err(Denied::BadToken),
        }
    }

    fn identified(&self, proof: &Proof) -> Result<AdmittedActor, Denied> {
        match proof {
            Proof::Identity(id) => {
                let granted = self.grants.iter().filter(|grant| grant.is_for(id));
                let rights = granted.map(|grant| grant.rights.clone());
                let rights = rights.reduce(|one, other| one.and(&other));
                Ok(AdmittedActor {
                    actor: Actor::Identity(id.clone()),
                    rights: rights.ok_or_else(|| Denied::NotGranted(id.clone()))?,
                })
            }
            Proof::Useless { why, word } => Err(Denied::BadIdentity {
                why: why.clone(),
                word,
            }),
            Proof::Local(_) | Proof::Plain | Proof::Nobody => Err(Denied::NoCredentials),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Scope, token_file};

    const GW1: &str = "spiffe://acme.internal/zone/east/gateway/gw1";
    const GW2: &str = "spiffe://acme.internal/zone/east/gateway/gw2";

    struct Bench {
        _folder: tempfile::TempDir,
        guard: Guard,
        token: String,
    }

    fn bench(scope: Scope) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let rights = Rights::of(scope);
        let token = token_file::issue(&path, &"ci".parse().unwrap(), &rights, None, &[9; 32]).unwrap();
        let grants = [
            format!("write={GW1}"),
            format!("write:orders={GW2}"),
            format!("register:cart={GW2}"),
            "read=spiffe://acme.internal/zone/east/*".to_owned(),
        ];
        Bench {
            guard: Guard {
                tokens: Some(Arc::new(TokenFile::open(&path).unwrap())),
                grants: grants.iter().map(|text| text.parse().unwrap()).collect(),
            },
            token: token.reveal().to_owned(),
            _folder: folder,
        }
    }

    fn from(proof: Proof) -> AskingConnection {
        AskingConnection {
            from: Some("10.0.0.7:5".parse().unwrap()),
            pair: None,
            proof,
        }
    }

    fn admit(
        guard: &Guard,
        proof: Proof,
        header: Option<&str>,
        needs: Scope,
    ) -> Result<String, &'static str> {
        guard
            .admit(
                &from(proof),
                header.map(str::as_bytes),
                &RequiredRight::Everything(needs),
                SystemTime::now(),
            )
            .map(|admitted| admitted.actor.to_string())
            .map_err(|denied| denied.word())
    }

    #[test]
    fn a_token_opens_what_its_scope_says_and_nothing_above() {
        for (at, has) in Scope::ALL.into_iter().enumerate() {
            let Bench { guard, token, .. } = &bench(has);
            let header = format!("Bearer {token}");
            for (above, needs) in Scope::ALL.into_iter().enumerate() {
                let expected = if above <= at {
                    Ok("token ci".to_owned())
                } else {
                    Err("scope")
                };
                assert_eq!(admit(guard, Proof::Nobody, Some(&header), needs), expected);
            }
        }
    }

    #[test]
    fn what_is_no_known_token_is_refused_even_beside_a_good_certificate() {
        let Bench { guard, token, .. } = &bench(Scope::Write);
        let known = Proof::Identity(GW1.into());
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Basic abc",
            "Bearer cwa_ci_0",
            &token[1..],
        ] {
            assert_eq!(
                admit(guard, known.clone(), Some(header), Scope::Read),
                Err("bad_token"),
                "{header}"
            );
        }
        let spaced = format!("bearer  {token} ");
        assert!(admit(guard, Proof::Nobody, Some(&spaced), Scope::Write).is_ok());
    }

    #[test]
    fn a_certificate_opens_the_most_that_is_granted_to_it() {
        let Bench { guard, .. } = &bench(Scope::Read);
        let known = |id: &str| Proof::Identity(id.into());
        assert_eq!(admit(guard, known(GW1), None, Scope::Write), Ok(GW1.to_owned()));
        assert_eq!(admit(guard, known(GW2), None, Scope::Read), Ok(GW2.to_owned()));
        assert_eq!(admit(guard, known(GW2), None, Scope::Register), Err("scope"));
        let of_service = |scope, service: &str| {
            let needs = RequiredRight::Service(scope, service.parse().unwrap());
            let admitted = guard.admit(&from(known(GW2)), None, &needs, SystemTime::now());
            admitted.map(drop).map_err(|denied| denied.to_string())
        };
        assert_eq!(of_service(Scope::Write, "orders"), Ok(()));
        assert_eq!(of_service(Scope::Register, "cart"), Ok(()));
        let refused = of_service(Scope::Write, "cart").unwrap_err();
        assert_eq!(
            refused,
            format!("{GW2} may read,register:cart,write:orders and this needs write:cart")
        );
        let west = known("spiffe://acme.internal/zone/west/gateway/gw1");
        assert_eq!(admit(guard, west, None, Scope::Read), Err("not_granted"));
        let useless = Proof::Useless {
            why: "no URI".into(),
            word: "bad_identity",
        };
        assert_eq!(admit(guard, useless, None, Scope::Read), Err("bad_identity"));
    }

    #[test]
    fn nobody_gets_in_without_proof() {
        let Bench { guard, .. } = &bench(Scope::Read);
        for proof in [Proof::Nobody, Proof::Plain, Proof::Local(Some(0))] {
            assert_eq!(admit(guard, proof, None, Scope::Read), Err("no_credentials"));
        }
        assert!(!Guard::default().knows_anybody());
    }
}
