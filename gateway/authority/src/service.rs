//! The two calls of the CA: `Join` and `Renew`. Each is checked from the outside in, and every refusal is logged with its
//! word, who asked, and the id of the token, never with a secret.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use causeway_federation::name::GatewayId;
use causeway_host::remembered::Remembered;
use causeway_identity::{
    DnsName, Serial, SpiffeId, begin_of,
    ca::{
        CaError, CertificateOrigin, first_not_before,
        issued::{Follower, Issued},
        lineage::{LineageRefusal, RENEW_AGAIN, Renewable, Renewing, renewable},
        rejoin::joined_with,
        request::{RequestError, SigningRequest},
        revoked::Revoked,
        tokens::{self, Secret, TokenId, TokenRefusal},
    },
    dns_names_of, identify,
};
use causeway_proto::ca::{
    Certificates, JoinRequest, RenewRequest, certificate_authority_server::CertificateAuthority,
};
use causeway_telemetry::RateLimited;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use tonic::{Request, Response, Status};

use super::{
    current::Served,
    listen::Peer,
    rate::{Asker, RequestRates},
};
use crate::protocol::AuthorityRefusal;

/// Time for which it is remembered that a certificate was shown: later what was renewed is not renewed again anyway.
const SHOWN_FOR: Duration = RENEW_AGAIN;
/// Most certificates of which that is remembered; more than a large federation renews in that time.
const MAX_SHOWN: usize = 16_384;

/// Certificates that were shown to this CA a moment ago: their holders have gone on with them, so those before them are renewed
/// for nobody else.
pub(super) type Shown = Arc<Remembered<Serial>>;

pub(super) fn new_shown() -> Shown {
    Arc::new(Remembered::new(SHOWN_FOR, MAX_SHOWN))
}

/// Answers the calls; there is one for the process.
pub(super) struct CaService {
    folder: PathBuf,
    leaf_lifetime: Duration,
    rates: Mutex<RequestRates>,
    /// Keeps an address that is refused all the time from filling the log.
    rate_limited: Mutex<RateLimited<(std::net::IpAddr, &'static str)>>,
    refused: AtomicU64,
    issued: AtomicU64,
    record: Arc<Mutex<Follower>>,
    shown: Shown,
}

/// Reason that a call is refused, and what to say about it.
pub(super) struct Refused {
    refusal: AuthorityRefusal,
    text: String,
}

impl Refused {
    pub(super) fn new(refusal: AuthorityRefusal, text: impl Into<String>) -> Self {
        Self {
            refusal,
            text: text.into(),
        }
    }
}

/// Work of one call, off the async threads: it reads and writes files.
pub(super) struct Call {
    pub(super) folder: PathBuf,
    leaf_lifetime: Duration,
    pub(super) served: Arc<Served>,
    /// Address that asks.
    address: std::net::IpAddr,
    /// Held from the look at what was issued to the new line: of two renewals at once, the second sees the first.
    pub(super) issued: Arc<Mutex<Follower>>,
    shown: Shown,
}

/// Certificate that the next one comes after.
#[derive(Clone, Copy)]
pub(super) struct Former<'a> {
    /// `None`: it cannot be read.
    pub(super) leaf: Option<&'a CertificateDer<'a>>,
    pub(super) serial: &'a Serial,
}

impl CaService {
    pub(crate) fn new(folder: PathBuf, leaf_lifetime: Duration, shown: Shown) -> Self {
        Self {
            folder,
            leaf_lifetime,
            rates: Mutex::default(),
            rate_limited: Mutex::new(RateLimited::new()),
            refused: AtomicU64::new(0),
            issued: AtomicU64::new(0),
            record: Arc::default(),
            shown,
        }
    }

    fn call(&self, peer: &Peer) -> Call {
        Call {
            folder: self.folder.clone(),
            leaf_lifetime: self.leaf_lifetime,
            served: peer.served.clone(),
            address: peer.address.ip().to_canonical(),
            issued: self.record.clone(),
            shown: self.shown.clone(),
        }
    }

    fn allow(&self, asker: Asker) -> Result<(), Refused> {
        match self.rates.lock().allows(asker, Instant::now()) {
            true => Ok(()),
            false => Err(Refused::new(
                AuthorityRefusal::TooMany,
                "too many calls in too short a time",
            )),
        }
    }

