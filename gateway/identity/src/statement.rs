//! Statements of a gateway to zones that have no tunnel with it, signed with the key of its certificate and checked by the chain
//! and the SPIFFE id in it, as a tunnel would be.
//!
//! What is signed, and what a good signature means, is zone sync's to say.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use causeway_federation::{
    name::GatewayId,
    signing::{Credential, SignError, Signature, Signer, Unproven, Verifier},
    trust::Roots,
};
use parking_lot::Mutex;
use rustls::{
    SignatureScheme,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    sign::SigningKey,
};
use x509_parser::oid_registry::{OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519};

use super::{Anchors, Federated, Identity, LiveIdentity, TlsError, chain::ChainVerifier, leaf, provider};

/// Schemes that keys may sign with, the best known first.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];
/// Bytes of each of the two numbers in an ECDSA signature with P-256.
const P256_NUMBER_BYTES: usize = 32;
/// Chains that are remembered as good: one for each gateway of a large federation.
const MAX_CHAINS: usize = 1_024;
/// Time for which a good chain is believed without looking again: a leaf that ends meanwhile is believed that much longer.
const CHAIN_LIFE: Duration = Duration::from_secs(60);

impl LiveIdentity {
    /// Signs as this gateway, with the identity that is in use at the time.
    ///
    /// # Errors
    /// When the key cannot be used for signatures.
    pub fn signer(&self) -> Result<Arc<dyn Signer>, TlsError> {
        let current = self.current();
        let made = IdentitySigner::new(&current)?;
        Ok(Arc::new(Live::new(self.clone(), current, made)))
    }

    /// Checks what gateways of the federation signed, by the trust roots that are in use at the time.
    ///
    /// # Errors
    /// When there are no roots.
    pub fn verifier(&self) -> Result<Arc<dyn Verifier>, TlsError> {
        let current = self.current();
        let made = IdentityVerifier::new(&current)?;
        Ok(Arc::new(Live::new(self.clone(), current, made)))
    }
}

/// Something made of an identity, made anew when there is another.
struct Live<T> {
    identity: LiveIdentity,
    made: Mutex<(Arc<Identity>, Arc<T>)>,
}

impl<T> Live<T> {
    fn new(identity: LiveIdentity, current: Arc<Identity>, made: T) -> Self {
        let made = Mutex::new((current, Arc::new(made)));
        Self { identity, made }
    }

    /// Gives what is in use. An identity of which it cannot be made leaves the one before it in use: its files were checked
    /// when they were taken up, so that does not happen.
    fn current(&self, make: impl FnOnce(&Identity) -> Result<T, TlsError>) -> Arc<T> {
        let identity = self.identity.current();
        let mut made = self.made.lock();
        if !Arc::ptr_eq(&made.0, &identity) {
            match make(&identity) {
                Ok(fresh) => *made = (identity, Arc::new(fresh)),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot sign or check statements with the renewed identity"
                ),
            }
        }
        made.1.clone()
    }
}

/// Never prints a key.
impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

struct IdentitySigner {
    key: Arc<dyn SigningKey>,
    credential: Arc<Credential>,
}

impl IdentitySigner {
    fn new(identity: &Identity) -> Result<Self, TlsError> {
        let key = provider().key_provider.load_private_key(identity.key.clone_key());
        Ok(Self {
            key: key.map_err(|source| identity.unusable(source))?,
            credential: Arc::new(Credential(identity.chain.iter().map(|c| c.to_vec()).collect())),
        })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signer = self.key.choose_scheme(&SCHEMES);
        let signer = signer.ok_or_else(|| SignError("its kind of key is not known here".into()))?;
        let signature = signer
            .sign(message)
            .map_err(|source| SignError(Box::new(source)))?;
        match signer.scheme() {
            SignatureScheme::ECDSA_NISTP256_SHA256 => {
                numbers(&signature).ok_or_else(|| SignError("it made no ECDSA signature".into()))
            }
            _ => Ok(signature),
        }
    }
}

