//! Reasons that a CA refuses a call: one word for each, the same in its log, on the wire and in what the joiner is told.
//!
//! Adding a reason: a variant, its line in each method here, the list in `ca.proto`, and the table in `docs/identity.md`.

use tonic::{Code, Status, metadata::MetadataValue};

/// Key of the word in the metadata of a status.
const KEY: &str = "causeway-refusal";
/// Longest text of a status that is shown, in characters: the other side wrote it.
const MAX_TEXT_CHARACTERS: usize = 300;

/// Reason that a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthorityRefusal {
    TokenUnknown,
    /// The id of a token that there is, without its secret.
    TokenForged,
    TokenUsed,
    TokenRevoked,
    TokenExpired,
    WrongZone,
    WrongGateway,
    WrongTrustDomain,
    /// The request for a certificate cannot be read or asks for what nobody gets.
    BadRequest,
    /// The request is not signed with its own key.
    BadSignature,
    /// The key is of a kind or size that is not certified.
    BadKey,
    /// A token by which gateways come back, without proof that this one had a certificate.
    NoProof,
    /// A renewal without the certificate that is to be renewed.
    NoCertificate,
    /// A renewal for somebody else.
    OtherGateway,
    /// The gateway, its zone or the certificate that it shows was revoked.
    Revoked,
    /// The certificate was renewed before, and somebody goes on with that renewal.
    Superseded,
    TooMany,
    /// The CA itself is not well.
    Unavailable,
}

impl AuthorityRefusal {
    const ALL: [Self; 18] = [
        Self::TokenUnknown,
        Self::TokenForged,
        Self::TokenUsed,
        Self::TokenRevoked,
        Self::TokenExpired,
        Self::WrongZone,
        Self::WrongGateway,
        Self::WrongTrustDomain,
        Self::BadRequest,
        Self::BadSignature,
        Self::BadKey,
        Self::NoProof,
        Self::NoCertificate,
        Self::OtherGateway,
        Self::Revoked,
        Self::Superseded,
        Self::TooMany,
        Self::Unavailable,
    ];

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::TokenUnknown => "token_unknown",
            Self::TokenForged => "token_forged",
            Self::TokenUsed => "token_used",
            Self::TokenRevoked => "token_revoked",
            Self::TokenExpired => "token_expired",
            Self::WrongZone => "wrong_zone",
            Self::WrongGateway => "wrong_gateway",
            Self::WrongTrustDomain => "wrong_trust_domain",
            Self::BadRequest => "bad_request",
            Self::BadSignature => "bad_signature",
            Self::BadKey => "bad_key",
            Self::NoProof => "no_proof",
            Self::NoCertificate => "no_certificate",
            Self::OtherGateway => "other_gateway",
            Self::Revoked => "revoked",
            Self::Superseded => "superseded",
            Self::TooMany => "too_many",
            Self::Unavailable => "unavailable",
        }
    }

    fn code(self) -> Code {
        match self {
            Self::TokenUnknown | Self::TokenForged | Self::NoProof | Self::NoCertificate => {
                Code::Unauthenticated
            }
            Self::TokenUsed | Self::TokenRevoked | Self::TokenExpired => Code::FailedPrecondition,
            Self::WrongZone
            | Self::WrongGateway
            | Self::WrongTrustDomain
            | Self::OtherGateway
            | Self::Revoked
            | Self::Superseded => Code::PermissionDenied,
            Self::BadRequest | Self::BadSignature | Self::BadKey => Code::InvalidArgument,
            Self::TooMany => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
        }
    }

    /// Says what whoever asked can do about it.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::TokenUnknown => {
                "is it a token of this very CA? `causeway token list --ca FOLDER` on its host shows those there are"
            }
            Self::TokenForged => "copy the token again from where it was issued, or issue another",
            Self::TokenUsed => {
                "each token serves once; if it was not you who used it, look at the CA's log and `issued.jsonl`, and revoke what was issued"
            }
            Self::TokenRevoked | Self::TokenExpired => {
                "issue another with `causeway token issue` on the CA's host"
            }
            Self::WrongZone => "issue a token for this zone with `causeway token issue --zone ZONE`",
            Self::WrongGateway => {
                "pass the --gateway that the token was issued for, or issue one for this gateway"
            }
            Self::WrongTrustDomain => "is this the CA of the right federation?",
            Self::BadRequest | Self::BadSignature => "do both sides run the same version of causeway?",
            Self::BadKey => "use an ECDSA key with P-256 or P-384, or an Ed25519 one",
            Self::NoProof => {
                "this token is for a gateway that still has the key of its last certificate, and is given to it with `causeway gateway \
                 --join-token FILE`; for any other issue one without --rejoin"
            }
            Self::NoCertificate => "the certificate is not of this CA, or has ended: join anew with a token",
            Self::OtherGateway => "a gateway renews its own certificate alone",
            Self::Revoked => {
                "the operator has revoked this certificate; join anew with a token if that was wrong"
            }
            Self::Superseded => {
                "if this host was set back to an old state, join anew with a token; if not, somebody else holds its key: `causeway revoke \
                 serial SERIAL` on the CA's host ends that certificate and all that came of it, then join anew"
            }
            Self::TooMany => "wait a little and try again",
            Self::Unavailable => "the log of `causeway ca serve` says what is wrong with it",
        }
    }

    /// The answer to the call.
    #[must_use]
    pub fn status(self, text: impl Into<String>) -> Status {
        let mut status = Status::new(self.code(), text);
        status
            .metadata_mut()
            .insert(KEY, MetadataValue::from_static(self.word()));
        status
    }

    /// The reason that an answer gives, if it is one of these.
    #[must_use]
    pub fn of(status: &Status) -> Option<Self> {
        let word = status.metadata().get(KEY)?.to_str().ok()?;
        Self::ALL.into_iter().find(|refusal| refusal.word() == word)
    }
}

/// The text of an answer, cut to what fits on a line or two.
#[must_use]
pub(crate) fn told(status: &Status) -> String {
    let text = status.message().chars().filter(|c| !c.is_control());
    text.take(MAX_TEXT_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_way_over_the_wire_and_has_a_hint() {
        for refusal in AuthorityRefusal::ALL {
            let status = refusal.status("no");
            assert_eq!(AuthorityRefusal::of(&status), Some(refusal));
            assert!(!refusal.hint().is_empty());
        }
        assert_eq!(AuthorityRefusal::of(&Status::internal("token_used")), None);
    }
}
