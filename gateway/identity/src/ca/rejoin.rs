//! Proof of a gateway that comes back after its certificate has ended: the key of that certificate has signed the request for the next
//! one. So the token that it comes with is worth nothing without the key, nor the key without the token.

use causeway_federation::{
    name::GatewayId,
    signing::{Credential, Purpose, Unproven, bytes_to_sign},
    trust::{CertificateHash, Roots},
};

use super::{Ca, tokens::TokenId};
use crate::statement::IdentityVerifier;

/// Words that the former key signs: the token's id, and the request, DER.
#[must_use]
pub fn rejoin_words(token: TokenId, request: &[u8]) -> Vec<u8> {
    [&token.0, request].concat()
}

/// Value of [`super::issued::Issued::how`] of the certificate of a new gateway that joined with this token.
#[must_use]
pub fn joined_with(token: TokenId) -> String {
    format!("token {token}")
}

/// The same of a gateway that came back with this token.
#[must_use]
pub fn rejoined_with(token: TokenId) -> String {
    format!("rejoin {token}")
}

impl Ca {
    /// Checks that `credential` names `gateway` and leads to a root of this CA, if only until it ended, and that its key signed
    /// `words` to come back. Whether it was revoked is the caller's to look at.
    ///
    /// # Errors
    /// Says which of these does not hold.
    pub fn check_rejoin(
        &self,
        gateway: &GatewayId,
        credential: &Credential,
        words: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        let roots: Roots = self
            .roots()
            .iter()
            .map(|root| (CertificateHash::of(root), root.to_vec()))
            .collect();
        let verifier = IdentityVerifier::of_roots(self.trust_domain(), &roots)
            .map_err(|error| Unproven::Credential(error.to_string()))?;
        let message = bytes_to_sign(Purpose::Rejoin, gateway, words);
        verifier.verify_lasting(gateway, credential, &message, signature)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use causeway_federation::signing::Signed;

    use super::*;
    use crate::{Identity, LiveIdentity, ca::LEAF_VALIDITY};

    const WORDS: &[u8] = b"a token's id and a request";

    fn gateway(name: &str) -> GatewayId {
        GatewayId::new("west".parse().unwrap(), name.parse().unwrap())
    }

    /// Of a certificate that ended a week ago.
    fn ended(ca: &Ca, name: &str) -> Identity {
        let mut leaf = ca.leaf(&gateway(name), LEAF_VALIDITY).unwrap();
        leaf.not_after = SystemTime::now() - Duration::from_secs(7 * 24 * 3600);
        leaf.not_before = leaf.not_after - LEAF_VALIDITY;
        ca.issue_leaf(&leaf).unwrap()
    }

    fn signed(identity: Identity, purpose: Purpose, words: &[u8]) -> Signed {
        let live = LiveIdentity::from(identity);
        Signed::by(&*live.signer().unwrap(), purpose, live.gateway(), words).unwrap()
    }

    fn check(ca: &Ca, signed: &Signed, words: &[u8]) -> Result<(), Unproven> {
        ca.check_rejoin(&gateway("gw1"), &signed.credential, words, &signed.signature)
    }

    #[test]
    fn an_ended_certificate_proves_who_comes_back_and_nothing_else_does() {
        let ca = Ca::new("acme.internal").unwrap();
        let good = signed(ended(&ca, "gw1"), Purpose::Rejoin, WORDS);
        assert_eq!(check(&ca, &good, WORDS), Ok(()));
        assert_eq!(check(&ca, &good, b"another request"), Err(Unproven::Signature));
        let beat = signed(ended(&ca, "gw1"), Purpose::Beat, WORDS);
        assert_eq!(check(&ca, &beat, WORDS), Err(Unproven::Signature));
        let other = signed(ended(&ca, "gw2"), Purpose::Rejoin, WORDS);
        assert_eq!(check(&ca, &other, WORDS), Err(Unproven::OtherGateway));
        // The certificate is no secret; its key is.
        let copied = Signed {
            credential: good.credential,
            ..signed(ended(&ca, "gw1"), Purpose::Rejoin, WORDS)
        };
        assert_eq!(check(&ca, &copied, WORDS), Err(Unproven::Signature));
        let nobody = ca.check_rejoin(&gateway("gw1"), &Credential::default(), WORDS, &[]);
        assert_eq!(nobody, Err(Unproven::Unsigned));
    }

    #[test]
    fn a_certificate_of_another_ca_or_trust_domain_proves_nothing() {
        let ca = Ca::new("acme.internal").unwrap();
        let stranger = Ca::new("acme.internal").unwrap();
        let foreign = signed(ended(&stranger, "gw1"), Purpose::Rejoin, WORDS);
        assert!(matches!(
            check(&ca, &foreign, WORDS),
            Err(Unproven::Credential(_))
        ));
        let mut leaf = ca.leaf(&gateway("gw1"), LEAF_VALIDITY).unwrap();
        leaf.uris = vec!["spiffe://evil.example/zone/west/gateway/gw1".to_owned()];
        let elsewhere = signed(ca.issue_leaf(&leaf).unwrap(), Purpose::Rejoin, WORDS);
        assert!(matches!(
            check(&ca, &elsewhere, WORDS),
            Err(Unproven::Credential(_))
        ));
    }
}
