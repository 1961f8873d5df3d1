//! Refusals of what an agent said: what is wrong with it, and what to do about it.

use std::time::SystemTime;

use causeway_federation::name::ZoneName;
use rustls::{CertificateError, Error as TlsFailure};

use super::super::{Identity, LeafError, RevocationError, SpiffeId, TlsError, chain::is_not_yet_valid};

/// Reason why an answer of the Workload API is no identity for this gateway.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error("the agent gave no SVID; register this gateway there")]
    None,
    #[error("the agent gave more than {0} SVIDs; give this process an entry of its own")]
    TooMany(usize),
    #[error(
        "the agent gave no SVID of a gateway of zone `{zone}` but {came}; register \
        spiffe://<trust domain>/zone/{zone}/gateway/<gateway> for this process"
    )]
    OtherZone { zone: ZoneName, came: String },
    #[error(
        "the agent gave SVIDs of several gateways of zone `{zone}`: {came}; leave this process one of them"
    )]
    Several { zone: ZoneName, came: String },
    #[error("the agent gave no SVID of {own} any more but {came}; start the gateway anew to make it another")]
    OtherGateway { own: Box<SpiffeId>, came: String },
    #[error("{what} in the SVID of {id} is not made of certificates in DER, one behind the other")]
    Der { id: Box<SpiffeId>, what: &'static str },
    #[error("there are more than {most} certificates in {what} in the SVID of {id}")]
    TooLong {
        id: Box<SpiffeId>,
        what: &'static str,
        most: usize,
    },
    #[error("the SVID of {id} comes without {what}")]
    Missing { id: Box<SpiffeId>, what: &'static str },
    #[error("the first certificate in the SVID of {id} does not name a gateway")]
    Leaf {
        id: Box<SpiffeId>,
        #[source]
        source: LeafError,
    },
    #[error("the first certificate in the SVID of {id} names {found}")]
    OtherName { id: Box<SpiffeId>, found: Box<SpiffeId> },
    #[error("the key in the SVID of {id} does not belong to its first certificate")]
    Pair {
        id: Box<SpiffeId>,
        #[source]
        source: Box<TlsError>,
    },
    #[error("a root in the bundle of {id} is not a certificate that can be trusted")]
    Root {
        id: Box<SpiffeId>,
        #[source]
        source: TlsFailure,
    },
    #[error("a revocation list that the agent gave cannot be used")]
    Revocations(#[source] RevocationError),
    #[error("the agent gave more than {0} revocation lists")]
    TooManyLists(usize),
    #[error("the SVID of {id} has expired; the agent should have a new one, or this host's clock is wrong")]
    Expired { id: Box<SpiffeId> },
    #[error("the SVID of {id} is not valid yet; set this host's clock, or wait")]
    NotYetValid { id: Box<SpiffeId> },
    #[error("the SVID of {id} was not issued by any root in its bundle that counts")]
    UnknownIssuer { id: Box<SpiffeId> },
    #[error("the SVID of {id} was revoked")]
    Revoked { id: Box<SpiffeId> },
    #[error("no peer will believe the SVID of {id}")]
    Chain {
        id: Box<SpiffeId>,
        #[source]
        source: TlsFailure,
    },
}

/// Reason why peers would not believe an identity that an agent gave, at `now`.
pub(in super::super) fn doubt(identity: &Identity, now: SystemTime) -> Option<SvidError> {
    let source = identity.check_chain(now).err()?;
    let id = Box::new(identity.id().clone());
    let TlsFailure::InvalidCertificate(cause) = &source else {
        return Some(SvidError::Chain { id, source });
    };
    Some(match cause {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => SvidError::Expired { id },
        CertificateError::Revoked => SvidError::Revoked { id },
        CertificateError::UnknownIssuer => SvidError::UnknownIssuer { id },
        cause if is_not_yet_valid(cause) => SvidError::NotYetValid { id },
        _ => SvidError::Chain { id, source },
    })
}