    /// Logs what became of a call and makes the answer.
    fn answer(
        &self,
        peer: &Peer,
        token: Option<TokenId>,
        outcome: Result<(GatewayId, Certificates), Refused>,
    ) -> Result<Response<Certificates>, Status> {
        let token = token.map(|id| id.to_string());
        let address = peer.address;
        match outcome {
            Ok((gateway, certificates)) => {
                let total = self.issued.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::info!(%gateway, %address, token, total, "issued a certificate");
                Ok(Response::new(certificates))
            }
            Err(Refused { refusal, text }) => {
                let total = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                let kind = (address.ip().to_canonical(), refusal.word());
                let Some(repeats) = self.rate_limited.lock().admit(Instant::now(), kind) else {
                    return Err(refusal.status(text));
                };
                // Two hold one key: a person must look into that.
                if refusal == AuthorityRefusal::Superseded {
                    tracing::error!(reason = refusal.word(), %address, detail = text, repeats, total, hint = refusal.hint(),
                        "refused to issue a certificate");
                } else {
                    tracing::warn!(reason = refusal.word(), %address, token, detail = text, repeats, total,
                        "refused to issue a certificate");
                }
                Err(refusal.status(text))
            }
        }
    }
}

/// Returns who called; every connection is one of `listen`'s.
fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>().cloned();
    peer.ok_or_else(|| Status::internal("the connection is not known"))
}

/// Runs the part of a call that blocks.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        Err(Refused::new(
            AuthorityRefusal::Unavailable,
            "the CA could not do its work",
        ))
    })
}

#[tonic::async_trait]
impl CertificateAuthority for CaService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<Certificates>, Status> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        let token = request.token_id.as_slice().try_into().ok().map(TokenId);
        let outcome = match self.allow(Asker::at(peer.address.ip())) {
            Ok(()) => {
                let call = self.call(&peer);
                off_thread(move || call.join(&request, SystemTime::now())).await
            }
            Err(refused) => Err(refused),
        };
        self.answer(&peer, token, outcome)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Certificates>, Status> {
        let peer = peer(&request)?;
        let outcome = match holder(&peer) {
            Ok(holder) => match self.allow(Asker::Gateway(holder.gateway.clone())) {
                Ok(()) => {
                    let (call, request) = (self.call(&peer), request.into_inner());
                    let peer_chain = peer.chain.clone();
                    off_thread(move || call.renew(&holder, &peer_chain, &request)).await
                }
                Err(refused) => Err(refused),
            },
            Err(refused) => Err(refused),
        };
        self.answer(&peer, None, outcome)
    }
}

/// Returns whom the certificate names that was shown in the handshake, where it was verified.
fn holder(peer: &Peer) -> Result<SpiffeId, Refused> {
    let no_certificate = |text: &str| Refused::new(AuthorityRefusal::NoCertificate, text);
    let leaf = peer
        .chain
        .first()
        .ok_or_else(|| no_certificate("a renewal needs the certificate that is to be renewed"))?;
    identify(leaf).map_err(|error| no_certificate(&error.to_string()))
}

impl Call {
    fn join(&self, request: &JoinRequest, now: SystemTime) -> Result<(GatewayId, Certificates), Refused> {
        let bad_request = |text: &str| Refused::new(AuthorityRefusal::BadRequest, text);
        let id = request.token_id.as_slice().try_into().map(TokenId);
        let id = id.map_err(|_| bad_request("the token's id has the wrong length"))?;
        let secret = request.secret.as_slice().try_into().map(Secret);
        let secret = secret.map_err(|_| bad_request("the token's secret has the wrong length"))?;
        let signing = self.read(&request.request)?;
        let gateway = signing.id().gateway.clone();
        let grant = tokens::use_up(&self.folder, (id, secret), &gateway, now).map_err(token_refused)?;
        if let Some(limit) = grant.rejoins {
            let certificates = self.rejoin(request, &signing, (id, limit), now)?;
            // Once more, now that it is written down: whoever revokes a token looks at what came of it after that.
            tokens::use_up(&self.folder, (id, secret), &gateway, now).map_err(token_refused)?;
            return Ok((gateway, certificates));
        }
        let certificates = self.sign(
            &signing,
            &grant.dns_names,
            CertificateOrigin {
                how: &joined_with(id),
                parent: None,
                address: Some(self.address),
            },
        );
        let certificates = certificates.map_err(|mut refused| {
            refused
                .text
                .push_str("; the token is used up all the same, issue another");
            refused
        })?;
        Ok((gateway, certificates))
    }