impl Signer for Live<IdentitySigner> {
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let signer = self.current(IdentitySigner::new);
        Ok(Signature {
            bytes: signer.sign(message)?,
            credential: signer.credential.clone(),
        })
    }

    fn credential(&self) -> Arc<Credential> {
        self.current(IdentitySigner::new).credential.clone()
    }
}

impl Verifier for Live<IdentityVerifier> {
    fn verify(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        let verifier = self.current(IdentityVerifier::new);
        verifier.verify(origin, credential, message, signature)
    }

    fn verify_lasting(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        let verifier = self.current(IdentityVerifier::new);
        verifier.verify_lasting(origin, credential, message, signature)
    }
}

pub(super) struct IdentityVerifier {
    own_trust_domain: String,
    federated: Arc<Federated>,
    chain: ChainVerifier,
    provider: Arc<CryptoProvider>,
    /// Chains that were found good lately: who they name, and until when that is believed.
    good: Mutex<GoodChains>,
}

type GoodChains = BTreeMap<Vec<Vec<u8>>, (GatewayId, Instant)>;

impl IdentityVerifier {
    fn new(identity: &Identity) -> Result<Self, TlsError> {
        let provider = provider();
        Ok(Self {
            own_trust_domain: identity.trust_domain().to_owned(),
            federated: identity.anchors.federated.clone(),
            chain: identity.verifier(&provider)?,
            provider,
            good: Mutex::default(),
        })
    }

    /// Believes the gateways of one trust domain, by these roots.
    ///
    /// # Errors
    /// When there are no roots.
    pub(super) fn of_roots(
        trust_domain: &str,
        roots: &Roots,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let (provider, anchors) = (provider(), Anchors::of_file(roots.clone()));
        Ok(Self {
            own_trust_domain: trust_domain.to_owned(),
            federated: anchors.federated.clone(),
            chain: ChainVerifier::new(&anchors, &provider)?,
            provider,
            good: Mutex::default(),
        })
    }

    /// As [`Verifier::verify_lasting`].
    pub(super) fn verify_lasting(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        if self.past_holder(credential)? != *origin {
            return Err(Unproven::OtherGateway);
        }
        let leaf = credential.0.first().ok_or(Unproven::Unsigned)?;
        self.check_signature(&CertificateDer::from(leaf.as_slice()), message, signature)
    }

    fn verify(
        &self,
        origin: &GatewayId,
        credential: &Credential,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        if self.holder(credential)? != *origin {
            return Err(Unproven::OtherGateway);
        }
        let leaf = credential.0.first().ok_or(Unproven::Unsigned)?;
        self.check_signature(&CertificateDer::from(leaf.as_slice()), message, signature)
    }

    /// The gateway that a chain names, if it is good.
    fn holder(&self, credential: &Credential) -> Result<GatewayId, Unproven> {
        let now = Instant::now();
        if let Some((holder, until)) = self.good.lock().get(&credential.0)
            && now < *until
        {
            return Ok(holder.clone());
        }
        let holder = self.holder_at(credential, since_1970(SystemTime::now()))?;
        let mut good = self.good.lock();
        if good.len() >= MAX_CHAINS {
            good.retain(|_, (_, until)| now < *until);
        }
        if good.len() < MAX_CHAINS {
            good.insert(credential.0.clone(), (holder.clone(), now + CHAIN_LIFE));
        }
        Ok(holder)
    }

    /// The gateway that a chain names, if it is good or was until its leaf ended.
    fn past_holder(&self, credential: &Credential) -> Result<GatewayId, Unproven> {
        let leaf = credential.0.first().ok_or(Unproven::Unsigned)?;
        let malformed = |_| Unproven::Credential("it cannot be parsed".to_owned());
        let der = CertificateDer::from(leaf.as_slice());
        let end = leaf::parse(&der)
            .map_err(malformed)?
            .validity()
            .not_after
            .timestamp();
        let end = Duration::from_secs(u64::try_from(end).unwrap_or(0));
        self.holder_at(credential, since_1970(SystemTime::now()).min(end))
    }

