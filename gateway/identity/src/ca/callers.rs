//! Certificates of callers: programs that are no gateways and show who they are on a gateway's TLS listener. Any CA will do
//! for these; this one makes them by hand, for a trial and for federations that have no other.

use std::{path::Path, time::Duration};

use causeway_federation::name::CallerIdentity;
use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

use super::{
    Ca, CaError,
    issued::Issued,
    name,
    revoked::{RevocationSubject, Revoked},
    serial, uri,
};
use crate::{SpiffeId, spiffe};

impl Ca {
    /// Issues a certificate that is for clients only, and writes it to `out`: `cert.pem`, `key.pem` and `ca.pem`. Files that are
    /// there are replaced.
    ///
    /// # Errors
    /// When it is no caller's SPIFFE id of this trust domain, its zone was revoked, or `out` or `issued.jsonl` cannot be written.
    pub fn issue_caller(
        &self,
        ca_folder: &Path,
        caller: &CallerIdentity,
        out: &Path,
        validity: Duration,
    ) -> Result<(), CaError> {
        self.check_caller(caller)?;
        let key = KeyPair::generate().map_err(CaError::Certificate)?;
        let (not_before, not_after) = super::period(validity)?;
        let before = Revoked::read(ca_folder).map_err(CaError::Revocations)?;
        let first = caller.zone().and_then(|zone| before.first_not_before_in(zone));
        let not_before = first.map_or(not_before, |first| not_before.max(first));
        let serial = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("a caller".to_owned());
        params.subject_alt_names = vec![uri(caller.as_str())?];
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.to_vec().into());
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.map_err(CaError::Certificate)?;
        let issued = Issued {
            serial: HEXLOWER.encode(&serial),
            id: caller.to_string(),
            issuer: HEXLOWER.encode(&self.fingerprint()),
            not_before,
            not_after,
            how: "issue".to_owned(),
            parent: None,
            address: None,
            key: Some(super::key_hash(&key)),
            dns_names: Vec::new(),
        };
        super::folder::write_down(ca_folder, &issued)?;
        // Only now, as for gateways.
        let revoked = Revoked::read(ca_folder).map_err(CaError::Revocations)?;
        if let Some(zone) = caller.zone().filter(|zone| revoked.forbids_zone(zone)) {
            return Err(CaError::CallerRevoked {
                caller: caller.clone(),
                subject: RevocationSubject::Zone(zone.to_owned()),
            });
        }
        self.hand_out(out, &key, &certificate.pem())
    }

    fn check_caller(&self, caller: &CallerIdentity) -> Result<(), CaError> {
        if caller.trust_domain() != self.trust_domain {
            return Err(CaError::OtherTrustDomain {
                found: caller.trust_domain().to_owned(),
                own: self.trust_domain.clone(),
            });
        }
        let id = caller.as_str();
        let is_gateway = id.parse::<SpiffeId>().is_ok();
        let is_ca = id == spiffe::ca_id(&self.trust_domain) || id == spiffe::ca_server_id(&self.trust_domain);
        match is_gateway || is_ca {
            true => Err(CaError::NoCaller(caller.clone())),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        CERTIFICATE_FILE,
        ca::{
            self, LEAF_VALIDITY, issued,
            revoked::{Revocation, Revoked},
        },
        certificates, identify_client,
    };

    fn caller(id: &str) -> CallerIdentity {
        id.parse().unwrap()
    }

    #[test]
    fn a_caller_gets_a_certificate_for_clients_and_nobody_else_by_that_way() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, out) = (folder.path().join("ca"), folder.path().join("web"));
        let ca = ca::init(&authority, "acme.internal").unwrap();
        let issue = |id: &str| ca.issue_caller(&authority, &caller(id), &out, LEAF_VALIDITY);
        for id in [
            "spiffe://acme.internal/zone/east/gateway/gw1",
            "spiffe://acme.internal/ca",
            "spiffe://acme.internal",
        ] {
            assert!(matches!(issue(id), Err(CaError::NoCaller(_))), "{id}");
        }
        let foreign = issue("spiffe://evil.example/app/web");
        assert!(matches!(foreign, Err(CaError::OtherTrustDomain { .. })));
        assert!(!out.exists());

        let web = "spiffe://acme.internal/zone/east/app/web";
        issue(web).unwrap();
        let chain = certificates(&out.join(CERTIFICATE_FILE)).unwrap();
        let (_, id) = identify_client(&chain[0]).unwrap();
        assert_eq!(id, web);
        let gateway = "east/gw1".split_once('/').unwrap();
        let gateway =
            causeway_federation::name::GatewayId::new(gateway.0.parse().unwrap(), gateway.1.parse().unwrap());
        let own = ca.issue(&gateway, LEAF_VALIDITY).unwrap();
        assert_eq!(own.caller(&chain[0]).unwrap(), caller(web));
        let provider = crate::provider();
        let verifier = own.verifier(&provider).unwrap();
        let now = rustls::pki_types::UnixTime::now();
        verifier.verify_client(&chain[0], &[], now).unwrap();
        verifier.verify_server(&chain[0], &[], now).unwrap_err();
        own.check_peer(&chain, SystemTime::now()).unwrap();
        let stranger = Ca::new("acme.internal").unwrap().issue(&gateway, LEAF_VALIDITY);
        let refused = stranger.unwrap().check_peer(&chain, SystemTime::now());
        assert_eq!(refused, Err(rustls::CertificateError::UnknownIssuer.into()));
    }

    #[test]
    fn a_revoked_zone_takes_its_callers_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, out) = (folder.path().join("ca"), folder.path().join("web"));
        let ca = ca::init(&authority, "acme.internal").unwrap();
        let of_east = caller("spiffe://acme.internal/zone/east/app/web");
        let anywhere = caller("spiffe://acme.internal/app/web");
        for caller in [&of_east, &anywhere] {
            ca.issue_caller(&authority, caller, &out, LEAF_VALIDITY).unwrap();
        }
        let (record, now) = (issued::read(&authority).unwrap(), SystemTime::now());
        let subject = RevocationSubject::Zone("east".to_owned());
        let (revocation, ends): (Revocation, usize) = Revoked::default()
            .revocation(&subject, &record.issued, now)
            .unwrap();
        assert_eq!(ends, 1, "it, and not the caller of no zone");
        Revoked(vec![revocation]).write(&authority).unwrap();
        let refused = ca.issue_caller(&authority, &of_east, &out, LEAF_VALIDITY);
        assert!(
            matches!(refused, Err(CaError::CallerRevoked { .. })),
            "{refused:?}"
        );
        ca.issue_caller(&authority, &anywhere, &out, LEAF_VALIDITY)
            .unwrap();
    }
}