    fn renew(
        &self,
        holder: &SpiffeId,
        shown: &[CertificateDer<'_>],
        request: &RenewRequest,
    ) -> Result<(GatewayId, Certificates), Refused> {
        let serial = self.may_renew(holder, shown)?;
        let signing = self.read(&request.request)?;
        if signing.id() != holder {
            let text = format!(
                "the certificate is {holder}'s, and the request is for {}",
                signing.id()
            );
            return Err(Refused::new(AuthorityRefusal::OtherGateway, text));
        }
        let mut issued = self.issued.lock();
        let known = issued.read_on(&self.folder, SystemTime::now());
        let known = known.map_err(|error| unreadable(&error))?;
        let former = Former {
            leaf: shown.first(),
            serial: &serial,
        };
        let certificates = match self.given_before(&signing, former, known)? {
            Some(again) => again,
            None => self.sign_next(&signing, former, "renewal")?,
        };
        Ok((holder.gateway.clone(), certificates))
    }

    /// Gives out again what was issued for the same key after `former`; `None`: what is `known` to have been issued allows a new one.
    pub(super) fn given_before(
        &self,
        signing: &SigningRequest,
        former: Former<'_>,
        known: &[Issued],
    ) -> Result<Option<Certificates>, Refused> {
        let asked = Renewing {
            serial: former.serial,
            id: &signing.id().to_string(),
            key: &signing.key_hash(),
            issuer: &HEXLOWER.encode(&self.served.ca.fingerprint()),
        };
        let was_shown = |serial: &Serial| self.shown.has(serial, Instant::now());
        let renewable = renewable(asked, known, was_shown, SystemTime::now()).map_err(|why| {
            let refusal = match why {
                LineageRefusal::Superseded { .. } => AuthorityRefusal::Superseded,
                LineageRefusal::TooMany(_) => AuthorityRefusal::TooMany,
            };
            Refused::new(refusal, format!("{}: {why}", signing.id().gateway))
        })?;
        match renewable {
            Renewable::Again(before) => self.sign_again(signing, before),
            Renewable::Anew => Ok(None),
        }
    }

    /// Signs the certificate that comes after one.
    pub(super) fn sign_next(
        &self,
        signing: &SigningRequest,
        former: Former<'_>,
        how: &str,
    ) -> Result<Certificates, Refused> {
        // Neither more names nor fewer than it has.
        let names = former.leaf.and_then(|leaf| dns_names_of(leaf).ok());
        let origin = CertificateOrigin {
            how,
            parent: Some(former.serial),
            address: Some(self.address),
        };
        self.sign(signing, &names.unwrap_or_default(), origin)
    }

    /// Reads the serial number of the certificate that was shown, which was not revoked.
    pub(super) fn may_renew(
        &self,
        holder: &SpiffeId,
        shown: &[CertificateDer<'_>],
    ) -> Result<Serial, Refused> {
        let serial = shown.first().and_then(|leaf| Serial::of(leaf));
        let serial = serial.ok_or_else(|| {
            Refused::new(
                AuthorityRefusal::NoCertificate,
                "the certificate that was shown cannot be read",
            )
        })?;
        // Before 1970, so before every name was let in again, where that cannot be read.
        let begins = shown.first().and_then(begin_of).unwrap_or(SystemTime::UNIX_EPOCH);
        self.not_revoked(&serial, &holder.gateway, begins)?;
        Ok(serial)
    }

    fn not_revoked(&self, serial: &Serial, holder: &GatewayId, begins: SystemTime) -> Result<(), Refused> {
        let revoked =
            Revoked::read(&self.folder).map_err(|error| unavailable(CaError::Revocations(error)))?;
        if revoked.covers(serial, holder, begins) {
            let text = format!("the certificate with serial number {serial} was revoked");
            return Err(Refused::new(AuthorityRefusal::Revoked, text));
        }
        Ok(())
    }

    /// Answers with the certificate that was issued for this key before; `None`: this CA cannot make that one again.
    fn sign_again(&self, signing: &SigningRequest, before: &Issued) -> Result<Option<Certificates>, Refused> {
        let certificate = self.served.ca.sign_again(signing, before).map_err(unavailable)?;
        if let Some(serial) = Serial::parse(&before.serial) {
            self.not_revoked(&serial, &signing.id().gateway, before.not_before)?;
        }
        Ok(certificate.map(|certificate| self.answer(certificate)))
    }

    /// Everything about a request that can be known before anything is used up.
    fn read(&self, der: &[u8]) -> Result<SigningRequest, Refused> {
        let signing = SigningRequest::from_der(der).map_err(|error| {
            let refusal = match &error {
                RequestError::Signature => AuthorityRefusal::BadSignature,
                RequestError::Key(_) => AuthorityRefusal::BadKey,
                RequestError::TooLarge(_)
                | RequestError::Malformed(_)
                | RequestError::NotOneUri(_)
                | RequestError::Spiffe(_) => AuthorityRefusal::BadRequest,
            };
            Refused::new(refusal, error.to_string())
        })?;
        let (own, asked) = (self.served.ca.trust_domain(), &signing.id().trust_domain);
        if asked != own {
            let text = format!("this is the CA of {own}, and the request is for {asked}");
            return Err(Refused::new(AuthorityRefusal::WrongTrustDomain, text));
        }
        Ok(signing)
    }

    fn sign(
        &self,
        signing: &SigningRequest,
        names: &[DnsName],
        origin: CertificateOrigin<'_>,
    ) -> Result<Certificates, Refused> {
        let ca = &self.served.ca;
        let first = first_not_before(&self.folder, &signing.id().gateway).map_err(unavailable)?;
        let certified = ca.sign(signing, self.leaf_lifetime, names, first);
        let certified = certified.map_err(unavailable)?;
        ca.record(&self.folder, &certified, origin).map_err(unavailable)?;
        Ok(self.answer(certified.certificate))
    }

    fn answer(&self, certificate: CertificateDer<'static>) -> Certificates {
        Certificates {
            chain: vec![certificate.to_vec()],
            roots: self.served.ca.roots().iter().map(|root| root.to_vec()).collect(),
        }
    }
}

/// Makes what whoever asked is told of an error that is this CA's.
fn unavailable(error: CaError) -> Refused {
    if let CaError::Revoked { .. } = error {
        return Refused::new(AuthorityRefusal::Revoked, error.to_string());
    }
    tracing::error!(
        error = &error as &dyn std::error::Error,
        "cannot issue a certificate"
    );
    Refused::new(
        AuthorityRefusal::Unavailable,
        "the CA cannot issue certificates at the moment",
    )
}

/// Makes what whoever asked is told where `issued.jsonl` cannot be read.
pub(super) fn unreadable(error: &std::io::Error) -> Refused {
    tracing::error!(%error, "cannot read what was issued");
    Refused::new(
        AuthorityRefusal::Unavailable,
        "the CA cannot issue certificates at the moment",
    )
}

fn token_refused(error: TokenRefusal) -> Refused {
    let refusal = match &error {
        TokenRefusal::Unknown => AuthorityRefusal::TokenUnknown,
        TokenRefusal::Forged => AuthorityRefusal::TokenForged,
        TokenRefusal::Used => AuthorityRefusal::TokenUsed,
        TokenRefusal::Revoked => AuthorityRefusal::TokenRevoked,
        TokenRefusal::Expired(_) => AuthorityRefusal::TokenExpired,
        TokenRefusal::WrongZone(_) => AuthorityRefusal::WrongZone,
        TokenRefusal::WrongGateway(_) => AuthorityRefusal::WrongGateway,
        TokenRefusal::Io { .. } => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot use a token");
            let text = "the CA cannot read or use up tokens at the moment";
            return Refused::new(AuthorityRefusal::Unavailable, text);
        }
    };
    Refused::new(refusal, error.to_string())
}
