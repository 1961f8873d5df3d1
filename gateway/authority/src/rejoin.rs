//! A gateway that comes back after its certificate has ended: with a token that was issued for that, and the key that it had.

use std::time::SystemTime;

use causeway_federation::signing::Credential;
use causeway_identity::{
    Serial,
    ca::{
        issued::{self, Issued},
        rejoin::{rejoin_words, rejoined_with},
        request::SigningRequest,
        tokens::{REJOIN_PERIOD, TokenId},
    },
};
use causeway_proto::ca::{Certificates, JoinRequest};
use rustls_pki_types::CertificateDer;

use super::service::{Call, Former, Refused, unreadable};
use crate::protocol::AuthorityRefusal;

impl Call {
    /// Answers who has shown a token that counts `limit` times within [`REJOIN_PERIOD`].
    pub(super) fn rejoin(
        &self,
        request: &JoinRequest,
        signing: &SigningRequest,
        (token, limit): (TokenId, u32),
        now: SystemTime,
    ) -> Result<Certificates, Refused> {
        self.check_proof(request, signing, token)?;
        let former: Vec<_> = request
            .former
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let serial = self.may_renew(signing.id(), &former)?;
        // Held to the end, as in a renewal.
        let _in_turn = self.issued.lock();
        let (id, how) = (signing.id().to_string(), rejoined_with(token));
        // Not only what has not ended long ago: the certificate itself has.
        let known = issued::read_those(&self.folder, |one| one.id == id || one.how == how);
        let known = known.map_err(|error| unreadable(&error))?.issued;
        let is_former = |one: &Issued| one.id == id && Serial::parse(&one.serial).as_ref() == Some(&serial);
        if !known.iter().any(is_former) {
            // Nobody could tell then whether somebody else goes on with it.
            return Err(no_proof(
                &"its certificate is not in `issued.jsonl`, or not any more",
            ));
        }
        let next = Former {
            leaf: former.first(),
            serial: &serial,
        };
        // An answer that was lost is no second use.
        if let Some(again) = self.given_before(signing, next, &known)? {
            return Ok(again);
        }
        let lately = known.iter().filter(|one| {
            let ago = now.duration_since(one.made_at()).unwrap_or_default();
            one.how == how && ago < REJOIN_PERIOD
        });
        if lately.count() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            let text = format!("the token was used {limit} times within a day, which is its limit");
            return Err(Refused::new(AuthorityRefusal::TooMany, text));
        }
        let certificates = self.sign_next(signing, next, &how)?;
        // Once more, now that it is written down: whoever revokes looks at what was issued after that.
        self.may_renew(signing.id(), &former)?;
        Ok(certificates)
    }

    /// Checks that whoever asks has the key of a certificate that this gateway had.
    fn check_proof(
        &self,
        request: &JoinRequest,
        signing: &SigningRequest,
        token: TokenId,
    ) -> Result<(), Refused> {
        let credential = Credential(request.former.clone());
        if !credential.is_bounded() {
            return Err(no_proof(&"its chain is too long"));
        }
        let words = rejoin_words(token, &request.request);
        let gateway = &signing.id().gateway;
        let checked = self
            .served
            .ca
            .check_rejoin(gateway, &credential, &words, &request.proof);
        checked.map_err(|why| no_proof(&why))
    }
}

fn no_proof(why: &dyn std::fmt::Display) -> Refused {
    let text = format!(
        "the token is for gateways that come back, and nothing proves that this one had a certificate: {why}"
    );
    Refused::new(AuthorityRefusal::NoProof, text)
}