    fn holder_at(&self, credential: &Credential, clock: Duration) -> Result<GatewayId, Unproven> {
        let bad = |why: &dyn fmt::Display| Unproven::Credential(why.to_string());
        let chain: Vec<_> = credential
            .0
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let (leaf, rest) = chain.split_first().ok_or(Unproven::Unsigned)?;
        self.chain
            .verify_client(leaf, rest, UnixTime::since_unix_epoch(clock))
            .map_err(|error| bad(&error))?;
        let id = leaf::identify(leaf).map_err(|error| bad(&error))?;
        let wanted = self
            .federated
            .trust_domain_of(&id.gateway.zone)
            .unwrap_or(&self.own_trust_domain);
        if id.trust_domain != wanted {
            return Err(bad(&format_args!(
                "it is of trust domain `{}`, and zone {} of `{wanted}`",
                id.trust_domain, id.gateway.zone
            )));
        }
        Ok(id.gateway)
    }

    fn check_signature(
        &self,
        leaf: &CertificateDer<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproven> {
        let malformed = |_| Unproven::Credential("it cannot be parsed".to_owned());
        let certificate = leaf::parse(leaf).map_err(malformed)?;
        let key = certificate.public_key();
        let bytes: &[u8] = &key.subject_public_key.data;
        let kind = &key.algorithm.algorithm;
        // A point of P-256 has 65 bytes, one of P-384 has 97.
        let scheme = if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && bytes.len() == 65 {
            SCHEMES[0]
        } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
            SCHEMES[1]
        } else if *kind == OID_SIG_ED25519 {
            SCHEMES[2]
        } else if *kind == OID_PKCS1_RSAENCRYPTION {
            SCHEMES[3]
        } else {
            return Err(Unproven::Credential(
                "its kind of key is not known here".to_owned(),
            ));
        };
        let der = (scheme == SCHEMES[0]).then(|| der(signature));
        let signature = match &der {
            Some(der) => der.as_deref().ok_or(Unproven::Signature)?,
            None => signature,
        };
        let known = self.provider.signature_verification_algorithms.mapping.iter();
        let algorithms = known
            .filter(|(of, _)| *of == scheme)
            .flat_map(|(_, all)| all.iter().copied());
        let fits = |algorithm: &dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            algorithm.verify_signature(bytes, message, signature).is_ok()
        };
        match { algorithms }.any(fits) {
            true => Ok(()),
            false => Err(Unproven::Signature),
        }
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The two numbers of a DER-encoded ECDSA signature with P-256 (RFC 3279 §2.2.3), 32 bytes each: every change of a zone
/// carries them.
fn numbers(der: &[u8]) -> Option<Vec<u8>> {
    let [0x30, length, rest @ ..] = der else {
        return None;
    };
    let (first, rest) = integer(rest.get(..usize::from(*length))?)?;
    let (second, end) = integer(rest)?;
    let mut numbers = Vec::with_capacity(2 * P256_NUMBER_BYTES);
    for number in [first, second] {
        numbers.resize(numbers.len() + P256_NUMBER_BYTES.checked_sub(number.len())?, 0);
        numbers.extend_from_slice(number);
    }
    end.is_empty().then_some(numbers)
}

/// A DER integer without the zeros before it, and what follows it.
fn integer(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x02, length, rest @ ..] = der else {
        return None;
    };
    let (number, rest) = rest.split_at_checked(usize::from(*length))?;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    Some((&number[zeros..], rest))
}

/// The reverse of [`numbers`].
fn der(numbers: &[u8]) -> Option<Vec<u8>> {
    if numbers.len() != 2 * P256_NUMBER_BYTES {
        return None;
    }
    let mut body = Vec::with_capacity(72);
    for number in numbers.chunks(P256_NUMBER_BYTES) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let number = &number[zeros..];
        // DER integers have a sign: a number with the highest bit set needs a zero before it, and zero itself is one.
        let padded = number.first().is_none_or(|byte| *byte >= 0x80);
        body.extend_from_slice(&[0x02, u8::try_from(number.len() + usize::from(padded)).ok()?]);
        body.extend(padded.then_some(0));
        body.extend_from_slice(number);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).ok()?];
    der.extend(body);
    Some(der)
}

#[cfg(test)]
mod tests {
    use causeway_federation::{
        name::{GatewayName, ZoneName},
        signing::{Purpose, Signed},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::ca::{Ca, LEAF_VALIDITY, Leaf};

    fn gateway(zone: &str) -> GatewayId {
        GatewayId::new(ZoneName::new(zone).unwrap(), GatewayName::new("gw1").unwrap())
    }

    fn signed(identity: &LiveIdentity, origin: &GatewayId) -> Signed {
        Signed::by(&*identity.signer().unwrap(), Purpose::Record, origin, b"words").unwrap()
    }

    fn leaf(ca: &Ca, change: impl FnOnce(&mut Leaf)) -> LiveIdentity {
        let mut leaf = ca.leaf(&gateway("west"), LEAF_VALIDITY).unwrap();
        change(&mut leaf);
        ca.issue_leaf(&leaf).unwrap().into()
    }

    #[test]
    fn a_signature_is_believed_of_the_gateway_that_the_certificate_names_and_no_other() {
        let ca = Ca::new("acme.internal").unwrap();
        let verifier = leaf(&ca, |_| {}).verifier().unwrap();
        let (west, north) = (gateway("west"), gateway("north"));
        let good = signed(&leaf(&ca, |_| {}), &west);
        assert_eq!(good.signature.len(), 64, "as short as it can be");
        for _ in 0..2 {
            assert_eq!(good.check(&*verifier, Purpose::Record, &west), Ok(()));
        }
        assert_eq!(
            good.check(&*verifier, Purpose::Beat, &west),
            Err(Unproven::Signature)
        );
        assert_eq!(
            good.check(&*verifier, Purpose::Record, &north),
            Err(Unproven::OtherGateway)
        );
        let mut other = good.clone();
        other.words = b"other words"[..].into();
        assert_eq!(
            other.check(&*verifier, Purpose::Record, &west),
            Err(Unproven::Signature)
        );
        let mut cut = good.clone();
        cut.signature = good.signature[1..].into();
        assert_eq!(
            cut.check(&*verifier, Purpose::Record, &west),
            Err(Unproven::Signature)
        );
        let mut bare = good;
        bare.signature = [][..].into();
        assert_eq!(
            bare.check(&*verifier, Purpose::Record, &west),
            Err(Unproven::Unsigned)
        );
    }

    #[test]
    fn a_certificate_that_no_tunnel_would_take_proves_nothing() {
        let (ca, stranger) = (
            Ca::new("acme.internal").unwrap(),
            Ca::new("acme.internal").unwrap(),
        );
        let verifier = leaf(&ca, |_| {}).verifier().unwrap();
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let bad = [
            leaf(&stranger, |_| {}),
            leaf(&ca, |leaf| leaf.not_after = now - hour / 60),
            leaf(&ca, |leaf| leaf.not_before = now + hour),
            leaf(&ca, |leaf| {
                leaf.uris = vec!["spiffe://other.internal/zone/west/gateway/gw1".to_owned()]
            }),
            leaf(&ca, |leaf| leaf.uris.clear()),
        ];
        for identity in bad {
            let checked =
                signed(&identity, &gateway("west")).check(&*verifier, Purpose::Record, &gateway("west"));
            assert!(matches!(checked, Err(Unproven::Credential(_))), "{checked:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive_the_way_through_der(
            r in any::<[u8; 32]>(), s in any::<[u8; 32]>(), zeros in 0usize..33,
        ) {
            let mut numbers_in = [r, s].concat();
            numbers_in[..zeros].fill(0);
            let der = der(&numbers_in).unwrap();
            prop_assert_eq!(numbers(&der), Some(numbers_in));
        }

        #[test]
        fn arbitrary_bytes_are_no_signature_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            let _ = (numbers(&bytes), der(&bytes));
        }
    }
}
